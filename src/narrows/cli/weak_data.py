"""``narrows weak data``: transcripts to train on."""

from __future__ import annotations

import dataclasses
import json as json_module
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False)


@app.command(epilog="Example:  narrows weak data monday.jsonl tuesday.jsonl --out data/")
def data(
    files: Annotated[list[Path], typer.Argument(help="JSONL with prompt and response.")],
    out: Annotated[Path, typer.Option(help="Folder for train.jsonl and dev.jsonl.")],
    dev_percent: Annotated[float, typer.Option(min=0.0, max=100.0)] = 5.0,
    json: Annotated[bool, typer.Option("--json", help="Report as JSON.")] = False,
) -> None:
    """Import transcripts: every row once, no prompt both in train.jsonl and in dev.jsonl."""
    from narrows.training.transcripts import import_transcripts

    report = import_transcripts(files, out, dev_percent=dev_percent)
    if json:
        typer.echo(json_module.dumps(dataclasses.asdict(report)))
        return
    typer.echo(f"{report.rows} rows, {report.duplicates} duplicates, {report.prompts} prompts")
    typer.echo(f"train.jsonl  {report.train:>8} answers  {report.train_bytes:>12,} bytes")
    typer.echo(f"dev.jsonl    {report.dev:>8} answers  {report.dev_bytes:>12,} bytes")
