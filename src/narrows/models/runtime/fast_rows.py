"""Row operations of the fast engine: quantisation, rotation, exp2, rope (docs/numerics.md).

Every float operation is one IEEE-754 binary32 operation in the written order (binary64 where
said); sums that vectorise are integers. Maxima are taken over bit patterns as integers, which
is exact and vectorises. numba's ``fastmath`` stays off: LLVM then neither reorders nor fuses.
"""

# Kernels have no annotations: numba infers their types.
# mypy: disable-error-code="no-untyped-def, no-any-return"

from __future__ import annotations

import numpy as np
from numba import njit

from narrows.models.runtime.kernels import bits_of, butterfly16, float_of, hadamard16
from narrows.models.runtime.numerics import EXP2_COEFFICIENTS, LOG2_E, ROUND, TINY

_C6, _C5, _C4, _C3, _C2, _C1, _C0 = EXP2_COEFFICIENTS
_MAGNITUDE = np.int32(0x7FFFFFFF)
_ONE = np.float32(1.0)
_NARROW = np.float32(127.0)
_WIDE = np.float32(32767.0)
_BYTE = np.float32(256.0)
_FLOOR, _CEILING = np.float32(-100.0), np.float32(100.0)
_BIAS = np.int32(127)
_SHIFT = np.int32(23)

_jit = njit(cache=True, nogil=True, error_model="numpy")
_inline = njit(cache=True, nogil=True, error_model="numpy", inline="always")


@_jit
def peak(x):
    """Largest magnitude of a float32 row."""
    best = np.int32(0)
    for i in range(len(x)):
        best = max(best, np.int32(bits_of(x[i]) & _MAGNITUDE))
    return float_of(best)


@_jit
def quantise_narrow(x, out):
    """Write round(x * (127 / peak)) + 128 to uint8 ``out``.

    Returns (peak / 127, sum of the squares of the integers).
    """
    top = peak(x)
    n = len(x)
    if top < TINY:
        out[:n] = np.uint8(128)
        return np.float32(0.0), np.int64(0)
    inverse = _NARROW / top
    squares = np.int32(0)
    for i in range(n):
        a = np.int32((x[i] * inverse + ROUND) - ROUND)
        squares = np.int32(squares + np.int32(a * a))
        out[i] = np.uint8(np.int32(a + np.int32(128)))
    return top / _NARROW, np.int64(squares)


@_jit
def quantise_wide(x, high, low):
    """As above with 32767, the bytes of value + 32768 to ``high`` and ``low``."""
    top = peak(x)
    n = len(x)
    if top < TINY:
        high[:n] = np.uint8(128)
        low[:n] = np.uint8(0)
        return np.float32(0.0), np.int64(0)
    inverse = _WIDE / top
    squares = np.int64(0)
    for i in range(n):
        a = np.int32((x[i] * inverse + ROUND) - ROUND)
        squares += np.int64(a) * np.int64(a)
        u = np.int32(a + np.int32(32768))
        high[i] = np.uint8(u >> np.int32(8))
        low[i] = np.uint8(u & np.int32(255))
    return top / _WIDE, squares


@_jit
def quantise_into(x, r, wide, left):
    """Quantise row ``r`` of a product's left operand: rows 2r, 2r + 1 where wide, else row r."""
    if wide:
        return quantise_wide(x, left[2 * r], left[2 * r + 1])
    return quantise_narrow(x, left[r])


@_jit
def norm_scale(scale, squares, n, eps):
    """What a unit of the quantised row is worth after RMS norm, in binary64, rounded once."""
    s = np.float64(scale)
    return np.float32(s / np.sqrt(s * s * np.float64(squares) / np.float64(n) + eps))


@_jit
def take(sums, low, wide, corrections, scales, token_scale, out):
    """out[j] = value of a product's output: (sum * row scale) * token scale.

    ``sums`` int32: of the row, or of its high bytes where ``wide``; then ``low`` of its low
    ones. All arguments are slices of equal length, so that the loops vectorise.
    """
    if wide:
        for j in range(len(out)):
            value = np.float32(np.int32(sums[j] - corrections[j])) * _BYTE + np.float32(low[j])
            out[j] = (value * scales[j]) * token_scale
    else:
        for j in range(len(out)):
            value = np.float32(np.int32(sums[j] - corrections[j]))
            out[j] = (value * scales[j]) * token_scale


@_jit
def take_row(acc, r, start, wide, corrections, scales, token_scale, out):
    """Values of outputs ``start`` .. of row ``r`` of a product."""
    end = start + len(out)
    sums = acc[r * (1 + wide), start:end]
    low = acc[r * (1 + wide) + wide, start:end]
    take(sums, low, wide, corrections[start:end], scales[start:end], token_scale, out)


@_jit
def add_row(acc, r, wide, corrections, scales, token_scale, row, x):
    """x[j] += the value of output j of row ``r``; ``row`` is scratch."""
    values = row[: len(x)]
    take_row(acc, r, 0, wide, corrections, scales, token_scale, values)
    for j in range(len(x)):
        x[j] = x[j] + values[j]


@_inline
def exp2(t):
    """2**t for t in [-100, 100]: nearest integer to the exponent, rest to a polynomial."""
    whole = (t + ROUND) - ROUND
    f = t - whole
    p = _C6 * f + _C5
    p = p * f + _C4
    p = p * f + _C3
    p = p * f + _C2
    p = p * f + _C1
    p = p * f + _C0
    return p * float_of(np.int32(np.int32(np.int32(whole) + _BIAS) << _SHIFT))


@_jit
def swiglu(gate, up):
    """up = (gate / (1 + 2**(-gate log2 e))) * up, in place.

    Into ``gate`` it would be scalar code: LLVM guards the loop with a test for overlap.
    """
    for i in range(len(up)):
        g = gate[i]
        t = min(max(-(g * LOG2_E), _FLOOR), _CEILING)
        up[i] = (g / (_ONE + exp2(t))) * up[i]


@_jit
def hadamard(x, block):
    """Unnormalised Hadamard of each ``block`` of x, in place, distances 1, 2, 4, ... in turn."""
    n = len(x)
    distance = 1
    if block >= 16:
        for i in range(0, n, 16):
            hadamard16(x.ctypes.data + 4 * i)
        distance = 16
        while distance < block:
            for start in range(0, n, 2 * distance):
                for i in range(start, start + distance, 16):
                    at = x.ctypes.data + 4 * i
                    butterfly16(at, at + 4 * distance)
            distance *= 2
        return
    while distance < block:
        for start in range(0, n, 2 * distance):
            for i in range(start, start + distance):
                a = x[i]
                b = x[i + distance]
                x[i] = a + b
                x[i + distance] = a - b
        distance *= 2


@_jit
def rope(x, cos, sin):
    """Rotate pairs (i, i + d / 2) of a head in place."""
    half = len(cos)
    for i in range(half):
        a = x[i]
        b = x[i + half]
        x[i] = a * cos[i] - b * sin[i]
        x[i + half] = b * cos[i] + a * sin[i]


@_jit
def head_norm(x, weight, eps, high, low):
    """RMS norm of one head (Qwen3): (x * r) * weight, r from the wide quantisation."""
    scale, squares = quantise_wide(x, high, low)
    s = np.float64(scale)
    r = np.float32(1.0 / np.sqrt(s * s * np.float64(squares) / np.float64(len(x)) + eps))
    for i in range(len(x)):
        x[i] = (x[i] * r) * weight[i]
