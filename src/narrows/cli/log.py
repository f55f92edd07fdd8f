"""``narrows log``: check the ledger's append-only log, offline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from narrows.cli.ledger_common import JsonOption, StateOption

app = typer.Typer(add_completion=False, no_args_is_help=True, help="The append-only log.")


@app.callback()
def _group() -> None:
    """The append-only log."""


@app.command(epilog="Example: narrows log verify --state DIR --json")
def verify(
    state: StateOption = None,
    file: Annotated[
        Path | None, typer.Option("--file", help="A ledger file or backup instead.")
    ] = None,
    log_key: Annotated[str, typer.Option(help="Expect this log, name+id+key.")] = "",
    witness_key: Annotated[str, typer.Option(help="Expect this witness, name+id+key.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Replay every leaf through the rules, rebuild the tree, check all signatures.

    Needs no gate, no witness and no network, but etcd where the ledger lies there. Compare the
    keys and the operators that it prints with those you know, or give them with --log-key and
    --witness-key.
    """
    import dataclasses
    import json

    from narrows.cli.state import existing_state_dir, ledger_etcd
    from narrows.ledger.verify import verify_path

    path = file if file is not None else existing_state_dir(state)
    etcd = ledger_etcd(path) if file is None else None
    found = verify_path(path, log_key, witness_key, etcd)
    if as_json:
        answer = dataclasses.asdict(found) | {"root": found.root.hex(), "ok": True}
        typer.echo(json.dumps(answer))
        return
    sums = found.balances
    typer.echo(f"ok: {found.size:,} leaves, {found.leases:,} leases, root {found.root.hex()}")
    typer.echo(f"log        {found.log_vkey}")
    typer.echo(f"witness    {found.witness_vkey or 'none'}")
    typer.echo(f"cosigned   {found.cosigned_size:,} leaves")
    typer.echo(f"operators  {found.threshold} of {len(found.operators)}")
    for key in found.operators:
        typer.echo(f"           {key}")
    for line in sums.lineages:
        typer.echo(
            f"lineage    {line.lineage}: granted {line.granted_bytes:,}, spent "
            f"{line.spent_bytes:,}, outstanding {line.outstanding_bytes:,}, "
            f"left {line.left_bytes:,} bytes"
        )
