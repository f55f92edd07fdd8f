"""The tape: what a gate copies to an auditor, as one sequence in the gate's own event order.

    tape    = "narrows tape 1" LF, boot nonce [32], record*
    record  = kind [1] link [8] moment [8] rest
    BEGIN 1 = port length [1], port
    IN    2 = length [4], data            bytes of the edge, as they arrived
    OUT   3 = lease [16] position [8] paid [4] length [4], data    the enclave's bytes, as sent
    END   4 = nothing

Integers are big-endian. Canonical: a sequence of records has one encoding, and any bytes are
such an encoding or are refused. Rules, held by writer and reader alike (``Sequence``):

- Links are numbered upward in order of their BEGIN; every other record names an open link.
- Moments (nanoseconds of the gate's boot clock) never decrease.
- ``position``: bytes of data of the link's OUT records before this one.
- ``paid``: bytes that the gate charged for this write, never fewer than it carried. An OUT
  without data was paid for what is not the enclave's: a handshake, filler, a moment.
- Data: at most 65,536 bytes a record; IN at least one, OUT at least one that is paid.

A tape may be read while it grows. Where it ends inside a record, ``pending_bytes`` says so.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

from narrows.errors import InputError

MAGIC = b"narrows tape 1\n"
NONCE_BYTES = 32
LEASE_BYTES = 16
MAX_DATA_BYTES = 1 << 16
MAX_OPEN_LINKS = 4096
HEADER_BYTES = len(MAGIC) + NONCE_BYTES

_HEAD = struct.Struct(">BQQ")
_OUT = struct.Struct(">16sQII")
_LENGTH = struct.Struct(">I")
_PORT = re.compile(rb"[a-z0-9_-]{1,64}", re.ASCII)
_BEGIN_KIND, _IN_KIND, _OUT_KIND, _END_KIND = 1, 2, 3, 4
MAX_RECORD_BYTES = _HEAD.size + _OUT.size + MAX_DATA_BYTES


@dataclass(frozen=True, slots=True)
class Begin:
    """A link is open at ``port``. ``moment_ns``: the gate's boot clock."""

    link: int
    moment_ns: int
    port: str


@dataclass(frozen=True, slots=True)
class Inward:
    """Bytes that the edge sent, at their arrival."""

    link: int
    moment_ns: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Outward:
    """Bytes of the enclave at the moment they were sent, paid under ``lease``."""

    link: int
    moment_ns: int
    lease: bytes
    position: int
    paid_bytes: int
    data: bytes


@dataclass(frozen=True, slots=True)
class LinkEnd:
    """The link is over: nothing of it follows."""

    link: int
    moment_ns: int


Record = Begin | Inward | Outward | LinkEnd


def encode(record: Record) -> bytes:
    """The record's one encoding. ValueError for values outside the format's ranges."""
    try:
        return _encode(record)
    except struct.error as error:
        raise ValueError(f"a tape cannot hold {error}") from error


def _encode(record: Record) -> bytes:
    link, moment = record.link, record.moment_ns
    if isinstance(record, Begin):
        port = record.port.encode()
        if not _PORT.fullmatch(port):
            raise ValueError(f"port {record.port!r} is no name of a port")
        return _HEAD.pack(_BEGIN_KIND, link, moment) + bytes([len(port)]) + port
    if isinstance(record, Inward):
        if not 1 <= len(record.data) <= MAX_DATA_BYTES:
            raise ValueError(f"{len(record.data)} bytes inward in one record")
        return _HEAD.pack(_IN_KIND, link, moment) + _LENGTH.pack(len(record.data)) + record.data
    if isinstance(record, Outward):
        size = len(record.data)
        if size > MAX_DATA_BYTES or len(record.lease) != LEASE_BYTES:
            raise ValueError(f"{size} bytes outward under a lease of {len(record.lease)} bytes")
        if not max(1, size) <= record.paid_bytes:
            raise ValueError(f"{size} bytes left and {record.paid_bytes} were paid")
        fields = _OUT.pack(record.lease, record.position, record.paid_bytes, size)
        return _HEAD.pack(_OUT_KIND, link, moment) + fields + record.data
    return _HEAD.pack(_END_KIND, link, moment)


class Sequence:
    """The rules between records: what a tape may go on with."""

    def __init__(self, next_link: int = 0, moment_ns: int = 0) -> None:
        self._positions: dict[int, int] = {}
        self._next_link = next_link
        self._moment_ns = moment_ns

    def rest(self) -> tuple[int, int] | None:
        """What it begins with, to go on from here; None while a link is open."""
        return None if self._positions else (self._next_link, self._moment_ns)

    def check(self, record: Record) -> str | None:
        """The fault, or None: then the record counts as the last one."""
        if record.moment_ns < self._moment_ns:
            return "time goes back"
        if isinstance(record, Begin):
            if record.link < self._next_link:
                return f"link {record.link} begins out of order"
            if len(self._positions) >= MAX_OPEN_LINKS:
                return f"more than {MAX_OPEN_LINKS} links are open"
            self._positions[record.link] = 0
            self._next_link = record.link + 1
        elif record.link not in self._positions:
            return f"link {record.link} is not open"
        elif isinstance(record, Outward):
            if record.position != self._positions[record.link]:
                return f"link {record.link} goes on at another position"
            self._positions[record.link] += len(record.data)
        elif isinstance(record, LinkEnd):
            del self._positions[record.link]
        self._moment_ns = record.moment_ns
        return None


