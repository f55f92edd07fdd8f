"""Safetensors headers, and which files of a folder are the model.

A file is eight bytes of header length, a JSON header of names, dtypes, shapes and offsets, and
the data. The header is checked before anything is allocated for it: size and count bounded,
every tensor inside the file, its bytes exactly shape × dtype, none overlapping.

Which files count: those that an index (``*.index.json``) names, else the numbered parts
(``NAME-00001-of-00003``), else ``model.safetensors``, else every file. A part or shard that is
missing is an error; what does not count is listed, not read.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from narrows.errors import ArtifactError
from narrows.models.checkpoint.statements import parse_object, read_json

MAX_HEADER_BYTES = 100_000_000
MAX_ELEMENTS = 1 << 40
MAX_TENSORS = 1 << 18
MAX_FILES = 4096
MAX_RANK = 8

# Bits an element, for every dtype of the format.
DTYPE_BITS = {
    **dict.fromkeys(("C64", "F64", "I64", "U64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("I8", "U8", "BOOL"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}
PART = re.compile(r"(?P<name>.+)-(?P<part>\d{5})-of-(?P<parts>\d{5})(?P<ext>\.\w+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class StoredRow:
    """``start`` counts from the file's beginning."""

    path: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Chosen:
    """The files that are the model, and the others of its kind in the folder."""

    files: tuple[Path, ...]
    left_out: tuple[Path, ...] = ()
    index: Path | None = None


