"""Attention of the fast engine over the paged int8 cache (docs/numerics.md, "Attention").

Cache of one (page, layer, key-value head), 64 tokens:
  keys    int8 [head_dim / 4][64 tokens][4]   scores of 64 tokens are one packed block
  values  int8 [16][value_pad][4 tokens]      a packed block whose inner dimension is time
  key_scale, value_scale float32 [64], key_sum int32 [64] = 128 * sum of the key's bytes
Slots after the newest token hold whatever was there: scores beyond it are never read, and its
weights are zero, so they cannot reach a result.
"""

# Kernels have no annotations: numba infers their types.
# mypy: disable-error-code="no-untyped-def, no-any-return"

from __future__ import annotations

import numpy as np
from numba import njit

from narrows.models.runtime.fast_rows import (
    exp2,
    hadamard,
    head_norm,
    quantise_narrow,
    rope,
    take_row,
)
from narrows.models.runtime.kernels import bits_of, dot_rows, float_of, prefetch
from narrows.models.runtime.numerics import ROUND, TINY

_SIGN_BITS = np.int32(0x7FFFFFFF)
_THIRTY_ONE = np.int32(31)
_LOWEST = np.float32(-100.0)
_PROBABILITY = np.float32(65535.0)
_BYTE = np.float32(256.0)

_jit = njit(cache=True, nogil=True, error_model="numpy")


@_jit
def store_head(quantised, slot, keys, key_scale, key_sum, scale):
    """A key (uint8, 128 added) into its token slot."""
    total = np.int32(0)
    for i in range(len(quantised)):
        a = np.int32(quantised[i]) - 128
        total += a
        keys[(i >> 2) * 256 + slot * 4 + (i & 3)] = np.int8(a)
    key_scale[slot] = scale
    key_sum[slot] = np.int32(128 * total)


@_jit
def project_row(
    r,
    layer,
    acc,
    wide,
    corrections,
    scales,
    token_scale,
    bias,
    q_norm,
    k_norm,
    has_bias,
    has_norm,
    eps,
    cos,
    sin,
    head_block,
    query_scale,
    position,
    page,
    heads,
    kv_heads,
    head_dim,
    value_pad,
    queries,
    query_scales,
    keys,
    values,
    key_scale,
    value_scale,
    key_sum,
    row,
    bytes2,
):
    """Row ``r`` of the qkv product to quantised queries, and to its slot in the cache."""
    take_row(acc, r, 0, wide, corrections, scales, token_scale, row)
    if has_bias:
        for j in range(len(row)):
            row[j] = row[j] + bias[j]
    slot = position & 63
    for h in range(heads + kv_heads):
        x = row[h * head_dim : (h + 1) * head_dim]
        if has_norm:
            head_norm(x, q_norm if h < heads else k_norm, eps, bytes2[0], bytes2[1])
        rope(x, cos, sin)
        hadamard(x, head_block)
        if h < heads:
            scale, _ = quantise_narrow(x, queries[r, h])
            query_scales[r, h] = scale * query_scale
        else:
            g = h - heads
            scale, _ = quantise_narrow(x, bytes2[0])
            store_head(
                bytes2[0, :head_dim],
                slot,
                keys[page, layer, g],
                key_scale[page, layer, g],
                key_sum[page, layer, g],
                scale,
            )
    for g in range(kv_heads):
        start = (heads + kv_heads + g) * head_dim
        scale, _ = quantise_narrow(row[start : start + head_dim], bytes2[0])
        value_scale[page, layer, g, slot] = scale
        block = values[page, layer, g]
        base = (slot >> 2) * value_pad * 4 + (slot & 3)
        for i in range(head_dim):
            block[base + 4 * i] = np.int8(np.int32(bytes2[0, i]) - 128)


@_jit
def _scores(sums, key_sum, key_scale, query_scale, out):
    """Exponents of up to 64 tokens to ``out``; returns their maximum as an ordered integer."""
    best = np.int32(-(2**31))
    for t in range(len(out)):
        value = np.float32(np.int32(sums[t] - key_sum[t])) * key_scale[t] * query_scale
        out[t] = value
        b = bits_of(value)
        best = max(best, np.int32(b ^ np.int32(np.int32(b >> _THIRTY_ONE) & _SIGN_BITS)))
    return best


