"""``narrows status``: what may still leave, what has left, and how well it was squeezed."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from narrows.ledger.office.balances import NetBalance

app = typer.Typer(add_completion=False)

MAX_SHOWN_ALARMS = 8
_CODINGS = {"coupled": "coupled", "plain": "as token ids", "text": "as text"}
_CODING_NOTE = "why: docs/engines.md"


@app.command(
    epilog="Examples:  narrows status   |   narrows status --watch   |   narrows status --json"
)
def status(
    state: Annotated[Path | None, typer.Option(help="State folder.")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Refresh every second.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Budget granted, spent and left; answers, their bytes and the link's.

    Spent counts leases that are out: they return unless the gate dies. With --watch, what is no
    terminal gets a table every second, or with --json a line.
    """
    import contextlib

    from narrows.deploy.state import existing_state_dir

    folder = existing_state_dir(state)
    if not watch:
        _show(collect(folder, time.time()), as_json)
        return
    from rich.console import Console
    from rich.live import Live

    with contextlib.suppress(KeyboardInterrupt):
        if as_json or not Console().is_terminal:
            while True:
                _show(collect(folder, time.time()), as_json)
                time.sleep(1.0)
        with Live(refresh_per_second=2) as live:
            while True:
                live.update(table(collect(folder, time.time())))
                time.sleep(1.0)


def _show(figures: dict[str, Any], as_json: bool) -> None:
    """Once, and at once: who reads a pipe waits for it."""
    import json

    from rich.console import Console

    if as_json:
        typer.echo(json.dumps(figures))
    else:
        Console().print(table(figures))
    sys.stdout.flush()


def collect(folder: Path, now_s: float) -> dict[str, Any]:
    """All figures of a state folder, read-only, whether or not its roles run.

    ``gate_silent_s``: since when no gate has written its figures; None where none ever has.
    ``days_left``: None where nothing has left today. ``ratio``: UTF-8 bytes of answers to bytes
    read from the gate; None before the first byte. ``codings_today``: complete answers by
    how they crossed the link. ``costs_today``: the same by key, model and mode, with the bytes of
    their code length (``link_bytes``) and what that saved. ``net``: by lineage with a net budget,
    what auditors explained; ``verdicts``: what came of the auditor's words, None where no poster
    has run here; ``explained_today``: credited since the UTC day's first verdict, of what was
    spent since, None where nothing was. ``tape_age_s``: of the oldest file in the spool, None
    without one.
    ``alarms``: those that are open. ``models``: the edge's, each with what it answered today and
    how it stands; ``edge_silent_s``: since when no edge has said so, None where none ever has.
    ``edge_figures``: counters and fresh gauges of the edge;
    ``edge_runs``: whether it has written any lately."""
    import dataclasses

    from narrows.cli.alarms.listing import alarm_figures
    from narrows.deploy.state import ledger_place
    from narrows.deploy.verdicts import DAY_S
    from narrows.edge.books.drift import read_drift
    from narrows.edge.books.figures import read_figures
    from narrows.edge.books.standing import read_standings
    from narrows.edge.books.stats import read_codings, read_costs, read_stats
    from narrows.errors import InputError
    from narrows.ledger.office.balances import read_balances
    from narrows.wire.gatestats import (
        gate_silent_s,
        read_gate_kernel,
        read_gate_ports,
        read_gate_tape,
        read_gate_unwritten,
    )

    place = ledger_place(folder)
    if not place.exists():
        raise InputError(f"there is no ledger in {folder}", "'narrows up' makes one")
    balances = read_balances(place)
    stats = read_stats(folder, now_s)
    edge_figures, edge_runs = read_figures(folder, now_s)
    day_share = max(now_s % DAY_S, 60.0) / DAY_S
    per_day = stats.today.link_bytes / day_share
    spent = balances.spent_bytes + balances.outstanding_bytes
    tape = read_gate_tape(folder)
    costs = read_costs(folder, now_s)
    standings, edge_silent_s = read_standings(folder, now_s)
    return {
        "granted_bytes": balances.granted_bytes,
        "spent_bytes": spent,
        "outstanding_bytes": balances.outstanding_bytes,
        "left_bytes": balances.left_bytes,
        "today_bytes": stats.today.link_bytes,
        "days_left": balances.left_bytes / per_day if per_day else None,
        "answers": stats.total.answers,
        "codings_today": read_codings(folder, now_s),
        "costs_today": costs,
        "models": [_model(name, one, costs) for name, one in standings.items()],
        "edge_silent_s": edge_silent_s,
        "answer_bytes": stats.total.answer_bytes,
        "link_bytes": stats.total.link_bytes,
        "ratio": stats.total.answer_bytes / stats.total.link_bytes
        if stats.total.link_bytes
        else None,
        "windows": [
            {
                "lineage": line.lineage,
                "length_s": window.length_ms / 1000,
                "cap_bytes": window.cap_bytes,
                "used_bytes": window.used_bytes,
            }
            for line in balances.lineages
            for window in line.windows
        ],
        "net": [_net(line.lineage, line.net) for line in balances.lineages if line.net],
        "verdicts": _verdicts(
            folder, now_s, {line.lineage: line.spent_bytes for line in balances.lineages}
        ),
        "gate_silent_s": gate_silent_s(folder, now_s),
        "gate_ports": read_gate_ports(folder),
        "weak_models": [dataclasses.asdict(one) for one in read_drift(folder, now_s)],
        "alarms": alarm_figures(folder, open_only=True),
        "edge_runs": edge_runs,
        "edge_figures": [
            {"name": name, "labels": dict(labels), "value": value}
            for (name, labels), value in sorted(edge_figures.items())
        ],
        "gate_kernel": read_gate_kernel(folder),
        "gate_tape": tape,
        "tape_age_s": _tape_age_s(tape, now_s),
        "gate_unwritten": read_gate_unwritten(folder),
    }


