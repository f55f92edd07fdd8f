"""What a state folder says, as values: one function for each role that leaves something there.

Each returns None where its role never ran here, and raises ``NarrowsError`` where what it left
cannot be read. Nothing here is by API key, except ``key_values``.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from narrows.alarms.store import read_alarms
from narrows.edge.books.drift import read_drift
from narrows.edge.books.figures import read_figures
from narrows.edge.books.stats import Counts, read_stats
from narrows.edge.books.store import database_path, has_table, reading
from narrows.errors import BudgetError
from narrows.ledger.log import note
from narrows.ledger.office.balances import Balances, NetBalance, WindowBalance
from narrows.ledger.rules import State
from narrows.metrics.exposition import Value, value
from narrows.wire.gatestats import (
    RUNNING_S,
    gate_silent_s,
    read_gate_kernel,
    read_gate_latency,
    read_gate_machine,
    read_gate_ports,
    read_gate_tape,
    read_gate_unwritten,
)

MAX_LOGS = 64
POSTED_S = 900.0
"""Verdicts come every ``period_s`` of ``[audit]``, 300 seconds by default."""


def up(role: str, is_up: bool) -> Value:
    return value("narrows_role_up", is_up, role=role)


def ledger_values(state: State, balances: Balances) -> list[Value]:
    """Budgets, what of them is used, and leases."""
    found = [
        value("narrows_ledger_leaves", state.size),
        value("narrows_ledger_time_seconds", state.time_ms / 1000),
        up("ledger", True),
    ]
    for line in balances.lineages:
        name = line.lineage
        for what, size_bytes in (
            ("granted", line.granted_bytes),
            ("spent", line.spent_bytes),
            ("leased", line.outstanding_bytes),
            ("left", line.left_bytes),
        ):
            found.append(value(f"narrows_budget_{what}_bytes", size_bytes, lineage=name))
        found += _windows("budget", name, line.windows)
        found += _net(name, line.net) if line.net is not None else []
        for one in line.accounts:
            labels = {"lineage": name, "account": one.account}
            found.append(value("narrows_account_spent_bytes", one.spent_bytes, **labels))
            found.append(value("narrows_account_left_bytes", one.left_bytes, **labels))
    leases = Counter((held.gate, held.account) for held in state.leases.values())
    for (gate, account), count in sorted(leases.items()):
        found.append(value("narrows_leases", count, gate=gate, account=account))
    return found


def _net(lineage: str, net: NetBalance) -> list[Value]:
    sizes = {
        "granted": net.granted_bytes,
        "spent": net.spent_bytes,
        "leased": net.outstanding_bytes,
        "left": net.left_bytes,
        "credited": sum(audit.credited_bytes for audit in net.audits),
    }
    own = [value(f"narrows_net_{what}_bytes", n, lineage=lineage) for what, n in sizes.items()]
    return own + _windows("net", lineage, net.windows)


def _windows(of: str, lineage: str, windows: tuple[WindowBalance, ...]) -> list[Value]:
    found = []
    for one in windows:
        labels = {"lineage": lineage, "window": f"{one.length_ms / 1000:g}s"}
        sizes = {"cap": one.cap_bytes, "used": one.used_bytes, "left": one.left_bytes}
        found += [
            value(f"narrows_{of}_window_{what}_bytes", n, **labels) for what, n in sizes.items()
        ]
    return found


def witness_values(folder: Path) -> list[Value] | None:
    """Heads that a witness of this folder cosigned."""
    path = folder / "witness" / "witness.db"
    if not path.is_file():
        return None
    try:
        with closing(
            sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=2.0)
        ) as database:
            rows = database.execute(
                "SELECT origin, size, note FROM log ORDER BY origin LIMIT ?", (MAX_LOGS,)
            ).fetchall()
    except sqlite3.Error as error:
        raise BudgetError(f"cannot read {path}: {error}") from error
    found = [up("witness", True)]
    for origin, size, signed in rows:
        found.append(value("narrows_witness_cosigned_leaves", size, origin=origin))
        if signed:
            # Its newest line, whose signature nobody here judges.
            times = [blob[4:12] for _, blob in note.open_note(signed)[1] if len(blob) == 76]
            time_s = max((int.from_bytes(one, "big") for one in times), default=0)
            name = "narrows_witness_cosigned_timestamp_seconds"
            found.append(value(name, time_s, origin=origin))
    return found


def gate_values(folder: Path, now_s: float) -> list[Value] | None:
    """The gate's stats file, as of its last write."""
    silent_s = gate_silent_s(folder, now_s)
    if silent_s is None:
        return None
    kernel, tape = read_gate_kernel(folder), read_gate_tape(folder)
    found = [
        up("gate", silent_s < RUNNING_S),
        value("narrows_gate_silent_seconds", silent_s),
        value("narrows_gate_kernel_alarm", bool(kernel.get("alarm"))),
        value("narrows_gate_machine_refused", read_gate_machine(folder) == "refused"),
        value("narrows_gate_tape_stopped", tape.get("state") == "stopped"),
        value("narrows_gate_tape_spool_bytes", tape.get("spool_bytes", 0)),
        value("narrows_gate_unwritten_total", read_gate_unwritten(folder)[0]),
    ]
    for of, calls_name, seconds_name in (
        ("acquire", "narrows_gate_lease_acquisitions_total", "narrows_gate_lease_seconds_total"),
        ("witness", "narrows_gate_witness_calls_total", "narrows_gate_witness_seconds_total"),
    ):
        latency = read_gate_latency(folder, of)
        if latency is not None:
            found += [value(calls_name, latency[0]), value(seconds_name, latency[1])]
    for name, port in read_gate_ports(folder).items():
        labels = {"port": name, "account": str(port.get("account", ""))}
        for metric, key in (
            ("narrows_gate_sent_bytes_total", "sent_bytes"),
            ("narrows_gate_timing_bytes_total", "timing_bytes"),
            ("narrows_gate_links", "links"),
            ("narrows_gate_links_opened_total", "links_opened"),
            ("narrows_gate_denials_total", "denials"),
        ):
            number = port.get(key, 0)
            found.append(value(metric, number if type(number) is int else 0, **labels))
        state = str(port.get("state", "unknown"))
        found.append(value("narrows_gate_port_state", 1, port=name, state=state))
    return found


