"""``narrows weak data``: transcripts to train on."""

from __future__ import annotations

import contextlib
import dataclasses
import json as json_module
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False)


@app.command(
    epilog="Examples:  narrows weak data STATE/edge/transcripts --out data/   |   "
    "narrows weak data monday.jsonl tuesday.jsonl --out data/"
)
def data(
    files: Annotated[
        list[Path], typer.Argument(help="JSONL with prompt and response, or folders of it.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for train.jsonl and dev.jsonl.")],
    dev_percent: Annotated[float, typer.Option(min=0.0, max=100.0)] = 5.0,
    json: Annotated[bool, typer.Option("--json", help="Report as JSON.")] = False,
) -> None:
    """Import transcripts: every row once, no prompt both in train.jsonl and in dev.jsonl.

    A running edge's folder may be named: it waits meanwhile.
    """
    from narrows.edge.books.transcripts import is_kept_by_an_edge, reading
    from narrows.errors import InputError
    from narrows.models.registry import progress_bar
    from narrows.training.corpus.transcripts import import_transcripts

    with contextlib.ExitStack() as held:
        found: list[Path] = []
        for path in files:
            if is_kept_by_an_edge(path):
                found += held.enter_context(reading(path))
            elif path.is_dir():
                found += sorted(path.glob("[!.]*.jsonl"))
            else:
                found.append(path)
        if not found:
            raise InputError(
                "there are no transcripts", "the edge keeps some: [edge.transcripts] keep = true"
            )
        progress = held.enter_context(progress_bar("Importing"))
        report = import_transcripts(found, out, dev_percent=dev_percent, progress=progress)
    if json:
        typer.echo(json_module.dumps(dataclasses.asdict(report)))
        return
    typer.echo(f"{report.rows} rows, {report.duplicates} duplicates, {report.prompts} prompts")
    typer.echo(f"train.jsonl  {report.train:>8} answers  {report.train_bytes:>12,} bytes")
    typer.echo(f"dev.jsonl    {report.dev:>8} answers  {report.dev_bytes:>12,} bytes")
