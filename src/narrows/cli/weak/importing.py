"""``narrows weak import``: from a checkpoint to an artifact."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False)


@app.command(name="import", epilog="Example:  narrows weak import model.gguf --out model.narrows")
def import_(
    src: Annotated[str, typer.Argument(help="GGUF file, Hugging Face folder or hub id.")],
    out: Annotated[Path | None, typer.Option(help="Artifact to write.")] = None,
    name: Annotated[str | None, typer.Option(help="The model's name.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Report as JSON.")] = False,
) -> None:
    """Quantise a checkpoint into one file whose SHA-256 names the weak model."""
    from narrows.models.checkpoint.pack import pack
    from narrows.models.registry import load_source, progress_bar

    source = load_source(src)
    title = name or str(source.metadata.get("name") or Path(src).stem)
    path = out or Path(f"{Path(src).stem}.narrows")
    with progress_bar(f"Importing {title}") as progress:
        digest = pack(source, path, name=title, progress=progress)
    if json:
        row = {"path": str(path), "name": title, "sha256": digest.hex()}
        typer.echo(json_module.dumps(row | {"bytes": path.stat().st_size}))
    else:
        typer.echo(f"{path}: {title}, {path.stat().st_size:,} bytes\nsha256 {digest.hex()}")
