"""``narrows budget``: show what is left; propose, sign and apply changes; read the history."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from narrows.cli.ledger import auditors, elsewhere
from narrows.cli.ledger.options import (
    JsonOption,
    PassphraseOption,
    StateOption,
    ValidDays,
    WitnessOption,
    proposed_at_ms,
    write_proposal,
)
from narrows.errors import InputError

if TYPE_CHECKING:
    from rich.table import Table

    from narrows.ledger.log.canonical import Document
    from narrows.ledger.office.balances import Balances, NetBalance

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Budgets: show, propose, sign, apply, history; auditors and their credits.",
    epilog="Raising takes k of n operators: propose a change, each signs the file, one applies it. "
    "With the demonstration's budget:  narrows budget propose --lineage demo --lifetime 20MB "
    "--account answers --account telemetry --out raise.json   |   "
    "narrows budget sign raise.json --key demo   |   narrows budget apply raise.json",
)


@app.command(epilog="Example: narrows budget show --state DIR --json")
def show(state: StateOption = None, as_json: JsonOption = False) -> None:
    """Show every lineage and account: granted, spent, outstanding, left, windows."""
    import dataclasses
    import json

    from narrows.deploy.state import existing_place
    from narrows.ledger.office.balances import read_balances

    balances = read_balances(existing_place(state))
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(balances)))
    else:
        _print_balances(balances)


@app.command(
    epilog="Example: narrows budget propose --state DIR --lineage base-1 --lifetime 2GB "
    "--window 1h=50MB --account answers --account telemetry:lifetime=10MB --out raise.json"
)
def propose(
    out: Annotated[Path, typer.Option(help="File to write the unsigned change to.")],
    lineage: Annotated[str | None, typer.Option(help="The weight lineage.")] = None,
    lifetime: Annotated[
        str | None, typer.Option(help="Bytes that may ever leave: 5000000, 2GB.")
    ] = None,
    account: Annotated[
        list[str] | None,
        typer.Option(help="NAME[:lifetime=SIZE][,LENGTH=SIZE...]; once for each gate port."),
    ] = None,
    window: Annotated[
        list[str] | None, typer.Option(help="LENGTH=SIZE, as in 1m=1MB, 1h=50MB, 7d=1GB.")
    ] = None,
    block: Annotated[
        Path | None,
        typer.Option("--from", help="The budget block of 'narrows plan --budget FILE' instead."),
    ] = None,
    net_lifetime: Annotated[
        str | None,
        typer.Option(help="The net budget: bytes that no auditor explained, ever: 2GB."),
    ] = None,
    net_window: Annotated[
        list[str] | None, typer.Option(help="LENGTH=SIZE of the net budget, as in 1h=5MB.")
    ] = None,
    net_delta: Annotated[
        float | None,
        typer.Option(
            help="Probability with which auditors' bounds may fail, all in all: as it is, or 1e-6."
        ),
    ] = None,
    no_net: Annotated[
        bool, typer.Option("--no-net", help="Take the net budget away: all that left counts.")
    ] = False,
    valid_days: ValidDays = 7,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a change that sets the whole budget of a lineage. It does nothing until applied.
    A net budget that is there stays as it is unless the flags say otherwise."""

    from narrows.cli.ledger import limits as budget_limits
    from narrows.deploy.state import existing_place
    from narrows.ledger.auditors import NetLimits
    from narrows.ledger.limits import Limits
    from narrows.ledger.office.balances import read_state
    from narrows.ledger.office.propose import budget_document
    from narrows.sizes import size_bytes

    by_block = None
    accounts = dict(budget_limits.account(text) for text in account or [])
    if block is not None:
        if lineage is not None or lifetime is not None or window:
            raise InputError("--from says lineage, lifetime and windows", "drop it, or the flags")
        found = budget_limits.read_block(block)
        lineage, limits, accounts = found.lineage, found.limits, accounts or found.accounts
        by_block = found.net
    elif lineage is None or lifetime is None or not accounts:
        given = {"--lineage": lineage, "--lifetime": lifetime, "--account": accounts}
        missing = ", ".join(name for name, value in given.items() if not value)
        raise InputError(
            f"{missing} is missing", "see 'narrows budget show' for what there is; or --from FILE"
        )
    else:
        limits = Limits(
            size_bytes(lifetime, "--lifetime"), budget_limits.windows(window or [], "--window")
        )
    now = read_state(existing_place(state))
    net = now.nets[lineage].limits() if lineage in now.nets else None
    if no_net:
        if net_lifetime is not None or net_window or net_delta is not None:
            raise InputError("--no-net and a net budget", "say one of them")
        net = None
    else:
        if by_block is not None and net_lifetime is None and not net_window:
            pool_ppt = budget_limits.DEFAULT_POOL_PPT if net is None else net.delta_ppt
            net = NetLimits(by_block, pool_ppt)
        net = budget_limits.net(net, net_lifetime, net_window or [], net_delta)
    document = budget_document(
        now,
        lineage,
        limits,
        accounts,
        proposed_at_ms(now),
        valid_days * 86_400_000,
        net,
    )
    write_proposal(out, document, now, as_json)


