"""Reader of GGUF files (versions 2 and 3) that trusts nothing in them.

Specification: ggml/docs/gguf.md. In order, before anything is allocated for it:
1. The header (metadata and tensor table) ends within MAX_HEADER_BYTES and the file.
2. Every count is bounded, and what it counts fits the bytes that are left.
3. Keys and tensor names occur once; alignment is a power of two.
4. Each tensor's type is known, its rows are whole blocks, its bytes lie inside the file,
   on the alignment, and overlap no other tensor's.

A file that fails any of it raises ArtifactError. Tensor data is mapped and decoded one
tensor at a time.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from narrows.errors import ArtifactError
from narrows.models.checkpoint.gguf_blocks import ENCODINGS, Encoding

MAX_HEADER_BYTES = 1 << 25  # a 152k-token tokenizer takes 6 MB
MAX_KEYS = 4096
MAX_TENSORS = 1 << 14
MAX_ARRAY = 1 << 20
MAX_STRING_BYTES = 1 << 20
MAX_NAME_BYTES = 256
MAX_ELEMENTS = 1 << 36

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 10: "Q", 11: "q", 12: "d"}
_BOOL, _STRING, _ARRAY = 7, 8, 9

# Decoded at once: bounds the temporaries of a large tensor.
_CHUNK_BLOCKS = 1 << 16


@dataclass(frozen=True)
class GgufTensor:
    """``shape`` is numpy's: slowest dimension first. ``offset`` is from the file's start."""

    name: str
    shape: tuple[int, ...]
    encoding: Encoding
    offset: int
    size_bytes: int


@dataclass(frozen=True)
class GgufFile:
    path: Path
    version: int
    metadata: Mapping[str, Any]
    tensors: Mapping[str, GgufTensor]

    def read(self, name: str) -> NDArray[np.float32]:
        """One tensor as float32. ArtifactError where it is missing or the file has shrunk."""
        info = self.tensors.get(name)
        if info is None:
            raise ArtifactError(f"{self.path.name} has no tensor {name!r}")
        kind = info.encoding
        blocks = info.size_bytes // kind.block_bytes
        out = np.empty((blocks, kind.block_size), np.float32)
        try:
            raw = np.memmap(self.path, np.uint8, "r", info.offset, shape=(blocks, kind.block_bytes))
        except (OSError, ValueError) as error:
            raise ArtifactError(f"{self.path.name} changed while it was read") from error
        # Scales may be any bit pattern; what comes out not finite is refused by SourceModel.
        with np.errstate(all="ignore"):
            for start in range(0, blocks, _CHUNK_BLOCKS):
                part = np.asarray(raw[start : start + _CHUNK_BLOCKS])
                out[start : start + len(part)] = kind.decode(part)
        return out.reshape(info.shape)


class _Cursor:
    """Reads the header; every step checks what is left first."""

    def __init__(self, data: bytes, whole: bool, name: str) -> None:
        self._data = data
        self._whole = whole
        self._name = name
        self.position = 0

    def _take(self, count: int) -> int:
        """The position of the next ``count`` bytes, which are there."""
        start = self.position
        if count > len(self._data) - start:
            why = "is truncated or lies about a size" if self._whole else "has too long a header"
            raise ArtifactError(f"{self._name} {why}")
        self.position += count
        return start

    def scalar(self, code: str) -> Any:
        pattern = "<" + code
        return struct.unpack_from(pattern, self._data, self._take(struct.calcsize(pattern)))[0]

    def string(self, limit_bytes: int = MAX_STRING_BYTES) -> str:
        count = self.scalar("Q")
        if count > limit_bytes:
            raise ArtifactError(f"{self._name} holds a string of {count} bytes")
        start = self._take(count)
        try:
            return self._data[start : start + count].decode("utf-8")
        except UnicodeDecodeError as error:
            raise ArtifactError(f"{self._name} holds a string that is not UTF-8") from error

    def value(self) -> Any:
        kind = self.scalar("I")
        return self._array() if kind == _ARRAY else self._single(kind)

    def _single(self, kind: int) -> Any:
        if kind == _STRING:
            return self.string()
        if kind == _BOOL:
            flag = self.scalar("B")
            if flag > 1:
                raise ArtifactError(f"{self._name} holds a truth value of {flag}")
            return flag == 1
        if kind not in _SCALARS:
            raise ArtifactError(f"{self._name} holds a value of unknown type {kind}")
        return self.scalar(_SCALARS[kind])

    def _array(self) -> list[Any]:
        kind, count = self.scalar("I"), self.scalar("Q")
        if count > MAX_ARRAY:
            raise ArtifactError(f"{self._name} holds an array of {count} elements")
        if kind in _SCALARS:
            pattern = f"<{count}{_SCALARS[kind]}"
            return list(
                struct.unpack_from(pattern, self._data, self._take(struct.calcsize(pattern)))
            )
        if kind not in (_BOOL, _STRING):
            raise ArtifactError(f"{self._name} holds an array of type {kind}")
        return [self._single(kind) for _ in range(count)]


def read_gguf(path: Path) -> GgufFile:
    """Parse and check the header. ArtifactError says what is wrong with the file."""
    try:
        with path.open("rb") as file:
            size_bytes = os.fstat(file.fileno()).st_size
            data = file.read(MAX_HEADER_BYTES)
    except OSError as error:
        raise ArtifactError(f"cannot read {path}: {error.strerror or error}") from error
    cursor = _Cursor(data, whole=len(data) == size_bytes, name=path.name)
    if data[:4] != b"GGUF":
        raise ArtifactError(f"{path.name} is not a GGUF file")
    cursor.position = 4
    version = cursor.scalar("I")
    if version not in (2, 3):
        raise ArtifactError(f"{path.name} has GGUF version {version}; 2 and 3 are read")
    tensor_count, key_count = cursor.scalar("Q"), cursor.scalar("Q")
    if tensor_count > MAX_TENSORS or key_count > MAX_KEYS:
        raise ArtifactError(f"{path.name} claims {tensor_count} tensors and {key_count} keys")
    metadata: dict[str, Any] = {}
    for _ in range(key_count):
        key = cursor.string(MAX_NAME_BYTES)
        if key in metadata:
            raise ArtifactError(f"{path.name} has the key {key!r} twice")
        metadata[key] = cursor.value()
    tensors = _tensor_table(cursor, tensor_count, _alignment(metadata), size_bytes, path.name)
    return GgufFile(path, version, metadata, tensors)


def _alignment(metadata: Mapping[str, Any]) -> int:
    value = metadata.get("general.alignment", 32)
    if type(value) is not int or not 1 <= value <= 1 << 20 or value & (value - 1):
        raise ArtifactError(f"the GGUF file has an alignment of {value!r:.40}")
    return value


def _tensor_table(
    cursor: _Cursor, count: int, alignment: int, size_bytes: int, file_name: str
) -> dict[str, GgufTensor]:
    rows = [_tensor_row(cursor, alignment, file_name) for _ in range(count)]
    data_start = -(-cursor.position // alignment) * alignment
    tensors: dict[str, GgufTensor] = {}
    end = data_start
    for row in sorted(rows, key=lambda r: (r.offset, r.size_bytes)):
        start = data_start + row.offset
        if start < end:
            raise ArtifactError(f"{file_name}: tensor {row.name} overlaps another")
        end = start + row.size_bytes
        if end > size_bytes:
            raise ArtifactError(f"{file_name}: tensor {row.name} ends beyond the file")
        if row.name in tensors:
            raise ArtifactError(f"{file_name} has tensor {row.name!r} twice")
        tensors[row.name] = GgufTensor(row.name, row.shape, row.encoding, start, row.size_bytes)
    return tensors


def _tensor_row(cursor: _Cursor, alignment: int, file_name: str) -> GgufTensor:
    """One row of the table; its offset still counts from the data's start."""
    name = cursor.string(MAX_NAME_BYTES)
    rank = cursor.scalar("I")
    if not 1 <= rank <= 4:
        raise ArtifactError(f"{file_name}: tensor {name} has {rank} dimensions")
    dimensions = [cursor.scalar("Q") for _ in range(rank)]
    kind, offset = cursor.scalar("I"), cursor.scalar("Q")
    encoding = ENCODINGS.get(kind)
    if encoding is None:
        known = ", ".join(e.name for e in ENCODINGS.values())
        raise ArtifactError(f"{file_name}: tensor {name} has encoding {kind}", f"read: {known}")
    elements = math.prod(dimensions)
    if not 1 <= elements <= MAX_ELEMENTS or dimensions[0] % encoding.block_size:
        raise ArtifactError(f"{file_name}: tensor {name} has impossible dimensions {dimensions}")
    if offset % alignment:
        raise ArtifactError(f"{file_name}: tensor {name} is not aligned")
    size = elements // encoding.block_size * encoding.block_bytes
    return GgufTensor(name, tuple(reversed(dimensions)), encoding, offset, size)
