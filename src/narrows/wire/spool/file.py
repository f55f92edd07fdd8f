"""One file of a spool: bytes of a tape, sealed to the auditor's key, chunk by chunk.

    name    = chapter [8 hex digits] "-" number [8 hex digits] ".spool"
    file    = header, chunk*
    header  = "narrows spool 1" LF, chapter [4] number [4] boot nonce [32] base [8] start [8]
              born [8] ephemeral X25519 key [32]
    chunk   = kind [1] length [4] sealed [length]
    DATA 1  1 to 65,536 bytes of the tape
    ROLL 2  nothing: the chapter goes on in the file of the next number
    END 3   nothing: the chapter is over

Integers are big-endian. ``base``: bytes of all tapes of this spool before this chapter's;
``start``: bytes of this chapter's tape before this file; ``born``: Unix time in ms. A file's key is
HKDF-SHA256 of the X25519 secret over the header and the auditor's key; chunk n is sealed by
ChaCha20-Poly1305 under the nonce n, with header, n and kind as associated data. So a chunk opens
only at its place in its file, and a file only under its name and its header.

A file may be read while it grows. Where its last chunk is not whole, or is all zeros (a machine
that lost power), it ends before it. Anyone can seal to a public key: a spool keeps secrets, and
proves nothing of who wrote it.
"""

from __future__ import annotations

import io
import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from narrows.durable import open_once
from narrows.errors import InputError

MAGIC = b"narrows spool 1\n"
KEY_BYTES = 32
MAX_CHUNK_BYTES = 1 << 16
MAX_FILES = 1 << 16
DATA, ROLL, END = 1, 2, 3
_TAG_BYTES = 16
_FIELDS = struct.Struct(">II32sQQQ32s")
_CHUNK = struct.Struct(">BI")
_NUMBER = struct.Struct(">I")
_NAME = re.compile(r"([0-9a-f]{8})-([0-9a-f]{8})\.spool", re.ASCII)
HEADER_BYTES = len(MAGIC) + _FIELDS.size
OVERHEAD_BYTES = _CHUNK.size + _TAG_BYTES
"""Of a chunk, beside the bytes of the tape in it."""
MAX_SEALED_BYTES = MAX_CHUNK_BYTES + _TAG_BYTES


def new_key() -> tuple[bytes, bytes]:
    """An auditor's private key and its public one."""
    key = X25519PrivateKey.generate()
    return key.private_bytes_raw(), key.public_key().public_bytes_raw()


def public_of(private_key: bytes) -> bytes:
    """Errors: ``InputError`` where it has another length."""
    return _private(private_key).public_key().public_bytes_raw()


def seal_key_flaw(public_key: bytes) -> str:
    """Why nothing can be sealed to ``public_key``; empty where it can."""
    if len(public_key) != KEY_BYTES:
        return f"it has {len(public_key)} bytes, not {KEY_BYTES}"
    try:
        X25519PrivateKey.generate().exchange(X25519PublicKey.from_public_bytes(public_key))
    except ValueError:
        return "it is a point of small order: anyone could open what is sealed to it"
    return ""


def _private(key: bytes) -> X25519PrivateKey:
    if len(key) != KEY_BYTES:
        raise InputError(f"an auditor's private key has {KEY_BYTES} bytes, not {len(key)}")
    return X25519PrivateKey.from_private_bytes(key)


def spool_name(chapter: int, number: int) -> str:
    return f"{chapter:08x}-{number:08x}.spool"


@dataclass(frozen=True, slots=True)
class SpoolHeader:
    """``base``, ``start``: in bytes; ``born_ms``: Unix time."""

    chapter: int
    number: int
    boot_nonce: bytes
    base: int
    start: int
    born_ms: int
    ephemeral: bytes = bytes(KEY_BYTES)

    @property
    def name(self) -> str:
        return spool_name(self.chapter, self.number)

    def encode(self) -> bytes:
        return MAGIC + _FIELDS.pack(
            self.chapter,
            self.number,
            self.boot_nonce,
            self.base,
            self.start,
            self.born_ms,
            self.ephemeral,
        )


def parse_header(data: bytes, name: str) -> SpoolHeader | None:
    """None where it is not whole. ``InputError``: it is none, or another file's."""
    if not MAGIC.startswith(data[: len(MAGIC)]) and any(data):
        raise InputError(f"{name} is no file of a spool, at byte 0")
    if len(data) < HEADER_BYTES or not any(data):
        return None
    header = SpoolHeader(*_FIELDS.unpack_from(data, len(MAGIC)))
    if header.name != name:
        raise InputError(f"{name} was written as {header.name}, at byte {len(MAGIC)}")
    return header


def read_header(path: Path) -> SpoolHeader | None:
    """As ``parse_header``, of a file; None also where it is gone. OSError, ``InputError``."""
    try:
        with open_once(path) as file:
            return parse_header(file.read(HEADER_BYTES), path.name)
    except FileNotFoundError:
        return None


def born_ms(path: Path) -> int:
    """Unix time; of a file that is none of ours when it was written last. 2^63: it is gone."""
    try:
        header = read_header(path)
    except InputError:
        header = None
    if header is not None:
        return header.born_ms
    try:
        return path.lstat().st_mtime_ns // 1_000_000
    except FileNotFoundError:
        return 1 << 63