@app.command(epilog="Example: narrows budget sign raise.json --key alice.key")
def sign(
    file: Annotated[Path, typer.Argument(help="The change.")],
    key: Annotated[str, typer.Option(help="Key file, or a name in STATE/ledger/operators.")],
    state: StateOption = None,
    passphrase_file: PassphraseOption = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Read what a change does, and add a signature to its file."""
    import json

    from narrows.cli.ledger.options import operator_key
    from narrows.ledger.office.propose import add_signature, read_change_file, write_change_file

    document, signatures = read_change_file(file)
    lines = _describe(document, state)
    if not (as_json and yes):
        typer.echo("\n".join(lines), err=as_json)
    if not yes:
        typer.confirm("sign this?", abort=True, err=as_json)
    private = operator_key(key, state, passphrase_file)
    signatures = add_signature(document, signatures, private)
    write_change_file(file, document, signatures)
    if as_json:
        signers = [key for key, _ in signatures]
        typer.echo(json.dumps({"change": document, "lines": lines, "signers": signers}))
    else:
        typer.echo(f"{file} has {len(signatures)} signature(s)")


@app.command("apply", epilog="Example: narrows budget apply raise.json --state DIR")
def apply_file(
    file: Annotated[Path, typer.Argument(help="The signed change.")],
    state: StateOption = None,
    witness: WitnessOption = "",
    as_json: JsonOption = False,
) -> None:
    """Apply a signed change to the ledger, at once and while gates run."""
    import json
    from contextlib import closing

    from narrows.cli.ledger.options import open_ledger
    from narrows.deploy.state import existing_place
    from narrows.ledger.office.admin import apply_change
    from narrows.ledger.office.propose import read_change_file

    document, signatures = read_change_file(file)
    with closing(open_ledger(existing_place(state), witness)) as ledger:
        position = apply_change(ledger, document, signatures)
    typer.echo(json.dumps({"position": position}) if as_json else f"applied as leaf {position}")


app.command(
    epilog="Example: narrows budget enrol --lineage base-1 --gate gate-1 --auditor HEX "
    "--pins HEX --audited 0.05 --out enrol.json"
)(auditors.enrol)
app.command(
    epilog="Example: narrows budget revoke --lineage base-1 --gate gate-1 --out revoke.json"
)(auditors.revoke)
app.command(epilog="Example: narrows budget credit credit-0001.json --state DIR")(auditors.credit)


app.command(
    epilog="Example: narrows budget charge --lineage base-1 --bytes 5MB "
    "--reason 'backup of 2026-11-01' --out charge.json"
)(elsewhere.charge)
app.command(
    epilog="Examples: narrows budget inventory --write ways.toml   |   "
    "narrows budget inventory --file ways.toml --state DIR"
)(elsewhere.inventory)


@app.command(epilog="Example: narrows budget history --state DIR")
def history(state: StateOption = None, as_json: JsonOption = False) -> None:
    """List every change of budgets and operators, and who signed it."""
    import dataclasses
    import json
    from contextlib import closing

    from narrows.deploy.state import existing_place
    from narrows.ledger.office import describe

    with closing(existing_place(state).read()) as store:
        changes = describe.history(store)
    if as_json:
        typer.echo(json.dumps({"changes": [dataclasses.asdict(change) for change in changes]}))
        return
    for change in changes:
        typer.echo(f"leaf {change.position}, {describe.when(change.time_ms)}")
        for line in change.lines:
            typer.echo(f"  {line}")
        typer.echo(f"  signed by {', '.join(key[:16] for key in change.signers)}")


def _describe(document: Document, state: Path | None) -> list[str]:
    from narrows.deploy.state import ledger_place, state_dir
    from narrows.ledger.changes import parse_change
    from narrows.ledger.office.balances import read_state
    from narrows.ledger.office.describe import describe

    place = ledger_place(state_dir(state))
    known = read_state(place) if place.exists() else None
    change = parse_change(document)
    if known is not None and known.origin != change.origin:
        known = None
    return describe(change, known)


def _print_balances(balances: Balances) -> None:
    from rich.console import Console
    from rich.table import Table

    from narrows.ledger.office.describe import duration, when

    table = Table(box=None, pad_edge=False)
    for title in ("", "granted", "spent", "outstanding", "left"):
        table.add_column(title, justify="right" if title else "left")
    for line in balances.lineages:
        sums = line.granted_bytes, line.spent_bytes, line.outstanding_bytes, line.left_bytes
        table.add_row(f"[bold]{line.lineage}[/bold]", *(f"{count:,}" for count in sums))
        for window in line.windows:
            name = f"  any {duration(window.length_ms)}"
            used, left = f"{window.used_bytes:,}", f"{window.left_bytes:,}"
            table.add_row(name, f"{window.cap_bytes:,}", used, "", left)
        if line.net is not None:
            _add_net(table, line.net)
        for account in line.accounts:
            cap = "closed" if account.closed else "shared"
            if account.cap_bytes is not None:
                cap = f"{account.cap_bytes:,}"
            mine = account.spent_bytes, account.outstanding_bytes, account.left_bytes
            table.add_row(f"  {account.account}", cap, *(f"{count:,}" for count in mine))
            for window in account.windows:
                name = f"    any {duration(window.length_ms)}"
                used, left = f"{window.used_bytes:,}", f"{window.left_bytes:,}"
                table.add_row(name, f"{window.cap_bytes:,}", used, "", left)
    console = Console(highlight=False)
    console.print(table if balances.lineages else "no budget: nothing leaves")
    console.print(f"{balances.origin}, leaf {balances.position}, {when(balances.time_ms)}")


def _add_net(table: Table, net: NetBalance) -> None:
    from narrows.ledger.office.describe import duration

    sums = net.granted_bytes, net.spent_bytes, net.outstanding_bytes, net.left_bytes
    table.add_row("  net", *(f"{count:,}" for count in sums))
    for window in net.windows:
        used, left = f"{window.used_bytes:,}", f"{window.left_bytes:,}"
        name = f"    any {duration(window.length_ms)}"
        table.add_row(name, f"{window.cap_bytes:,}", used, "", left)
    for audit in net.audits:
        name = f"    {audit.gate}/{audit.account or '-'} by {audit.auditor[:16]}"
        credited, waiting = f"{audit.credited_bytes:,}", f"{audit.creditable_bytes:,}"
        table.add_row(name, f"{credited} credited", f"{waiting} can be", "", "")
