"""How a spool's files get to an auditor on another machine: the bytes on the connection.

The gate's side dials; the auditor's side says once what it has, and nothing after that:

    auditor  = "narrows haul 1" LF, chapter [4] number [4] size [8] boot nonce [32]
    gate     = frame*
    frame    = kind [1] chapter [4] number [4] offset [8] length [4] data
    DATA 1   bytes of that file at ``offset``, 1 to 65,536 of them
    FIRST 2  offset and length 0: the oldest file that the gate still has
    LAST 3   all zeros: nothing follows, the auditor's side closes

Integers are big-endian. What the auditor's side has are all files up to that one, and so many of
its bytes; zeros where it has none. Files come in order of writing: DATA goes on where the newest
file ends, or begins a later one at 0. FIRST lets the older ones go, and says that the line lives.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from narrows.errors import PeerError

HAUL_MAGIC = b"narrows haul 1\n"
DATA, FIRST, LAST = 1, 2, 3
MAX_DATA_BYTES = 1 << 16
_HELD = struct.Struct(">IIQ32s")
_FRAME = struct.Struct(">BIIQI")
HELD_BYTES = len(HAUL_MAGIC) + _HELD.size
FRAME_BYTES = _FRAME.size
ALIVE_S = 10.0
SILENT_S = 60.0


@dataclass(frozen=True, slots=True)
class HeldFiles:
    """The newest file of the auditor's side. ``boot_nonce``: zeros while its header is not
    whole."""

    chapter: int = 0
    number: int = 0
    size: int = 0
    boot_nonce: bytes = bytes(32)

    def encode(self) -> bytes:
        return HAUL_MAGIC + _HELD.pack(self.chapter, self.number, self.size, self.boot_nonce)


def parse_held(data: bytes) -> HeldFiles:
    """Errors: ``PeerError``."""
    if len(data) != HELD_BYTES or not data.startswith(HAUL_MAGIC):
        raise PeerError("the other side takes no spool", "is it 'narrows tape receive'?")
    return HeldFiles(*_HELD.unpack_from(data, len(HAUL_MAGIC)))


@dataclass(frozen=True, slots=True)
class HaulFrame:
    """``size``: of the data that follows."""

    kind: int
    chapter: int
    number: int
    offset: int
    size: int

    def encode(self) -> bytes:
        return _FRAME.pack(self.kind, self.chapter, self.number, self.offset, self.size)


def parse_frame(data: bytes) -> HaulFrame:
    """Of ``FRAME_BYTES``. Errors: ``PeerError``."""
    frame = HaulFrame(*_FRAME.unpack(data))
    fits = 1 <= frame.size <= MAX_DATA_BYTES if frame.kind == DATA else not frame.size
    known = frame.kind in (DATA, FIRST) or frame == HaulFrame(LAST, 0, 0, 0, 0)
    if not known or not fits or (frame.kind == FIRST and frame.offset):
        raise PeerError(f"a frame of kind {frame.kind} with {frame.size} bytes at {frame.offset}")
    return frame