@_jit
def _weights(exponents, top, value_scale):
    """Exponents to weights (probability times value scale) in place; sum and peak bits."""
    total = np.int32(0)
    best = np.int32(0)
    for t in range(len(exponents)):
        e = np.float32(exp2(max(exponents[t] - top, _LOWEST)) * _PROBABILITY)
        whole = (e + ROUND) - ROUND
        total = np.int32(total + np.int32(whole))
        weight = whole * value_scale[t]
        exponents[t] = weight
        best = max(best, bits_of(weight))
    return total, best


@_jit
def _split(weights, inverse, high, low):
    for t in range(len(weights)):
        u = np.int32((weights[t] * inverse + ROUND) - ROUND)
        high[t] = np.uint8(u >> np.int32(8))
        low[t] = np.uint8(u & np.int32(255))


@_jit
def attend(
    r,
    g,
    layer,
    count,
    table,
    group,
    head_dim,
    value_pad,
    queries,
    query_scales,
    keys,
    values,
    key_scale,
    value_scale,
    key_sum,
    sums,
    exponents,
    split,
    mixed,
    out,
):
    """Query heads of group ``g`` of row ``r`` over the first ``count`` tokens of ``table``.

    Scratch of this thread: sums int32 [group, cap], exponents float32 [cap], split uint8
    [2 group, cap], mixed int32 [2 group, value_pad]. Writes ``out`` float32 [heads * head_dim].
    """
    pages = (count + 63) >> 6
    cap = sums.shape[1]
    first = g * group
    query = queries.ctypes.data + (r * queries.shape[1] + first) * head_dim
    key_bytes, value_bytes = keys.shape[3], values.shape[3]
    for p in range(pages):
        block = (table[p] * keys.shape[1] + layer) * keys.shape[2] + g
        prefetch(values.ctypes.data + block * value_bytes, value_bytes)
        if p + 1 < pages:
            after = (table[p + 1] * keys.shape[1] + layer) * keys.shape[2] + g
            prefetch(keys.ctypes.data + after * key_bytes, key_bytes)
        right = keys.ctypes.data + block * key_bytes
        into = sums.ctypes.data + 256 * p
        dot_rows(query, head_dim, group, right, 256, head_dim >> 2, into, 4 * cap, 0)
    padded = (count + 3) & ~3
    for h in range(group):
        best = np.int32(-(2**31))
        for p in range(pages):
            t, end = p * 64, min(count, p * 64 + 64)
            best = max(
                best,
                _scores(
                    sums[h, t:end],
                    key_sum[table[p], layer, g],
                    key_scale[table[p], layer, g],
                    query_scales[r, first + h],
                    exponents[t:end],
                ),
            )
        top = float_of(np.int32(best ^ np.int32(np.int32(best >> _THIRTY_ONE) & _SIGN_BITS)))
        total = np.int32(0)
        most = np.int32(0)
        for p in range(pages):
            t, end = p * 64, min(count, p * 64 + 64)
            part, bits = _weights(exponents[t:end], top, value_scale[table[p], layer, g])
            total = np.int32(total + part)
            most = max(most, bits)
        high, low = split[2 * h], split[2 * h + 1]
        highest = float_of(most)
        if highest < TINY:
            high[:padded] = np.uint8(0)
            low[:padded] = np.uint8(0)
            query_scales[r, first + h] = np.float32(0.0)
        else:
            _split(exponents[:count], _PROBABILITY / highest, high, low)
            high[count:padded] = np.uint8(0)
            low[count:padded] = np.uint8(0)
            query_scales[r, first + h] = (highest / _PROBABILITY) / np.float32(total)
    for p in range(pages):
        steps = min(64, padded - p * 64) >> 2
        right = (
            values.ctypes.data
            + ((table[p] * values.shape[1] + layer) * values.shape[2] + g) * values.shape[3]
        )
        for n in range(value_pad >> 6):
            dot_rows(
                split.ctypes.data + 64 * p,
                cap,
                2 * group,
                right + 256 * n,
                4 * value_pad,
                steps,
                mixed.ctypes.data + 256 * n,
                4 * value_pad,
                p,
            )
    for h in range(group):
        scale = query_scales[r, first + h]
        base = (first + h) * head_dim
        for i in range(head_dim):
            value = np.float32(mixed[2 * h, i]) * _BYTE + np.float32(mixed[2 * h + 1, i])
            out[base + i] = value * scale