def edge_values(folder: Path, now_s: float) -> list[Value] | None:
    """What the edge counted, how it stands, its weak models and its alarms."""
    if not database_path(folder).exists():
        return None
    figures, runs = read_figures(folder, now_s)
    found = [Value(name, number, dict(labels)) for (name, labels), number in figures.items()]
    found.append(up("edge", runs))
    traffic: dict[str, Counts] = {}
    for by_weak in read_stats(folder, now_s).by_day.values():
        for weak, counts in by_weak.items():
            traffic.setdefault(weak, Counts()).add(counts)
    for weak, counts in traffic.items():
        found += [
            value("narrows_edge_answers_total", counts.answers, weak=weak),
            value("narrows_edge_answer_bytes_total", counts.answer_bytes, weak=weak),
            value("narrows_edge_link_bytes_total", counts.link_bytes, weak=weak),
            value("narrows_edge_tokens_total", counts.tokens, weak=weak),
        ]
    for one in read_drift(folder, now_s):
        ratio, reference = one.bits_per_byte / 8, one.reference_bits_per_byte / 8
        found += [
            value("narrows_weak_code_ratio", ratio, weak=one.weak),
            value("narrows_weak_reference_ratio", reference, weak=one.weak),
            value("narrows_weak_drifting", one.drifting, weak=one.weak),
        ]
    alarms = read_alarms(folder, open_only=False)
    open_ = Counter(one.kind for one in alarms if one.acked_s is None)
    for kind, count in Counter(one.kind for one in alarms).items():
        found.append(value("narrows_alarms_raised_total", count, kind=kind))
        found.append(value("narrows_alarms_open", open_[kind], kind=kind))
    return found


def key_values(folder: Path) -> list[Value]:
    """By API key's number: how much its answers said."""
    with reading(folder) as database:
        if database is None or not has_table(database, "key_use"):
            return []
        rows = database.execute(
            "SELECT key_id, SUM(answers), SUM(bits) FROM key_use GROUP BY key_id"
        ).fetchall()
    found = []
    for key, answers, bits in rows:
        found.append(value("narrows_key_answers_total", answers, key=str(key)))
        found.append(value("narrows_key_link_bytes_total", bits / 8, key=str(key)))
    return found


def auditor_values(book: Mapping[str, object], now_s: float) -> list[Value] | None:
    """What a poster of an auditor's credits has booked; ``book``: its fields by name."""
    numbers = {name: n for name, n in book.items() if isinstance(n, int)}
    if not numbers.get("time_s"):
        return None
    silent_s = max(0.0, now_s - numbers["time_s"])
    return [
        up("auditor", silent_s < POSTED_S),
        value("narrows_auditor_silent_seconds", silent_s),
        value("narrows_auditor_alarms", numbers.get("alarms", 0).bit_count()),
        value("narrows_auditor_credits_total", numbers.get("credits", 0)),
        value("narrows_auditor_credited_bytes_total", numbers.get("credited_bytes", 0)),
        value("narrows_auditor_refused_credits_total", numbers.get("refused", 0)),
    ]
