"""Whether torch computes the integers of docs/numerics.md on a device: what decides at load.

Three things are compared with numpy on this machine: every primitive on values where a wrong
rounding, a fused operation or a saturating sum shows; a small model as a whole against the
reference engine; and, for the model that is to be served, sums over its own matrices in the
sizes that serving uses. The artifact's conformance digest comes on top.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from narrows.models.device import ops
from narrows.models.device.engine import TorchEngine
from narrows.models.device.products import Products, products_for
from narrows.models.runtime import reference
from narrows.models.runtime.engine import Batch, Tensors, tensor_table
from narrows.models.runtime.numerics import (
    LOG2_E,
    NARROW_LIMIT,
    PAGE_TOKENS,
    PRODUCTS,
    WIDE_LIMIT,
    Shape,
)

_ROWS = (1, 2, 16, 17, 64, 256)
_BLOCK = 4096  # rows of a matrix that are widened at once


def wrong_operation(device: torch.device, products: Products | None = None) -> str:
    """The first operation that is not exact on ``device``, in words; empty where all are."""
    products = products or products_for(device)
    with torch.inference_mode():
        for name, holds in _CHECKS:
            if not holds(device, products):
                return name
    return ""


def wrong_product(engine: TorchEngine, tensors: Tensors) -> str:
    """The first matrix of a loaded model whose sums are not exact on its device; empty: none.

    Every kind of matrix once, in batches of several sizes: a library picks its program by
    sizes. Sums are compared through a random combination of outputs (Freivalds), so that it
    takes a pass over the matrix and not a product on the host. A sum that is off escapes with a
    probability below 1/200.
    """
    rng = np.random.default_rng(1)
    for kind in (*(f"layers.0.{name}" for name in PRODUCTS[:4]), "head"):
        matrix = tensors[kind]
        rows = engine.products.row_classes
        left = rng.integers(-128, 128, (max(rows), matrix.shape[1])).astype(np.int8)
        left[0] = 127
        mix = rng.integers(1, 255, len(matrix))
        combined = np.zeros(matrix.shape[1])  # integers below 2**53
        for start in range(0, len(matrix), _BLOCK):
            part = slice(start, start + _BLOCK)
            combined += mix[part].astype(np.float64) @ matrix[part].astype(np.float64)
        wanted = left.astype(np.int64) @ combined.astype(np.int64)
        for count in rows:
            sums = engine.sums(_to(left[:count], engine.device), kind)
            if not np.array_equal(sums.cpu().numpy().astype(np.int64) @ mix, wanted[:count]):
                return f"the product {kind} with {count} rows"
    return ""


def _quantisation(device: torch.device, products: Products) -> bool:
    rows = _rows()
    for limit in (NARROW_LIMIT, WIDE_LIMIT):
        whole, unit = reference.quantise(rows, limit)
        narrow = whole.astype(np.int32)
        if not _same(ops.quantise(_to(rows, device), limit), (narrow, unit)):
            return False
        scale = ops.norm_scale(_to(narrow, device), _to(unit, device), 2.0**-11)
        if not _same([scale], [reference.norm_scale(whole, unit, 2.0**-11)]):
            return False
    return True


def _exponents(device: torch.device, products: Products) -> bool:
    t = np.linspace(-100, 100, 65_537).astype(np.float32)
    up = np.random.default_rng(3).standard_normal(len(t)).astype(np.float32)
    bounded = np.clip(-(t * LOG2_E), np.float32(-100), np.float32(100))
    gated = (t / (np.float32(1) + reference.exp2(bounded))) * up
    return _same(
        [ops.exp2(_to(t, device)), ops.gated(_to(t, device), _to(up, device))],
        [reference.exp2(t), gated],
    )


def _rotations(device: torch.device, products: Products) -> bool:
    rng = np.random.default_rng(5)
    mixed = rng.standard_normal((3, 512)).astype(np.float32)
    heads = rng.standard_normal((64, 4, 64)).astype(np.float32)
    cos, sin = rng.uniform(-1, 1, (2, 64, 32)).astype(np.float32)
    found = [ops.hadamard(_to(mixed, device), block) for block in (4, 64, 512)]
    found.append(ops.rope(*(_to(x, device) for x in (heads, cos, sin))))
    wanted = [reference.hadamard(mixed, block) for block in (4, 64, 512)]
    return _same(found, [*wanted, reference.rope(heads, cos, sin)])


def _conversions(device: torch.device, products: Products) -> bool:
    whole = [2**24 + 1, 2**24 + 3, 2**25 + 2, 2**29 - 1, -(2**24) - 1, 2**30 - 65]
    sums = np.array(whole, np.int32)
    logits = np.array([2.0**30, -(2.0**30), 2.0**22 + 0.75, -1.5, -0.25, 7.99], np.float32)
    more = np.random.default_rng(9).standard_normal(1000).astype(np.float32) * np.float32(1e6)
    logits = np.append(logits, more)
    limits = np.clip(logits, np.float32(-(2.0**29)), np.float32(2.0**29)).astype(np.int32)
    return _same(
        [_to(sums, device).to(torch.float32), ops.to_logits(_to(logits, device))],
        [sums.astype(np.float32), limits],
    )


def _rows() -> NDArray[np.float32]:
    """Rows of every magnitude, ties, a zero row, and rows at both sides of what counts as zero."""
    rng = np.random.default_rng(7)
    rows = [rng.standard_normal(68) * 10.0**k for k in range(-30, 31, 3)]
    rows += [rng.standard_normal(68) for _ in range(64)]
    rows += [np.zeros(68), np.full(68, 1.0), np.full(68, 2.0**-41), np.full(68, 2.0**-40)]
    rows += [np.append(np.arange(67) + 0.5, limit) for limit in (NARROW_LIMIT, WIDE_LIMIT)]
    return np.array(rows).astype(np.float32)


def _byte_products(device: torch.device, products: Products) -> bool:
    """Worst signs and sizes (sums of pairs in 16 bits saturate on them), odd sizes, both forms."""
    rng = np.random.default_rng(13)
    signs = np.array([[127, 127, 127, 127], [-127, -127, -127, -127], [127, -127, 127, 1]])
    for inputs, outputs in ((576, 128), (36, 52), (1 << 15, 8)):
        weights = np.tile(signs[np.arange(outputs) % 3], (1, inputs // 4)).astype(np.int8)
        weight = products.weight(_to(weights, device))
        for rows in _ROWS[: 6 if inputs < 1024 else 2]:
            left = rng.integers(-128, 128, (rows, inputs)).astype(np.int8)
            left[::3], left[1::3] = -128, 127
            wanted = left.astype(np.int64) @ weights.astype(np.int64).T
            sums = products.mm(_to(left, device), weight, outputs)
            if not _same([sums], [wanted.astype(np.int32)]):
                return False
    for rows in (1, 6, 48):
        left = rng.integers(-128, 128, (3, rows, 320)).astype(np.int8)
        right = rng.integers(-127, 128, (3, 36, 320)).astype(np.int8)
        left[0], right[0] = -128, -127
        wanted = left.astype(np.int64) @ right.astype(np.int64).transpose(0, 2, 1)
        if not _same(
            [products.bmm(_to(left, device), _to(right, device))], [wanted.astype(np.int32)]
        ):
            return False
    return True


def _small_models(device: torch.device, products: Products) -> bool:
    return all(_whole(device, products, frozenset(wide)) for wide in ((), PRODUCTS))


def _whole(device: torch.device, products: Products, wide: frozenset[str]) -> bool:
    """Random weights, every optional part: 68 rows of one stream, then rows of three."""
    shape = Shape(
        vocab=96, hidden=36, ffn=52, layers=1 if wide else 2, heads=4, kv_heads=2, head_dim=12,
        max_context=128, norm_eps=2.0**-17, state_eps=2.0**-11, qkv_bias=True, qk_norm=True,
        wide=wide, rope_base=10000.0, rope_scaling=None,
    )  # fmt: skip
    rng = np.random.default_rng(11)
    tensors: dict[str, NDArray[Any]] = {}
    for name, (dtype, size) in tensor_table(shape).items():
        if dtype == "int8":
            tensors[name] = rng.integers(-127, 128, size).astype(np.int8)
        else:
            scale = 64.0 if name == "head.scale" else 2.0**-10 if "scale" in name else 1.0
            tensors[name] = (rng.uniform(0.1, 1.0, size) * scale).astype(np.float32)
    pages = 8
    pair = (
        TorchEngine(shape, tensors, pages, device, products),
        reference.ReferenceEngine(shape, tensors, pages),
    )
    tables = np.array([[0, 1], [0, 2], [3, 0]], np.int32)
    prefix = PAGE_TOKENS + 4
    batches = [
        _batch(rng, np.arange(prefix), np.zeros(prefix), tables[:1], shape),
        _batch(rng, np.array([prefix, prefix, 0]), np.arange(3), tables, shape),
        _batch(
            rng, np.array([prefix + 1, 1, 2, prefix + 1]), np.array([0, 2, 2, 1]), tables, shape
        ),
    ]
    for number, batch in enumerate(batches):
        if number == 1:
            for engine in pair:
                engine.copy_page(1, 2)
        if not np.array_equal(pair[0].forward(batch), pair[1].forward(batch)):
            return False
    return True


def _batch(
    rng: np.random.Generator,
    positions: NDArray[Any],
    table_of: NDArray[Any],
    tables: NDArray[np.int32],
    shape: Shape,
) -> Batch:
    rows = len(positions)
    return Batch(
        tokens=rng.integers(0, shape.vocab, rows).astype(np.int32),
        positions=positions.astype(np.int32),
        table_of=table_of.astype(np.int32),
        tables=tables,
        wanted=np.arange(rows, dtype=np.int32),
    )


def _to(values: NDArray[Any], device: torch.device) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values)).to(device)


def _same(found: Any, wanted: Any) -> bool:
    return all(
        np.array_equal(one.cpu().numpy(), other) for one, other in zip(found, wanted, strict=True)
    )


_CHECKS: tuple[tuple[str, Callable[[torch.device, Products], bool]], ...] = (
    ("quantisation", _quantisation),
    ("powers of two and the gate", _exponents),
    ("rotations", _rotations),
    ("conversions", _conversions),
    ("products of bytes", _byte_products),
    ("a small model as a whole", _small_models),
)
