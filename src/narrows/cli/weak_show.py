"""``narrows weak show``: what an artifact says of itself."""

from __future__ import annotations

import json as json_module
from typing import Annotated

import typer

app = typer.Typer(add_completion=False)


@app.command(epilog="Example:  narrows weak show smollm2-135m --json")
def show(
    model: Annotated[str, typer.Argument(help="Artifact file or name.")],
    json: Annotated[bool, typer.Option("--json", help="The whole header as JSON.")] = False,
) -> None:
    """Name, digest, sizes, provenance. Checks the file, computes nothing with it."""
    from narrows.weak.artifact import Artifact
    from narrows.weak.registry import resolve

    artifact = Artifact.open(resolve(model))
    facts = {
        "path": str(artifact.path),
        "sha256": artifact.digest.hex(),
        "bytes": artifact.size_bytes,
        "tensors": len(artifact.tensor_names),
    }
    if json:
        typer.echo(json_module.dumps(facts | {"header": artifact.header}))
        return
    for key in ("name", "conformance", "config", "provenance"):
        facts[key] = artifact.header.get(key, "not stated")
    for key, value in facts.items():
        if isinstance(value, dict):
            typer.echo(f"{key}:")
            for inner, text in value.items():
                typer.echo(f"  {inner:<20} {text!s:.200}")
        else:
            typer.echo(f"{key:<22} {value!s:.200}")
