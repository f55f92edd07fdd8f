"""What the commands over a ledger share: where it is, its witness, its keys."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from narrows.errors import BudgetError, InputError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from narrows.ledger.ledger import Ledger
    from narrows.ledger.log.canonical import Document
    from narrows.ledger.rules import State
    from narrows.ledger.session import WitnessClient
    from narrows.ledger.stores.place import LedgerPlace

StateOption = Annotated[Path | None, typer.Option("--state", help="State folder.")]
WitnessOption = Annotated[
    str,
    typer.Option(
        "--witness", help="HOST:PORT of the witness; else the one in the state folder itself."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object, for machines.")]
ValidDays = Annotated[int, typer.Option(help="Days in which it may be applied.", min=1)]
PassphraseOption = Annotated[
    Path | None,
    typer.Option("--passphrase-file", help="File whose first line is the key's passphrase."),
]


def passphrase(path: Path | None) -> bytes | None:
    """The first line of a file, without its end."""
    if path is None:
        return None
    try:
        with path.open("rb") as file:
            line = file.readline(1024).rstrip(b"\r\n")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    if not line:
        raise InputError(f"{path} holds no passphrase")
    return line


def public_key(text: str, what: str) -> bytes:
    """A public key that a user wrote as 64 hex digits; ``what`` it is, for the error."""
    from narrows.ledger.keys import public_of_hex

    try:
        return public_of_hex(text, what)
    except BudgetError as error:
        raise InputError(error.message, error.remedy) from error


def proposed_at_ms(now: State) -> int:
    """The moment from which a proposal's validity counts: the log may be ahead of this machine."""
    import time

    return max(now.time_ms, int(time.time() * 1000))


def write_proposal(out: Path, document: Document, now: State, as_json: bool) -> None:
    """Write an unsigned change, and say what it would do to ``now``."""
    import json

    from narrows.ledger.changes import parse_change
    from narrows.ledger.office.describe import describe
    from narrows.ledger.office.propose import write_change_file

    write_change_file(out, document, [])
    lines = describe(parse_change(document), now)
    if as_json:
        typer.echo(json.dumps({"change": document, "lines": lines}))
    else:
        typer.echo("\n".join(lines))


def operator_key(
    named: str, folder: Path | None, passphrase_file: Path | None
) -> Ed25519PrivateKey:
    """A key file, by its path or by its name under STATE/ledger/operators."""
    from narrows.ledger.keys import load_private
    from narrows.ledger.stores.place import LedgerPlace

    path = Path(named)
    if folder is not None and "/" not in named and not path.is_file():
        path = LedgerPlace(folder).folder / "operators" / f"{named}.key"
    return load_private(path, passphrase(passphrase_file))


def _find_witness(folder: Path, address: str, key: str) -> WitnessClient | None:
    """The witness that a ledger names by ``key``: at ``address``, or in the ledger's ``folder``."""
    from narrows.ledger.office.setup import open_witness
    from narrows.ledger.witness.server import HttpWitness
    from narrows.ledger.witness.witness import witness_verifier
    from narrows.wire.address import parse_address

    if not key:
        return None
    if address:
        return HttpWitness(*parse_address(address), witness_verifier(bytes.fromhex(key)))
    if (folder / "witness" / "witness.db").is_file():
        return open_witness(folder)
    raise BudgetError("the ledger has a witness elsewhere", "name it: --witness HOST:PORT")


def open_ledger(place: LedgerPlace, address: str) -> Ledger:
    """The ledger at ``place``, for an operator, beside the gate that may be using it."""
    from functools import partial

    from narrows.ledger.ledger import Ledger
    from narrows.ledger.stores.place import OPERATOR

    find = partial(_find_witness, place.state_dir, address)
    return Ledger.open(place, witness=None, find_witness=find, gate=OPERATOR)
