"""``narrows weak check``: does this machine compute an artifact's integers?"""

from __future__ import annotations

import json as json_module
from typing import Annotated

import typer

app = typer.Typer(add_completion=False)


@app.command(epilog="Example:  narrows weak check smollm2-135m")
def check(
    model: Annotated[str, typer.Argument(help="Artifact file or name.")],
    json: Annotated[bool, typer.Option("--json", help="Report as JSON.")] = False,
) -> None:
    """Compute the conformance vector and compare it with the artifact's; exit code 3 where
    they differ."""
    from narrows.errors import ArtifactError
    from narrows.models.artifact import Artifact
    from narrows.models.registry import resolve
    from narrows.models.runtime.runtime import load_runtime

    artifact = Artifact.open(resolve(model))
    stored = artifact.header.get("conformance")
    if not isinstance(stored, str):
        raise ArtifactError(f"{artifact.path.name} has no conformance digest", "import it again")
    runtime = load_runtime(artifact)  # ArtifactError where the digests differ
    row = {"ok": True, "sha256": artifact.digest.hex(), "conformance": runtime.numerics.hex()}
    if json:
        typer.echo(json_module.dumps(row))
    else:
        typer.echo(f"ok: {artifact.path.name} computes {row['conformance']} here too")
