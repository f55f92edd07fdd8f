"""``narrows weak switch``: give a running deployment a newer weak model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from narrows.cli.ledger.options import StateOption

app = typer.Typer(add_completion=False)


@app.command(
    epilog="Examples:  narrows weak switch mine.narrows   |   "
    "narrows weak switch mine.narrows --folder /srv/narrows/weak"
)
def switch(
    file: Annotated[Path, typer.Argument(help="The artifact; its FILE.signed goes with it.")],
    folder: Annotated[
        Path | None, typer.Option(help="The role's weak_folder; else STATE/weak of 'narrows up'.")
    ] = None,
    state: StateOption = None,
    json: Annotated[bool, typer.Option("--json", help="Report as JSON.")] = False,
) -> None:
    """Put an artifact into the folder that a running role watches.

    Within seconds the role loads it. New links then use the newest model that both ends have;
    answers that are under way end on the old link. Give it to the enclave first. To go back,
    remove the file from the folder.
    """
    import json as json_module

    from narrows.deploy.state import existing_state_dir
    from narrows.models.shelf.install import install
    from narrows.private import private_folder

    target = (
        folder
        if folder is not None
        else private_folder(existing_state_dir(state), "weak", shown=True)
    )
    digest, signed = install(file, target, shown=folder is None)
    row = {"path": str(target / file.name), "sha256": digest.hex(), "signed": signed}
    if json:
        typer.echo(json_module.dumps(row))
        return
    typer.echo(f"{row['path']}\nsha256 {row['sha256']}, {'signed' if signed else 'not signed'}")
    typer.echo("  'weak_model' of http://EDGE/healthz says which one the link uses", err=True)
