"""``narrows bench codec``: the link on real answers, and compressors on the same."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(add_completion=False)


@app.command(epilog="Example:  narrows bench codec --answers answers.jsonl --rows 50 --json")
def codec(
    answers: Annotated[Path, typer.Option(help="JSON lines with prompt and response.")],
    train: Annotated[Path | None, typer.Option(help="JSON lines that peers learn from.")] = None,
    weak: Annotated[str, typer.Option(help="smollm2-135m, default, bytes or a file.")] = "default",
    streams: Annotated[int, typer.Option(min=1, max=4096, help="Answers at once.")] = 64,
    arrivals: Annotated[str, typer.Option(help="regular or exponential.")] = "regular",
    rows: Annotated[int | None, typer.Option(min=1, help="Only so many rows.")] = None,
    max_hold_ms: Annotated[int, typer.Option(min=0, max=60000, help="Push after.")] = 200,
    round_hold_ms: Annotated[int, typer.Option(min=0, max=60000, help="Wait for others.")] = 40,
    with_float: Annotated[bool, typer.Option("--float", help="The float32 model too.")] = False,
    sweep: Annotated[bool, typer.Option(help="Tables of delay against bits.")] = False,
    no_peers: Annotated[bool, typer.Option("--no-peers", help="Leave compressors out.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Replay answers as concurrent streams through a real link, on a virtual clock."""
    import json

    from rich.console import Console
    from rich.progress import Progress

    from narrows.bench.codec import CodecSettings, run
    from narrows.coding.link.options import LinkOptions
    from narrows.errors import InputError

    if arrivals not in ("regular", "exponential"):
        raise InputError(f"--arrivals {arrivals!r}", "regular or exponential")
    options = LinkOptions.from_wire({"max_hold_ms": max_hold_ms, "round_hold_ms": round_hold_ms})
    settings = CodecSettings(
        answers,
        train,
        weak,
        streams,
        arrivals == "exponential",
        rows,
        options,
        with_float,
        sweep,
        not no_peers,
    )
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("Answers", total=None)
        report = run(settings, lambda done, total: bar.update(task, completed=done, total=total))
    if as_json:
        typer.echo(json.dumps(report))
    else:
        _show(report)


def _show(report: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("", "", title=f"{report['answers']} answers, weak model {report['weak']}")
    for key, text in (
        ("ratio", "{:.2f} times smaller than UTF-8"),
        ("bits_per_byte", "{:.3f}"),
        ("ideal_float_bits_per_byte", "{:.3f}"),
        ("file_overhead", "{:.2%} (whole file, start and end included)"),
        ("overhead", "{:.2%} (all streams live)"),
        ("delay_p50_ms", "{:.0f}"),
        ("delay_p99_ms", "{:.0f}"),
        ("codec_tok_s", "{:.0f}"),
        ("coder_symbols_per_s", "{:,.0f}"),
    ):
        if report.get(key) is not None:
            table.add_row(key, text.format(report[key]))
    for name, bits in report["peers"].items():
        table.add_row(name, "not installed, or no --train" if bits is None else f"{bits:.3f}")
    Console().print(table)
    for name, lines in report.get("sweep", {}).items():
        first = next(iter(lines[0]))
        sweep = Table(first, "overhead", "p50 ms", "p99 ms", "signals", "pushes", title=name)
        for line in lines:
            sweep.add_row(
                str(line[first]),
                f"{line['overhead']:.2%}",
                f"{line['delay_p50_ms']:.0f}",
                f"{line['delay_p99_ms']:.0f}",
                f"{line['signal_bits_per_token']:.3f}",
                f"{line['push_bits_per_token']:.3f}",
            )
        Console().print(sweep)
