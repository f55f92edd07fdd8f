"""Make change documents: what ``narrows budget propose`` writes and operators sign.

A change file is one line of canonical JSON: ``{"change": document, "signatures": [...]}``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from narrows.durable import read_once, write_whole
from narrows.errors import InputError
from narrows.ledger.auditors import Enrolment, NetLimits, Revocation
from narrows.ledger.changes import Operators, parse_change, sign_change, signers
from narrows.ledger.limits import Limits
from narrows.ledger.log.canonical import MAX_DOCUMENT_BYTES, Document, Fields, decode, encode
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
    net: NetLimits | None = None,
) -> Document:
    """The whole new budget of a lineage. ``valid_ms``: how long the change may be applied.
    ``net``: the net budget beside it; None takes away one that is there.
    Errors: ``BudgetError`` where the numbers make no budget."""
    document = _envelope(state, "budget", now_ms, valid_ms)
    document |= {
        "lineage": lineage,
        "limits": limits.document(),
        "accounts": {name: account.document() for name, account in accounts.items()},
    }
    if net is not None:
        document["net"] = net.document()
    parse_change(document)
    return document


def auditor_document(
    state: State, body: Enrolment | Revocation, now_ms: int, valid_ms: int = VALID_MS
) -> Document:
    """Who audits some gates from now on, or that nobody does. Errors: ``BudgetError``."""
    kind = "enrol" if isinstance(body, Enrolment) else "revoke"
    document = _envelope(state, kind, now_ms, valid_ms) | body.document()
    parse_change(document)
    return document


def charge_document(
    state: State,
    lineage: str,
    size_bytes: int,
    reason: str,
    now_ms: int,
    valid_ms: int = VALID_MS,
) -> Document:
    """Bytes of ``lineage`` that left another way. Errors: ``BudgetError``."""
    document = _envelope(state, "charge", now_ms, valid_ms)
    document |= {"lineage": lineage, "bytes": size_bytes, "reason": reason}
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


def write_change_file(path: Path, document: Document, signatures: list[list[str]]) -> None:
    """Replace the file whole. Errors: ``InputError`` where it cannot be written."""
    write_whole(path, encode({"change": document, "signatures": signatures}) + b"\n")


def read_change_file(path: Path) -> tuple[Document, list[list[str]]]:
    """The document and its signatures, all of them valid. Errors: ``NarrowsError``.

    The file is read once: what is shown to an operator and what is signed is this document,
    whatever lies at ``path`` by then."""
    data = read_once(path, MAX_DOCUMENT_BYTES + 1)
    if not data.endswith(b"\n"):
        raise InputError(f"{path} is not a change file")
    fields = Fields(decode(data[:-1]), str(path))
    document, signatures = fields.table("change", 64), fields.take("signatures")
    fields.done()
    parse_change(document)
    signers(document, signatures)
    return document, signatures


def add_signature(
    document: Document, signatures: list[list[str]], key: Ed25519PrivateKey
) -> list[list[str]]:
    """The signatures with one of ``key`` among them, in canonical order."""
    mine = sign_change(document, key)
    return sorted([pair for pair in signatures if pair[0] != mine[0]] + [mine])
