"""``narrows budget enrol``, ``revoke``, ``credit``: who audits, and what auditors give back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from narrows.cli.ledger.options import (
    JsonOption,
    StateOption,
    ValidDays,
    WitnessOption,
    open_ledger,
    proposed_at_ms,
    write_proposal,
)
from narrows.errors import InputError

if TYPE_CHECKING:
    from narrows.ledger.auditors import Enrolment, Revocation

LineageOption = Annotated[str, typer.Option(help="The weight lineage.")]
GateOption = Annotated[list[str], typer.Option("--gate", help="Name of a gate; may be repeated.")]
OutOption = Annotated[Path, typer.Option(help="File to write the unsigned change to.")]


def enrol(
    out: OutOption,
    lineage: LineageOption,
    gate: GateOption,
    auditor: Annotated[str, typer.Option(help="The auditor's public key, 64 hex digits.")],
    pins: Annotated[
        str, typer.Option(help="SHA-256 of the weights and fixed inputs that it holds answers to.")
    ],
    audited: Annotated[
        float, typer.Option(help="Share of segments that it audits.", min=1e-6, max=1)
    ] = 1.0,
    segment_bits: Annotated[
        int, typer.Option(help="Segments that cost more bits are always audited.", min=1)
    ] = 2000,
    delta: Annotated[
        float, typer.Option(help="Probability with which its bound may fail, by gate.")
    ] = 1e-9,
    most: Annotated[
        float, typer.Option(help="Greatest part of a lease that it may credit.", min=1e-6, max=1)
    ] = 0.99,
    grain: Annotated[
        str, typer.Option(help="Credits are multiples of this size; smaller ones say more.")
    ] = "64KiB",
    epoch: Annotated[
        str, typer.Option(help="32 hex digits; the epoch of now to change its terms only.")
    ] = "",
    valid_days: ValidDays = 7,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a change that enrols an auditor for gates, or changes its terms. k operators sign
    it; one is enough where it only tightens the terms of the auditor that is there."""
    import secrets

    from narrows.cli.ledger.limits import parts
    from narrows.ledger.auditors import EPOCH_BYTES, PPM, PPT, Enrolment, Terms
    from narrows.ledger.log.canonical import unhex
    from narrows.sizes import size_bytes

    if unhex(pins, 32) is None:
        raise InputError("--pins is not 64 lower-case hex digits", "see narrows audit pins")
    if epoch and unhex(epoch, EPOCH_BYTES) is None:
        raise InputError("--epoch is not 32 lower-case hex digits", "leave it out for a new one")
    terms = Terms(
        parts(audited, PPM, "--audited"),
        segment_bits,
        parts(delta, PPT, "--delta"),
        parts(most, PPM, "--most"),
        pins,
        size_bytes(grain, "--grain", least=1),
    )
    gates = tuple(sorted(set(gate)))
    body = Enrolment(lineage, gates, auditor, epoch or secrets.token_hex(EPOCH_BYTES), terms)
    _write(body, out, valid_days, state, as_json)


def revoke(
    out: OutOption,
    lineage: LineageOption,
    gate: GateOption,
    valid_days: ValidDays = 7,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a change after which nobody audits these gates. One operator's signature is enough.
    Credits that were given stay; what is not credited by then stays spent."""
    from narrows.ledger.auditors import Revocation

    _write(Revocation(lineage, tuple(sorted(set(gate)))), out, valid_days, state, as_json)


def credit(
    file: Annotated[Path, typer.Argument(help="The auditor's signed credit.")],
    state: StateOption = None,
    witness: WitnessOption = "",
    as_json: JsonOption = False,
) -> None:
    """Book an auditor's credit in the ledger, at once and while gates run. It widens what is
    left of the net budget, never the raw one; a second time it does nothing."""
    import json
    from contextlib import closing

    from narrows.deploy.state import existing_place
    from narrows.ledger.office.credits import apply_credit, read_credit_file

    made, signature = read_credit_file(file)
    with closing(open_ledger(existing_place(state), witness)) as ledger:
        position = apply_credit(ledger, made, signature)
    credited_bytes = 0 if position is None else made.total - made.previous
    if as_json:
        typer.echo(json.dumps({"position": position, "credited_bytes": credited_bytes}))
    elif position is None:
        typer.echo("it is in the log already: nothing was written")
    else:
        typer.echo(f"credited {credited_bytes:,} bytes as leaf {position}")


def _write(
    body: Enrolment | Revocation, out: Path, valid_days: int, state: Path | None, as_json: bool
) -> None:
    from narrows.deploy.state import existing_place
    from narrows.ledger.office.balances import read_state
    from narrows.ledger.office.propose import auditor_document

    now = read_state(existing_place(state))
    document = auditor_document(now, body, proposed_at_ms(now), valid_days * 86_400_000)
    write_proposal(out, document, now, as_json)
