"""GGUF tensor encodings to float32, with the same float operations as ggml's own.

A block holds ``block_size`` weights in ``block_bytes``. Layouts: ggml-common.h of llama.cpp;
values: ``dequantize_row_*`` of ggml-quants.c, each a product and at most one sum of float32.
Input is uint8 [blocks, block_bytes], output float32 [blocks, block_size].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Encoding:
    name: str
    block_size: int
    block_bytes: int
    decode: Callable[[Bytes], Floats]


def _half(block: Bytes, at: int) -> Floats:
    """The float16 at byte ``at`` of each block: float32 [blocks, 1]."""
    raw = np.ascontiguousarray(block[:, at : at + 2])
    return raw.view("<f2").astype(np.float32)


def _nibbles(packed: Bytes) -> Bytes:
    """Low nibbles of all bytes, then the high ones, along the last axis."""
    return np.concatenate([packed & np.uint8(15), packed >> np.uint8(4)], axis=-1)


def _f32(block: Bytes) -> Floats:
    return np.ascontiguousarray(block).view("<f4").astype(np.float32)


def _f16(block: Bytes) -> Floats:
    return np.ascontiguousarray(block).view("<f2").astype(np.float32)


def bf16_to_float32(raw: NDArray[np.uint16]) -> Floats:
    """bfloat16 is the upper half of a float32."""
    return (raw.astype(np.uint32) << np.uint32(16)).view(np.float32)


def _bf16(block: Bytes) -> Floats:
    return bf16_to_float32(np.ascontiguousarray(block).view("<u2").astype(np.uint16))


def _q8_0(block: Bytes) -> Floats:
    codes = np.ascontiguousarray(block[:, 2:]).view(np.int8)
    return codes.astype(np.float32) * _half(block, 0)


def _q4_0(block: Bytes) -> Floats:
    codes = _nibbles(block[:, 2:]).astype(np.float32) - np.float32(8)
    return codes * _half(block, 0)


def _q4_1(block: Bytes) -> Floats:
    return _nibbles(block[:, 4:]).astype(np.float32) * _half(block, 0) + _half(block, 2)


def _fifth_bits(packed: Bytes) -> Bytes:
    """Bit i of a block's 32 as 16 or 0 at weight i."""
    bits = np.unpackbits(np.ascontiguousarray(packed), axis=-1, bitorder="little")
    return bits << np.uint8(4)


def _q5_0(block: Bytes) -> Floats:
    codes = _nibbles(block[:, 6:]) | _fifth_bits(block[:, 2:6])
    return (codes.astype(np.float32) - np.float32(16)) * _half(block, 0)


def _q5_1(block: Bytes) -> Floats:
    codes = _nibbles(block[:, 8:]) | _fifth_bits(block[:, 4:8])
    return codes.astype(np.float32) * _half(block, 0) + _half(block, 2)


def _q4_k(block: Bytes) -> Floats:
    """Eight groups of 32; 6-bit scales and minima, packed in 12 bytes."""
    return _groups_of_32(block, _nibbles(block[:, 16:].reshape(-1, 4, 32)))


def _q5_k(block: Bytes) -> Floats:
    """As Q4_K, with bit g of 32 bytes as the fifth bit of group g."""
    groups = np.arange(8, dtype=np.uint8)[:, None]
    fifth = ((block[:, None, 16:48] >> groups) & np.uint8(1)) << np.uint8(4)
    low = _nibbles(block[:, 48:].reshape(-1, 4, 32)).reshape(-1, 8, 32)
    return _groups_of_32(block, low | fifth)


def _groups_of_32(block: Bytes, codes: Bytes) -> Floats:
    """Codes times scale minus minimum, group by group: the head of Q4_K and Q5_K."""
    count = len(block)
    packed = block[:, 4:16].reshape(count, 3, 4)
    scale, minimum, rest = packed[:, 0], packed[:, 1], packed[:, 2]
    high = np.uint8(0x30)
    scales = np.concatenate(
        [scale & np.uint8(63), (rest & np.uint8(15)) | ((scale >> np.uint8(2)) & high)], axis=1
    )
    minima = np.concatenate(
        [minimum & np.uint8(63), (rest >> np.uint8(4)) | ((minimum >> np.uint8(2)) & high)], axis=1
    )
    d = (_half(block, 0) * scales.astype(np.float32))[:, :, None]
    m = (_half(block, 2) * minima.astype(np.float32))[:, :, None]
    return (d * codes.reshape(count, 8, 32).astype(np.float32) - m).reshape(count, 256)


def _q6_k(block: Bytes) -> Floats:
    """Two halves of 128; low nibbles, high pairs of bits, a signed scale for each 16."""
    count = len(block)
    low = _nibbles(block[:, :128].reshape(count, 2, 64)).reshape(count, 2, 4, 32)
    shifts = np.array([0, 2, 4, 6], np.uint8)[:, None]
    high = (block[:, 128:192].reshape(count, 2, 1, 32) >> shifts) & np.uint8(3)
    codes = (low | (high << np.uint8(4))).astype(np.float32) - np.float32(32)
    scales = np.ascontiguousarray(block[:, 192:208]).view(np.int8).astype(np.float32)
    d = (_half(block, 208) * scales)[:, :, None]
    return (d * codes.reshape(count, 16, 16)).reshape(count, 256)


ENCODINGS = {
    0: Encoding("F32", 1, 4, _f32),
    1: Encoding("F16", 1, 2, _f16),
    2: Encoding("Q4_0", 32, 18, _q4_0),
    3: Encoding("Q4_1", 32, 20, _q4_1),
    6: Encoding("Q5_0", 32, 22, _q5_0),
    7: Encoding("Q5_1", 32, 24, _q5_1),
    8: Encoding("Q8_0", 32, 34, _q8_0),
    12: Encoding("Q4_K", 256, 144, _q4_k),
    13: Encoding("Q5_K", 256, 176, _q5_k),
    14: Encoding("Q6_K", 256, 210, _q6_k),
    30: Encoding("BF16", 1, 2, _bf16),
}
