"""Hours of what left: as booked, dead leases in full, the hour under way left out."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from narrows.errors import BudgetError
from narrows.ledger.log.canonical import encode
from narrows.ledger.office.history import HOUR_MS, MAX_HOURS, history_of


def store_of(*leaves: dict[str, Any]) -> Any:
    data = [encode(leaf) for leaf in leaves]
    return SimpleNamespace(
        head=lambda: SimpleNamespace(size=len(data)) if data else None,
        leaves=lambda start, stop: data[start:stop],
    )


def lease(number: int, size: int, account: str = "answers", hour: float = 0.0) -> dict[str, Any]:
    time_ms = int(hour * HOUR_MS) + 1
    return {"t": "lease", "id": f"{number:032x}", "account": account, "bytes": size} | {
        "gate": "g",
        "time_ms": time_ms,
    }


def ended(number: int, hour: float, used: int | None = None) -> dict[str, Any]:
    leaf = {"id": f"{number:032x}", "time_ms": int(hour * HOUR_MS)}
    return leaf | ({"t": "dead"} if used is None else {"t": "settle", "used": used})


LEAVES = (
    {"t": "genesis", "time_ms": 10 * HOUR_MS},
    lease(1, 500, hour=10),
    ended(1, 10.5, 300),
    lease(2, 900, "telemetry", 11),
    ended(2, 12.5),
    lease(3, 50, hour=12),
    ended(3, 14.2, 50),  # under way
    {"t": "state", "digest": "00"},
)


def test_each_hour_holds_what_was_booked_in_it() -> None:
    assert history_of(store_of(*LEAVES)).hourly_bytes == (300, 0, 900, 0)
    assert history_of(store_of(*LEAVES), "answers").hourly_bytes == (300, 0, 0, 0)
    assert history_of(store_of(*LEAVES)).end_ms == 14 * HOUR_MS


def test_a_long_past_is_cut_to_a_year() -> None:
    late = MAX_HOURS + 500
    found = history_of(store_of(LEAVES[0], lease(1, 5, hour=late), ended(1, late + 0.1, 5)))
    assert len(found.hourly_bytes) == MAX_HOURS


def test_an_empty_log_is_an_error() -> None:
    with pytest.raises(BudgetError, match="empty"):
        history_of(store_of())
