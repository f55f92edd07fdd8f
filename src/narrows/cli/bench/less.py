"""``narrows bench less``: what each way to send less saves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False)


@app.command(
    epilog="Example: narrows bench less --answers answers.jsonl --rows 50 --json. The bar: kept "
    "saves the reasoning's share of the bytes, within 2 %, and is exact."
)
def less(
    answers: Annotated[Path, typer.Option(help="JSON lines with prompt and response.")],
    weak: Annotated[str, typer.Option(help="Weak model: a name or an artifact.")] = "default",
    rows: Annotated[int, typer.Option(min=1, max=10_000, help="Answers at most.")] = 100,
    share: Annotated[
        float, typer.Option(min=0.05, max=0.95, help="Of the text that is reasoning.")
    ] = 0.7,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Answers of a scripted server over the link, whole and without what nobody needs outside."""
    from rich.console import Console

    from narrows.bench.less.run import measure
    from narrows.models.registry import load_model
    from narrows.rows import answered_rows, some_rows

    some_rows(answers, 1)
    found = [row for row, _ in zip(answered_rows(answers), range(rows), strict=False)]
    with Console(stderr=True).status(f"{len(found)} answers, twice"):
        report = measure(load_model(weak), found, share)
    if as_json:
        typer.echo(json.dumps(report))
        return
    for name, mode in report["modes"].items():
        exact = "exact" if mode["exact"] else "NOT EXACT"
        size = f"{mode['bytes']:,} of {mode['full_bytes']:,} B"
        typer.echo(f"{name:>6} {size}, {mode['saved_share']:.1%} saved, {exact}")
