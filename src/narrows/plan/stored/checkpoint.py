"""The tensors of one model, one at a time: raw bytes for entropy, float32 for quantisation.

Both formats go through the weak-model importer's readers. What is counted is a *model*: a folder
may hold a second copy of it, in one file, under another index or as a GGUF, and a file may be one
part of several. ``choose_safetensors`` says which safetensors files count; of GGUF files all
parts of one split do. Files that do not count are named, never added.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from narrows.errors import ArtifactError, InputError
from narrows.models.checkpoint.gguf import GgufFile, read_gguf
from narrows.models.checkpoint.safetensors_files import (
    DTYPE_BITS,
    MAX_FILES,
    PART,
    Chosen,
    StoredRow,
    check_index,
    choose_safetensors,
    index_map,
    indexed_files,
    part_groups,
    read_safetensors,
    whole_group,
)

_OTHERS = ("*.gguf", "*.bin", "*.pt", "*.pth")  # what else may hold weights in a folder

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


_DECODERS: dict[str, Callable[[Bytes], Floats]] = {
    "F64": _viewed("<f8"),
    "F32": _viewed("<f4"),
    "F16": _viewed("<f2"),
    "BF16": _bfloat16,
    "F8_E4M3": _table(_float8(4, 3, 7, has_inf=False)),
    "F8_E5M2": _table(_float8(5, 2, 15, has_inf=True)),
}


def _stored(row: StoredRow) -> StoredTensor:
    """``row`` has bytes. Elements of less than a byte are counted by the bytes they fill."""
    bits = DTYPE_BITS[row.dtype]
    block_bytes = math.lcm(bits, 8) // 8
    return StoredTensor(
        row.path,
        row.name,
        row.dtype,
        row.shape,
        row.start,
        row.size_bytes,
        block_bytes,
        block_bytes * 8 // bits,
        _DECODERS.get(row.dtype),
    )


def _gguf(path: Path, read: GgufFile) -> Iterator[StoredTensor]:
    for tensor in read.tensors.values():
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


@dataclass(frozen=True, slots=True)
class Model:
    """One model's tensors, each once; ``left_out`` names files that are copies or no part of
    it."""

    files: tuple[Path, ...]
    tensors: tuple[StoredTensor, ...]
    left_out: tuple[Path, ...]


def read_model(path: Path) -> Model:
    """The model at ``path``: a file, all parts of the file's set, or a folder's model. Raises
    InputError where there is none or several different ones, ArtifactError for a part that is
    missing and for a file that breaks its format."""
    if path.is_dir():
        chosen = choose_safetensors(path)
        if not chosen.files:
            return _gguf_folder(path)
        others = sorted(other for pattern in _OTHERS for other in path.glob(pattern))
        return _one(replace(chosen, left_out=(*chosen.left_out, *others[:MAX_FILES])))
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    if _is_gguf(path):
        return _gguf_model(_gguf_set(path))
    return _one(_set_of(path))


def _set_of(path: Path) -> Chosen:
    """The files that belong with a safetensors file: those of its index, or its parts."""
    for index in sorted(path.parent.glob("*.safetensors.index.json")):
        files = set(index_map(index).values())
        if path.name in files and len(files) > 1:
            return Chosen(tuple(indexed_files(index)), index=index)
    if match := PART.fullmatch(path.name):
        key = (match["name"], int(match["parts"]), match["ext"])
        groups = part_groups(path.parent.glob("*" + match["ext"]))
        return Chosen(tuple(whole_group(key, groups.get(key, {}), path.parent)))
    return Chosen((path,))


def _one(chosen: Chosen) -> Model:
    """The tensors of safetensors files; a file with the same ones as another is its copy."""
    kept: dict[str, StoredRow] = {}
    files, left_out = [], list(chosen.left_out)
    for path in chosen.files:
        rows = read_safetensors(path)
        again = [row for row in rows if row.name in kept]
        if rows and len(again) == len(rows) and all(_alike(row, kept[row.name]) for row in rows):
            left_out.append(path)
            continue
        if again:
            first = kept[again[0].name]
            raise InputError(
                f"{first.path.name} and {path.name}, no copies, both hold {first.name!r:.80}",
                "name the file or folder of one model",
            )
        files.append(path)
        kept |= {row.name: row for row in rows}
    if chosen.index is not None:
        check_index(chosen.index, kept.values())
    tensors = tuple(_stored(row) for row in kept.values() if row.size_bytes)
    if not tensors:
        raise ArtifactError(f"{chosen.files[0].name} holds no tensors")
    return Model(tuple(files), tensors, tuple(left_out))


def _alike(one: StoredRow, other: StoredRow) -> bool:
    return (one.dtype, one.shape) == (other.dtype, other.shape)


def _is_gguf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"GGUF"


def _gguf_folder(folder: Path) -> Model:
    """The one model in a folder of GGUF files; files of the same tensors are copies."""
    paths = sorted(folder.glob("*.gguf"))[: MAX_FILES + 1]
    if not paths:
        raise InputError(f"{folder} holds no .safetensors or .gguf file")
    if len(paths) > MAX_FILES:
        raise InputError(f"{folder} holds over {MAX_FILES} files")
    sets = list(dict.fromkeys(_gguf_set(path) for path in paths))
    first, *others = [_gguf_model(files) for files in sets]
    for other in others:
        if _outline(other) != _outline(first):
            raise InputError(
                f"{folder} holds two models: {first.files[0].name} and {other.files[0].name}",
                "name the file of one",
            )
    return Model(
        first.files, first.tensors, tuple(file for other in others for file in other.files)
    )


def _outline(model: Model) -> set[tuple[str, str, tuple[int, ...]]]:
    return {(tensor.name, tensor.dtype, tensor.shape) for tensor in model.tensors}


def _gguf_set(path: Path) -> tuple[Path, ...]:
    """All parts of the split that a GGUF file is of. llama.cpp names them by number."""
    count = read_gguf(path).metadata.get("split.count", 0)
    match = PART.fullmatch(path.name)
    parts = int(match["parts"]) if match else 1
    if type(count) is not int or max(count, 1) != parts:
        raise ArtifactError(f"{path.name}: split.count is {count!r:.40}, the name says {parts}")
    if match is None:
        return (path,)
    key = (match["name"], parts, match["ext"])
    found = part_groups(path.parent.glob("*" + match["ext"])).get(key, {})
    return tuple(whole_group(key, found, path.parent))


def _gguf_model(files: tuple[Path, ...]) -> Model:
    tensors: dict[str, StoredTensor] = {}
    total = None
    for number, path in enumerate(files):
        read = read_gguf(path)
        said = read.metadata.get("split.no", 0)
        if said != number:
            raise ArtifactError(f"{path.name}: split.no is {said!r:.40}, the name says {number}")
        total = read.metadata.get("split.tensors.count", total)
        for tensor in _gguf(path, read):
            if tensor.name in tensors:
                raise ArtifactError(f"{path.name} holds {tensor.name!r:.80} again")
            tensors[tensor.name] = tensor
    if len(files) > 1 and total is not None and total != len(tensors):
        raise ArtifactError(
            f"{files[0].name}: split.tensors.count is {total!r:.40}, {len(tensors)} are there"
        )
    if not tensors:
        raise ArtifactError(f"{files[0].name} holds no tensors")
    return Model(files, tuple(tensors.values()), ())
