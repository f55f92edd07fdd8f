"""``narrows bench runtime``: the exact runtime against llama.cpp and the float32 model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(add_completion=False)

_ROWS = (
    ("exact", "all digests equal"),
    ("bpb_exact", "bits per byte, exact"),
    ("bpb_float", "bits per byte, float32"),
    ("bpb_excess", "excess"),
    ("single_tok_s", "1 stream, tokens/s"),
    ("llamacpp_single_tok_s", "  llama.cpp"),
    ("batch16_tok_s", "16 streams, tokens/s"),
    ("llamacpp_batch16_tok_s", "  llama.cpp"),
    ("prefill_tok_s", "prefill, all distributions, tokens/s"),
    ("prompt_tok_s", "prompt, the last distribution, tokens/s"),
    ("llamacpp_prefill_tok_s", "  llama.cpp, the last distribution"),
    ("batch16_ctx2000_tok_s", "16 streams, contexts of 2,000"),
    ("batch64_tok_s", "64 streams"),
    ("coding_us", "distribution and coding, us per token"),
    ("start_s", "start, s"),
    ("rss_mb", "resident memory, MB"),
)


@app.command(epilog="Example:  narrows bench runtime --answers answers.jsonl --quick --json")
def runtime(
    answers: Annotated[
        Path | None, typer.Option(help="JSON lines with prompt and response.")
    ] = None,
    quick: Annotated[bool, typer.Option(help="20 answers, 2,000 tokens for exactness.")] = False,
    threads: Annotated[int, typer.Option(min=0, max=256, help="0: every processor.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Bits, exactness, speed and memory of the exact runtime; llama.cpp in the same run."""
    import json

    from rich.console import Console
    from rich.table import Table

    from narrows.bench.runtime import run

    console = Console(stderr=True)
    with console.status("starting") as status:

        def report(text: str) -> None:
            status.update(text)

        result = run(answers, quick=quick, threads=threads, report=report)
    if as_json:
        typer.echo(json.dumps(result))
        return
    table = Table("", "measured", title=f"exact runtime, {result['backend']}")
    for key, name in _ROWS:
        table.add_row(name, _shown(result.get(key)))
    Console().print(table)


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 100 else f"{value:,.0f}"
    return "not measured" if value is None else str(value)
