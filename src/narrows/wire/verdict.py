"""What an auditor says outside, and what it is told: both of one form, read by bounded parsers.

    verdict  = "nv1\\n", alarms [2], leases [2], sequence [8], epoch [16], account tag [4],
               position [8], total [8], tape digest [32], credit's signature [64],
               leases * (head of its id [8], bytes [4]), zeros, verdict's signature [64]
    view     = "nl1\\n", account tag [4], position [8], total [8], leases [4],
               leases * (id [16], bytes used [8])

Integers are big-endian. A verdict's size is agreed and never changes: a verdict without a credit
has zeros in all fields from the account's tag on, which is the head of its name's SHA-256. A view
tells the auditor what a ledger has booked of one account, and which of its leases can still be
credited. Nobody believes a view: it decides which true thing the auditor says next.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256

from narrows.errors import InputError
from narrows.publickey import SIGNATURE_BYTES, is_signed

VERDICT_PREFIX = b"narrows verdict v1\n"
MIN_VERDICT_BYTES, MAX_VERDICT_BYTES = 256, 8192
MAX_VIEW_LEASES = 4096
TAG_BYTES, EPOCH_BYTES, HEAD_BYTES, ID_BYTES = 4, 16, 8, 16

RAISED, OTHER_WEIGHTS, HALTED, BEHIND, NO_SPOOL, FULL = 1, 2, 4, 8, 16, 32
ALARMS = {
    RAISED: "alarm",
    OTHER_WEIGHTS: "other weights or other noise",
    HALTED: "the tape is not the one that was audited",
    BEHIND: "behind the gate",
    NO_SPOOL: "the spool cannot be read",
    FULL: "a credit does not fit into a verdict",
}
FINAL = RAISED | HALTED
"""Behind one of these nothing more is credited in this epoch."""

_MAGIC, _VIEW_MAGIC = b"nv1\n", b"nl1\n"
_HEAD = struct.Struct(">4sHHQ16s4sQQ32s64s")
_LEASE = struct.Struct(">8sI")
_VIEW = struct.Struct(">4s4sQQI")
_VIEW_LEASE = struct.Struct(">16sQ")
MAX_LEASE_BYTES = (1 << 32) - 1
_NO_TAG, _NO_DIGEST, _NO_SIGNATURE = bytes(TAG_BYTES), bytes(32), bytes(SIGNATURE_BYTES)


def account_tag(account: str) -> bytes:
    return sha256(account.encode()).digest()[:TAG_BYTES]


def alarm_words(alarms: int) -> list[str]:
    """What the bits say, for people."""
    known = [text for bit, text in ALARMS.items() if alarms & bit]
    return known + (["an alarm of another version"] if alarms & ~sum(ALARMS) else [])


def verdict_leases(size_bytes: int) -> int:
    """How many leases a verdict of ``size_bytes`` can name."""
    return (size_bytes - _HEAD.size - SIGNATURE_BYTES) // _LEASE.size


@dataclass(frozen=True, slots=True)
class AuditVerdict:
    """``leases``: heads of ids and bytes credited, as the credit has them; empty: no credit.
    ``total``, ``position``, ``tape``, ``signature``: the credit's."""

    sequence: int
    alarms: int
    epoch: bytes
    tag: bytes = _NO_TAG
    position: int = 0
    total: int = 0
    tape: bytes = _NO_DIGEST
    signature: bytes = _NO_SIGNATURE
    leases: tuple[tuple[bytes, int], ...] = ()

    def encode(self, size_bytes: int, sign: Callable[[bytes], bytes]) -> bytes:
        """Exactly ``size_bytes``. ValueError for values outside the form."""
        if len(self.leases) > verdict_leases(size_bytes):
            raise ValueError(f"{len(self.leases)} leases in a verdict of {size_bytes} bytes")
        try:
            body = _HEAD.pack(
                *(_MAGIC, self.alarms, len(self.leases), self.sequence, self.epoch, self.tag),
                *(self.position, self.total, self.tape, self.signature),
            ) + b"".join(_LEASE.pack(*lease) for lease in self.leases)
        except struct.error as error:
            raise ValueError(f"a verdict cannot hold {error}") from error
        body = body.ljust(size_bytes - SIGNATURE_BYTES, b"\0")
        return body + sign(VERDICT_PREFIX + body)


def parse_verdict(data: bytes, size_bytes: int, public: bytes) -> AuditVerdict:
    """InputError: not the form, or not signed by ``public``."""
    if len(data) != size_bytes or not MIN_VERDICT_BYTES <= size_bytes <= MAX_VERDICT_BYTES:
        raise InputError(f"a verdict of {len(data)} bytes, not {size_bytes}")
    body, signature = data[:-SIGNATURE_BYTES], data[-SIGNATURE_BYTES:]
    if not is_signed(public, signature, VERDICT_PREFIX + body):
        raise InputError("a verdict that the enrolled auditor has not signed")
    magic, alarms, count, *fields = _HEAD.unpack_from(body)
    end = _HEAD.size + count * _LEASE.size
    if magic != _MAGIC or end > len(body) or any(body[end:]):
        raise InputError("a verdict of another form")
    leases = tuple(_LEASE.iter_unpack(body[_HEAD.size : end]))
    sequence, epoch, tag, position, total, tape, credit = fields
    found = AuditVerdict(sequence, alarms, epoch, tag, position, total, tape, credit, leases)
    if not count and found != AuditVerdict(sequence, alarms, epoch):
        raise InputError("a verdict with half a credit")
    if count and (not position or not total or any(not size for _, size in leases)):
        raise InputError("a verdict with an empty credit")
    return found


@dataclass(frozen=True, slots=True)
class LedgerView:
    """What a ledger has of one account and this auditor. ``leases``: id to bytes used, of those
    that can be credited, oldest first."""

    tag: bytes
    position: int
    total: int
    leases: tuple[tuple[bytes, int], ...] = ()

    def encode(self) -> bytes:
        """The newest ``MAX_VIEW_LEASES`` of the leases."""
        leases = self.leases[-MAX_VIEW_LEASES:]
        head = _VIEW.pack(_VIEW_MAGIC, self.tag, self.position, self.total, len(leases))
        return head + b"".join(_VIEW_LEASE.pack(*lease) for lease in leases)


class ViewReader:
    """Views out of a stream. Holds one at most. InputError: then the stream is over."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[LedgerView]:
        rest, views, at = self._rest + data, [], 0
        while len(rest) - at >= _VIEW.size:
            magic, tag, position, total, count = _VIEW.unpack_from(rest, at)
            if magic != _VIEW_MAGIC or count > MAX_VIEW_LEASES:
                raise InputError("what was sent to the auditor is no view of a ledger")
            end = at + _VIEW.size + count * _VIEW_LEASE.size
            if len(rest) < end:
                break
            leases = tuple(_VIEW_LEASE.iter_unpack(rest[at + _VIEW.size : end]))
            views.append(LedgerView(tag, position, total, leases))
            at = end
        self._rest = rest[at:]
        return views
