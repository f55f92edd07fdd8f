"""Checkpoints: both formats, entropy and ratios that can be known, and hostile files."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from narrows.errors import NarrowsError
from narrows.plan.stored.checkpoint import read_model
from narrows.plan.stored.weights import BITS, as_json, entropy_bits, measure, quantise


def write_safetensors(path: Path, tensors: dict[str, tuple[str, tuple[int, ...], bytes]]) -> None:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, (dtype, shape, raw) in tensors.items():
        header[name] = {
            "dtype": dtype,
            "shape": list(shape),
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def bfloat16(values: np.ndarray) -> bytes:
    return (values.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()


@pytest.fixture
def normal() -> np.ndarray:
    return np.random.default_rng(11).standard_normal((256, 512)).astype("<f4") * 0.02


def test_bfloat16_matrix(tmp_path: Path, normal: np.ndarray) -> None:
    """Gaussian bfloat16: 8 exponent bits hold about 2.5, so apart from the mantissas they
    compress to roughly two thirds, and rounding errors fall with bits."""
    path = tmp_path / "m.safetensors"
    norm = np.ones(512, "<f4").tobytes()
    write_safetensors(
        path,
        {"w": ("BF16", (256, 512), bfloat16(normal)), "norm": ("F32", (512,), norm)},
    )
    report = as_json(measure(path))
    assert report["parameters"] == 256 * 512 + 512
    assert report["bytes"] == 256 * 512 * 2 + 2048
    lossless = report["lossless"]
    assert 1.3 < lossless["byte_split_ratio"] < 1.7
    assert lossless["best_ratio"] >= max(lossless["byte_split_ratio"], lossless["zstd_ratio"])
    errors = [report["lossy"][str(bits)]["relative_error"] for bits in BITS]
    sizes = [report["lossy"][str(bits)]["bytes"] for bits in BITS]
    assert errors == sorted(errors)
    assert sizes == sorted(sizes, reverse=True)
    assert errors[0] < 0.01 < errors[1] < 0.15 < errors[3] < 0.6


def test_same_weights_same_report_in_every_format(tmp_path: Path, normal: np.ndarray) -> None:
    """float32 and float64 of the same numbers round to the same codes."""
    reports = []
    for dtype, kind in (("F32", "<f4"), ("F64", "<f8")):
        path = tmp_path / f"{dtype}.safetensors"
        write_safetensors(path, {"w": (dtype, (256, 512), normal.astype(kind).tobytes())})
        lossy = as_json(measure(path))["lossy"]
        reports.append([(lossy[str(b)]["bytes"], lossy[str(b)]["relative_error"]) for b in BITS])
    assert reports[0] == reports[1]


def test_float8_decodes_to_its_values(tmp_path: Path) -> None:
    """OCP OFP8: 0x38 is 1.0 in E4M3 (largest 448), 0x3c in E5M2."""
    path = tmp_path / "f8.safetensors"
    raw = bytes([0x38, 0xB8, 0x7E, 0x01]) * 16
    write_safetensors(
        path, {"a": ("F8_E4M3", (1, 64), raw), "b": ("F8_E5M2", (1, 64), b"\x3c" * 64)}
    )
    first, second = read_model(path).tensors
    assert first.decode is not None
    assert second.decode is not None
    values = first.decode(first.sample(1000)).reshape(-1)[:4]
    assert values.tolist() == [1.0, -1.0, 448.0, 2.0**-9]
    assert second.decode(second.sample(1000)).reshape(-1)[0] == 1.0


def test_gguf_block_formats(tmp_path: Path) -> None:
    """A Q4_1 file written by hand: 32 weights in 20 bytes."""
    rng = np.random.default_rng(5)
    blocks = np.zeros((64, 20), np.uint8)
    blocks[:, :4] = np.frombuffer(np.array([0.01, -0.08], "<f2").tobytes(), np.uint8)
    blocks[:, 4:] = rng.integers(0, 256, (64, 16))
    name = b"blk.0.w"
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, 0)
    head += struct.pack("<Q", len(name)) + name + struct.pack("<IQQIQ", 2, 256, 8, 3, 0)
    path = tmp_path / "m.gguf"
    path.write_bytes(head + bytes(-len(head) % 32) + blocks.tobytes())
    report = as_json(measure(path))
    assert report["parameters"] == 2048
    assert report["bits_per_parameter"] == 5.0
    assert report["per_tensor"][0]["dtype"] == "Q4_1"
    assert report["lossy"]["4"]["relative_error"] < 0.03  # sixteen levels hold sixteen levels


def test_a_folder_is_all_its_files(tmp_path: Path, normal: np.ndarray) -> None:
    for index in range(2):
        path = tmp_path / f"model-{index}.safetensors"
        write_safetensors(path, {f"w{index}": ("F32", (256, 512), normal.tobytes())})
    report = as_json(measure(tmp_path))
    assert (report["files"], report["tensors"]) == (2, 2)


def test_sampling_says_so_and_agrees(tmp_path: Path, normal: np.ndarray) -> None:
    path = tmp_path / "m.safetensors"
    write_safetensors(path, {"w": ("F32", (256, 512), normal.tobytes())})
    whole, part = as_json(measure(path)), as_json(measure(path, 100_000))
    assert part["measured_share"] == pytest.approx(100_000 / 524_288, rel=0.01)
    for key in ("zstd_ratio", "byte_split_ratio"):
        assert part["lossless"][key] == pytest.approx(whole["lossless"][key], rel=0.1)


def test_entropy_of_known_histograms() -> None:
    assert entropy_bits(np.array([5, 5, 5, 5])) == 2.0
    assert entropy_bits(np.array([7, 0])) == 0.0
    assert entropy_bits(np.array([0, 0])) == 0.0


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.sampled_from(BITS))
def test_quantised_codes_fit_and_error_is_bounded(seed: int, bits: int) -> None:
    """No weight is further off than the whole range; constant groups are exact in float16."""
    groups = np.random.default_rng(seed).standard_normal((4, 64)).astype(np.float32)
    codes, error = quantise(groups, bits)
    assert codes.max() < 1 << bits
    step = (groups.max(axis=1) - groups.min(axis=1)) / ((1 << bits) - 1)
    assert error <= 64 * float(((step * 0.55 + 0.004) ** 2).sum())
    assert quantise(np.full((1, 64), 0.5, np.float32), bits)[1] == 0.0


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00" * 8,
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 2) + b"{}",
        struct.pack("<Q", 4) + b"{{{{",
        b"GGUF",
        b"GGUF" + struct.pack("<IQQ", 3, 2**40, 0),
    ],
)
def test_broken_files_are_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    with pytest.raises(NarrowsError):
        measure(path)


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1], "data_offsets": [0, 400]},
        {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]},
        {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [2**62], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [0, 2**39, 2**39, 2**39], "data_offsets": [0, 0]},
        {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]},
        {"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]},
        "F32",
    ],
)
def test_lying_headers_are_refused(tmp_path: Path, entry: object) -> None:
    path = tmp_path / "x.safetensors"
    text = json.dumps({"w": entry}).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(4))
    with pytest.raises(NarrowsError):
        measure(path)


def test_overlapping_tensors_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    one = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    text = json.dumps({"a": one, "b": one}).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(8))
    with pytest.raises(NarrowsError, match="overlaps"):
        measure(path)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=80), st.integers(0, 60))
def test_any_bytes_are_measured_or_refused(tmp_path: Path, noise: bytes, at: int) -> None:
    """Noise spliced into a valid file: a report or an error of ours, nothing else."""
    path = tmp_path / "fuzz.safetensors"
    write_safetensors(path, {"w": ("F32", (2, 32), bytes(256))})
    data = path.read_bytes()
    path.write_bytes(data[:at] + noise + data[at + len(noise) :])
    try:
        report = measure(path)
    except NarrowsError:
        return
    assert report.size_bytes > 0


def test_missing_paths(tmp_path: Path) -> None:
    with pytest.raises(NarrowsError, match="no file"):
        measure(tmp_path / "none.gguf")
    with pytest.raises(NarrowsError, match="holds no"):
        measure(tmp_path)
