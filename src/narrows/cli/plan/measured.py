"""Bits per token from measurements instead of published figures.

Sources: ``narrows bench codec --json``, ``narrows bench coupled --json``, reports of ``narrows
audit``, and the traffic of a deployment (the edge's statistics and the ledger's balance, both read
only).
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from narrows.durable import read_once
from narrows.errors import InputError

MAX_FILE_BYTES = 1 << 20

# UTF-8 bytes of English chat text per token of vocabularies of 50k to 200k entries.
BYTES_PER_TOKEN = (4.0, 4.8)


@dataclass(frozen=True, slots=True)
class MeasuredInputs:
    """``overrides``: scenario keys to text, as ``--set`` takes them. ``note``: what was
    measured, for the report."""

    overrides: dict[str, str]
    note: str


def _positive(data: dict[str, Any], key: str) -> float | None:
    value = data.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 < value <= sys.float_info.max else None


def _bits(low: float, high: float) -> str:
    return f"{low:.6g} bits/token" if low == high else f"{low:.6g}..{high:.6g} bits/token"


def from_codec(path: Path) -> MeasuredInputs:
    """Compressed (``bench codec``) or coupled and compressed (``bench coupled``) bits/token.

    ``bench codec`` counts bytes; where it names no ``tokens``, 4.0 to 4.8 UTF-8 bytes per token
    turn bits/byte into a range of bits/token. Raises InputError.
    """
    try:
        data = json.loads(read_once(path, MAX_FILE_BYTES, follow_links=True).decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise InputError(
            f"{path} holds no JSON object", "write it with 'narrows bench codec --json'"
        )
    coupled, crossed = _positive(data, "coupled_bits"), _positive(data, "CE")
    if coupled is not None and crossed is not None:
        overrides = {
            "coding.coupled": _bits(coupled, coupled),
            "coding.compressed": _bits(crossed, crossed),
        }
        return MeasuredInputs(overrides, f"coupled and compressed bits/token from {path.name}")
    per_byte = _positive(data, "bits_per_byte")
    link, tokens = _positive(data, "link_bytes"), _positive(data, "tokens")
    if link is not None and tokens is not None:
        value = link * 8.0 / tokens
        return MeasuredInputs({"coding.compressed": _bits(value, value)}, f"{value:.3g} bits/token")
    if per_byte is None:
        raise InputError(
            f"{path} has neither bits_per_byte nor coupled_bits and CE",
            "write it with 'narrows bench codec --json' or 'narrows bench coupled --json'",
        )
    low, high = (per_byte * count for count in BYTES_PER_TOKEN)
    note = f"{per_byte:.3g} bits/byte over {data.get('answers', 'some')} answers ({path.name})"
    return MeasuredInputs({"coding.compressed": _bits(low, high)}, note)


_ARITHMETIC = {"runtime": "exact", "bfloat16": "bfloat16", "float32": "float32", "int8": "int8"}


def from_audit(paths: list[Path]) -> MeasuredInputs:
    """What an audit leaves unexplained: reports of ``narrows audit run --out`` or ``narrows bench
    audit --json``; several are the ends of a range. Coding and audit are then deployed. Raises
    InputError; also where an alarm says that the charges are no honest engine's."""
    from narrows.audit.page.charges import rest, token_bits, tokens_seen
    from narrows.audit.page.reader import read_report

    rows: list[dict[str, float]] = []
    overrides = {"defender.coding": "coupled", "defender.audit": "true"}
    models = set()
    for path in paths:
        found = read_report(path)
        seen = tokens_seen(found)
        if found["alarm"] or found["state"] != "explained" or seen < 1:
            raise InputError(f"{path} says: {found['state']}", "plan with an audit of honest tapes")
        parts = {"unexplained": token_bits(found), **rest(found)}
        rows.append({name: bits / seen for name, bits in parts.items()})
        model = found.get("model", {})
        engine = _ARITHMETIC.get(found.get("engine", ""), "unknown")
        models.add((model.get("parameters"), model.get("kind", "unknown"), engine))
        if "engine" not in found:  # a deployment's own share; a benchmark audits everything
            overrides["defender.audit_share"] = f"{100 * found['share']:.9g}%"
    if len(models) > 1:
        raise InputError(
            "the reports are of different models or arithmetics", "plan with one of them at a time"
        )
    for name in rows[0]:
        ends = sorted(row[name] for row in rows)
        overrides[f"coding.{name}"] = _bits(ends[0] or ends[-1], ends[-1])
    ((parameters, kind, engine),) = models
    if parameters:
        overrides["coding.audited_parameters"] = f"{parameters:.9g}"
    overrides |= {"coding.audited_kind": kind, "coding.audited_arithmetic": engine}
    total = max(sum(row.values()) for row in rows)
    names = ", ".join(path.name for path in paths)
    return MeasuredInputs(overrides, f"{total:.3g} bits/token stay charged by an audit ({names})")


def from_ledger(state_dir: Path) -> MeasuredInputs:
    """Bits/token and tokens/day of a deployment's own traffic. Raises InputError.

    The deployed coding is not recorded apart, so what left counts as ``compressed``. A budget
    also pays for timing: its share since the gate's start, where the gate ran in this folder.
    """
    from narrows.edge.books.stats import read_stats

    if not state_dir.is_dir():
        raise InputError(f"there is no state folder {state_dir}")
    stats = read_stats(state_dir)
    total = stats.total
    if total.tokens < 1 or total.link_bytes < 1:
        raise InputError(
            f"no answers are recorded in {state_dir}", "serve some first: 'narrows up'"
        )
    timing = _timing_share(state_dir)
    bits = total.link_bytes * 8.0 / total.tokens * (1.0 + timing)
    per_day = total.tokens / max(1, len(stats.by_day))
    overrides = {
        "coding.compressed": _bits(bits, bits),
        "demand.tokens_per_day": f"{per_day:.9g} tokens/day",
    }
    spent = _spent_bytes(state_dir)
    note = f"{bits:.3g} bits/token over {total.answers:,} answers in {len(stats.by_day)} days"
    note += f", {timing:.1%} more than the answers for timing" if timing else ""
    return MeasuredInputs(overrides, note + (f", {spent:,} bytes on the ledger" if spent else ""))


def _timing_share(state_dir: Path) -> float:
    """Timing bytes by bytes sent, on the ports of answers; 0 where no gate ran here."""
    from narrows.wire.gatestats import read_gate_ports

    ports = read_gate_ports(state_dir)
    answers = [port for name, port in ports.items() if name == "answers"] or list(ports.values())
    sent = sum(port.get("sent_bytes", 0) for port in answers)
    return sum(port.get("timing_bytes", 0) for port in answers) / sent if sent else 0.0


def _spent_bytes(state_dir: Path) -> int:
    """What the ledger counts as spent, all lineages; 0 where there is no ledger yet."""
    from narrows.ledger.stores.place import LedgerPlace

    place = LedgerPlace(state_dir)
    if not place.file.exists():
        return 0
    from narrows.ledger.office.balances import read_balances

    return read_balances(place).spent_bytes
