"""A weak model that repeats recorded code lengths, so that the link itself can be measured.

Overhead and delay depend on how many bits each token carries and when it comes, not on what
the weak model computes. A run with the real model records the cost of every token; this model
gives token 0 that probability, and the link is the real one; only its token code, which would
adapt to what is already adapted, is replaced by the model's probabilities as they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from narrows.coding.events import AnswerSpec, Coding
from narrows.coding.tokens.calibrate import Calibration
from narrows.errors import InputError
from narrows.measure.run import Replayed
from narrows.models.api import Logits, Stream

_NEXT, _OTHER, _END = 0, 1, 2
_TOTAL = 1 << 32


class ReplayTokenizer:
    """One token that is the byte ``x``; whatever the recorded token was."""

    vocab_size = 3
    special_ids = frozenset({_OTHER, _END})
    eos_ids = frozenset({_END})
    digest = hashlib.sha256(b"narrows replay tokenizer").digest()

    def encode(self, data: bytes) -> list[int]:
        if data.strip(b"x"):
            raise InputError("a replayed answer is made of x alone")
        return [_NEXT] * len(data)

    def token_bytes(self, token: int) -> bytes:
        return (b"x", b"?", b"")[token]


@dataclass
class ReplayStream:
    row: int
    length: int


class ReplayModel:
    """``costs[row][position]``: bits of each token of an answer, its end token last."""

    name = "recorded"
    numerics = digest = hashlib.sha256(b"narrows replay model").digest()
    vocab_size = 3
    max_context = 1 << 30
    cache_bytes = 1 << 50

    def __init__(self, costs: Sequence[Sequence[float]]) -> None:
        self.tokenizer = ReplayTokenizer()
        self._costs = costs

    def stream_bytes(self, tokens: int) -> int:
        return 0

    def open(self, tokens: Sequence[int], scope: int = 0, lazy: bool = False) -> Stream:
        return ReplayStream(tokens[0], 0)

    def catch_up(self, stream: Stream, limit: int) -> int:
        return 0

    def logits(self, stream: Stream) -> Logits:
        return self._row(stream)

    def advance(self, streams: Sequence[Stream], tokens: Sequence[int]) -> Logits:
        return np.stack([self._fed(stream) for stream in streams])

    def extend(self, stream: Stream, tokens: Sequence[int]) -> Logits:
        return np.stack([self._fed(stream) for _ in tokens])

    def fork(self, stream: Stream) -> Stream:
        return ReplayStream(_own(stream).row, stream.length)

    def close(self, stream: Stream) -> None:
        """Nothing is held."""

    def _fed(self, stream: Stream) -> Logits:
        _own(stream).length += 1
        return self._row(stream)

    def _row(self, stream: Stream) -> Logits:
        """Share of the recorded token, out of 2**32, and whether it is the end: not logits."""
        costs = self._costs[_own(stream).row]
        position = min(stream.length, len(costs) - 1)
        share = min(max(round(2.0 ** (32 - costs[position])), 2), _TOTAL - 2)
        return np.array([share >> 16, share & 65535, int(position == len(costs) - 1)], np.int32)


class ReplayCode:
    """The recorded token has the recorded share at the bottom, the others the rest."""

    def __init__(
        self, spec: AnswerSpec, coding: Coding, vocab_size: int, calibration: Calibration
    ) -> None:
        self._likely, self._share = _NEXT, 2

    def prepare(self, logits: Logits) -> None:
        self._share = int(logits[0]) << 16 | int(logits[1])
        self._likely = _END if logits[2] else _NEXT

    def interval(self, token: int) -> tuple[int, int]:
        if token == self._likely:
            return 0, self._share
        if token == _OTHER:
            return self._share, _TOTAL - self._share - 1
        return _TOTAL - 1, 1

    def find(self, target: int) -> tuple[int, int, int]:
        for token in (self._likely, _OTHER, _NEXT + _END - self._likely):
            low, share = self.interval(token)
            if target < low + share:
                return token, low, share
        raise InputError("a target over 2**32")

    def update(self, token: int) -> None:
        """Nothing adapts."""

    def skip(self) -> None:
        """Nor has it a place: the model counts that."""

    def close(self) -> None:
        """Nothing was learned."""


def replayed(costs: Sequence[Sequence[float]], coding: Coding = Coding.TEXT) -> list[Replayed]:
    """Recorded answers as traffic for ``ReplayModel``, as foreign text or as tokens; rows
    without tokens are left out."""
    piece: bytes | int = b"x" if coding is Coding.TEXT else _NEXT
    return [
        Replayed(AnswerSpec((row,), 1 << 20), coding, (piece,) * (len(line) - 1))  # type: ignore[arg-type] # one kind
        for row, line in enumerate(costs)
        if len(line) > 1
    ]


def _own(stream: Stream) -> ReplayStream:
    if not isinstance(stream, ReplayStream):
        raise InputError("a stream of another model")
    return stream
