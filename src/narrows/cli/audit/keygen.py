"""``narrows audit keygen``: the auditor's keys, made in its zone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from narrows.cli.audit.options import JsonOption

app = typer.Typer(add_completion=False)


@app.command(
    epilog="Example: narrows audit keygen --out audit-keys. Operators enrol the first key: "
    "narrows budget enrol --auditor KEY; the gate's section gate.tape gets the second."
)
def keygen(
    out: Annotated[Path, typer.Option(help="Folder for the three keys; made if missing.")],
    as_json: JsonOption = False,
) -> None:
    """Make the keys for signing credits, drawing coins and opening tapes; print the public two.

    Keys that are there are never overwritten.
    """
    import json

    from narrows.audit.role.keys import make_auditor_keys
    from narrows.private import private_folder

    keys = make_auditor_keys(private_folder(out))
    if as_json:
        typer.echo(json.dumps({"auditor": keys.public.hex(), "tape": keys.tape_public.hex()}))
        return
    typer.echo(f"auditor  {keys.public.hex()}\ntape     {keys.tape_public.hex()}")
    typer.echo(f"  private keys in {out}: they stay in the auditor's zone", err=True)
