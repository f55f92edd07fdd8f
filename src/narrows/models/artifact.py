"""The artifact: one file, one byte layout, named by its SHA-256.

    offset 0   8 bytes   magic "NARROWSW"
           8   u32 LE    layout version (1)
          12   u32 LE    header length H
          16   H bytes   canonical JSON {"header": {...}, "tensors": [[name, dtype, shape], ...]}
               zeros to the next multiple of 64
               tensors, sorted by name, little-endian, C order, each padded with zeros to 64

Invariants
- Offsets follow from names, dtypes and shapes; none is stored, so none can lie or overlap.
- One model has one encoding: the header is re-encoded and compared, names are strictly
  ascending, padding is zero, the file ends where the last tensor's padding ends.
- ``Artifact.open`` has checked all that, and hashed the whole file, before it returns.
- Files are replaced by rename, never written in place. Whoever can write to an opened file
  can still change what is computed, but not what both ends agreed on: a changed weight
  ends in a checksum mismatch on the link (law 4).
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import mmap
import os
import re
import struct
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from narrows.durable import open_once, replacing
from narrows.errors import ArtifactError, InputError

MAGIC = b"NARROWSW"
LAYOUT_VERSION = 1
ALIGNMENT = 64
MAX_HEADER_BYTES = 1 << 22
MAX_TENSORS = 1 << 14
MAX_DIMENSIONS = 4
MAX_FILE_BYTES = 1 << 40

_PREFIX = struct.Struct("<8sII")
_NAME = re.compile(r"[a-z0-9_.]{1,128}")
_DTYPES = {
    name: np.dtype(name).newbyteorder("<")
    for name in ["int8", "uint8", "int16", "uint16", "int32", "int64", "float16", "float32"]
}


@dataclass(frozen=True)
class _Entry:
    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int
    size_bytes: int


def canonical_json(value: object) -> bytes:
    """ASCII JSON with sorted keys and no whitespace. InputError where a value has no such form."""
    try:
        text = json.dumps(
            value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
        )
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"no canonical JSON: {error}") from error
    return text.encode("ascii")


def _padded(size_bytes: int) -> int:
    return -(-size_bytes // ALIGNMENT) * ALIGNMENT


def _layout(table: object, start: int) -> list[_Entry]:
    """Where each tensor lies; ArtifactError where the table is not a canonical one."""
    if not isinstance(table, list) or len(table) > MAX_TENSORS:
        raise ArtifactError("the artifact's tensor table is malformed")
    entries: list[_Entry] = []
    previous = ""
    for row in table:
        entry = _entry(row, start)
        if entry.name <= previous:
            raise ArtifactError(f"tensor {entry.name} is out of order or there twice")
        previous = entry.name
        start += _padded(entry.size_bytes)
        if start > MAX_FILE_BYTES:
            raise ArtifactError("the artifact's tensors are larger than any artifact may be")
        entries.append(entry)
    return entries


def _entry(row: object, offset: int) -> _Entry:
    match row:
        case [str(name), str(dtype), list(shape)] if (
            _NAME.fullmatch(name) and dtype in _DTYPES and len(shape) <= MAX_DIMENSIONS
        ):
            pass
        case _:
            raise ArtifactError(f"the artifact's tensor table has a malformed row: {row!r:.200}")
    if any(type(n) is not int or not 0 <= n < 1 << 40 for n in shape):
        raise ArtifactError(f"tensor {name} has an impossible shape")
    kind = _DTYPES[dtype]
    if math.prod(n or 1 for n in shape) * kind.itemsize > MAX_FILE_BYTES:
        # also of a tensor without elements: numpy multiplies its other sizes too
        raise ArtifactError(f"tensor {name} has an impossible shape")
    return _Entry(name, kind, tuple(shape), offset, math.prod(shape) * kind.itemsize)


def encode_prefix(header: Mapping[str, Any], table: list[list[Any]]) -> bytes:
    """Everything before the first tensor, padded."""
    text = canonical_json({"header": dict(header), "tensors": table})
    if len(text) > MAX_HEADER_BYTES:
        raise InputError(f"an artifact's header of {len(text)} bytes; {MAX_HEADER_BYTES} fit")
    prefix = _PREFIX.pack(MAGIC, LAYOUT_VERSION, len(text)) + text
    return prefix.ljust(_padded(len(prefix)), b"\0")


def write_artifact(
    path: Path, header: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]
) -> bytes:
    """Write the file and return its SHA-256.

    Temporary file in the same folder, fsync, rename, fsync of the folder: after a crash there
    is the old file or the new one. A kill may leave ``.NAME.PID.tmp`` behind, which is never
    read. InputError: a name, dtype or header that the layout has no place for.
    """
    table = []
    for name, value in sorted(tensors.items()):
        table.append([name, value.dtype.name, list(value.shape)])
    prefix = encode_prefix(header, table)
    try:
        entries = _layout(table, len(prefix))
    except ArtifactError as error:
        raise InputError(f"cannot be written: {error.message}") from error
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with replacing(path) as file:

        def put(chunk: bytes | memoryview) -> None:
            file.write(chunk)
            digest.update(chunk)

        put(prefix)
        for entry in entries:
            flat = np.ascontiguousarray(tensors[entry.name], entry.dtype).reshape(-1)
            put(flat.view(np.uint8).data)
            put(bytes(_padded(entry.size_bytes) - entry.size_bytes))
    return digest.digest()


class Artifact:
    """A checked, mapped artifact. Made by ``open`` only."""

    def __init__(
        self,
        path: Path,
        header: Mapping[str, Any],
        entries: list[_Entry],
        data: memoryview,
        digest: bytes,
    ) -> None:
        self.path = path
        self.header = header
        self.digest = digest
        self.size_bytes = len(data)
        self._entries = {entry.name: entry for entry in entries}
        self._data = data

    @property
    def tensor_names(self) -> list[str]:
        return list(self._entries)

    def tensor(self, name: str) -> NDArray[Any]:
        """A read-only view of the mapped file. ArtifactError where there is none such."""
        entry = self._entries.get(name)
        if entry is None:
            raise ArtifactError(f"{self.path.name} has no tensor {name!r}")
        raw = self._data[entry.offset : entry.offset + entry.size_bytes]
        return np.frombuffer(raw, dtype=entry.dtype).reshape(entry.shape)

    @classmethod
    def open(cls, path: Path, *, expect: bytes | None = None) -> Artifact:
        """Map and check the file; with ``expect``, its SHA-256 too. Raises ArtifactError."""
        try:
            with open_once(path, follow_links=True) as file:
                return cls._read(path, file, expect)
        except InputError as error:
            raise ArtifactError(error.message, error.remedy) from error
        except OSError as error:
            raise ArtifactError(f"cannot read {path}: {error.strerror or error}") from error

    @classmethod
    def _read(cls, path: Path, file: io.BufferedReader, expect: bytes | None) -> Artifact:
        if sys.byteorder != "little":
            raise ArtifactError("artifacts are mapped as they are: little-endian machines only")
        size_bytes = os.fstat(file.fileno()).st_size
        if not _PREFIX.size <= size_bytes <= MAX_FILE_BYTES:
            raise ArtifactError(f"{path.name} is truncated or not an artifact")
        prefix = file.read(_PREFIX.size)
        magic, version, header_bytes = _PREFIX.unpack(prefix)
        if magic != MAGIC:
            raise ArtifactError(
                f"{path.name} is not an artifact", "'narrows weak import' makes one"
            )
        if version != LAYOUT_VERSION:
            raise ArtifactError(f"{path.name} has layout version {version}, not {LAYOUT_VERSION}")
        if header_bytes > min(MAX_HEADER_BYTES, size_bytes - _PREFIX.size):
            raise ArtifactError(f"{path.name}: the header is longer than the file or the bound")
        head = prefix + file.read(_padded(_PREFIX.size + header_bytes) - _PREFIX.size)
        header, table = _parse_header(head[_PREFIX.size : _PREFIX.size + header_bytes], path.name)
        try:
            canonical = encode_prefix(header, table) == head
        except InputError:  # infinite numbers: readable, but nothing writes them
            canonical = False
        if not canonical:
            raise ArtifactError(f"{path.name}: the header is not in canonical form")
        entries = _layout(table, len(head))
        end = len(head) + sum(_padded(entry.size_bytes) for entry in entries)
        if end != size_bytes:
            raise ArtifactError(f"{path.name} has {size_bytes} bytes, its header describes {end}")
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").digest()
        if expect is not None and digest != expect:
            raise ArtifactError(
                f"{path.name} has SHA-256 {digest.hex()}, not {expect.hex()}", "it was altered"
            )
        data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        for entry in entries:
            stop = entry.offset + entry.size_bytes
            if any(data[stop : entry.offset + _padded(entry.size_bytes)]):
                raise ArtifactError(f"{path.name}: bytes hidden behind tensor {entry.name}")
        return cls(path, header, entries, data, digest)


def _parse_header(text: bytes, name: str) -> tuple[dict[str, Any], list[list[Any]]]:
    try:
        value = json.loads(text.decode("ascii"))
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{name}: the header is no JSON") from error
    match value:
        case {"header": dict(header), "tensors": list(table)} if len(value) == 2:
            return header, table
    raise ArtifactError(f"{name}: the header is malformed")
