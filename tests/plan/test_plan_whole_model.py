"""``plan weights`` counts one model: a second copy does not double it, a missing part is said."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import pytest

from narrows.errors import NarrowsError
from narrows.plan.stored.weights import as_json, measure

RAW = bytes(range(256)) * 4
BYTES = len(RAW)


def part(path: Path, *names: str, dtype: str = "F16") -> None:
    header, data = {}, b""
    width = {"F16": 2, "F32": 4, "F8_E8M0": 1, "F4": 0.5}[dtype]
    for name in names:
        shape = [int(BYTES / width / 64), 64]
        at = [len(data), len(data) + BYTES]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": at}
        data += RAW
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def index(folder: Path, table: dict[str, str], name: str = "model") -> None:
    text = json.dumps({"metadata": {"total_size": BYTES * len(table)}, "weight_map": table})
    (folder / f"{name}.safetensors.index.json").write_text(text)


def gguf(path: Path, name: str, split: tuple[int, int, int] | None = None, kind: int = 1) -> None:
    """One tensor of 512 weights (F16, or F32 for kind 0); ``split``: no, count, tensors."""

    def key(text: str, value: bytes) -> bytes:
        return struct.pack("<Q", len(text)) + text.encode() + value

    keys = []
    if split is not None:
        number, count, tensors = split
        keys = [
            key("split.no", struct.pack("<IH", 2, number)),
            key("split.count", struct.pack("<IH", 2, count)),
            key("split.tensors.count", struct.pack("<Ii", 5, tensors)),
        ]
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, len(keys)) + b"".join(keys)
    head += key(name, struct.pack("<IQQIQ", 2, 64, 8, kind, 0))
    path.write_bytes(head + bytes(-len(head) % 32) + (bytes(2 * BYTES) if kind == 0 else RAW))


def counted(path: Path) -> tuple[int, int, list[str]]:
    report = as_json(measure(path))
    return report["bytes"], report["files"], report["not_counted"]


def sharded(folder: Path) -> list[Path]:
    """Two shards and their index."""
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    for file, tensor in zip(names, ("a", "b"), strict=True):
        part(folder / file, tensor)
    index(folder, {"a": names[0], "b": names[1]})
    return [folder / name for name in names]


def test_the_index_decides(tmp_path: Path) -> None:
    """The other copies: in one file with other names, in one file with the same, as GGUF."""
    sharded(tmp_path)
    assert counted(tmp_path) == (2 * BYTES, 2, [])
    part(tmp_path / "consolidated.safetensors", "x", "y")
    part(tmp_path / "model.safetensors", "a", "b")
    gguf(tmp_path / "m.gguf", "a")
    (tmp_path / "pytorch_model.bin").write_bytes(RAW)
    beside = ["consolidated.safetensors", "model.safetensors", "m.gguf", "pytorch_model.bin"]
    assert counted(tmp_path) == (2 * BYTES, 2, beside)


def test_one_shard_stands_for_all(tmp_path: Path) -> None:
    """With its index, and by its number where there is none."""
    shards = sharded(tmp_path)
    assert counted(shards[1])[:2] == (2 * BYTES, 2)
    (tmp_path / "model.safetensors.index.json").unlink()
    assert counted(shards[1])[:2] == (2 * BYTES, 2)
    assert counted(tmp_path)[:2] == (2 * BYTES, 2)


@pytest.mark.parametrize("indexed", [True, False])
def test_a_missing_shard_is_an_error(tmp_path: Path, indexed: bool) -> None:
    shards = sharded(tmp_path)
    shards[0].unlink()
    if not indexed:
        (tmp_path / "model.safetensors.index.json").unlink()
    for path in (tmp_path, shards[1]):
        with pytest.raises(NarrowsError, match=r"model-00001-of-00002\.safetensors.* is missing"):
            measure(path)


def test_the_index_is_held_to_the_files(tmp_path: Path) -> None:
    shards = sharded(tmp_path)
    part(shards[0], "a", "c")
    with pytest.raises(NarrowsError, match=r"holds tensor 'c', .*index.json says nowhere"):
        measure(tmp_path)
    part(shards[0], "c")
    index(tmp_path, {"a": shards[0].name, "c": shards[0].name, "b": shards[1].name})
    with pytest.raises(NarrowsError, match=r"says tensor 'a' is in .*; it is not"):
        measure(tmp_path)
    for table in ({"a": "../a.safetensors"}, {"a": 5}, {}, {"a": ""}):
        index(tmp_path, table)  # type: ignore[arg-type]
        with pytest.raises(NarrowsError, match=r"index\.json"):
            measure(tmp_path)


def test_two_indexes_and_two_sets_of_parts(tmp_path: Path) -> None:
    sharded(tmp_path)
    part(tmp_path / "model.fp16-00001-of-00001.safetensors", "a", "b")
    index(
        tmp_path,
        dict.fromkeys("ab", "model.fp16-00001-of-00001.safetensors"),
        "model.fp16",
    )
    with pytest.raises(NarrowsError, match="name different files"):
        measure(tmp_path)
    for path in tmp_path.glob("*.index.json"):
        path.unlink()
    with pytest.raises(NarrowsError, match="two sets of parts"):
        measure(tmp_path)


def test_copies_are_one(tmp_path: Path) -> None:
    """A second file of the same tensors, a link to the first, and another name beside
    ``model.safetensors``; a second precision is no copy."""
    part(tmp_path / "a.safetensors", "w")
    part(tmp_path / "b.safetensors", "w")
    assert counted(tmp_path) == (BYTES, 1, ["b.safetensors"])
    part(tmp_path / "b.safetensors", "w", dtype="F32")
    with pytest.raises(NarrowsError, match="no copies"):
        measure(tmp_path)
    (tmp_path / "b.safetensors").unlink()
    os.symlink("a.safetensors", tmp_path / "c.safetensors")
    assert counted(tmp_path) == (BYTES, 1, [])
    part(tmp_path / "model.safetensors", "v")
    assert counted(tmp_path) == (BYTES, 1, ["a.safetensors"])


def test_gguf_splits(tmp_path: Path) -> None:
    names = [f"m-0000{n}-of-00002.gguf" for n in (1, 2)]
    for number, file in enumerate(names):
        gguf(tmp_path / file, f"t{number}", (number, 2, 2))
    for path in (tmp_path, tmp_path / names[1]):
        assert counted(path) == (2 * BYTES, 2, [])
    gguf(tmp_path / names[1], "t1", (1, 2, 3))
    with pytest.raises(NarrowsError, match=r"split.tensors.count is 3, 2 are there"):
        measure(tmp_path)
    gguf(tmp_path / names[1], "t1", (0, 2, 2))
    with pytest.raises(NarrowsError, match=r"split.no is 0, the name says 1"):
        measure(tmp_path)
    (tmp_path / names[1]).unlink()
    with pytest.raises(NarrowsError, match=r"m-00002-of-00002.gguf is missing"):
        measure(tmp_path)
    os.rename(tmp_path / names[0], tmp_path / "m.gguf")
    with pytest.raises(NarrowsError, match=r"split.count is 2, the name says 1"):
        measure(tmp_path / "m.gguf")


def test_two_gguf_files_are_one_model_or_an_error(tmp_path: Path) -> None:
    gguf(tmp_path / "a.gguf", "t")
    gguf(tmp_path / "b.gguf", "t")
    assert counted(tmp_path) == (BYTES, 1, ["b.gguf"])
    gguf(tmp_path / "b.gguf", "t", kind=0)
    with pytest.raises(NarrowsError, match=r"two models: a.gguf and b.gguf"):
        measure(tmp_path)
    assert counted(tmp_path / "b.gguf")[0] == 2 * BYTES


@pytest.mark.parametrize(("dtype", "weights"), [("F8_E8M0", BYTES), ("F4", 2 * BYTES)])
def test_small_floats_are_counted(tmp_path: Path, dtype: str, weights: int) -> None:
    part(tmp_path / "m.safetensors", "w", dtype=dtype)
    report = as_json(measure(tmp_path))
    assert (report["bytes"], report["parameters"]) == (BYTES, weights)
