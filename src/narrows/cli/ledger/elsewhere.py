"""``narrows budget charge``, ``inventory``: what leaves another way than through a gate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from narrows.cli.ledger.options import (
    JsonOption,
    StateOption,
    ValidDays,
    proposed_at_ms,
    write_proposal,
)
from narrows.errors import InputError

if TYPE_CHECKING:
    from narrows.cli.ledger.ways import Booked


def charge(
    lineage: Annotated[str, typer.Option(help="The weight lineage.")],
    size: Annotated[str, typer.Option("--bytes", help="How much left: 5000000, 5MB.")],
    reason: Annotated[str, typer.Option(help="What it was, one line, kept in the log for ever.")],
    out: Annotated[Path, typer.Option(help="File to write the unsigned change to.")],
    valid_days: ValidDays = 7,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a change that books bytes which left another way than through a gate. One operator's
    signature is enough: it only lowers what is left. Then sign and apply it as any change.

    No auditor gives it back, and it has no account. What was booked wrongly, k operators make good
    by raising the budget.
    """
    from narrows.deploy.state import existing_place
    from narrows.ledger.changes import MAX_REASON_CHARS
    from narrows.ledger.office.balances import read_state
    from narrows.ledger.office.propose import charge_document
    from narrows.sizes import size_bytes

    size_ = size_bytes(size, "--bytes", least=1)
    if not 0 < len(reason) <= MAX_REASON_CHARS or not reason.isprintable():
        raise InputError(f"--reason is one line of 1 to {MAX_REASON_CHARS} characters")
    now = read_state(existing_place(state))
    if lineage not in now.lineages:
        known = ", ".join(now.lineages) or "none"
        raise InputError(f"there is no lineage {lineage[:80]!r}", f"there is: {known}")
    at_ms = proposed_at_ms(now)
    document = charge_document(now, lineage, size_, reason, at_ms, valid_days * 86_400_000)
    write_proposal(out, document, now, as_json)


def inventory(
    file: Annotated[Path | None, typer.Option(help="The answers.")] = None,
    write: Annotated[
        Path | None, typer.Option(help="Write a file without answers, to fill; never over one.")
    ] = None,
    answer_days: Annotated[
        int, typer.Option(help="For how long an answer is good.", min=1, max=3650)
    ] = 90,
    charge_days: Annotated[
        int, typer.Option(help="How often open ways are charged at least.", min=1, max=3650)
    ] = 31,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """The ways on which bytes could leave beside the gate: a list to answer, and what is missing.

    With --file: exit code 0 where every way is answered, no answer is old, and every open way has
    an account that was charged lately; else 1. Without: print the list.

    narrows sees none of these ways. The answers are the word of who gave them.
    """
    import datetime
    import json

    from narrows.cli.ledger import ways
    from narrows.durable import write_whole

    if write is not None:
        if write.exists() or write.is_symlink():
            raise InputError(f"{write} exists", "name another file")
        write_whole(write, ways.template().encode(), 0o644)
        typer.echo(f"wrote {write}: answer it, then narrows budget inventory --file {write}")
        return
    if file is None:
        if as_json:
            typer.echo(json.dumps({"ways": ways.WAYS}))
            return
        for name, covers in ways.WAYS.items():
            typer.echo(f"{name:12}{covers}")
        typer.echo("'narrows budget inventory --write FILE' makes a file to answer.")
        return
    found = ways.read_ways(file)
    booked = _booked(state)
    today = datetime.datetime.now(datetime.UTC).date()
    missing = ways.open_problems(found, booked, today, answer_days, charge_days)
    open_ = {name: way for name, way in found.items() if way.open}
    if as_json:
        rows = {name: {"open": way.open, "day_bytes": way.day_bytes} for name, way in found.items()}
        sums = {name: one.total_bytes for name, one in (booked or {}).items()}
        typer.echo(json.dumps({"ways": rows, "missing": missing, "charged_bytes": sums}))
    else:
        day_bytes = sum(way.day_bytes for way in open_.values())
        typer.echo(f"{len(open_)} of {len(found)} ways are open, {day_bytes:,} bytes a day at most")
        for lineage, one in (booked or {}).items():
            typer.echo(f"lineage {lineage}: {one.total_bytes:,} bytes charged, last on {one.last}")
        if booked is None:
            typer.echo("no ledger here: charges are not looked at (--state)")
        for problem in missing:
            typer.echo(f"missing: {problem}")
    raise typer.Exit(1 if missing else 0)


def _booked(state: Path | None) -> dict[str, Booked] | None:
    """Charges in the ledger of a state folder; None where there is none."""
    import datetime
    from contextlib import closing

    from narrows.cli.ledger.ways import Booked
    from narrows.deploy.state import existing_state_dir, ledger_place, state_dir
    from narrows.ledger.office.describe import history

    place = ledger_place(existing_state_dir(state) if state is not None else state_dir(state))
    if not place.exists():
        return None
    found: dict[str, Booked] = {}
    with closing(place.read()) as store:
        for change in history(store):
            if change.kind == "charge":
                lineage = str(change.document["lineage"])
                before = found[lineage].total_bytes if lineage in found else 0
                moment = datetime.datetime.fromtimestamp(change.time_ms / 1000, datetime.UTC)
                total_bytes = before + int(change.document["bytes"])
                found[lineage] = Booked(total_bytes, moment.date())
    return found