def _model(name: str, standing: dict[str, str], costs: list[dict[str, Any]]) -> dict[str, Any]:
    own = [row for row in costs if row["model"] == name]
    sums = {what: sum(row[what] for row in own) for what in ("answers", "link_bytes")}
    return {"name": name, **standing, **sums}


def _net(lineage: str, net: NetBalance) -> dict[str, Any]:
    return {
        "lineage": lineage,
        "granted_bytes": net.granted_bytes,
        "spent_bytes": net.spent_bytes + net.outstanding_bytes,
        "left_bytes": net.left_bytes,
        "credited_bytes": sum(audit.credited_bytes for audit in net.audits),
        "creditable_bytes": sum(audit.creditable_bytes for audit in net.audits),
        "auditors": sorted({audit.auditor for audit in net.audits}),
    }


def _tape_age_s(tape: dict[str, Any], now_s: float) -> float | None:
    oldest_ms = tape.get("oldest_ms", 0)
    return max(0.0, now_s - oldest_ms / 1000) if oldest_ms else None


def _verdicts(folder: Path, now_s: float, spent: dict[str, int]) -> dict[str, Any] | None:
    from narrows.deploy.verdicts import DAY_S, read_book
    from narrows.wire.verdict import alarm_words

    book = read_book(folder)
    if not book.sequence:
        return None
    today = book.day == now_s // DAY_S
    spent_bytes = spent.get(book.lineage, 0) - book.day_spent_bytes
    return {
        "silent_s": max(0.0, now_s - book.time_s),
        "alarms": alarm_words(book.alarms),
        "credits": book.credits,
        "refused": book.refused,
        "last_refusal": book.last_refusal,
        "credit_age_s": max(0.0, now_s - book.credit_s) if book.credit_s else None,
        "credit_bytes": book.credit_bytes,
        "credited_bytes": book.credited_bytes,
        "credited_today_bytes": book.day_credited_bytes if today else 0,
        "explained_today": book.day_credited_bytes / spent_bytes
        if today and spent_bytes > 0
        else None,
        "closed": bool(book.closed) and book.closed == book.epoch,
    }


