"""The container: one encoding per model, and nothing loaded from a file that lies."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from narrows.errors import ArtifactError, InputError
from narrows.models.artifact import Artifact, canonical_json, encode_prefix, write_artifact

HEADER = {"name": "tiny", "config": {"layers": 2, "eps": 1e-05}, "text": "é\U0001f600"}
TENSORS = {
    "b.weight": np.arange(-35, 35, dtype=np.int8).reshape(7, 10),
    "a": np.linspace(0, 1, 33, dtype=np.float32),
    "empty": np.zeros((0, 4), np.int32),
    "scalar": np.array(5, np.int64),
    "c": np.arange(24, dtype=np.uint16).reshape(2, 3, 2, 2)[:, ::-1],
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tiny.narrows"


def patched(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_what_is_written_is_read(path: Path) -> None:
    digest = write_artifact(path, HEADER, TENSORS)
    artifact = Artifact.open(path, expect=digest)
    assert artifact.header == HEADER
    assert digest == artifact.digest == hashlib.sha256(path.read_bytes()).digest()
    assert artifact.size_bytes == path.stat().st_size
    assert artifact.tensor_names == sorted(TENSORS)
    for name, value in TENSORS.items():
        got = artifact.tensor(name)
        assert got.dtype == value.dtype
        assert np.array_equal(got, value)
        assert not got.flags.writeable
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_order_of_insertion_does_not_change_the_bytes(path: Path, tmp_path: Path) -> None:
    reverse = dict(reversed(TENSORS.items()))
    swapped = dict(reversed(HEADER.items()))
    other = tmp_path / "other"
    assert write_artifact(path, HEADER, TENSORS) == write_artifact(other, swapped, reverse)


def test_wrong_digest_is_refused(path: Path) -> None:
    write_artifact(path, HEADER, TENSORS)
    with pytest.raises(ArtifactError, match="SHA-256"):
        Artifact.open(path, expect=bytes(32))


@pytest.mark.parametrize("shape", [[0, 1 << 39, 1 << 39, 1 << 39], [1 << 39, 0, 1 << 39]])
def test_an_impossible_shape_without_elements_is_refused(path: Path, shape: list[int]) -> None:
    path.write_bytes(encode_prefix({}, [["a", "int8", shape]]))
    with pytest.raises(ArtifactError, match="impossible shape"):
        Artifact.open(path)


@pytest.mark.parametrize("name", ["", "UPPER", "a/b", "a" * 129])
def test_bad_names_are_not_written(path: Path, name: str) -> None:
    with pytest.raises(InputError):
        write_artifact(path, {}, {name: np.zeros(1, np.int8)})
    assert not path.exists()


def test_bad_dtypes_headers_and_ranks_are_not_written(path: Path) -> None:
    with pytest.raises(InputError):
        write_artifact(path, {}, {"a": np.zeros(1, np.float64)})
    with pytest.raises(InputError):
        write_artifact(path, {}, {"a": np.zeros((1,) * 5, np.int8)})
    with pytest.raises(InputError):
        write_artifact(path, {"x": float("nan")}, {})
    assert not path.exists()


def table_file(header: bytes, body: bytes = b"") -> bytes:
    prefix = struct.pack("<8sII", b"NARROWSW", 1, len(header)) + header
    return prefix.ljust(-(-len(prefix) // 64) * 64, b"\0") + body


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"[]",
        b'{"header":{}}',
        b'{"header":{},"tensors":[],"x":1}',
        b'{"header": {},"tensors":[]}',
        b'{"tensors":[],"header":{}}',
        b'{"header":{"a":1,"a":2},"tensors":[]}',
        b'{"header":{"a":NaN},"tensors":[]}',
        b'{"header":{"a":1.50},"tensors":[]}',
        b'{"header":{},"tensors":[["a","int8",[65]]]}',
        b'{"header":{},"tensors":[["a","int8",[-1]]]}',
        b'{"header":{},"tensors":[["a","int8",[true]]]}',
        b'{"header":{},"tensors":[["a","int8",[1099511627775,1099511627775]]]}',
        b'{"header":{},"tensors":[["a","complex64",[1]]]}',
        b'{"header":{},"tensors":[["a","int8",[1]],["a","int8",[1]]]}',
        b'{"header":{},"tensors":[["b","int8",[1]],["a","int8",[1]]]}',
        b'{"header":' + b"[" * 100_000 + b',"tensors":[]}',
        b'{"header":{},"tensors":' + b"9" * 10_000 + b"}",
    ],
)
def test_lying_headers(path: Path, header: bytes) -> None:
    for body in (b"", bytes(64), bytes(128)):
        data = table_file(header, body)
        if header.endswith(b"[65]]]}") and len(body) == 128:
            continue  # that one tells the truth
        with pytest.raises(ArtifactError):
            Artifact.open(patched(path, data))


def test_header_length_beyond_the_file(path: Path) -> None:
    for length in (1 << 31, (1 << 32) - 1, 1 << 20):
        with pytest.raises(ArtifactError):
            Artifact.open(patched(path, struct.pack("<8sII", b"NARROWSW", 1, length) + b"{}"))


def test_other_version_magic_and_missing_file(path: Path) -> None:
    write_artifact(path, HEADER, TENSORS)
    good = path.read_bytes()
    with pytest.raises(ArtifactError, match="version 2"):
        Artifact.open(patched(path, good[:8] + b"\2" + good[9:]))
    with pytest.raises(ArtifactError, match="not an artifact"):
        Artifact.open(patched(path, b"X" + good[1:]))
    with pytest.raises(ArtifactError, match="cannot read"):
        Artifact.open(path.with_name("none"))
    with pytest.raises(ArtifactError, match="cannot read"):
        Artifact.open(path.parent)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_truncation_growth_and_bit_flips(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Whatever happens to the file: an error, or another digest. Never the same name."""
    path = tmp_path_factory.getbasetemp() / "fuzz.narrows"
    digest = write_artifact(path, HEADER, TENSORS)
    good = path.read_bytes()
    kind = data.draw(st.sampled_from(["cut", "grow", "flip"]))
    if kind == "cut":
        bad = good[: data.draw(st.integers(0, len(good) - 1))]
    elif kind == "grow":
        bad = good + data.draw(st.binary(min_size=1, max_size=200))
    else:
        at = data.draw(st.integers(0, len(good) - 1))
        bad = good[:at] + bytes([good[at] ^ (1 << data.draw(st.integers(0, 7)))]) + good[at + 1 :]
    path.write_bytes(bad)
    with pytest.raises(ArtifactError):
        Artifact.open(path, expect=digest)
    if kind == "flip":
        try:
            artifact = Artifact.open(path)
        except ArtifactError:
            return
        tensors = {name: artifact.tensor(name) for name in artifact.tensor_names}
        again = path.with_name("again.narrows")
        assert write_artifact(again, artifact.header, tensors) == artifact.digest != digest
    else:
        with pytest.raises(ArtifactError):
            Artifact.open(path)


def test_canonical_json_is_what_json_reads() -> None:
    assert json.loads(canonical_json(HEADER)) == HEADER
    assert encode_prefix(HEADER, [])[16:].startswith(b'{"header":{"config"')
