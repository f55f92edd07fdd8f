"""Float32 checkpoint to the integers of the exact runtime (docs/numerics.md, "Import").

What is done, all of it free at run time except the down rotation:
1. Norm weights go into the products that follow them.
2. The residual stream is rotated by a Hadamard matrix H of its whole width, so that the few
   huge channels of trained models spread over all and eight bits are enough for activations
   (QuaRot, arXiv 2404.00456, section 4). RMS norm commutes with it.
3. Values are rotated per head, the down projection's input in blocks of a power of two.
4. Every row of every matrix gets its own scale, int8 in [-127, 127].

Invariant: import is deterministic. Weights are brought to fixed point first, so the rotations
are sums of integers below 2**53, exact in whatever order a BLAS adds them; everything else is
element by element in float64. Two machines that import one file get one artifact digest.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from narrows.errors import ArtifactError
from narrows.models.checkpoint.source import SourceModel
from narrows.models.runtime.numerics import (
    MAX_BIAS,
    MAX_CONTEXT,
    MAX_NORM_WEIGHT,
    MAX_ROW_SCALE,
    NUMERICS_VERSION,
    PAGE_TOKENS,
    SCALING_KEYS,
    Shape,
    shape_from_header,
)

Matrix = NDArray[np.float64]

_WEIGHT_LIMIT = 127
_HEAD_UNIT = 1.4426950408889634 * 65536  # nats to 2**-16 bits
_ROWS_AT_ONCE = 8192  # of the vocabulary's matrices: bounds the float64 copies


def hadamard_matrix(size: int) -> NDArray[np.int8]:
    """A +-1 matrix with H H^T = size * I, or a block diagonal of the largest power of two.

    Kronecker products of Sylvester's and of Paley's first construction (order q + 1, q a prime
    that is 3 modulo 4); 576 = 12 * 12 * 4, 896 = 28 * 32, 960 = 12 * 20 * 4.
    """
    orders = _orders(size)
    if orders is None:
        block = size & -size
        return np.kron(np.eye(size // block, dtype=np.int8), hadamard_matrix(block))
    matrix = np.ones((1, 1), np.int8)
    for order in orders:
        part = np.array([[1, 1], [1, -1]], np.int8) if order == 2 else _paley(order)
        matrix = np.kron(matrix, part)
    return matrix


@lru_cache
def _orders(size: int) -> tuple[int, ...] | None:
    """Factors of ``size`` that are 2 or a Paley order, odd parts first; None if there are none."""
    if size & (size - 1) == 0:
        return (2,) * (size.bit_length() - 1)
    for order in range(12, size + 1, 4):
        if size % order == 0 and order & (order - 1) and _is_prime(order - 1):
            rest = _orders(size // order)
            if rest is not None:
                return (order, *rest)
    return None


def _is_prime(n: int) -> bool:
    return n > 1 and all(n % k for k in range(2, math.isqrt(n) + 1))


def _paley(order: int) -> NDArray[np.int8]:
    q = order - 1
    squares = {i * i % q for i in range(1, q)}
    matrix = np.ones((order, order), np.int8)
    matrix[1:, 0] = -1
    for i in range(q):
        for j in range(q):
            difference = (i - j) % q
            if difference:
                matrix[i + 1, j + 1] = 1 if difference in squares else -1
    return matrix  # skew part plus identity: the diagonal stays 1


def rotation_norm(size: int) -> int:
    """The n of H H^T = n * I for ``hadamard_matrix(size)``."""
    return size if _orders(size) is not None else size & -size


class _Fixed:
    """A matrix of integers times 2**-bits, held in float64 so that BLAS can rotate it."""

    def __init__(self, weights: Matrix, growth: int) -> None:
        top = float(np.max(np.abs(weights)))
        # All sums stay below 2**53: ``growth`` is the product of the rotations' lengths.
        self.bits = 52 - math.ceil(math.log2(growth)) - max(-20, math.frexp(top)[1])
        self.values = np.rint(np.ldexp(weights, self.bits))

    def rows(self, block: int) -> None:
        """Rotate every row, in blocks (a power of two)."""
        wide = self.values.reshape(-1, block)
        self.values = (wide @ hadamard_matrix(block).astype(np.float64)).reshape(self.values.shape)

    def by(self, matrix: Matrix) -> None:
        self.values = self.values @ matrix

    def columns(self, matrix: Matrix) -> None:
        self.values = np.ascontiguousarray((self.values.T @ matrix).T)

    def columns_blocked(self, block: int) -> None:
        self.values = np.ascontiguousarray(self.values.T)
        self.rows(block)
        self.values = np.ascontiguousarray(self.values.T)

    def quantised(self, factor: float, unit: float = 1.0) -> tuple[NDArray[np.int8], Any]:
        """int8 rows and float32 row scales of ``values * 2**-bits * factor * unit``."""
        top = np.max(np.abs(self.values), axis=1, keepdims=True)
        steps = np.where(top > 0, top / _WEIGHT_LIMIT, 1.0)
        small = np.rint(self.values / steps).astype(np.int8)
        scales = np.where(top > 0, np.ldexp(steps, -self.bits) * factor, 0.0)[:, 0]
        if not np.all(scales <= MAX_ROW_SCALE):
            raise ArtifactError("a weight is too large for the exact runtime")
        return small, (scales * unit).astype(np.float32)


def header_part(source: SourceModel) -> dict[str, Any]:
    """The ``numerics`` part of the header: sizes, and the constants of every formula."""
    config = source.config
    scaling = config.rope_scaling
    context = min(MAX_CONTEXT, config.context_length) // PAGE_TOKENS * PAGE_TOKENS
    return {
        "version": NUMERICS_VERSION,
        "vocab": config.vocab_size,
        "hidden": config.d_model,
        "ffn": config.d_ff,
        "layers": config.n_layers,
        "heads": config.n_heads,
        "kv_heads": config.n_kv_heads,
        "head_dim": config.head_dim,
        "max_context": context,
        "norm_eps": float(config.norm_eps),
        "state_eps": float(config.norm_eps) * rotation_norm(config.d_model),
        "qkv_bias": config.qkv_bias,
        "qk_norm": config.qk_norm,
        "wide": [],
        "rope_base": float(config.rope_theta),
        "rope_scaling": None
        if scaling is None
        else {key: float(getattr(scaling, key)) for key in SCALING_KEYS},
    }


def quantize(source: SourceModel) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Header part ``{"numerics": ...}`` and tensors of the artifact. Raises ArtifactError.

    Tensors: ``embed``, ``head``, ``layers.N.`` + ``qkv o gate_up down`` (int8 [out, in]) and
    ``X.scale`` (float32 [out]) for each; ``qkv.bias``, ``q_norm``, ``k_norm`` float32.
    """
    header = {"numerics": header_part(source)}
    shape = shape_from_header(header)
    rotation = hadamard_matrix(shape.hidden).astype(np.float64)
    norm = float(rotation_norm(shape.hidden))
    tensors: dict[str, NDArray[Any]] = {}
    for n in range(shape.layers):
        _layer(source, shape, f"layers.{n}.", rotation, norm, tensors)
    final = source.tensor("final_norm").astype(np.float64)
    _vocabulary(source.tensor("embed"), None, rotation, 1.0, 1.0, "embed", tensors)
    _vocabulary(
        source.tensor("head"), final, rotation, 1 / math.sqrt(norm), _HEAD_UNIT, "head", tensors
    )
    return header, tensors