class TapeWriter:
    """Bytes to append, record by record. Keeps positions; holds no data."""

    def __init__(self, boot_nonce: bytes) -> None:
        if len(boot_nonce) != NONCE_BYTES:
            raise ValueError(f"a boot nonce has {NONCE_BYTES} bytes, not {len(boot_nonce)}")
        self.header = MAGIC + boot_nonce
        self._sequence = Sequence()

    def put(self, record: Record) -> bytes:
        """What to append. ValueError: it may not come here; the tape is as before."""
        data = encode(record)
        fault = self._sequence.check(record)
        if fault is not None:
            raise ValueError(fault)
        return data


@dataclass(frozen=True, slots=True)
class TapeRest:
    """A place on a tape where no link is open, and what its rules need to go on from there."""

    boot_nonce: bytes
    position: int
    next_link: int
    moment_ns: int


class TapeReader:
    """Records out of a growing tape. Holds at most one record and what it was fed last.

    InputError where the tape breaks a rule; from then on every call raises it."""

    def __init__(self) -> None:
        self.boot_nonce = b""
        self.position = 0
        """Bytes of the tape that are read, header included."""
        self._rest = b""
        self._sequence = Sequence()
        self._fault: InputError | None = None

    def rest(self) -> TapeRest | None:
        """From where ``resumed`` goes on; None inside a record, or while a link is open."""
        rest = self._sequence.rest()
        if rest is None or self._rest or self._fault is not None or not self.boot_nonce:
            return None
        return TapeRest(self.boot_nonce, self.position, *rest)

    @classmethod
    def resumed(cls, rest: TapeRest) -> TapeReader:
        """To be fed what follows ``rest.position``."""
        reader = cls()
        reader.boot_nonce, reader.position = rest.boot_nonce, rest.position
        reader._sequence = Sequence(rest.next_link, rest.moment_ns)
        return reader

    @property
    def pending_bytes(self) -> int:
        """Bytes of a header or record that is not complete."""
        return len(self._rest)

    def feed(self, data: bytes) -> list[Record]:
        """The records that ``data`` completes, in order; those before a fault first: the call
        that meets it returns them, the next one raises."""
        if self._fault is not None:
            raise self._fault
        rest = self._rest + data
        records: list[Record] = []
        at = 0
        try:
            if not self.boot_nonce:
                at = self._header(rest)
            while self.boot_nonce and (found := _decode(rest, at)) is not None:
                record, end = found
                fault = self._sequence.check(record)
                if fault is not None:
                    raise ValueError(fault)
                records.append(record)
                at = end
        except ValueError as error:
            self._fault = InputError(f"the tape is refused at byte {self.position + at}: {error}")
        self.position += at
        self._rest = b"" if self._fault is not None else rest[at:]
        if self._fault is not None and not records:
            raise self._fault
        return records

    def _header(self, rest: bytes) -> int:
        if not MAGIC.startswith(rest[: len(MAGIC)]):
            raise ValueError("it is no tape of version 1")
        if len(rest) < HEADER_BYTES:
            return 0
        self.boot_nonce = rest[len(MAGIC) : HEADER_BYTES]
        return HEADER_BYTES


def _decode(data: bytes, at: int) -> tuple[Record, int] | None:
    """The record at ``at`` and where it ends; None while it is not complete. ValueError."""
    if at < len(data) and not _BEGIN_KIND <= data[at] <= _END_KIND:
        raise ValueError(f"no record is of kind {data[at]}")
    body = at + _HEAD.size
    if len(data) < body:
        return None
    kind, link, moment = _HEAD.unpack_from(data, at)
    if kind == _END_KIND:
        return LinkEnd(link, moment), body
    if kind == _BEGIN_KIND:
        return _begin(data, body, link, moment)
    fields = _LENGTH if kind == _IN_KIND else _OUT
    start = body + fields.size
    if len(data) < start:
        return None
    *before, size = fields.unpack_from(data, body)
    if size > MAX_DATA_BYTES or (kind == _IN_KIND and size == 0):
        raise ValueError(f"a record of {size} bytes")
    if kind == _OUT_KIND and before[2] < max(1, size):
        raise ValueError(f"{size} bytes left and {before[2]} were paid")
    if len(data) < start + size:
        return None
    held = data[start : start + size]
    if kind == _IN_KIND:
        return Inward(link, moment, held), start + size
    return Outward(link, moment, before[0], before[1], before[2], held), start + size


def _begin(data: bytes, body: int, link: int, moment: int) -> tuple[Record, int] | None:
    if len(data) <= body:
        return None
    end = body + 1 + data[body]
    if not 1 <= data[body] <= 64:
        raise ValueError(f"a port's name of {data[body]} bytes")
    if len(data) < end:
        return None
    port = data[body + 1 : end]
    if not _PORT.fullmatch(port):
        raise ValueError("a port's name has other letters")
    return Begin(link, moment, port.decode("ascii")), end
