"""``narrows forecast``: what normal demand will spend, and when nothing is left."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(add_completion=False)


@app.command(
    epilog="Example: narrows forecast --response 4   |   narrows forecast --json --check. "
    "Whether a limit protects a model at all: narrows plan"
)
def forecast(
    state: Annotated[Path | None, typer.Option(help="State folder of the ledger.")] = None,
    account: Annotated[str | None, typer.Option(help="Of one account alone.")] = None,
    response: Annotated[
        float, typer.Option(min=0, max=10_000, help="Hours until an alarm is acted on.")
    ] = 24.0,
    check: Annotated[
        bool, typer.Option("--check", help="Exit code 1 where demand is not normal.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Hourly demand from the ledger, with intervals; days left; window caps; is it normal now?

    Reads the ledger alone, and says nothing to anyone but who asks. Run it often and mail what it
    says, and that is a way out of one bit a run: keep the runs few and their times fixed.
    """
    import json

    from narrows.deploy.state import existing_state_dir

    figures = collect_forecast(existing_state_dir(state), account, response)
    if as_json:
        typer.echo(json.dumps(figures))
    else:
        _say(figures)
    if check and figures["alarm"]:
        raise typer.Exit(1)


def collect_forecast(folder: Path, account: str | None, response_h: float) -> dict[str, Any]:
    """All figures; ``burst``: what a thief could take beside normal demand before anyone acts,
    under the hourly cap that is proposed."""
    import dataclasses

    from narrows.alarms.burn import forecast_demand, headroom_bytes
    from narrows.deploy.state import ledger_place
    from narrows.errors import InputError
    from narrows.ledger.office.balances import read_balances
    from narrows.ledger.office.history import HOUR_MS, read_history
    from narrows.wire.gatestats import read_gate_ports

    place = ledger_place(folder)
    if not place.exists():
        raise InputError(f"there is no ledger in {folder}", "'narrows up' makes one")
    balances = read_balances(place)
    names = {one.account: one for line in balances.lineages for one in line.accounts}
    if account is not None and account not in names:
        raise InputError(f"the ledger has no account {account!r}", f"it has: {', '.join(names)}")
    left = balances.left_bytes if account is None else names[account].left_bytes
    history = read_history(place, account)
    found = forecast_demand(history.hourly_bytes, left)
    figures: dict[str, Any] = dataclasses.asdict(found)
    figures["left_bytes"], figures["end_ms"] = left, history.end_ms
    figures["exhausted_utc"] = [
        None if days is None else _date((history.end_ms + days * 24 * HOUR_MS) / 1000)
        for days in found.days_left
    ]
    hourly_cap = found.caps[0].cap_bytes
    figures["burst"] = {
        "response_h": response_h,
        "headroom_bytes_per_h": headroom_bytes(hourly_cap, found),
        "bytes": round(headroom_bytes(hourly_cap, found) * response_h),
    }
    figures["timing_share"] = {
        name: port["timing_bytes"] / total
        for name, port in read_gate_ports(folder).items()
        if (total := port.get("timing_bytes", 0) + port.get("sent_bytes", 0))
    }
    return figures


def _date(unix_s: float) -> str:
    import datetime

    return f"{datetime.datetime.fromtimestamp(unix_s, datetime.UTC):%Y-%m-%d}"


def _say(figures: dict[str, Any]) -> None:
    back, burst = figures["backtest"], figures["burst"]
    typer.echo(f"{figures['daily_bytes']:,.0f} B a day, from {figures['hours']:,} hours")
    coming = figures["coming"]
    low, middle, high = (sum(hour[name] for hour in coming) for name in ("low", "median", "high"))
    typer.echo(f"next 24 h: {middle:,} B, between {low:,} and {high:,} if every hour is")
    days = ["over a century" if one is None else f"{one:,.0f}" for one in figures["days_left"]]
    typer.echo(
        f"days left of {figures['left_bytes']:,} B: {days[1]} (80 %: {days[0]} to {days[2]})"
    )
    if figures["exhausted_utc"][1]:
        typer.echo(f"nothing is left on {figures['exhausted_utc'][1]}")
    for cap in figures["caps"]:
        refused = "" if cap["refused"] is None else f"; it would have cut {cap['refused']:.1%}"
        typer.echo(f"cap for {cap['length_h']} h: {cap['cap_bytes']:,} B{refused}")
    typer.echo(
        f"beside normal demand a thief has {burst['headroom_bytes_per_h']:,} B an hour under it, "
        f"{burst['bytes']:,} B in {burst['response_h']:g} h without an answer"
    )
    for name, share in figures["timing_share"].items():
        typer.echo(f"timing, port {name}: {share:.1%} of what was charged since the gate's start")
    typer.echo(
        f"tried on {back['hours']:,} past hours: {back['within']:.0%} within their interval "
        f"(80 % stated), {back['above']:.0%} above"
    )
    typer.echo("ALARM: demand is not normal" if figures["alarm"] else "demand is normal")