def _derive(secret: bytes, header: bytes, public_key: bytes) -> ChaCha20Poly1305:
    kdf = HKDF(hashes.SHA256(), length=32, salt=None, info=header + public_key)
    return ChaCha20Poly1305(kdf.derive(secret))


class Sealer:
    """Chunks of one new file, in order. Holds the file's key and nothing of its bytes."""

    def __init__(self, header: SpoolHeader, public_key: bytes) -> None:
        ephemeral = X25519PrivateKey.generate()
        fields = {name: getattr(header, name) for name in header.__slots__}
        fields["ephemeral"] = ephemeral.public_key().public_bytes_raw()
        self.header = SpoolHeader(**fields).encode()
        secret = ephemeral.exchange(X25519PublicKey.from_public_bytes(public_key))
        self._cipher = _derive(secret, self.header, public_key)
        self._number = 0

    def seal(self, kind: int, data: bytes = b"") -> bytes:
        """The next chunk. ``data``: at most ``MAX_CHUNK_BYTES``, some for DATA alone."""
        if not (1 <= len(data) <= MAX_CHUNK_BYTES if kind == DATA else not data):
            raise ValueError(f"{len(data)} bytes in a chunk of kind {kind}")
        nonce, said = _said(self.header, self._number, kind)
        self._number += 1
        sealed = self._cipher.encrypt(nonce, data, said)
        return _CHUNK.pack(kind, len(sealed)) + sealed


class Opener:
    """Chunks of one file, opened in order. ``InputError`` for a header that no key goes with."""

    def __init__(self, header: SpoolHeader, private_key: bytes) -> None:
        key = _private(private_key)
        try:
            secret = key.exchange(X25519PublicKey.from_public_bytes(header.ephemeral))
        except ValueError as error:
            raise InputError(f"{header.name} has a key of small order in its header") from error
        self._header = header.encode()
        self._cipher = _derive(secret, self._header, key.public_key().public_bytes_raw())
        self._number = 0

    def open(self, kind: int, sealed: bytes) -> bytes:
        """The bytes of the next chunk. ``ValueError``: it was not sealed here, or not to us."""
        nonce, said = _said(self._header, self._number, kind)
        try:
            data = self._cipher.decrypt(nonce, sealed, said)
        except InvalidTag as error:
            raise ValueError("a chunk does not open: another key's, altered or moved") from error
        self._number += 1
        return data


def _said(header: bytes, number: int, kind: int) -> tuple[bytes, bytes]:
    counted = _NUMBER.pack(number)
    return counted.rjust(12, b"\0"), header + counted + bytes([kind])


def next_chunk(file: io.BufferedReader) -> tuple[int, bytes] | None:
    """Kind and sealed bytes of the chunk at the file's position; None, and the position as it
    was, where it is not whole. ``ValueError`` for what can be none."""
    at = file.tell()
    head = file.read(_CHUNK.size)
    if len(head) == _CHUNK.size and any(head):
        kind, size = _CHUNK.unpack(head)
        least = _TAG_BYTES + (kind == DATA)
        if not DATA <= kind <= END or not least <= size <= MAX_SEALED_BYTES:
            raise ValueError(f"no chunk is of kind {kind} and {size} bytes")
        if kind != DATA and size != least:
            raise ValueError(f"a mark of {size} bytes")
        sealed = file.read(size)
        if len(sealed) == size:
            return kind, sealed
    elif len(head) == _CHUNK.size:
        _refuse_more_than_zeros(file)
    file.seek(at)
    return None


def _refuse_more_than_zeros(file: io.BufferedReader) -> None:
    while rest := file.read(MAX_CHUNK_BYTES):
        if any(rest):
            raise ValueError("no chunk begins with zeros")


def tape_bytes(path: Path) -> int:
    """How many bytes of the tape a file says it holds, without its key. OSError,
    ``InputError``."""
    found = 0
    with open_once(path) as file:
        file.seek(HEADER_BYTES)
        try:
            while (chunk := next_chunk(file)) is not None:
                found += len(chunk[1]) - _TAG_BYTES
        except ValueError as error:
            raise InputError(f"{path.name}, at byte {file.tell()}: {error}") from error
    return found


@dataclass(frozen=True, slots=True, order=True)
class SpoolPath:
    """A file by its name; they sort in order of writing."""

    chapter: int
    number: int
    path: Path


def spool_files(folder: Path) -> list[SpoolPath]:
    """What lies in ``folder``, in order of writing. Other names are left out. OSError;
    ``InputError`` for more than ``MAX_FILES``."""
    found = sorted(_named(folder))
    if len(found) > MAX_FILES:
        raise InputError(f"{folder} has more than {MAX_FILES} files of a spool")
    return found


def _named(folder: Path) -> Iterator[SpoolPath]:
    with os.scandir(folder) as entries:
        for entry in entries:
            name = _NAME.fullmatch(entry.name)
            if name is not None:
                yield SpoolPath(int(name[1], 16), int(name[2], 16), folder / entry.name)
