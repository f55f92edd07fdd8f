"""Integer products over packed weights: packing, splitting over threads, and the load probe.

A packed matrix is int8 [ceil(N / 64)][K / 4][64][4] (see kernels.py), outputs padded with zero
rows. Sums are exact int32 for K <= 2**15: |sum| <= 255 * 127 * K < 2**31.
"""

# Kernels have no annotations: numba infers their types.
# mypy: disable-error-code="no-untyped-def, no-any-return"

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from narrows.models.runtime.kernels import TILE, dot_half_rows, dot_rows


def padded(outputs: int) -> int:
    return -(-outputs // TILE) * TILE


def aligned(shape: tuple[int, ...], dtype: type[np.generic]) -> NDArray[Any]:
    """Uninitialised memory that starts at a multiple of 64 bytes."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = np.empty(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(dtype).reshape(shape)


def pack(weights: NDArray[np.int8], out: NDArray[np.int8]) -> None:
    """``weights`` int8 [N, K], K a multiple of 4, to ``out`` int8 [padded(N) * K]."""
    outputs, inputs = weights.shape
    blocks = out.reshape(-1, inputs // 4, TILE, 4)
    whole = outputs // TILE
    by_block = weights[: whole * TILE].reshape(whole, TILE, inputs // 4, 4)
    blocks[:whole] = by_block.transpose(0, 2, 1, 3)
    if outputs > whole * TILE:
        last = np.zeros((TILE, inputs), np.int8)
        last[: outputs - whole * TILE] = weights[whole * TILE :]
        blocks[whole] = last.reshape(TILE, inputs // 4, 4).transpose(1, 0, 2)


@njit(cache=True, nogil=True, error_model="numpy")
def multiply(left, rows, right, acc, thread, threads):
    """This thread's share of ``left`` uint8 [>= rows, K] times packed ``right`` to int32 ``acc``.

    Shares are cut at 32 outputs: whole blocks in the middle, halves at the ends.
    """
    inputs = left.shape[1]
    stride = acc.shape[1] * 4
    halves = (len(right) // inputs) >> 5
    at = halves * thread // threads
    end = halves * (thread + 1) // threads
    steps = inputs >> 2
    while at < end:
        weights = right.ctypes.data + (at >> 1) * inputs * 64 + (at & 1) * 128
        out = acc.ctypes.data + at * 128
        if at & 1 == 0 and at + 2 <= end:
            dot_rows(left.ctypes.data, inputs, rows, weights, 256, steps, out, stride, 0)
            at += 2
        else:
            dot_half_rows(left.ctypes.data, inputs, rows, weights, 256, steps, out, stride)
            at += 1


def probe() -> bool:
    """Whether this processor's byte products are exact, on the worst cases of sign and size.

    Instructions that add pairs in 16 bits saturate on 255 * 127 + 255 * 127: every lane, row
    count class and both ends of the shares are tried with such values.
    """
    inputs, outputs = 576, 128
    patterns = np.array([[127, 127, 127, 127], [-127, -127, -127, -127], [127, -127, 127, 1]])
    weights = np.tile(patterns[np.arange(outputs) % 3], (1, inputs // 4)).astype(np.int8)
    right = aligned((outputs * inputs,), np.int8)
    pack(weights, right)
    for rows in (1, 2, 3, 4, 5, 6, 7, 12):
        left = np.full((rows, inputs), 255, np.uint8)
        left[:, ::7] = np.arange(rows, dtype=np.uint8)[:, None]
        wanted = left.astype(np.int64) @ weights.astype(np.int64).T
        for threads in (1, 3):
            acc = np.zeros((rows, outputs), np.int32)
            for thread in range(threads):
                multiply(left, rows, right, acc, thread, threads)
            if not np.array_equal(acc, wanted):
                return False
    return True
