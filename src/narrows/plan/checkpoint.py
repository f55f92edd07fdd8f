"""Tensors of a checkpoint, one at a time: raw bytes for entropy, float32 for quantisation.

GGUF goes through the weak-model importer's reader. A safetensors file is eight bytes of header
length, a JSON header of names, dtypes, shapes and offsets, and the data; the header is checked
before anything is allocated for it: size and count bounded, every tensor inside the file, its
bytes exactly shape × dtype, none overlapping. A folder is all its ``*.safetensors`` or ``*.gguf``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from narrows.errors import ArtifactError, InputError

MAX_HEADER_BYTES = 100_000_000
MAX_ELEMENTS = 1 << 40
MAX_TENSORS = 1 << 18
MAX_FILES = 4096

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """``block_bytes`` hold ``block_size`` weights; ``offset`` and ``size_bytes`` in ``path``.
    ``decode``: uint8 [blocks, block_bytes] to float32 [blocks, block_size], None for integers
    and types that are counted but not quantised."""

    path: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    size_bytes: int
    block_bytes: int
    block_size: int
    decode: Callable[[Bytes], Floats] | None

    @property
    def weights(self) -> int:
        return self.size_bytes // self.block_bytes * self.block_size

    def sample(self, most_bytes: int, pieces: int = 16) -> Bytes:
        """uint8 [blocks, block_bytes]: the tensor, or evenly spaced pieces of it."""
        blocks = self.size_bytes // self.block_bytes
        try:
            mapped = np.memmap(
                self.path, np.uint8, "r", self.offset, shape=(blocks, self.block_bytes)
            )
        except (OSError, ValueError) as error:
            raise ArtifactError(f"{self.path.name} changed while it was read") from error
        if self.size_bytes <= most_bytes:
            return np.array(mapped)
        length = max(1, most_bytes // self.block_bytes // pieces)
        starts = np.linspace(0, blocks - length, pieces).astype(np.int64)
        return np.concatenate([mapped[start : start + length] for start in starts])


def _float8(exponent_bits: int, mantissa_bits: int, bias: int, has_inf: bool) -> Floats:
    """All 256 values of an 8-bit float (OCP OFP8); infinities and NaN become 0."""
    codes = np.arange(256)
    exponent = (codes >> mantissa_bits) & ((1 << exponent_bits) - 1)
    mantissa = codes & ((1 << mantissa_bits) - 1)
    fraction = mantissa / (1 << mantissa_bits)
    normal = np.ldexp(1.0 + fraction, exponent - bias)
    values = np.where(exponent == 0, np.ldexp(fraction, 1 - bias), normal)
    top = exponent == (1 << exponent_bits) - 1
    values[top if has_inf else top & (mantissa == (1 << mantissa_bits) - 1)] = 0.0
    return np.where(codes & 128, -values, values).astype(np.float32)


def _viewed(dtype: str) -> Callable[[Bytes], Floats]:
    return lambda raw: np.ascontiguousarray(raw).view(dtype).astype(np.float32)


def _bfloat16(raw: Bytes) -> Floats:
    """bfloat16 is the upper half of a float32."""
    halves = np.ascontiguousarray(raw).view("<u2").astype(np.uint32)
    return (halves << np.uint32(16)).view(np.float32)


def _table(values: Floats) -> Callable[[Bytes], Floats]:
    return lambda raw: values[raw]


_DTYPES: dict[str, tuple[int, Callable[[Bytes], Floats] | None]] = {
    "F64": (8, _viewed("<f8")),
    "F32": (4, _viewed("<f4")),
    "F16": (2, _viewed("<f2")),
    "BF16": (2, _bfloat16),
    "F8_E4M3": (1, _table(_float8(4, 3, 7, has_inf=False))),
    "F8_E5M2": (1, _table(_float8(5, 2, 15, has_inf=True))),
    "I64": (8, None),
    "U64": (8, None),
    "I32": (4, None),
    "U32": (4, None),
    "I16": (2, None),
    "U16": (2, None),
    "I8": (1, None),
    "U8": (1, None),
    "BOOL": (1, None),
}


def _header(path: Path) -> tuple[dict[str, Any], int, int]:
    """Parsed header, where the data begins, and the file's size."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
                raise ArtifactError(f"{path.name} is no safetensors file: header of {length} bytes")
            text = file.read(length)
        header = json.loads(text)
    except OSError as error:
        raise ArtifactError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path.name} is no safetensors file: bad header") from error
    if not isinstance(header, dict) or len(header) > MAX_TENSORS:
        raise ArtifactError(f"{path.name}: the header is no table of tensors")
    return header, 8 + length, size


def _integers(value: object, most: int) -> tuple[int, ...] | None:
    if not isinstance(value, list) or len(value) > most:
        return None
    if any(type(n) is not int or n < 0 for n in value):
        return None
    return tuple(value)


def _too_large(shape: tuple[int, ...]) -> bool:
    """Also without elements: numpy multiplies the other sizes too."""
    return math.prod(n or 1 for n in shape) > MAX_ELEMENTS


def _safetensors(path: Path) -> Iterator[StoredTensor]:
    header, start, size = _header(path)
    header.pop("__metadata__", None)
    end = 0
    rows = []
    for name, entry in header.items():
        fields = entry if isinstance(entry, dict) else {}
        offsets = _integers(fields.get("data_offsets"), 2)
        shape = _integers(fields.get("shape"), 8)
        dtype = fields.get("dtype")
        if not isinstance(dtype, str) or dtype not in _DTYPES:
            raise ArtifactError(f"{path.name}: tensor {name!r:.80} has no known dtype")
        if offsets is None or len(offsets) != 2 or shape is None or _too_large(shape):
            raise ArtifactError(f"{path.name}: tensor {name!r:.80} has no shape and place")
        rows.append((offsets, shape, name, dtype))
    for (low, high), shape, name, dtype in sorted(rows):
        width, decode = _DTYPES[dtype]
        if low < end or high > size - start or high - low != math.prod(shape) * width:
            raise ArtifactError(f"{path.name}: tensor {name!r:.80} lies outside or overlaps")
        end = high
        if high > low:
            yield StoredTensor(path, name, dtype, shape, start + low, high - low, width, 1, decode)


def _gguf(path: Path) -> Iterator[StoredTensor]:
    from narrows.models.checkpoint.gguf import read_gguf

    for tensor in read_gguf(path).tensors.values():
        kind = tensor.encoding
        yield StoredTensor(
            path,
            tensor.name,
            kind.name,
            tensor.shape,
            tensor.offset,
            tensor.size_bytes,
            kind.block_bytes,
            kind.block_size,
            kind.decode,
        )


def checkpoint_files(path: Path) -> list[Path]:
    """The files of a checkpoint. Raises InputError where there are none."""
    if path.is_dir():
        for pattern in ("*.safetensors", "*.gguf"):
            files = sorted(path.glob(pattern))[: MAX_FILES + 1]
            if len(files) > MAX_FILES:
                raise InputError(f"{path} holds over {MAX_FILES} files")
            if files:
                return files
        raise InputError(f"{path} holds no .safetensors or .gguf file")
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    return [path]


def stored_tensors(files: list[Path]) -> list[StoredTensor]:
    """Every tensor of ``files``. Raises ArtifactError for a file that breaks its format."""
    found: list[StoredTensor] = []
    for file in files:
        with file.open("rb") as opened:
            magic = opened.read(4)
        found += _gguf(file) if magic == b"GGUF" else _safetensors(file)
    if not found:
        raise ArtifactError(f"{files[0].name} holds no tensors")
    return found
