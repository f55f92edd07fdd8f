"""What only people do: change a budget, the operators, or accept a gap; k of n signatures.

A change is a canonical document. It names the ledger (``origin``) and its position: index and
hash of the last change that was applied (``after``), so it fits one ledger at one point and
cannot be replayed; ``not_after_ms`` ends its validity. Signed message:
``b"narrows change v1\\n" + canonical document``.

    budget     lineage, limits, accounts, and net where there is one
                                             raising or creating: k signatures; lowering: one
    operators  keys, threshold               k signatures, and one of every added key
    recover    base, gaps, witness           k signatures; the gap counts as spent
    enrol      lineage, gates, key, terms    k signatures; one where it only tightens
    revoke     lineage, gates                one signature
    charge     lineage, bytes, reason        one signature; they left another way, and are spent
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from narrows.errors import BudgetError
from narrows.ledger.auditors import (
    Enrolment,
    NetLimits,
    Revocation,
    parse_enrolment,
    parse_net,
    parse_revocation,
)
from narrows.ledger.keys import public_of_hex
from narrows.ledger.limits import Limits, parse_limits
from narrows.ledger.log.canonical import MAX_INTEGER, Document, Fields, encode, is_name, unhex
from narrows.publickey import is_signed

MESSAGE_PREFIX = b"narrows change v1\n"
MAX_OPERATORS = 32
MAX_ACCOUNTS = 64
MAX_REASON_CHARS = 200


@dataclass(frozen=True, slots=True)
class Operators:
    """``keys``: hex Ed25519 public keys, sorted, distinct. ``threshold``: k of them."""

    keys: tuple[str, ...]
    threshold: int


@dataclass(frozen=True, slots=True)
class BudgetChange:
    lineage: str
    limits: Limits
    accounts: dict[str, Limits]
    net: NetLimits | None = None


@dataclass(frozen=True, slots=True)
class OperatorChange:
    operators: Operators


@dataclass(frozen=True, slots=True)
class Recovery:
    """``base``: size and root of the log as restored, directly before this change.
    ``witnessed``: size and root that the witness last cosigned. ``gaps``: lineage to bytes."""

    base: tuple[int, bytes]
    witnessed: tuple[int, bytes]
    gaps: dict[str, int]


@dataclass(frozen=True, slots=True)
class Charge:
    """``size_bytes`` of ``lineage`` left another way than through a gate. ``reason``: for people,
    one line."""

    lineage: str
    size_bytes: int
    reason: str


Body = BudgetChange | OperatorChange | Recovery | Enrolment | Revocation | Charge


@dataclass(frozen=True, slots=True)
class Change:
    origin: str
    after: tuple[int, bytes]
    not_after_ms: int
    body: Body


def parse_operators(fields: Fields) -> Operators:
    """Errors: ``BudgetError``, also for a key for which anyone could sign."""
    keys = fields.items("keys", MAX_OPERATORS)
    for key in keys:
        public_of_hex(key, "the operator's key")
    if not keys or sorted(set(keys)) != keys:
        raise fields.bad("keys")
    return Operators(tuple(keys), fields.integer("threshold", 1, len(keys)))


def _position(fields: Fields, name: str) -> tuple[int, bytes]:
    pair = fields.items(name, 2)
    digest = unhex(pair[1], 32) if len(pair) == 2 else None
    if digest is None or type(pair[0]) is not int or not 0 <= pair[0] <= MAX_INTEGER:
        raise fields.bad(name)
    return pair[0], digest


def _parse_budget(fields: Fields) -> BudgetChange:
    limits = parse_limits(fields.take("limits"), "limits", lifetime_required=True)
    accounts: dict[str, Limits] = {}
    for name, document in fields.table("accounts", MAX_ACCOUNTS).items():
        if not is_name(name):
            raise fields.bad("accounts")
        account = parse_limits(document, f"account {name}", lifetime_required=False)
        if account.exceeds(limits):
            raise BudgetError(f"account {name} is wider than its lineage; it can only narrow")
        accounts[name] = account
    net = parse_net(fields.take("net")) if fields.has("net") else None
    if net is not None and net.limits.exceeds(limits):
        raise BudgetError(
            "the net budget is wider than the raw one; it can only narrow",
            "lower both in one change",
        )
    return BudgetChange(fields.name("lineage"), limits, accounts, net)


def _parse_recovery(fields: Fields) -> Recovery:
    gaps = fields.table("gaps", MAX_ACCOUNTS)
    for lineage, gap_bytes in gaps.items():
        if not is_name(lineage) or type(gap_bytes) is not int or not 0 <= gap_bytes <= MAX_INTEGER:
            raise fields.bad("gaps")
    return Recovery(_position(fields, "base"), _position(fields, "witnessed"), gaps)


def _parse_charge(fields: Fields) -> Charge:
    reason = fields.text("reason", MAX_REASON_CHARS)
    if not reason or not reason.isprintable():
        raise fields.bad("reason")
    return Charge(fields.name("lineage"), fields.integer("bytes", 1), reason)


def parse_change(document: Document) -> Change:
    """Take a change apart. Errors: ``MalformedError``, ``BudgetError``."""
    fields = Fields(document, "change")
    kind = fields.text("kind")
    origin, after = fields.text("origin"), _position(fields, "after")
    not_after_ms = fields.integer("not_after_ms")
    body: Body
    if kind == "budget":
        body = _parse_budget(fields)
    elif kind == "operators":
        body = OperatorChange(parse_operators(fields))
    elif kind == "recover":
        body = _parse_recovery(fields)
    elif kind == "enrol":
        body = parse_enrolment(fields)
    elif kind == "revoke":
        body = parse_revocation(fields)
    elif kind == "charge":
        body = _parse_charge(fields)
    else:
        raise fields.bad("kind")
    fields.done()
    return Change(origin, after, not_after_ms, body)


def message_of(document: Document) -> bytes:
    """The bytes that operators sign."""
    return MESSAGE_PREFIX + encode(document)


def sign_change(document: Document, key: Ed25519PrivateKey) -> list[str]:
    """[public key, signature] in hex."""
    public = key.public_key().public_bytes_raw()
    return [public.hex(), key.sign(message_of(document)).hex()]


def signers(document: Document, signatures: Any) -> frozenset[str]:
    """The keys whose signatures over ``document`` are valid. One bad signature spoils all."""
    if not isinstance(signatures, list) or len(signatures) > 2 * MAX_OPERATORS:
        raise BudgetError("the signatures of a change are not a list of a sane length")
    message = message_of(document)
    seen: list[str] = []
    for pair in signatures:
        if not isinstance(pair, list) or len(pair) != 2:
            raise BudgetError("a signature is not a pair of key and signature")
        public, signature = unhex(pair[0], 32), unhex(pair[1], 64)
        if public is None or signature is None:
            raise BudgetError("a signature is not lower-case hex of the exact length")
        if not is_signed(public, signature, message):
            raise BudgetError(f"the signature of {pair[0][:16]} does not verify")
        seen.append(pair[0])
    if sorted(set(seen)) != seen:
        raise BudgetError("signatures must be sorted by key, one for each")
    return frozenset(seen)


def require(operators: Operators, signed_by: Iterable[str], needed: int) -> None:
    """At least ``needed`` of ``operators`` signed, else ``BudgetError``."""
    count = len(set(operators.keys) & set(signed_by))
    if count < needed:
        raise BudgetError(
            f"{count} of {needed} operator signatures", "sign with: narrows budget sign"
        )


def check_operator_change(old: Operators, new: Operators, signed_by: frozenset[str]) -> None:
    """k of the old set, and every added key (a key nobody holds must not count towards k)."""
    require(old, signed_by, old.threshold)
    missing = set(new.keys) - set(old.keys) - signed_by
    if missing:
        raise BudgetError(f"the new key {min(missing)[:16]} did not sign", "sign with it too")
