"""Changes in words: what an operator reads before signing, and the history of a ledger."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import Any

from narrows.errors import BudgetError
from narrows.ledger.auditors import PPM, PPT, Enrolment, Revocation, Terms
from narrows.ledger.changes import BudgetChange, Change, Charge, OperatorChange, parse_change
from narrows.ledger.limits import Limits
from narrows.ledger.log.canonical import Document, decode
from narrows.ledger.net import Net
from narrows.ledger.rules import State
from narrows.ledger.stores.store import Store

_UNITS = (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1))


def duration(length_ms: int) -> str:
    """``1d``, ``1h``, ``90s``: the largest unit that divides it."""
    unit, size_ms = next((u, s) for u, s in _UNITS if length_ms % s == 0)
    return f"{length_ms // size_ms}{unit}"


def when(time_ms: int) -> str:
    try:
        moment = datetime.datetime.fromtimestamp(time_ms / 1000, datetime.UTC)
    except (OverflowError, ValueError, OSError):
        return f"{time_ms} ms"
    return moment.strftime("%Y-%m-%d %H:%M:%SZ")


def limits_line(limits: Limits) -> str:
    cap = limits.lifetime_bytes
    words = ["as its lineage" if cap is None else f"{cap:,} bytes ever"]
    words += [f"{cap_bytes:,} in any {duration(length)}" for length, cap_bytes in limits.windows]
    return ", ".join(words)


def describe(change: Change, state: State | None) -> list[str]:
    """What a change does, compared with ``state`` where there is one."""
    body = change.body
    # A file from elsewhere may name any origin: it must not write lines of its own here.
    origin = change.origin if change.origin.isprintable() else ascii(change.origin)
    lines = [f"for ledger {origin}, after change {change.after[0]}"]
    lines.append(f"to be applied by {when(change.not_after_ms)}")
    if isinstance(body, BudgetChange):
        meter = state.lineages.get(body.lineage) if state else None
        lines.append(f"budget of lineage {body.lineage}: {limits_line(body.limits)}")
        if meter is not None:
            lines.append(f"  now: {limits_line(meter.limits)}; spent {meter.spent_bytes:,}")
        lines += _net_lines(body, state)
        for name, limits in sorted(body.accounts.items()):
            lines.append(f"  account {name}: {limits_line(limits)}")
        lines += [f"  account {name}: closed by this" for name in _closed(body, state)]
        if state is not None:
            lowering = state.is_lowering(body)
            needed = 1 if lowering else state.operators.threshold
            kind = "lowers" if lowering else "raises or creates"
            lines.append(f"{kind}: needs {needed} of {len(state.operators.keys)} operators")
    elif isinstance(body, OperatorChange):
        count = len(body.operators.keys)
        lines.append(f"operators: {body.operators.threshold} of {count}")
        lines += [f"  {key}" for key in body.operators.keys]
        if state is not None:
            gone = set(state.operators.keys) - set(body.operators.keys)
            lines += [f"  removes {key}" for key in sorted(gone)]
    elif isinstance(body, Enrolment):
        lines += _enrolment_lines(body, state)
    elif isinstance(body, Revocation):
        lines.append(f"revoke who audits {', '.join(body.gates)} of lineage {body.lineage}")
        lines.append("  what it has not credited yet stays spent")
    elif isinstance(body, Charge):
        lines += _charge_lines(body, state)
    else:
        lines.append(f"accept a gap: ledger at {body.base[0]}, witness at {body.witnessed[0]}")
        for name, gap in body.gaps.items():
            lines.append(f"  {name}: {gap:,} bytes count as spent")
            if state is not None and name not in state.lineages:
                lines.append(
                    "    made in the gap: it grants nothing until its budget is signed again"
                )
        lines.append("  changes in the gap are undone: sign lowerings and revocations again")
    return lines


def _net_lines(change: BudgetChange, state: State | None) -> list[str]:
    net = state.nets.get(change.lineage) if state is not None else None
    if change.net is None:
        return [] if net is None else ["  no net budget from here on: every auditor is revoked"]
    pool = change.net.delta_ppt / PPT
    lines = [f"  net: {limits_line(change.net.limits)}; bounds may fail with {pool:.3g} in all"]
    if net is not None:
        now = limits_line(net.meter.limits)
        lines.append(f"    now: {now}; spent {net.meter.spent_bytes:,} of it")
        lines.append(f"    now: bounds may fail with {_pool(net)}")
    return lines


def _charge_lines(body: Charge, state: State | None) -> list[str]:
    size = f"{body.size_bytes:,} bytes that left another way"
    lines = [f"charge lineage {body.lineage} with {size}: {body.reason}"]
    if state is None:
        return lines
    meter = state.lineages.get(body.lineage)
    if meter is None:
        return [*lines, "  there is no such lineage: this cannot be applied"]
    left = max(0, (meter.limits.lifetime_bytes or 0) - meter.committed_bytes())
    lines.append(f"  now: {left:,} bytes left of {meter.limits.lifetime_bytes or 0:,}")
    if body.size_bytes >= left:
        lines.append("  nothing is left after it: no gate sends until its budget is raised")
    return [*lines, f"lowers: needs 1 of {len(state.operators.keys)} operators"]


def _pool(net: Net) -> str:
    return f"{net.delta_ppt / PPT:.3g} in all, of which {net.taken_ppt / PPT:.3g} is taken"


def _terms_lines(terms: Terms) -> list[str]:
    return [
        f"  audits {terms.audited_ppm / PPM:.4%} of segments of {terms.segment_bits} bits",
        f"  its bound may fail with {terms.delta_ppt / PPT:.3g} for each gate",
        f"  credits at most {terms.most_ppm / PPM:.4%} of a lease",
        f"  credits are multiples of {terms.grain_bytes:,} bytes",
        f"  weights and fixed inputs: {terms.pins}",
    ]


def _enrolment_lines(body: Enrolment, state: State | None) -> list[str]:
    lines = [f"enrol an auditor for {', '.join(body.gates)} of lineage {body.lineage}"]
    lines += [f"  key {body.key}, epoch {body.epoch}", *_terms_lines(body.terms)]
    if state is None:
        return lines
    net = state.nets.get(body.lineage)
    if net is None:
        return [*lines, "  the lineage has no net budget: this cannot be applied"]
    lines.append(f"  the lineage's bounds may fail with {_pool(net)}")
    for gate in body.gates:
        old = net.auditors.get(gate)
        if old is not None and (old.key, old.epoch) != (body.key, body.epoch):
            lines.append(f"  replaces {old.key[:16]} at {gate}: what it has not credited is lost")
        elif old is not None:
            changed = set(_terms_lines(old.terms)) - set(_terms_lines(body.terms))
            lines += [f"  now at {gate}:{line}" for line in sorted(changed)]
    needed = 1 if net.tightens(body) else state.operators.threshold
    return [*lines, f"needs {needed} of {len(state.operators.keys)} operators"]


def _closed(change: BudgetChange, state: State | None) -> list[str]:
    """Open accounts of the lineage that the change leaves out."""
    accounts = state.accounts if state is not None else {}
    return sorted(
        name
        for name, account in accounts.items()
        if account.lineage == change.lineage and not account.closed and name not in change.accounts
    )


@dataclass(frozen=True, slots=True)
class Applied:
    """A change that was applied. ``document``: as it was signed."""

    position: int
    time_ms: int
    kind: str
    document: Document
    signers: tuple[str, ...]
    lines: tuple[str, ...]


def history(store: Store) -> list[Applied]:
    """All changes of a log, oldest first. Errors: ``BudgetError``."""
    head = store.head()
    applied: list[Applied] = []
    for start in range(0, head.size if head else 0, 4096):
        leaves = store.leaves(start, min(head.size if head else 0, start + 4096))
        applied += [
            _applied(start + index, decode(leaf))
            for index, leaf in enumerate(leaves)
            if b'"t":"change"' in leaf
        ]
    return applied


def _applied(position: int, leaf: dict[str, Any]) -> Applied:
    try:
        document, signatures = leaf["change"], leaf["signatures"]
        keys = tuple(str(key) for key, _ in signatures)
        lines = tuple(describe(parse_change(document), None)[2:])
        return Applied(position, leaf["time_ms"], document["kind"], document, keys, lines)
    except (KeyError, TypeError, ValueError) as error:
        raise BudgetError(f"leaf {position} is no change") from error
