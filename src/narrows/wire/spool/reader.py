"""The spool's reader, for whoever has the auditor's key.

Nothing of a file is believed: it opens with the key at its place, or it is refused.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from narrows.durable import open_once
from narrows.errors import InputError
from narrows.wire.spool.file import (
    DATA,
    END,
    HEADER_BYTES,
    ROLL,
    Opener,
    SpoolHeader,
    next_chunk,
    public_of,
    read_header,
    spool_files,
)

READ_BYTES = 1 << 20


@dataclass(slots=True)
class _Place:
    """Where the last read ended: ``at`` in its file, ``offset`` in its chapter's tape. ``mark``:
    the kind of the file's last chunk, once it was met."""

    header: SpoolHeader
    opener: Opener
    at: int
    offset: int
    mark: int = DATA


class SpoolReader:
    """Reads a spool while it grows. Every method raises ``InputError``, with file and byte, where
    a file was altered, moved or is missing, and where folder or file cannot be read."""

    def __init__(self, folder: Path, private_key: bytes) -> None:
        public_of(private_key)
        self._folder, self._private_key = folder, private_key
        self._headers: dict[str, SpoolHeader] = {}  # they never change
        self._place: _Place | None = None

    def chapters(self) -> list[bytes]:
        """The boot nonces of all chapters that are there, in order of their start."""
        return list(dict.fromkeys(header.boot_nonce for header in self._list()))

    def base(self, nonce: bytes) -> int:
        """Bytes of all tapes before this chapter's: a credit's position is this plus the
        chapter's own. ``InputError`` for no such chapter."""
        return _of(self._list(), nonce)[0].base

    def start(self, nonce: bytes) -> int:
        """The first byte of the chapter's tape that is still there; 0 if nothing was removed."""
        return _of(self._list(), nonce)[0].start

    def ended(self, nonce: bytes) -> bool:
        """Whether nothing of the chapter follows: ``read`` met its end, or another chapter has
        begun. Ask before ``read``: if this was true and ``read`` gives nothing, that was all."""
        headers = self._list()
        _of(headers, nonce)
        place = self._place
        met = place is not None and place.header.boot_nonce == nonce and place.mark == END
        return met or headers[-1].boot_nonce != nonce

    def read(self, nonce: bytes, offset: int) -> bytes:
        """Bytes of the chapter's tape from ``offset`` that are there now, about ``READ_BYTES`` at
        most; empty at its end. ``InputError`` also where files at ``offset`` were removed."""
        headers = _of(self._list(), nonce)
        place = self._place
        if place is None or place.header not in headers or place.offset != offset:
            place = self._seek(headers, offset)
        found = bytearray()
        try:
            while True:
                found += self._read_file(place, offset + len(found), READ_BYTES - len(found))
                following = None if len(found) >= READ_BYTES else _following(headers, place)
                if following is None:
                    break
                place = self._at(following)
        except InputError:
            if not found:
                raise
        self._place = place
        return bytes(found)

    def _seek(self, headers: list[SpoolHeader], offset: int) -> _Place:
        before = [header for header in headers if header.start <= offset]
        if not before:
            raise InputError(
                f"byte {offset} of the tape was removed: {headers[0].name} begins at byte "
                f"{headers[0].start}"
            )
        return self._at(before[-1])

    def _at(self, header: SpoolHeader) -> _Place:
        return _Place(header, Opener(header, self._private_key), HEADER_BYTES, header.start)

    def _read_file(self, place: _Place, offset: int, limit: int) -> bytearray:
        """What the place's file holds from ``offset`` on; moves the place. What was found before
        a fault is returned, and the next call meets it."""
        found = bytearray()
        name = place.header.name
        if place.mark != DATA:
            return found
        with _reading(self._folder / name), open_once(self._folder / name) as file:
            file.seek(place.at)
            try:
                while (
                    place.mark == DATA
                    and len(found) < limit
                    and (chunk := next_chunk(file)) is not None
                ):
                    end = file.tell()
                    data = place.opener.open(*chunk)
                    if chunk[0] != DATA and file.read(1):
                        raise ValueError("more follows the file's last chunk")
                    found += data[max(0, offset - place.offset) :]
                    place.at, place.mark = end, chunk[0]
                    place.offset += len(data)
            except ValueError as error:
                if not found:
                    raise InputError(f"{name}, at byte {place.at}: {error}") from error
        return found

    def _list(self) -> list[SpoolHeader]:
        with _reading(self._folder):
            known, self._headers = self._headers, {}
            for named in spool_files(self._folder):
                name = named.path.name
                header = known.get(name) or read_header(named.path)
                if header is not None:
                    self._headers[name] = header
        first_of: dict[bytes, SpoolHeader] = {}
        for header in self._headers.values():
            first = first_of.setdefault(header.boot_nonce, header)
            if (first.chapter, first.base) != (header.chapter, header.base):
                raise InputError(f"{header.name} claims to go on from {first.name}, at byte 16")
        if len({first.chapter for first in first_of.values()}) != len(first_of):
            raise InputError(f"two tapes have the number of one chapter in {self._folder}")
        return list(self._headers.values())


def _of(headers: list[SpoolHeader], nonce: bytes) -> list[SpoolHeader]:
    found = [header for header in headers if header.boot_nonce == nonce]
    if not found:
        raise InputError(f"the spool has no chapter {nonce.hex()[:16]}")
    return found


def _following(headers: list[SpoolHeader], place: _Place) -> SpoolHeader | None:
    """The chapter's next file, once the place's is read to its end. ``headers`` are older than
    that reading, and a file is whole before the next one has a name."""
    header = place.header
    later = [other for other in headers if other.number > header.number]
    if not later:
        return None
    if place.mark != ROLL:
        raise InputError(f"{header.name} is cut off at byte {place.at}: {later[0].name} follows it")
    if (later[0].number, later[0].start) != (header.number + 1, place.offset):
        raise InputError(f"{later[0].name} does not follow {header.name}, at byte {place.at}")
    return later[0]


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
