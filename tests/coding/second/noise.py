"""docs/token-code.md, "Powers and logarithms" and "Noise"."""

from __future__ import annotations

import hashlib
from decimal import Decimal, localcontext
from functools import cache

with localcontext() as _context:
    _context.prec = 60
    _LN2 = Decimal(2).ln()
    INVERSE = [round(Decimal(2**32) * 512 / (513 + 2 * k)) for k in range(256)]
    LOG = [round(-(Decimal(i) / 2**32).ln() / _LN2 * 2**40) for i in INVERSE]
    A = round(2**30 / _LN2)
    LOG2_LN2 = round(_LN2.ln() / _LN2 * 2**40)


@cache
def pow2(depth: int) -> int:
    """About 2^(32 - depth / 2^16)."""
    n, f = divmod(min(depth, 2**21 - 1), 1 << 16)
    r = 6956 - ((880 * f + 32768) >> 16)
    r = 31384 - ((r * f + 32768) >> 16)
    r = 45422 - ((r * f + 65536) >> 17)
    return (2**32 - 1 - r * f) >> n


def log2(y: int) -> int:
    """Q40, of 1 <= y < 2^64."""
    e = y.bit_length() - 1
    m = y << 63 - e
    k = (m >> 55) & 255
    z = ((m >> 32) * INVERSE[k] - 2**63) >> 23
    square = (z * z) >> 40
    cube = (square * z) >> 40
    return (e << 40) + LOG[k] + (((z - (square >> 1) + cube // 3) * A) >> 30)


def gumbel(u: int) -> int:
    """Q24, of 1 <= u < 2^64."""
    v = 2**64 - u
    if v >= 2**56:
        g = (40 << 40) - log2(max((64 << 40) - log2(u), 1)) - LOG2_LN2
    else:
        f = v >> 32
        square = (f * f) >> 32
        s = 2**32 + (f >> 1) + square // 3 + ((square * f) >> 34)
        g = (96 << 40) - log2(v) - log2(s)
    return g >> 16


@cache
def middle(k: int) -> int:
    """Luck, Q16, of the words whose upper 12 bits are k."""
    return gumbel(((k << 20) + (1 << 19)) << 32) >> 8


def philox(counter: list[int], key: list[int]) -> list[int]:
    c, (k0, k1) = counter, key
    for _ in range(10):
        p0, p1 = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
        c = [p1 >> 32 ^ c[1] ^ k0, p1 % 2**32, p0 >> 32 ^ c[3] ^ k1, p0 % 2**32]
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return c


def murmur(blocks: list[int]) -> int:
    """MurmurHash3, 32 bits, seed 0, of 32-bit blocks."""
    h = 0
    for k in blocks:
        k = k * 0xCC9E2D51 % 2**32
        k = (k << 15 | k >> 17) % 2**32
        h ^= k * 0x1B873593 % 2**32
        h = (h << 13 | h >> 19) % 2**32
        h = (h * 5 + 0xE6546B64) % 2**32
    h ^= 4 * len(blocks)
    h = (h ^ h >> 16) * 0x85EBCA6B % 2**32
    h = (h ^ h >> 13) * 0xC2B2AE35 % 2**32
    return h ^ h >> 16


class SeedNoise:
    """Of one position under a seed. ``family``: 3 or 4."""

    def __init__(self, family: int, key: bytes, position: int) -> None:
        digest = hashlib.sha256(b"narrows seed 1" + key).digest()
        seed = int.from_bytes(digest[:8], "big") >> 1
        self.family = family
        self.blocks = [seed % 2**32, seed >> 32, position]

    def word(self, token: int) -> int:
        h = murmur([*self.blocks, token])
        return 2**32 - 1 - h if self.family == 3 else h

    def exact(self, token: int) -> int:
        r = self.word(token)
        x = 1 << 31 if self.family == 3 else r % (2**32 - 1)
        return gumbel(max(r << 32 | x, 1))

    def luck(self, token: int) -> int:
        r = self.word(token)
        return self.exact(token) >> 8 if r >= 2**32 - 2**26 else middle(r >> 20)


class Noise:
    """Of one position of an answer."""

    def __init__(self, key: bytes, position: int) -> None:
        text = b"narrows noise 1" + key + position.to_bytes(8, "big")
        digest = hashlib.sha256(text).digest()
        self.row = [int.from_bytes(digest[at : at + 4], "big") for at in (0, 4, 8, 12)]
        self.blocks: dict[tuple[int, int], list[int]] = {}

    def word(self, token: int, second: int = 0) -> int:
        first = (token >> 10) << 8 | token & 255
        if (first, second) not in self.blocks:
            counter = [first, second, *self.row[2:]]
            self.blocks[first, second] = philox(counter, self.row[:2])
        return self.blocks[first, second][(token >> 8) & 3]

    def exact(self, token: int) -> int:
        """Q24: what the sampler adds."""
        r = self.word(token)
        x = self.word(token, 1) if r >= 2**32 - 2**20 else 1 << 31
        return gumbel(max(r << 32 | x, 1))

    def luck(self, token: int) -> int:
        """Q16: what the coupled code takes."""
        r = self.word(token)
        return self.exact(token) >> 8 if r >= 2**32 - 2**26 else middle(r >> 20)