def _vocabulary(
    weights: NDArray[np.float32],
    column_scale: Matrix | None,
    rotation: Matrix,
    factor: float,
    unit: float,
    name: str,
    tensors: dict[str, NDArray[Any]],
) -> None:
    parts = []
    for start in range(0, len(weights), _ROWS_AT_ONCE):
        rows = weights[start : start + _ROWS_AT_ONCE].astype(np.float64)
        fixed = _Fixed(rows if column_scale is None else rows * column_scale, len(rotation))
        fixed.by(rotation)
        parts.append(fixed.quantised(factor, unit))
    tensors[name] = np.concatenate([part[0] for part in parts])
    tensors[f"{name}.scale"] = np.concatenate([part[1] for part in parts])


def _layer(
    source: SourceModel,
    shape: Shape,
    prefix: str,
    rotation: Matrix,
    norm: float,
    tensors: dict[str, NDArray[Any]],
) -> None:
    def read(name: str) -> Matrix:
        return source.tensor(prefix + name).astype(np.float64)

    def put(name: str, parts: list[tuple[NDArray[np.int8], Any]]) -> None:
        tensors[f"{prefix}{name}"] = np.concatenate([part[0] for part in parts])
        tensors[f"{prefix}{name}.scale"] = np.concatenate([part[1] for part in parts])

    after_norm = 1 / math.sqrt(norm)
    width = shape.hidden * shape.head_dim

    def reader(name: str, norm_name: str) -> _Fixed:
        fixed = _Fixed(read(name) * read(norm_name), width)
        fixed.by(rotation)
        return fixed

    value = reader("v", "attn_norm")
    value.columns_blocked(shape.head_block)
    qkv = [reader(name, "attn_norm").quantised(after_norm) for name in ("q", "k")]
    put("qkv", [*qkv, value.quantised(after_norm)])
    put("gate_up", [reader(n, "ffn_norm").quantised(after_norm) for n in ("gate", "up")])
    for name, block in (("o", shape.head_block), ("down", shape.ffn_block)):
        fixed = _Fixed(read(name), shape.hidden * block)
        fixed.rows(block)
        fixed.columns(rotation)
        put(name, [fixed.quantised(1 / block)])
    if shape.qkv_bias:
        bias = [read("q_bias"), read("k_bias")]
        turned = _Fixed(read("v_bias")[:, None], shape.head_dim)
        turned.columns_blocked(shape.head_block)
        bias.append(np.ldexp(turned.values[:, 0], -turned.bits))
        together = np.concatenate(bias)
        if not np.all(np.abs(together) <= MAX_BIAS):
            raise ArtifactError("a bias is too large for the exact runtime")
        tensors[f"{prefix}qkv.bias"] = together.astype(np.float32)
    if shape.qk_norm:
        for name in ("q_norm", "k_norm"):
            weight = source.tensor(prefix + name)
            if not np.all(np.abs(weight) <= MAX_NORM_WEIGHT):
                raise ArtifactError("a norm weight is too large for the exact runtime")
            tensors[prefix + name] = weight
