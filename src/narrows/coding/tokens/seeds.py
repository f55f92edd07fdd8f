"""Noise of model servers that draw by a hash of (seed, position, token), with no plugin of ours.

vLLM's second runner and SGLang's deterministic mode hash the same 16 bytes with MurmurHash3's
32-bit form: the seed's low word, its high word, the position, the token id. Each makes Gumbel
noise of the word h in floating point; here the same uniform goes through the integer ``gumbel``::

    vLLM      g = -ln(-ln(1 - (h + 1/2) / 2**32))      word ~h, then 2**31
    SGLang    g = -ln(-ln(h / (2**32 - 1)))            word h, then h; 0 behind the highest h

What they add and what is coded with differ by rounding alone, which costs bits where it decides
between two tokens, and nothing else. SGLang's lowest h is -2**9 there and -5.5 here: a token with
it wins only where nothing else can.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numba import njit
from numpy.typing import NDArray

_LENGTH = np.uint32(16)
_MAX = np.uint32(0xFFFFFFFF)


def seed_of(noise_key: bytes) -> int:
    """The seed to ask for, in [0, 2**63): what both servers take."""
    digest = hashlib.sha256(b"narrows seed 1" + noise_key).digest()
    return int.from_bytes(digest[:8], "big") >> 1


@njit(cache=True, nogil=True, inline="always")
def _mix(h, k):  # type: ignore[no-untyped-def]  # inlined; both uint32
    k = np.uint32(k * np.uint32(0xCC9E2D51))
    k = np.uint32((k << np.uint32(15)) | (k >> np.uint32(17)))
    h = np.uint32(h ^ np.uint32(k * np.uint32(0x1B873593)))
    h = np.uint32((h << np.uint32(13)) | (h >> np.uint32(19)))
    return np.uint32(h * np.uint32(5) + np.uint32(0xE6546B64))


@njit(cache=True, nogil=True)
def hash_state(seed: int, position: int) -> np.uint32:
    """The hash behind seed and position: 0 <= seed < 2**63, 0 <= position < 2**32."""
    h = _mix(np.uint32(0), np.uint32(seed & 0xFFFFFFFF))
    h = _mix(h, np.uint32(seed >> 32))
    return np.uint32(_mix(h, np.uint32(position)))


@njit(cache=True, nogil=True, inline="always")
def hash_word(state, token):  # type: ignore[no-untyped-def]  # inlined; both uint32
    """h of a token."""
    h = np.uint32(_mix(state, token) ^ _LENGTH)
    h = np.uint32((h ^ (h >> np.uint32(16))) * np.uint32(0x85EBCA6B))
    h = np.uint32((h ^ (h >> np.uint32(13))) * np.uint32(0xC2B2AE35))
    return np.uint32(h ^ (h >> np.uint32(16)))


@njit(cache=True, nogil=True)
def seed_words(state: np.uint32, flip: np.uint32, out: NDArray[np.uint32]) -> None:
    """h of every token, with the bits of ``flip`` turned over."""
    for token in range(len(out)):
        out[token] = hash_word(state, np.uint32(token)) ^ flip


@njit(cache=True, nogil=True)
def sglang_second(r: np.uint32) -> np.uint32:
    """The lower 32 bits of SGLang's uniform."""
    return np.uint32(0) if r == _MAX else r
