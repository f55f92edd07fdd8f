"""Reasoning of a model that says its ids, which stays inside.

An answer's ids are coded by their positions in its noise, so what stays inside must not count
there. The reasoning is therefore a completion of its own, drawn with a key that only the enclave
knows the use of, and ends with ``</think>``; the answer is another one, of the prompt with the
reasoning behind it, and begins at position 0 of the answer's own key. The server has read all of
that prompt already.

A model that may begin with ``<think>`` or not is asked for the answer first: where it does not,
that is the answer. Where it does, the ids that open the reasoning were drawn at the answer's own
first positions, and all behind them is drawn anew.
"""

from __future__ import annotations

import codecs
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence

from narrows.coding.markup import THINK, THOUGHT, ReasoningForm
from narrows.models.api import Tokenizer
from narrows.wire.stops import StopFinder

_SPACE = " \t\r\n"
KEPT_S = 900.0
MAX_KEPT_TOKENS = 1 << 22


def inner_key(key: bytes) -> bytes:
    """What an answer's reasoning is drawn with, so that no noise serves twice."""
    return hashlib.sha256(b"narrows reasoning" + key).digest()


class AnswerFront:
    """Watches an answer's first ids, kept in ``ids``. ``reasons``: whether it begins with
    ``<think>``; None until that is known."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._token_bytes = tokenizer.token_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._text = ""
        self.ids: list[int] = []
        self.reasons: bool | None = None

    def feed(self, ids: Sequence[int]) -> bool:
        """Whether it is known now. Ids behind the one that tells are not taken."""
        for token in ids:
            self.ids.append(token)
            self._text = (self._text + self._decoder.decode(self._token_bytes(token))).lstrip(
                _SPACE
            )
            if self._text.startswith(THINK):
                self.reasons = True
            elif not THINK.startswith(self._text):
                self.reasons = False
            if self.reasons is not None:
                return True
        return False


def cut_behind_marker(tokenizer: Tokenizer, ids: Sequence[int]) -> list[int]:
    """``ids`` up to the first ``</think>`` and no further: a last token that holds more is
    written with others."""
    sizes = [len(tokenizer.token_bytes(token)) for token in ids]
    data = b"".join(map(tokenizer.token_bytes, ids))
    marker = THOUGHT.encode()
    end = data.find(marker) + len(marker)
    whole: list[int] = []
    at = 0
    for token, size in zip(ids, sizes, strict=True):
        if at + size > end:
            return whole + tokenizer.encode(data[at:end])
        whole.append(token)
        at += size
    return whole


class Closing:
    """Watches reasoning for its end. ``over``: ``</think>`` has come."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._token_bytes = tokenizer.token_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._finder = StopFinder((THOUGHT,))
        self.size_bytes = 0

    @property
    def over(self) -> bool:
        return self._finder.stopped

    def feed(self, ids: Sequence[int]) -> None:
        """More of it."""
        data = b"".join(map(self._token_bytes, ids))
        self.size_bytes += len(data)
        self._finder.feed(self._decoder.decode(data))


class HiddenStore:
    """Reasoning of late answers, for those that go on over another link: by the answer's key and
    scope, for ``KEPT_S``, at most ``MAX_KEPT_TOKENS`` in all, the oldest leave first."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._rows: OrderedDict[tuple[int, bytes], tuple[float, tuple[int, ...]]] = OrderedDict()
        self._tokens = 0

    def put(self, scope: int, key: bytes, ids: tuple[int, ...]) -> None:
        """Of an answer that begins; none where it did not reason."""
        self._drop((scope, key))
        self._rows[scope, key] = (self._now_s(), ids)
        self._tokens += len(ids) + 1
        while self._rows:
            oldest = next(iter(self._rows))
            fresh = self._rows[oldest][0] + KEPT_S >= self._now_s()
            if fresh and self._tokens <= MAX_KEPT_TOKENS:
                return
            self._drop(oldest)

    def get(self, scope: int, key: bytes) -> tuple[int, ...] | None:
        """None: it is not there any more, and the answer cannot go on."""
        found = self._rows.get((scope, key))
        if found is None or found[0] + KEPT_S < self._now_s():
            return None
        return found[1]

    def _drop(self, place: tuple[int, bytes]) -> None:
        if place in self._rows:
            self._tokens -= len(self._rows.pop(place)[1]) + 1


def may_reason(form: ReasoningForm) -> bool:
    """Whether an answer that is written so may hold reasoning."""
    return form in (ReasoningForm.MARKED, ReasoningForm.BEGUN)
