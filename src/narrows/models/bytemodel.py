"""An adaptive model over bytes, for where no artifact is installed: it knows only a primer, the
prompt and the answer so far. Context mixing as in lpaq (Mahoney), in integers throughout.

Vocabulary: 0..255 are bytes, 256 ends an answer. A byte is eight binary decisions, highest bit
first; a node of that tree is 1..255. Each of 7 contexts (the last 1..6 bytes, the letters of
the current word) hashes, with the node, to a cell ``p << 10 | n``: p is the probability of a 1
in 22 bits, n <= 127 the times seen; n = 0 means 1/2 and says nothing. Their log odds (log2,
Q8) are mixed with integer weights (Q16), one set per number of contexts that know the node.

Ranges: log odds within +-2,944; weights clamped to +-2**20; a dot product of 8 terms stays
below 2**35 in int64. Logits are sums of log2 of eight probabilities in [2**-11, 1): above
-88 * 65536. Everything is a pure function of the bytes fed: batch, fork or prefill make no
difference. One stream holds 7.4 MB, from its first byte after the shared primer on.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Sequence
from functools import cached_property
from math import isqrt
from typing import cast

import numpy as np
from numba import njit
from numpy.typing import NDArray

from narrows.errors import InputError
from narrows.models.api import Logits, Stream

END = 256
_VERSION = b"narrows byte model 1"
_CONTEXTS = 7
_CELL_BITS = 18
_ODDS_MAX = 2944  # 11.5 bits in Q8
_RATE_LIMIT = 127

# What answers tend to look like; it only has to be better than nothing.
_PRIMER = (
    "<|im_start|>user\nCan you explain how this works, and what I should do about it?<|im_end|>\n"
    "<|im_start|>assistant\nSure! Here is an explanation of the problem and a simple example. "
    "There are several things that you should know before you start:\n\n"
    "1. **First**, make sure that the data is in the right format. This is important because "
    "the result of the function depends on it.\n"
    "2. **Second**, you can use the following code to create a list of all the values:\n\n"
    "```python\nimport numpy as np\n\ndef main(self, value, name=None):\n    if value is None:\n"
    '        return False\n    for i in range(len(value)):\n        print(f"{name}: {value[i]}")\n'
    '    return True\n\nif __name__ == "__main__":\n    main()\n```\n\n'
    "### Explanation\n\n- **The** first line imports the library. It's not the only option, but "
    "it would be the one that most people have used over time.\n- Each of these methods will "
    "take more than one parameter, which can be different for different users.\n\n"
    "In general, the answer to your question is that there is no single best way to do this. "
    "However, I would recommend that you consider the number of people who need to work with the "
    "system, how they would like to use it, and whether they have any other information. "
    "For example, they could also provide additional support between the two points. "
    "When you are done, let me know if there is anything else with which I can help you.\n"
)


def _tables() -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
    """squash (log odds Q8 to 16 bits), stretch (12 bits to log odds), log2 (12 bits to Q16).

    Roots of 2 by integer square roots, so that no machine's libm decides.
    """
    unit = 1 << 64
    step = 2 * unit
    for _ in range(8):
        step = isqrt(step * unit)  # 2 ** (1 / 256)
    powers, power = [], unit
    for _ in range(_ODDS_MAX + 1):
        powers.append(power)
        power = power * step // unit
    half = [(65536 * p + (unit + p) // 2) // (unit + p) for p in powers]  # odds >= 1
    squash = [65536 - v for v in reversed(half[1:])] + half
    stretch = [
        min(bisect_left(squash, (p << 4) + 8), 2 * _ODDS_MAX) - _ODDS_MAX for p in range(4096)
    ]
    logs = [0]
    for p in range(1, 4096):
        mantissa, result = p << (64 - p.bit_length()), p.bit_length() - 13
        for _ in range(16):
            mantissa = mantissa * mantissa >> 63
            carry = mantissa >> 64
            mantissa >>= carry
            result = 2 * result + carry
        logs.append(result)
    logs[0] = logs[1]
    return tuple(np.array(t, np.int32) for t in (squash, stretch, logs))  # type: ignore[return-value]  # three


_SQUASH, _STRETCH, _LOG2 = _tables()


@njit(cache=True, nogil=True)
def _cell(context: np.uint32, node: int) -> np.int64:
    h = np.uint32(
        np.uint32(context + np.uint32(node) * np.uint32(0x9E3779B1)) * np.uint32(0x85EBCA6B)
    )
    return np.int64(h >> np.uint32(32 - _CELL_BITS))


@njit(cache=True, nogil=True)
def _mix(
    cells: NDArray[np.uint32],
    contexts: NDArray[np.uint32],
    weights: NDArray[np.int32],
    node: int,
    odds: NDArray[np.int64],
) -> tuple[np.int64, int]:
    """(probability of a 1 in 16 bits, weight set); fills ``odds`` int64 [8]."""
    known = 0
    for c in range(_CONTEXTS):
        cell = cells[c, _cell(contexts[c], node)]
        odds[c] = 0
        if cell & np.uint32(1023):
            known += 1
            odds[c] = _STRETCH[cell >> np.uint32(20)]
    odds[_CONTEXTS] = 256
    dot = np.int64(0)
    for c in range(_CONTEXTS + 1):
        dot += odds[c] * np.int64(weights[known, c])
    at = max(-_ODDS_MAX, min(_ODDS_MAX, int(dot >> 16)))
    return np.int64(_SQUASH[int(at) + _ODDS_MAX]), known


@njit(cache=True, nogil=True)
def _predict(
    cells: NDArray[np.uint32],
    contexts: NDArray[np.uint32],
    weights: NDArray[np.int32],
    last: int,
    out: NDArray[np.int32],
) -> None:
    """Logits of what follows; ``last`` is the last byte. out int32 [257]."""
    odds = np.empty(_CONTEXTS + 1, np.int64)
    path = np.empty(512, np.int32)
    path[1] = 0
    for node in range(1, 256):
        p, _ = _mix(cells, contexts, weights, node, odds)
        one = min(max(p >> 4, 2), 4094)
        path[2 * node] = path[node] + _LOG2[4096 - one]
        path[2 * node + 1] = path[node] + _LOG2[one]
    out[:256] = path[256:]
    closing = last == 46 or last == 10 or last == 33 or last == 63 or last == 96 or last == 125
    out[END] = -(6 << 16) if closing else -(12 << 16)


@njit(cache=True, nogil=True)
def _learn(
    cells: NDArray[np.uint32],
    contexts: NDArray[np.uint32],
    weights: NDArray[np.int32],
    byte: int,
    tail: NDArray[np.uint8],
) -> None:
    odds = np.empty(_CONTEXTS + 1, np.int64)
    node = 1
    for shift in range(7, -1, -1):
        bit = (byte >> shift) & 1
        p, known = _mix(cells, contexts, weights, node, odds)
        error = (bit << 16) - np.int64(p)
        for c in range(_CONTEXTS + 1):
            w = weights[known, c] + ((odds[c] * error + (1 << 15)) >> 16)
            weights[known, c] = max(-(1 << 20), min(1 << 20, w))
        for c in range(_CONTEXTS):
            at = _cell(contexts[c], node)
            value = np.int64(cells[c, at])
            n = value & 1023
            q = value >> 10 if n else 1 << 21
            q += ((bit << 22) - bit - q) * 2 // (2 * n + 3)
            cells[c, at] = np.uint32((q << 10) | int(min(int(n) + 1, _RATE_LIMIT)))
        node = 2 * node + bit
    for k in range(5, 0, -1):
        tail[k] = tail[k - 1]
    tail[0] = byte
    h = np.uint32(0)
    for k in range(6):
        h = np.uint32(np.uint32(h + np.uint32(tail[k]) + np.uint32(1)) * np.uint32(0x2C1B3C6D))
        contexts[k] = np.uint32(h ^ np.uint32(h >> np.uint32(15)))
    lower = byte | 32
    letter = (97 <= lower <= 122) or byte >= 128
    word = np.uint32(contexts[6] + np.uint32(lower) + np.uint32(1)) * np.uint32(0x297A2D39)
    contexts[6] = np.uint32(word) if letter else np.uint32(tail[0])


class ByteStream:
    """State of one history; see the module for its size."""

    def __init__(self) -> None:
        self.length = 0
        self.pending: list[int] = []
        self.cells = np.zeros((_CONTEXTS, 1 << _CELL_BITS), np.uint32)
        self.contexts = np.zeros(_CONTEXTS, np.uint32)
        self.weights = np.full((_CONTEXTS + 1, _CONTEXTS + 1), 20_000, np.int32)
        self.tail = np.zeros(6, np.uint8)

    def catch_up(self, limit: int) -> int:
        """Feed at most ``limit`` of the pending tokens; how many are left."""
        if self.pending and limit:
            part, self.pending = self.pending[:limit], self.pending[limit:]
            self._learn(part)
        return len(self.pending)

    def feed(self, tokens: Sequence[int]) -> None:
        self.catch_up(len(self.pending))
        self._learn(tokens)

    def _learn(self, tokens: Sequence[int]) -> None:
        for token in tokens:
            if not 0 <= token <= END:
                raise InputError(f"token {token} is not a byte")
            byte = 10 if token == END else token  # an ended turn reads like a new line
            _learn(self.cells, self.contexts, self.weights, byte, self.tail)
            self.length += 1

    def copy(self) -> ByteStream:
        twin = ByteStream.__new__(ByteStream)
        twin.length = self.length
        twin.pending = list(self.pending)
        for name in ("cells", "contexts", "weights", "tail"):
            setattr(twin, name, getattr(self, name).copy())
        return twin

    def predict(self, out: NDArray[np.int32]) -> None:
        self.catch_up(len(self.pending))
        _predict(self.cells, self.contexts, self.weights, int(self.tail[0]), out)


class ByteTokenizer:
    """Bytes are their own ids."""

    digest = hashlib.sha256(_VERSION + b" tokenizer").digest()
    vocab_size = END + 1
    special_ids = frozenset({END})
    eos_ids = frozenset({END})

    def encode(self, data: bytes) -> list[int]:
        return list(data)

    def token_bytes(self, token: int) -> bytes:
        if not 0 <= token <= END:
            raise InputError(f"token {token} is not a byte")
        return b"<|end|>" if token == END else bytes([token])


class ByteModel:
    """``weak.api.TokenModel`` over bytes. No artifact; its digest names version and primer."""

    name = "bytes"
    vocab_size = END + 1
    max_context = 1 << 20  # nothing is forgotten by rule: old cells fade and collide
    cache_bytes = 1 << 50  # bounded by the number of streams alone

    def __init__(self) -> None:
        self.tokenizer = ByteTokenizer()
        self.digest = hashlib.sha256(_VERSION + _PRIMER.encode()).digest()

    @cached_property
    def _primed(self) -> ByteStream:
        stream = ByteStream()
        stream.feed(_PRIMER.encode())
        stream.length = 0
        return stream

    @cached_property
    def numerics(self) -> bytes:
        """SHA-256 over the logits after each byte of a fixed text, as this machine has them."""
        rows = self.extend(self.open([10]), b"Exact integers, \xc3\xa4 everywhere. 1 + 1 = 2\n" * 2)
        return hashlib.sha256(_VERSION + rows.astype("<i4").tobytes()).digest()

    def stream_bytes(self, tokens: int) -> int:
        return 0

    def open(self, tokens: Sequence[int], scope: int = 0, lazy: bool = False) -> Stream:
        if not tokens:
            raise InputError("a stream needs at least one token")
        stream = self._primed.copy()
        stream.pending = list(tokens)
        if not lazy:
            stream.catch_up(len(tokens))
        return stream

    def catch_up(self, stream: Stream, limit: int) -> int:
        return cast(ByteStream, stream).catch_up(limit)

    def logits(self, stream: Stream) -> Logits:
        out = np.empty(END + 1, np.int32)
        cast(ByteStream, stream).predict(out)
        return out

    def advance(self, streams: Sequence[Stream], tokens: Sequence[int]) -> Logits:
        out = np.empty((len(streams), END + 1), np.int32)
        for row, stream, token in zip(out, streams, tokens, strict=True):
            cast(ByteStream, stream).feed([token])
            cast(ByteStream, stream).predict(row)
        return out

    def extend(self, stream: Stream, tokens: Sequence[int]) -> Logits:
        out = np.empty((len(tokens), END + 1), np.int32)
        for row, token in zip(out, tokens, strict=True):
            cast(ByteStream, stream).feed([token])
            cast(ByteStream, stream).predict(row)
        return out

    def fork(self, stream: Stream) -> Stream:
        return cast(ByteStream, stream).copy()

    def close(self, stream: Stream) -> None:
        """Frees the tables; using the stream afterwards is an error."""
        cast(ByteStream, stream).cells = np.zeros((_CONTEXTS, 0), np.uint32)
