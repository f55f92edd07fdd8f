"""``narrows ledger``: make, back up, restore and recover a ledger."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from narrows.cli.ledger.options import JsonOption, StateOption, WitnessOption, public_key
from narrows.errors import InputError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="The ledger: make, copy, back up, restore, recover.",
)


@app.command(
    epilog="Example: narrows ledger init --state DIR --origin example.org/cluster-1 "
    "--operator KEY1 --operator KEY2 --operator KEY3 --threshold 2 --witness-key KEY"
)
def init(
    origin: Annotated[str, typer.Option(help="Name of the log, like a URL without scheme.")],
    operator: Annotated[list[str], typer.Option(help="Public key of an operator; repeat.")],
    threshold: Annotated[int, typer.Option(help="How many must sign.", min=1)],
    witness_key: Annotated[str, typer.Option(help="Public key of the witness, 64 hex digits.")],
    state: StateOption = None,
) -> None:
    """Make an empty ledger: no budget, so nothing leaves until a signed change makes one.

    It lies in STATE/ledger, or in etcd where STATE/narrows.toml says so in its gate section.
    Writes STATE/ledger/log.json, for 'narrows witness --follow' on the witness's machine.
    """
    import time

    from narrows.deploy.state import ledger_place, state_dir
    from narrows.ledger.office.setup import (
        create_ledger,
        create_log_key,
        make_operators,
        write_log_file,
    )

    witness = public_key(witness_key, "--witness-key")
    for key in operator:
        public_key(key, "--operator")
    operators = make_operators(operator, threshold)
    place = ledger_place(state_dir(state))
    log_key = create_log_key(place)
    create_ledger(place, origin, operators, witness, int(time.time() * 1000))
    path = place.folder / "log.json"
    write_log_file(path, origin, log_key, operators)
    made = place.file if place.etcd is None else f"{place.etcd.prefix}/ in etcd"
    typer.echo(f"made {made}; give {path} to the witness")


@app.command(epilog="Example: narrows ledger backup ledger-2026-01-31.db --state DIR")
def backup(
    target: Annotated[Path, typer.Argument(help="File to write; must not exist.")],
    state: StateOption = None,
) -> None:
    """Copy the ledger consistently to a file, while gates use it, and verify the copy."""
    from contextlib import closing

    from narrows.deploy.state import existing_place
    from narrows.ledger.office.copying import copy_log
    from narrows.ledger.office.verify import verify_path
    from narrows.ledger.stores import sqlite as sqlite_store

    with closing(existing_place(state).read()) as store:
        if isinstance(store, sqlite_store.SqliteStore):
            store.backup(target)
        else:
            sqlite_store.create(target)
            with closing(sqlite_store.SqliteStore(target)) as copy:
                copy_log(store, copy)
    typer.echo(f"{target}: {verify_path(target).size:,} leaves, verified")
    typer.echo("  the log key (STATE/ledger/log.key) is not in it: keep a copy elsewhere", err=True)


@app.command(epilog="Example: narrows ledger copy DIR/ledger/ledger.db --state DIR")
def copy(
    source: Annotated[Path, typer.Argument(help="A ledger file or a backup.")],
    state: StateOption = None,
) -> None:
    """Copy a ledger file into the etcd that STATE/narrows.toml names; its prefix must be empty.

    Stop the gates first. The copy is the same ledger: its log key and its witness stay, and once
    it goes on, the file is behind the witness and refused.
    """
    from contextlib import closing

    from narrows.deploy.state import existing_place
    from narrows.ledger.office.copying import copy_log
    from narrows.ledger.office.verify import verify_log, verify_place
    from narrows.ledger.stores.sqlite import SqliteStore

    place = existing_place(state)
    if place.etcd is None:
        config = place.state_dir / "narrows.toml"
        raise InputError(f"{config} names no etcd", "see docs/ledger.md")
    with place.lock_all(), closing(SqliteStore(source, read_only=True)) as file:
        verify_log(file)  # before anything is made in etcd; what arrives there is verified again
        with closing(place.create()) as store:
            copy_log(file, store)
    typer.echo(f"{verify_place(place).size:,} leaves in {place.etcd.prefix}/, verified")


@app.command(epilog="Example: narrows ledger release gate-2 --state DIR")
def release(
    gate: Annotated[str, typer.Argument(help="Name of a gate whose machine is gone.")],
    state: StateOption = None,
) -> None:
    """Free a gate's name in etcd, so that another machine can take it.

    Only for a gate that will never send again: who takes the name counts its leases as spent.
    """
    from contextlib import closing

    from narrows.deploy.state import existing_place
    from narrows.ledger.stores.etcd import EtcdStore

    etcd = existing_place(state).etcd
    if etcd is None:
        raise InputError("the names of gates on one machine are lock files: nothing to release")
    with closing(EtcdStore(etcd)) as store:
        held = store.release(gate)
    typer.echo(f"{gate} is free" if held else f"no machine was {gate}")


@app.command(epilog="Example: narrows ledger restore ledger-2026-01-31.db --state DIR")
def restore(
    source: Annotated[Path, typer.Argument(help="A backup.")],
    state: StateOption = None,
) -> None:
    """Put a verified backup where the ledger was; the old file is kept beside it.

    A backup is older than the witness's head, so the gate refuses to send until k of n
    operators have signed what lies between: see narrows ledger recover.
    """
    from narrows.deploy.state import existing_place
    from narrows.ledger.office.backup import restore_file

    place = existing_place(state)
    if place.etcd is not None:
        raise InputError(
            "the ledger lies in etcd", "copy the backup under a new prefix: narrows ledger copy"
        )
    found, kept = restore_file(place, source)
    typer.echo(f"restored {found.size:,} leaves" + (f"; the old file is {kept}" if kept else ""))
    typer.echo("  if the witness has seen more: narrows ledger recover", err=True)


@app.command(epilog="Example: narrows ledger recover --propose gap.json --state DIR")
def recover(
    file: Annotated[Path | None, typer.Argument(help="A signed recovery, to apply.")] = None,
    propose: Annotated[
        Path | None, typer.Option(help="File to write an unsigned recovery to.")
    ] = None,
    state: StateOption = None,
    witness: WitnessOption = "",
    as_json: JsonOption = False,
) -> None:
    """Count as spent what a ledger lost against its witness. Stop the gates first.

    --propose asks the witness and writes the change; k operators sign it with 'narrows budget
    sign'; then 'narrows ledger recover FILE' applies it and the witness accepts the ledger.
    """
    import json
    from contextlib import closing

    from narrows.cli.ledger.options import open_ledger, write_proposal
    from narrows.deploy.state import existing_place
    from narrows.ledger.office import admin
    from narrows.ledger.office.propose import read_change_file, recovery_document

    if (file is None) == (propose is None):
        raise InputError("give a signed recovery, or --propose FILE")
    with closing(open_ledger(existing_place(state), witness)) as ledger:
        if file is not None:
            position = admin.recover(ledger, *read_change_file(file))
            typer.echo(json.dumps({"position": position}) if as_json else f"leaf {position}")
        elif propose is not None:
            gap, now = admin.find_gap(ledger), ledger.state()
            head = (gap.witnessed.size, gap.witnessed.root)
            document = recovery_document(now, gap.root, head, gap.gap_bytes, gap.witnessed.time_ms)
            write_proposal(propose, document, now, as_json)