def table(figures: dict[str, Any]) -> Any:
    """What ``collect`` found, for people."""
    from rich.markup import escape
    from rich.table import Table

    from narrows.wire.gatestats import RUNNING_S

    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold")
    grid.add_column(justify="right")
    grid.add_column(style="dim")
    granted = figures["granted_bytes"]
    share = figures["spent_bytes"] / granted if granted else 0.0
    grid.add_row("granted", f"{granted:,} B", "lifetime of the weights")
    out = figures["outstanding_bytes"]
    note = f"{share:.2%}; {out:,} B of it out on leases" if out else f"{share:.2%}"
    grid.add_row("spent", f"{figures['spent_bytes']:,} B", note)
    grid.add_row("left", f"{figures['left_bytes']:,} B", _days(figures["days_left"]))
    grid.add_row("left the gate today", f"{figures['today_bytes']:,} B", "UTC day")
    for window in figures["windows"]:
        used = f"{window['used_bytes']:,} of {window['cap_bytes']:,} B"
        grid.add_row(f"window {window['length_s']:g} s", used, window["lineage"])
    for net in figures["net"]:
        note = f"{net['lineage']}: {net['left_bytes']:,} B left"
        if not net["auditors"]:
            note += "; nobody audits, so nothing comes back"
        grid.add_row("net spent", f"{net['spent_bytes']:,} B", note)
        credited = f"explained; {net['creditable_bytes']:,} B settled and not credited"
        grid.add_row("credited", f"{net['credited_bytes']:,} B", credited)
    if verdicts := figures["verdicts"]:
        grid.add_row("auditor", *_auditor(verdicts))
    grid.add_row("answers", f"{figures['answers']:,}", "completed")
    if codings := figures["codings_today"]:
        # Of another version's edge a coding may be one that is not known here.
        rows = [f"{n:,} {escape(_CODINGS.get(name, name))}" for name, n in codings.items()]
        grid.add_row("crossed today", rows[0], ", ".join([*rows[1:], _CODING_NOTE]))
    for model in figures["models"]:
        grid.add_row(*map(escape, _model_row(model, figures["edge_silent_s"] or 0.0)))
    grid.add_row("answer text", f"{figures['answer_bytes']:,} B", "UTF-8, handed to clients")
    ratio = figures["ratio"]
    times = f"{ratio:.1f} times smaller" if ratio else ""
    grid.add_row("link", f"{figures['link_bytes']:,} B", times)
    for one in figures["weak_models"]:
        name = escape(f"weak {one['weak']}")
        grid.add_row(name, f"{one['bits_per_byte']:.3f} bits/B", _imitation(one))
    for one in figures["alarms"][:MAX_SHOWN_ALARMS]:
        whose = "all answers" if one["key"] is None else f"key {one['key']}"
        note = escape(f"{whose}: {one['note']}; narrows alarms ack {one['id']}")
        grid.add_row(f"ALARM {one['detector']}", escape(one["policy"]), note)
    silent_s = figures["gate_silent_s"] or 0.0  # None beside ports: it wrote its first just now
    for name, port in figures["gate_ports"].items():
        timing = f"{port.get('timing_bytes', 0):,} B"
        why = f"since the gate's start; state {port.get('state', '?')}"
        if silent_s > RUNNING_S:
            why = f"no gate runs here, or its disk is full: silent for {silent_s:,.0f} s"
        if denied := port.get("last_denial"):
            why += f"; last denial: {denied}"
        grid.add_row(f"timing, port {name}", timing, why)
    count, last = figures["gate_unwritten"]
    if count:
        grid.add_row("gate's figures", f"{count:,} not written", escape(last))
    tape = figures["gate_tape"]
    if tape and tape["state"] != "off":
        spool = f"{tape.get('spool_bytes', 0):,} of {tape.get('max_bytes', 0):,} B in the spool"
        if (age_s := figures["tape_age_s"]) is not None:
            spool += f" since {age_s:,.0f} s"
        note = escape(tape.get("why", "")) or f"chapter {tape.get('chapters', 0)}; {spool}"
        grid.add_row("tape", tape["state"], note)
    if kernel := figures["gate_kernel"]:
        note = kernel.get("alarm") or "the gate's machine may send what the gate's code does not"
        if kernel["state"] == "on":
            note = f"{kernel['passed_bytes']['links']:,} B of links passed, headers included"
        grid.add_row("kernel backstop", kernel["state"], note)
    return grid


def _model_row(model: dict[str, Any], silent_s: float) -> tuple[str, str, str]:
    from narrows.edge.books.standing import SILENT_S

    if silent_s > SILENT_S:
        state = f"no edge runs here: silent for {silent_s:,.0f} s"
    elif model["link"] != "up":
        state = "its link is down"
    else:
        looks = (("gate", "the gate: "), ("model", "the model: "), ("decoder", "the decoder: "))
        wrong = [said + model[what] for what, said in looks if model[what] != "ok"]
        state = ", ".join(wrong) or "serves"
    note = f"{state}; {model['link_bytes']:,} B today, weak model {model['weak_model']}"
    return f"model {model['name']}", f"{model['answers']:,} today", note


def _auditor(verdicts: dict[str, Any]) -> tuple[str, str]:
    """State and note. What a poster wrote of the ledger's words is shown as text."""
    from rich.markup import escape

    note = f"last verdict {verdicts['silent_s']:,.0f} s ago"
    if (age_s := verdicts["credit_age_s"]) is not None:
        note += f", last credit {age_s:,.0f} s ago, {verdicts['credit_bytes']:,} B"
    if (share := verdicts["explained_today"]) is not None:
        note += f"; explained today: {share:.1%}"
    if verdicts["refused"]:
        note += f"; {verdicts['refused']:,} credits refused, last: {verdicts['last_refusal']}"
    alarms = verdicts["alarms"]
    state = "closed" if verdicts["closed"] else "alarm" if alarms else "ok"
    if alarms == ["behind the gate"]:
        state, alarms = "behind", ["what is not audited yet is not credited"]
    return state, escape("; ".join([*alarms, note]))


def _imitation(one: dict[str, Any]) -> str:
    """How a weak model imitates of late, in words; what helps where it got worse."""
    answers = f"{one['answers']:,} answers of late"
    if not one["reference"]:
        return answers
    reference = f"{one['reference']}: {one['reference_bits_per_byte']:.3f}"
    if one["drifting"]:
        return f"imitates {one['worse']:.1%} worse than it should ({reference}); {one['remedy']}"
    return f"{answers}, {one['worse']:+.1%} ({reference})"


def _days(days: float | None) -> str:
    if days is None:
        return "nothing has left today"
    return f"{days:,.1f} days at today's rate" if days < 3650 else "over ten years at today's rate"