def read_safetensors(path: Path) -> list[StoredRow]:
    """The tensors of a file, in the order of their bytes. ArtifactError: the header lies."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
                raise ArtifactError(
                    f"{path.name} is no safetensors file or truncated: header of {length} bytes"
                )
            text = file.read(length)
    except OSError as error:
        raise ArtifactError(f"cannot read {path}: {error.strerror or error}") from error
    header = parse_object(text, f"the header of {path.name}")
    header.pop("__metadata__", None)
    if len(header) > MAX_TENSORS:
        raise ArtifactError(f"{path.name} names {len(header)} tensors")
    base = end = 8 + length
    rows = [_row(path, base, name, value) for name, value in header.items()]
    rows.sort(key=lambda row: (row.start, row.size_bytes))
    for row in rows:
        if row.start < end:
            raise ArtifactError(f"{path.name}: tensor {row.name!r:.80} overlaps another")
        end = row.start + row.size_bytes
    if end > size:
        raise ArtifactError(f"{path.name}: tensor {rows[-1].name!r:.80} ends beyond the file")
    return rows


def _row(path: Path, base: int, name: str, value: Any) -> StoredRow:
    where = f"{path.name}: tensor {name!r:.80}"
    fields = value if isinstance(value, dict) else {}
    dtype = fields.get("dtype")
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        raise ArtifactError(f"{where} has the unknown dtype {dtype!r:.40}")
    shape = _integers(fields.get("shape"), MAX_RANK)
    offsets = _integers(fields.get("data_offsets"), 2)
    # numpy multiplies the other sizes too where one is 0
    if shape is None or math.prod(n or 1 for n in shape) > MAX_ELEMENTS:
        raise ArtifactError(f"{where} has an impossible shape")
    if offsets is None or len(offsets) != 2:
        raise ArtifactError(f"{where} has no place")
    size = offsets[1] - offsets[0]
    if size * 8 != math.prod(shape) * DTYPE_BITS[dtype]:
        raise ArtifactError(f"{where}: {size} bytes are not {dtype} of shape {list(shape)}")
    return StoredRow(path, name, dtype, shape, base + offsets[0], size)


def _integers(value: object, most: int) -> tuple[int, ...] | None:
    if not isinstance(value, list) or len(value) > most:
        return None
    if any(type(n) is not int or n < 0 for n in value):
        return None
    return tuple(value)


def choose_safetensors(folder: Path) -> Chosen:
    """The model's safetensors files; no files where the folder has none. ArtifactError: a
    shard is missing, two indexes name different files, or two sets of parts are there."""
    files = _listed(folder, "*.safetensors")
    index = sorted(folder.glob("*.safetensors.index.json"))
    if index:
        named = [indexed_files(path) for path in index]
        if any(set(other) != set(named[0]) for other in named[1:]):
            raise ArtifactError(
                f"{index[0].name} and {index[1].name} name different files",
                "keep the index of the copy that is meant",
            )
        return _chosen(named[0], files, index[0])
    groups = part_groups(files)
    if len(groups) > 1:
        names = " and ".join(sorted(f"{name}-*-of-{parts:05}" for name, parts, _ in groups)[:2])
        raise ArtifactError(f"{folder.name} holds two sets of parts: {names}", "keep one")
    for key, parts in groups.items():
        return _chosen(whole_group(key, parts, folder), files, None)
    single = folder / "model.safetensors"
    return _chosen([single], files, None) if single in files else Chosen(tuple(files))


def _listed(folder: Path, pattern: str) -> list[Path]:
    """Files of a folder; of several names of one file the first."""
    unique: dict[Path, Path] = {}
    for path in sorted(folder.glob(pattern)):
        unique.setdefault(path.resolve(), path)
        if len(unique) > MAX_FILES:
            raise ArtifactError(f"{folder} holds over {MAX_FILES} files")
    return list(unique.values())


def _chosen(kept: Iterable[Path], files: Iterable[Path], index: Path | None) -> Chosen:
    kept = tuple(kept)
    real = {path.resolve() for path in kept}
    return Chosen(kept, tuple(path for path in files if path.resolve() not in real), index)


Groups = dict[tuple[str, int, str], dict[int, Path]]


def part_groups(files: Iterable[Path]) -> Groups:
    """(name, number of parts, extension) to part number to file."""
    groups: Groups = {}
    for path in files:
        if match := PART.fullmatch(path.name):
            key = (match["name"], int(match["parts"]), match["ext"])
            groups.setdefault(key, {})[int(match["part"])] = path
    return groups


def whole_group(key: tuple[str, int, str], found: Mapping[int, Path], folder: Path) -> list[Path]:
    """The parts in order. ArtifactError names the first one that is missing."""
    name, parts, ext = key
    if parts > MAX_FILES:
        raise ArtifactError(f"{name} claims {parts} parts")
    for number in range(1, parts + 1):
        if number not in found:
            raise ArtifactError(
                f"{name}-{number:05}-of-{parts:05}{ext} is missing in {folder}: "
                f"{len(found)} of {parts} parts are there"
            )
    if len(found) != parts:
        raise ArtifactError(f"{name}: {len(found)} parts where there are to be {parts}")
    return [found[number] for number in range(1, parts + 1)]


def index_map(path: Path) -> dict[str, str]:
    """Tensor to file name, as an index says. ArtifactError: malformed."""
    table = read_json(path).get("weight_map")
    if not isinstance(table, dict) or not 1 <= len(table) <= MAX_TENSORS:
        raise ArtifactError(f"{path.name} has no weight_map")
    for tensor, file in table.items():
        if not isinstance(file, str) or not file or Path(file).name != file:
            raise ArtifactError(f"{path.name}: tensor {tensor!r:.80} is in {file!r:.80}")
    return table


def indexed_files(path: Path) -> list[Path]:
    """The files that an index names, all there."""
    names = sorted(set(index_map(path).values()))
    if len(names) > MAX_FILES:
        raise ArtifactError(f"{path.name} names {len(names)} files")
    for name in names:
        if not (path.parent / name).is_file():
            raise ArtifactError(f"{path.name} names {name}, which is missing")
    return [path.parent / name for name in names]


def check_index(index: Path, rows: Iterable[StoredRow]) -> None:
    """Every tensor is where the index says, and nowhere else. ArtifactError names one that
    is not."""
    table = index_map(index)
    seen = set()
    for row in rows:
        said = table.get(row.name)
        if said != row.path.name:
            places = "nowhere" if said is None else f"in {said}"
            raise ArtifactError(
                f"{row.path.name} holds tensor {row.name!r:.80}, {index.name} says {places}"
            )
        seen.add(row.name)
    for name, file in table.items():
        if name not in seen:
            raise ArtifactError(f"{index.name} says tensor {name!r:.80} is in {file}; it is not")
