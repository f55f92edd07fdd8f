"""Make change documents: what ``narrows budget propose`` writes and operators sign."""

from __future__ import annotations

from collections.abc import Mapping

from narrows.ledger.changes import Operators, parse_change
from narrows.ledger.codec import Document
from narrows.ledger.limits import Limits
from narrows.ledger.rules import State

VALID_MS = 7 * 86_400_000


def _envelope(state: State, kind: str, now_ms: int, valid_ms: int) -> Document:
    return {
        "kind": kind,
        "origin": state.origin,
        "after": [state.last_change[0], state.last_change[1].hex()],
        "not_after_ms": now_ms + valid_ms,
    }


def budget_document(
    state: State,
    lineage: str,
    limits: Limits,
    accounts: Mapping[str, Limits],
    now_ms: int,
    valid_ms: int = VALID_MS,
) -> Document:
    """The whole new budget of a lineage. ``valid_ms``: how long the change may be applied.
    Errors: ``BudgetError`` where the numbers make no budget."""
    document = _envelope(state, "budget", now_ms, valid_ms)
    document |= {
        "lineage": lineage,
        "limits": limits.document(),
        "accounts": {name: account.document() for name, account in accounts.items()},
    }
    parse_change(document)
    return document


def operators_document(
    state: State, operators: Operators, now_ms: int, valid_ms: int = VALID_MS
) -> Document:
    """The whole new set of operators."""
    document = _envelope(state, "operators", now_ms, valid_ms)
    document |= {"keys": sorted(operators.keys), "threshold": operators.threshold}
    parse_change(document)
    return document


def recovery_document(
    state: State,
    root: bytes,
    witnessed: tuple[int, bytes],
    gaps: Mapping[str, int],
    now_ms: int,
    valid_ms: int = VALID_MS,
) -> Document:
    """Accept that the ledger lost what lies between its head and the witness's."""
    document = _envelope(state, "recover", now_ms, valid_ms)
    document |= {
        "base": [state.size, root.hex()],
        "witnessed": [witnessed[0], witnessed[1].hex()],
        "gaps": dict(gaps),
    }
    parse_change(document)
    return document
