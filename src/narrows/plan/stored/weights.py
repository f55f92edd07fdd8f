"""A checkpoint as a thief sees it: how small it gets without loss, and how small with some.

*Entropy*: order-0, of the stored bytes (bits/byte) and, per position in a weight or quantisation
block, of each byte plane. *Lossless*: what zstd reaches on the bytes as stored and with the byte
planes apart (bfloat16 exponents are nearly constant; together with mantissas they hide it).
*Lossy*: round to 8, 4, 3, 2 bits in groups of 64 weights with a float16 minimum and step each,
the range shrunk where that lowers the error; size is the order-0 entropy of the codes plus
0.5 bit/weight for the groups, error is ‖W − Ŵ‖ ÷ ‖W‖. A thief with calibration data (GPTQ and the
like) does better at the same size, so take these errors as an upper bound.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from rich.text import Text

from narrows.plan import show
from narrows.plan.stored.checkpoint import Bytes, Floats, StoredTensor, read_model

BITS = (8, 4, 3, 2)
GROUP = 64
GROUP_OVERHEAD_BITS = 32 / GROUP
SHRINK = (1.0, 0.9, 0.8, 0.7)
ZSTD_LEVEL = 9
QUANTISED_WEIGHTS = 1 << 16  # per tensor; the error of a tensor is then known to about 1 %


@dataclass(frozen=True, slots=True)
class TensorReport:
    """Sizes in bytes of the whole tensor, extrapolated where it was sampled. ``entropy``:
    bits per stored byte. ``codes_bits``: order-0 bits/weight per bit width; ``error``: squared
    relative error; both empty where the tensor is not quantised. ``energy``: sum of squares."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    weights: int
    size_bytes: int
    measured_bytes: int
    entropy: float
    zstd_bytes: float
    split_bytes: float
    energy: float
    codes_bits: dict[int, float] = field(default_factory=dict)
    error: dict[int, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WeightsReport:
    path: str
    files: int
    tensors: tuple[TensorReport, ...]
    left_out: tuple[str, ...] = ()  # files beside the model that are not counted

    @property
    def size_bytes(self) -> int:
        return sum(tensor.size_bytes for tensor in self.tensors)

    @property
    def parameters(self) -> int:
        return sum(tensor.weights for tensor in self.tensors)

    def total(self, name: str) -> float:
        return math.fsum(getattr(tensor, name) for tensor in self.tensors)

    @property
    def best_lossless_bytes(self) -> float:
        return math.fsum(
            min(tensor.size_bytes, tensor.zstd_bytes, tensor.split_bytes) for tensor in self.tensors
        )

    def lossy_bytes(self, bits: int) -> float:
        """Quantised tensors at their code entropy; the rest as well as without loss."""
        return math.fsum(
            tensor.weights * (tensor.codes_bits[bits] + GROUP_OVERHEAD_BITS) / 8
            if bits in tensor.codes_bits
            else min(tensor.size_bytes, tensor.zstd_bytes, tensor.split_bytes)
            for tensor in self.tensors
        )

    def relative_error(self, bits: int) -> float:
        """‖W − Ŵ‖ ÷ ‖W‖ over all quantised tensors."""
        kept = [tensor for tensor in self.tensors if bits in tensor.error]
        energy = math.fsum(tensor.energy for tensor in kept)
        lost = math.fsum(tensor.error[bits] * tensor.energy for tensor in kept)
        return math.sqrt(lost / energy) if energy > 0 else 0.0


def entropy_bits(counts: NDArray[np.int64]) -> float:
    """Order-0 entropy of a histogram, bits per symbol."""
    total = counts.sum()
    if total == 0:
        return 0.0
    share = counts[counts > 0] / total
    return float(-(share * np.log2(share)).sum()) + 0.0


def quantise(groups: Floats, bits: int) -> tuple[NDArray[np.uint8], float]:
    """Codes of float32 [groups, GROUP] at ``bits``, and the squared error summed.

    Minimum and step are rounded to float16, as they would be stored; of the SHRINK ranges each
    group takes the one with the least squared error.
    """
    low = groups.min(axis=1, keepdims=True)
    high = groups.max(axis=1, keepdims=True)
    middle, half = (low + high) / 2, (high - low) / 2
    levels = (1 << bits) - 1
    best = np.full(len(groups), np.inf, np.float32)
    codes = np.zeros(groups.shape, np.uint8)
    for shrink in SHRINK:
        step = (half * (2 * shrink / levels)).astype(np.float16).astype(np.float32)
        base = (middle - half * shrink).astype(np.float16).astype(np.float32)
        safe = np.where(step > 0, step, 1)
        trial = np.clip(np.rint((groups - base) / safe), 0, levels)
        error = ((trial * step + base - groups) ** 2).sum(axis=1)
        better = error < best
        best[better] = error[better]
        codes[better] = trial[better].astype(np.uint8)
    return codes, float(best.sum(dtype=np.float64))


def _quantised(
    tensor: StoredTensor, raw: Bytes
) -> tuple[float, dict[int, float], dict[int, float]]:
    """Energy per weight, code entropy and squared relative error per width."""
    if tensor.decode is None or len(tensor.shape) < 2 or tensor.weights < GROUP:
        return 0.0, {}, {}
    stride = max(1, len(raw) * tensor.block_size // QUANTISED_WEIGHTS)
    run = max(1, GROUP // tensor.block_size)  # whole groups of neighbouring weights
    blocks = len(raw) // run * run
    picked = raw[:blocks].reshape(-1, run, tensor.block_bytes)[::stride]
    with np.errstate(all="ignore"):
        values = tensor.decode(np.ascontiguousarray(picked.reshape(-1, tensor.block_bytes)))
    values = np.nan_to_num(values.reshape(-1), posinf=0.0, neginf=0.0).astype(np.float32)
    groups = values[: len(values) // GROUP * GROUP].reshape(-1, GROUP)
    energy = float((groups.astype(np.float64) ** 2).sum())
    if energy <= 0 or not len(groups):
        return 0.0, {}, {}
    codes_bits, errors = {}, {}
    for bits in BITS:
        codes, error = quantise(groups, bits)
        codes_bits[bits] = entropy_bits(np.bincount(codes.reshape(-1), minlength=256))
        errors[bits] = error / energy
    return energy / groups.size, codes_bits, errors


def measure_tensor(tensor: StoredTensor, most_bytes: int) -> TensorReport:
    """Everything about one tensor, from at most ``most_bytes`` of it."""
    import zstandard

    raw = tensor.sample(most_bytes)
    scale = tensor.size_bytes / raw.size
    compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL)
    whole = len(compressor.compress(np.ascontiguousarray(raw).data))
    split = len(compressor.compress(np.ascontiguousarray(raw.T).data))
    energy, codes_bits, errors = _quantised(tensor, raw)
    return TensorReport(
        tensor.name,
        tensor.dtype,
        tensor.shape,
        tensor.weights,
        tensor.size_bytes,
        raw.size,
        entropy_bits(np.bincount(raw.reshape(-1), minlength=256)),
        whole * scale,
        split * scale,
        energy * tensor.weights,
        codes_bits,
        errors,
    )


def measure(path: Path, most_bytes_per_tensor: int = 64_000_000) -> WeightsReport:
    """Measure a checkpoint. Raises InputError or ArtifactError. One tensor in memory at a time;
    a progress bar on stderr where that is a terminal."""
    model = read_model(path)
    tensors: Iterable[StoredTensor] = model.tensors
    console = Console(stderr=True)
    if console.is_terminal:
        from rich.progress import track

        tensors = track(list(tensors), "measuring", console=console, transient=True)
    reports = tuple(measure_tensor(tensor, most_bytes_per_tensor) for tensor in tensors)
    left_out = tuple(file.name for file in model.left_out)
    return WeightsReport(str(path), len(model.files), reports, left_out)


def as_json(report: WeightsReport) -> dict[str, object]:
    """The report for machines; bytes, ratios to the stored size."""
    size = report.size_bytes
    return {
        "path": report.path,
        "files": report.files,
        "not_counted": list(report.left_out),
        "tensors": len(report.tensors),
        "parameters": report.parameters,
        "bytes": size,
        "bits_per_parameter": size * 8 / report.parameters,
        "measured_share": report.total("measured_bytes") / size,
        "entropy_bits_per_byte": sum(t.entropy * t.size_bytes for t in report.tensors) / size,
        "lossless": {
            "zstd_ratio": size / report.total("zstd_bytes"),
            "byte_split_ratio": size / report.total("split_bytes"),
            "best_ratio": size / report.best_lossless_bytes,
            "best_bytes": report.best_lossless_bytes,
        },
        "lossy": {
            str(bits): {
                "bytes": report.lossy_bytes(bits),
                "ratio": size / report.lossy_bytes(bits),
                "bits_per_parameter": report.lossy_bytes(bits) * 8 / report.parameters,
                "relative_error": report.relative_error(bits),
            }
            for bits in BITS
        },
        "per_tensor": [
            {
                "name": tensor.name,
                "dtype": tensor.dtype,
                "shape": list(tensor.shape),
                "bytes": tensor.size_bytes,
                "entropy_bits_per_byte": tensor.entropy,
                "zstd_ratio": tensor.size_bytes / tensor.zstd_bytes,
                "byte_split_ratio": tensor.size_bytes / tensor.split_bytes,
                "relative_error": {str(b): math.sqrt(e) for b, e in tensor.error.items()},
            }
            for tensor in report.tensors
        ],
    }


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", no_wrap=index > 0)
    return table


def render(report: WeightsReport, console: Console, per_tensor: bool) -> None:
    size = report.size_bytes
    share = report.total("measured_bytes") / size
    console.print(
        Text(
            f"{report.path}: {show.size(size)}, {show.count(report.parameters)} parameters in "
            f"{len(report.tensors)} tensors, {size * 8 / report.parameters:.2f} bits each "
            f"({show.share(share)} measured)."
        )
    )
    if report.left_out:
        names = ", ".join(report.left_out[:4]) + (" and more" if report.left_out[4:] else "")
        console.print(Text(f"Not counted, no part of this model: {names}."))
    console.print()
    table = _table("to move", "size", "÷ stored", "bits/parameter", "‖W − Ŵ‖ ÷ ‖W‖")
    rows: list[tuple[str, float, float]] = [
        ("as stored", size, 0.0),
        (f"zstd -{ZSTD_LEVEL}", report.total("zstd_bytes"), 0.0),
        (f"zstd -{ZSTD_LEVEL}, bytes split", report.total("split_bytes"), 0.0),
        *(
            (f"{bits} bits, entropy-coded", report.lossy_bytes(bits), report.relative_error(bits))
            for bits in BITS
        ),
    ]
    for name, moved, error in rows:
        bits = f"{moved * 8 / report.parameters:.2f}"
        loss = f"{error:.2%}".replace("%", " %") if error else "0"
        table.add_row(name, show.size(moved), f"{size / moved:.2f}×", bits, loss)
    console.print(table)
    four = report.lossy_bytes(4)
    console.print(
        Text(
            f"\nFor a plan: --weights '{size / 1e9:.6g} GB' --set weight_compression="
            f"{max(1.0, size / report.best_lossless_bytes):.3g}.."
            f"{max(1.0, size / report.lossy_bytes(2), size / four):.3g}"
        )
    )
    if per_tensor:
        _render_tensors(report, console)


def _render_tensors(report: WeightsReport, console: Console) -> None:
    table = _table("tensor", "dtype", "size", "entropy, bits/byte", "zstd", "split", "4-bit error")
    for tensor in report.tensors:
        error = f"{math.sqrt(tensor.error[4]):.3f}" if 4 in tensor.error else ""
        table.add_row(
            Text(tensor.name),
            tensor.dtype,
            show.size(tensor.size_bytes),
            f"{tensor.entropy:.3f}",
            f"{tensor.size_bytes / tensor.zstd_bytes:.3f}",
            f"{tensor.size_bytes / tensor.split_bytes:.3f}",
            error,
        )
    console.print()
    console.print(table)
