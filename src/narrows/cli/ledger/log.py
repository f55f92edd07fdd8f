"""``narrows log``: check the ledger's append-only log, offline; print heads and proofs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from narrows.cli.ledger.options import JsonOption, StateOption
from narrows.errors import InputError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from narrows.ledger.stores.store import Store

FileOption = Annotated[Path | None, typer.Option("--file", help="A ledger file or backup instead.")]
NewestOption = Annotated[
    bool, typer.Option("--newest", help="The log's own head, though no witness has cosigned it.")
]

app = typer.Typer(add_completion=False, no_args_is_help=True, help="The append-only log.")


@app.callback()
def _group() -> None:
    """The append-only log."""


@app.command(epilog="Example: narrows log verify --state DIR --json")
def verify(
    state: StateOption = None,
    file: FileOption = None,
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

    from narrows.deploy.state import existing_place
    from narrows.ledger.office.verify import verify_path, verify_place

    if file is not None:
        found = verify_path(file, log_key, witness_key)
    else:
        found = verify_place(existing_place(state), log_key, witness_key)
    if as_json:
        answer = dataclasses.asdict(found) | {"root": found.root.hex(), "ok": True}
        typer.echo(json.dumps(answer))
        return
    sums = found.balances
    typer.echo(f"ok: {found.size:,} leaves, {found.leases:,} leases, root {found.root.hex()}")
    typer.echo(f"log        {found.log_vkey}")
    typer.echo(f"witness    {found.witness_vkey or 'none'}")
    typer.echo(f"cosigned   {found.cosigned_size:,} leaves")
    if found.witness_vkey and not found.cosigned_size:
        typer.echo("  this file holds no cosignature of its witness: ask the witness", err=True)
    typer.echo(f"operators  {found.threshold} of {len(found.operators)}")
    for key in found.operators:
        typer.echo(f"           {key}")
    for line in sums.lineages:
        typer.echo(
            f"lineage    {line.lineage}: granted {line.granted_bytes:,}, spent "
            f"{line.spent_bytes:,}, outstanding {line.outstanding_bytes:,}, "
            f"left {line.left_bytes:,} bytes"
        )


@app.command(epilog="Example: narrows log checkpoint --state DIR")
def checkpoint(
    state: StateOption = None, file: FileOption = None, newest: NewestOption = False
) -> None:
    """Print the newest cosigned head: a C2SP checkpoint, for other tools."""
    from narrows.ledger.office.proof import signed_checkpoint

    with _store(state, file) as store:
        typer.echo(signed_checkpoint(store, newest).decode(), nl=False)


@app.command(epilog="Examples: narrows log prove 12 > 12.tlog-proof   narrows log prove --from 9")
def prove(
    leaf: Annotated[int | None, typer.Argument(help="Index of a leaf, from 0.", min=0)] = None,
    since: Annotated[
        int | None, typer.Option("--from", help="Size of an older checkpoint.", min=0)
    ] = None,
    state: StateOption = None,
    file: FileOption = None,
    newest: NewestOption = False,
) -> None:
    """Prove that a leaf is in the cosigned head, or that the head extends an older one.

    The first is a C2SP tlog-proof, the second one hash a line.
    """
    from narrows.ledger.office.proof import consistency_proof, leaf_proof, open_log

    if (leaf is None) == (since is None):
        raise InputError("give the index of a leaf, or --from SIZE")
    with _store(state, file) as store:
        log = open_log(store, newest)
    if leaf is not None:
        typer.echo(leaf_proof(log, leaf), nl=False)
    elif since is not None:
        typer.echo(consistency_proof(log, since), nl=False)


def _store(state: Path | None, file: Path | None) -> AbstractContextManager[Store]:
    from contextlib import closing

    from narrows.deploy.state import existing_place
    from narrows.ledger.stores.sqlite import SqliteStore

    if file is not None:
        return closing(SqliteStore(file, read_only=True))
    return closing(existing_place(state).read())
