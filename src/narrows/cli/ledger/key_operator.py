"""``narrows key operator``: the Ed25519 keys that raise budgets, k of n."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from narrows.cli.ledger.options import (
    JsonOption,
    PassphraseOption,
    StateOption,
    proposed_at_ms,
    public_key,
)
from narrows.errors import InputError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Operator keys: make, list, add, rotate, revoke.",
    epilog="add, rotate and revoke write a change: sign it with 'narrows budget sign' (k of the "
    "present operators, and each key that is added), then 'narrows budget apply'.",
)
OutOption = Annotated[Path, typer.Option("--out", help="File to write the unsigned change to.")]
ThresholdOption = Annotated[
    int | None, typer.Option("--threshold", help="Signatures needed; else as now.")
]


@app.command(epilog="Example: narrows key operator new alice --passphrase-file pass.txt")
def new(
    name: Annotated[str, typer.Argument(help="Name of the key's file.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder for NAME.key; else STATE/ledger/operators.")
    ] = None,
    state: StateOption = None,
    passphrase_file: PassphraseOption = None,
) -> None:
    """Make a key pair and print the public key. It counts for nothing until it is added."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from narrows.cli.ledger.options import passphrase
    from narrows.deploy.state import state_dir
    from narrows.ledger.keys import public_of, save_private
    from narrows.ledger.log.canonical import is_name
    from narrows.ledger.office.setup import make_directory
    from narrows.ledger.stores.place import LedgerPlace

    if not is_name(name):
        raise InputError(f"{name!r} is no name", "use lower-case letters, digits, '.', '_', '-'")
    folder = out if out is not None else LedgerPlace(state_dir(state)).folder / "operators"
    make_directory(folder)
    key = Ed25519PrivateKey.generate()
    save_private(folder / f"{name}.key", key, passphrase(passphrase_file))
    typer.echo(public_of(key).hex())
    typer.echo(f"  private key in {folder / f'{name}.key'}", err=True)


@app.command("list", epilog="Example: narrows key operator list --state DIR --json")
def list_keys(state: StateOption = None, as_json: JsonOption = False) -> None:
    """List the operators that the ledger knows, and how many must sign."""
    import json

    from narrows.deploy.state import existing_place
    from narrows.ledger.office.balances import read_state

    operators = read_state(existing_place(state)).operators
    if as_json:
        typer.echo(json.dumps({"keys": operators.keys, "threshold": operators.threshold}))
        return
    typer.echo(f"{operators.threshold} of {len(operators.keys)} sign")
    for key in operators.keys:
        typer.echo(f"  {key}")


@app.command(epilog="Example: narrows key operator add PUBLICKEY --threshold 2 --out add.json")
def add(
    key: Annotated[str, typer.Argument(help="Public key, 64 hex digits.")],
    out: OutOption,
    threshold: ThresholdOption = None,
    state: StateOption = None,
) -> None:
    """Propose one more operator, or another threshold with it."""
    _propose(state, [], [key], threshold, out)


@app.command(epilog="Example: narrows key operator rotate OLD NEW --out rotate.json")
def rotate(
    old: Annotated[str, typer.Argument(help="Public key to remove.")],
    new: Annotated[str, typer.Argument(help="Public key to put in its place.")],
    out: OutOption,
    state: StateOption = None,
) -> None:
    """Propose a new key in the place of an old one."""
    _propose(state, [old], [new], None, out)


@app.command(epilog="Example: narrows key operator revoke PUBLICKEY --threshold 1 --out gone.json")
def revoke(
    key: Annotated[str, typer.Argument(help="Public key to remove.")],
    out: OutOption,
    threshold: ThresholdOption = None,
    state: StateOption = None,
) -> None:
    """Propose that a key no longer counts."""
    _propose(state, [key], [], threshold, out)


def _propose(
    state: Path | None, without: list[str], extra: list[str], threshold: int | None, out: Path
) -> None:

    from narrows.deploy.state import existing_place
    from narrows.ledger.changes import Operators
    from narrows.ledger.office.balances import read_state
    from narrows.ledger.office.propose import operators_document, write_change_file

    now = read_state(existing_place(state))
    for key in extra:
        public_key(key, "the key")
    for key in without:
        if key not in now.operators.keys:
            raise InputError(f"{key} is not an operator", "see narrows key operator list")
    keys = sorted((set(now.operators.keys) - set(without)) | set(extra))
    wanted = Operators(tuple(keys), threshold or now.operators.threshold)
    if not 1 <= wanted.threshold <= len(keys):
        raise InputError(f"{wanted.threshold} of {len(keys)} keys cannot sign", "set --threshold")
    document = operators_document(now, wanted, proposed_at_ms(now))
    write_change_file(out, document, [])
    typer.echo(f"{wanted.threshold} of {len(keys)} operators would sign; unsigned in {out}")
