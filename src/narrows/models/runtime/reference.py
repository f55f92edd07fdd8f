"""The reference engine: docs/numerics.md in plain numpy, written to be read, not to be fast.

Shares no code with the fast engine but ``numerics`` (tables and sizes). Integer products go
through float64 BLAS, exact in any order: every partial sum is below 2**53. Elementwise float32
numpy operations are single IEEE-754 operations.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from narrows.models.runtime.engine import Batch, Tensors, check_tensors
from narrows.models.runtime.numerics import (
    EXP2_COEFFICIENTS,
    EXPONENT_LIMIT,
    LOG2_E,
    LOGIT_LIMIT,
    NARROW_LIMIT,
    PAGE_TOKENS,
    PROBABILITY_LIMIT,
    TINY,
    WIDE_LIMIT,
    Shape,
    rope_tables,
)

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]
_f32 = np.float32


def quantise(x: Floats, limit: int) -> tuple[Integers, Floats]:
    """Rows [..., n] to integers in [-limit, limit] and what one unit is worth [...]."""
    top = np.max(np.abs(x), axis=-1)
    zero = top < TINY
    inverse = np.where(zero, _f32(0), _f32(limit) / np.where(zero, _f32(1), top))
    whole = np.rint(x * inverse[..., None]).astype(np.int64)
    return whole, np.where(zero, _f32(0), top / _f32(limit))


def norm_scale(whole: Integers, scale: Floats, eps: float) -> Floats:
    """Worth of a unit after RMS norm."""
    s = scale.astype(np.float64)
    squares = (whole * whole).sum(axis=-1).astype(np.float64)
    worth: Floats = (s / np.sqrt(s * s * squares / np.float64(whole.shape[-1]) + eps)).astype(_f32)
    return worth


def exp2(t: Floats) -> Floats:
    whole = np.rint(t)
    f = t - whole
    p = np.full_like(f, EXP2_COEFFICIENTS[0])
    for coefficient in EXP2_COEFFICIENTS[1:]:
        p = p * f + coefficient
    return p * np.ldexp(_f32(1), whole.astype(np.int32)).astype(_f32)


def hadamard(x: Floats, block: int) -> Floats:
    distance = 1
    while distance < block:
        pairs = x.reshape(-1, 2, distance)
        x = np.stack([pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]], axis=1).reshape(
            x.shape
        )
        distance *= 2
    return x


def rope(x: Floats, cos: Floats, sin: Floats) -> Floats:
    """x [rows, heads, head_dim]; cos, sin [rows, head_dim / 2]."""
    a, b = np.split(x, 2, axis=-1)
    c, s = cos[:, None], sin[:, None]
    return np.concatenate([a * c - b * s, b * c + a * s], axis=-1)


def dot(left: Integers, right: NDArray[Any]) -> Integers:
    """left [m, k] times right [n, k] transposed, exactly."""
    product: Integers = (left.astype(np.float64) @ right.astype(np.float64).T).astype(np.int64)
    return product


class ReferenceEngine:
    """``narrows.models.runtime.engine.Engine`` in numpy."""

    def __init__(self, shape: Shape, tensors: Tensors, pages: int) -> None:
        check_tensors(shape, tensors)
        self.shape = shape
        self.backend = "reference"
        self._tensors = tensors
        self._cos, self._sin = rope_tables(shape)
        lead = (pages, shape.layers, shape.kv_heads, PAGE_TOKENS)
        self._cache: dict[str, NDArray[Any]] = {
            "k": np.empty((*lead, shape.head_dim), np.int8),
            "v": np.empty((*lead, shape.head_dim), np.int8),
            "k_scale": np.empty(lead, np.float32),
            "v_scale": np.empty(lead, np.float32),
        }

    def copy_page(self, source: int, target: int) -> None:
        for array in self._cache.values():
            array[target] = array[source]

    def _left(self, x: Floats, product: str) -> tuple[Integers, Floats]:
        return quantise(x, WIDE_LIMIT if product in self.shape.wide else NARROW_LIMIT)

    def _product(self, whole: Integers, worth: Floats, name: str, product: str) -> Floats:
        """Value of every output: (sum * row scale) * ``worth`` of the left row's unit."""
        weights, scale = self._tensors[name], self._tensors[f"{name}.scale"]
        if product in self.shape.wide:
            high, low = whole >> 8, whole & 255
            value = dot(high, weights).astype(_f32) * _f32(256) + dot(low, weights).astype(_f32)
        else:
            value = dot(whole, weights).astype(_f32)
        result: Floats = (value * scale) * worth[:, None]
        return result

    def _after_norm(self, state: Floats, name: str, product: str) -> Floats:
        whole, scale = self._left(state, product)
        return self._product(whole, norm_scale(whole, scale, self.shape.state_eps), name, product)

    def forward(self, batch: Batch) -> NDArray[np.int32]:
        shape, tensors = self.shape, self._tensors
        state = tensors["embed"][batch.tokens].astype(_f32)
        state = state * tensors["embed.scale"][batch.tokens][:, None]
        for n in range(shape.layers):
            prefix = f"layers.{n}."
            y = self._after_norm(state, prefix + "qkv", "qkv")
            mixed = self._attention(n, y, batch)
            state = state + self._product(*self._left(mixed, "o"), prefix + "o", "o")
            y = self._after_norm(state, prefix + "gate_up", "gate_up")
            gate, up = y[:, : shape.ffn], y[:, shape.ffn :]
            limit = _f32(EXPONENT_LIMIT)
            t = np.clip(-(gate * LOG2_E), -limit, limit)
            inner = hadamard((gate / (_f32(1) + exp2(t))) * up, shape.ffn_block)
            state = state + self._product(*self._left(inner, "down"), prefix + "down", "down")
        logits = self._after_norm(state[batch.wanted], "head", "head")
        return np.clip(logits, _f32(-LOGIT_LIMIT), _f32(LOGIT_LIMIT)).astype(np.int32)

    def _attention(self, n: int, y: Floats, batch: Batch) -> Floats:
        shape, prefix = self.shape, f"layers.{n}."
        rows = len(y)
        if shape.qkv_bias:
            y = y + self._tensors[prefix + "qkv.bias"]
        q, k, v = np.split(y, [shape.q_width, shape.q_width + shape.kv_width], axis=1)
        q = self._turned(q, "q_norm", n, batch)
        k = self._turned(k, "k_norm", n, batch)
        v = v.reshape(rows, shape.kv_heads, shape.head_dim)
        page = batch.tables[batch.table_of, batch.positions // PAGE_TOKENS]
        at = (page, n, slice(None), batch.positions % PAGE_TOKENS)
        for name, value in (("k", k), ("v", v)):
            whole, scale = quantise(value, NARROW_LIMIT)
            self._cache[name][at] = whole
            self._cache[f"{name}_scale"][at] = scale
        whole, scale = quantise(q, NARROW_LIMIT)
        scale = scale * shape.query_scale
        mixed = np.empty((rows, shape.q_width), np.float32)
        for r in range(rows):
            mixed[r] = self._attend(n, r, whole[r], scale[r], batch)
        return mixed

    def _turned(self, x: Floats, norm: str, n: int, batch: Batch) -> Floats:
        shape = self.shape
        x = x.reshape(len(x), -1, shape.head_dim)
        if shape.qk_norm:
            whole, scale = quantise(x, WIDE_LIMIT)
            s = scale.astype(np.float64)
            squares = (whole * whole).sum(axis=-1).astype(np.float64)
            mean = s * s * squares / np.float64(shape.head_dim)
            r = (1.0 / np.sqrt(mean + shape.norm_eps)).astype(_f32)
            x = (x * r[..., None]) * self._tensors[f"layers.{n}.{norm}"]
        x = rope(x, self._cos[batch.positions], self._sin[batch.positions])
        return hadamard(np.ascontiguousarray(x), shape.head_block)

    def _attend(self, n: int, r: int, q: Integers, q_scale: Floats, batch: Batch) -> Floats:
        """One row over its history: [q_width]."""
        shape = self.shape
        count = int(batch.positions[r]) + 1
        pages = batch.tables[batch.table_of[r], : -(-count // PAGE_TOKENS)]

        def history(name: str, g: int) -> NDArray[Any]:
            value: NDArray[Any] = self._cache[name][pages, n, g]
            return value.reshape(-1, *value.shape[2:])[:count]

        out = []
        for h in range(shape.heads):
            g = h // shape.group
            sums = dot(q[h : h + 1], history("k", g))[0]
            exponent = sums.astype(_f32) * history("k_scale", g) * q_scale[h]
            t = np.maximum(exponent - exponent.max(), _f32(-EXPONENT_LIMIT))
            p = np.rint(exp2(t) * _f32(PROBABILITY_LIMIT))
            total = p.astype(np.int64).sum()
            weight = p * history("v_scale", g)
            top = weight.max()
            if top < TINY:
                out.append(np.zeros(shape.head_dim, np.float32))
                continue
            whole = np.rint(weight * (_f32(PROBABILITY_LIMIT) / top)).astype(np.int64)[None]
            values = history("v", g).T
            high, low = dot(whole >> 8, values)[0], dot(whole & 255, values)[0]
            mixed = high.astype(_f32) * _f32(256) + low.astype(_f32)
            out.append(mixed * ((top / _f32(PROBABILITY_LIMIT)) / _f32(total)))
        return np.concatenate(out)
