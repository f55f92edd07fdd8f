"""``narrows weak compare``: which weak model to use."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(add_completion=False)


@app.command(
    epilog="Example:  narrows weak compare default mine.narrows bytes --answers dev.jsonl "
    "--plot frontier.png"
)
def compare(
    models: Annotated[list[str], typer.Argument(help="Artifacts or names, two or more.")],
    answers: Annotated[Path, typer.Option(help="JSON lines with prompt and response.")],
    rows: Annotated[int | None, typer.Option(min=2, help="Only so many rows.")] = None,
    price_per_core_hour: Annotated[
        float, typer.Option(min=0.0, help="What an hour of one processor core costs; assumed.")
    ] = 0.04,
    plot: Annotated[
        Path | None, typer.Option(help="Picture of bits per byte against speed (.png, .svg).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Code the same answers with each model, through a real link, everything included.

    Intervals are 95 %, by answer. Memory is of a process with both ends; cost is processor
    time of both ends at the given price. Speeds are comparable on one machine only, and only
    where nothing else runs.
    """
    import json

    from narrows.errors import InputError
    from narrows.measure.compare import compare as run
    from narrows.models.registry import progress_bar

    if len(models) < 2:
        raise InputError("one model is no comparison", "name two artifacts or more")
    with progress_bar("Coding answers") as progress:
        report = run(models, answers, rows, price_per_core_hour, progress)
    if plot is not None:
        from narrows.measure.plot import draw

        draw(report, plot)
    if as_json:
        typer.echo(json.dumps(report))
        return
    _show(report)
    if plot is not None:
        typer.echo(f"plot in {plot}", err=True)


def _show(report: dict[str, Any]) -> None:
    from rich.markup import escape
    from rich.table import Table

    from narrows.cli.console import report_console

    title = f"{report['answers']} answers, {report['utf8_bytes']:,} bytes of UTF-8"
    table = Table(title=title)
    table.add_column("model", overflow="fold")
    for head in ("bits/byte (95 %)", "kB/s", "tokens/s", "file MB", "RSS MB", "cost/M"):
        table.add_column(head, justify="right", no_wrap=True)
    for number, model in enumerate(report["models"]):
        mark = "*" if number in report["frontier"] else ""
        table.add_row(
            escape(f"{model['name']}{mark}"),
            f"{model['bits_per_byte']:.3f} ({model['low']:.3f}..{model['high']:.3f})",
            f"{model['text_bytes_s'] / 1e3:,.1f}",
            f"{model['tok_s']:,.0f}",
            f"{model['artifact_bytes'] / 1e6:,.1f}",
            f"{model['rss_bytes'] / 1e6:,.0f}",
            f"{model['cost_per_million_tokens']:.3f}",
        )
    console = report_console()
    console.print(table)
    for one in report["differences"]:
        console.print(
            f"{one['b']} against {one['a']}: {one['bits_per_byte']:+.3f} bits/byte "
            f"({one['low']:+.3f}..{one['high']:+.3f}), {one['share']:+.1%}",
            markup=False,
        )
    console.print(
        "* no other model beats it in both bits and speed (kB of text a second). cost/M: a million "
        "of the model's own tokens, processor time of both ends at "
        f"{report['price_per_core_hour']:g} an hour and core."
    )
