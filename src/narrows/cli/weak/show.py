"""``narrows weak show``: what an artifact says of itself."""

from __future__ import annotations

import json as json_module
from typing import Annotated, Any

import typer

app = typer.Typer(add_completion=False)


@app.command(epilog="Example:  narrows weak show smollm2-135m --json")
def show(
    model: Annotated[str, typer.Argument(help="Artifact file or name.")],
    json: Annotated[bool, typer.Option("--json", help="The whole header as JSON.")] = False,
) -> None:
    """Name, digest, sizes, provenance; who signed it. Checks the file, computes nothing with
    it. Whether the signer is one of your operators is yours to compare."""
    import dataclasses

    from narrows.models.artifact import Artifact
    from narrows.models.registry import resolve
    from narrows.models.shelf.signed import signer_of

    artifact = Artifact.open(resolve(model))
    facts: dict[str, Any] = {
        "path": str(artifact.path),
        "sha256": artifact.digest.hex(),
        "bytes": artifact.size_bytes,
        "tensors": len(artifact.tensor_names),
    }
    signed = signer_of(artifact.path)
    if signed is not None and signed[1].digest == artifact.digest:
        facts |= {"signed_by": signed[0], "manifest": dataclasses.asdict(signed[1])}
    elif signed is not None:
        facts["signed_by"] = "no one: the signature is of another artifact"
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
