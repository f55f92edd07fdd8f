"""Who may hold how much of a weak model's memory at the encoding end.

The memory is one for all links of a process, and bounded; a call that finds none left fails in the
middle of coded symbols, which no answer survives. So an answer reserves what its next round may
need before that round is coded, here and within what the far end offered; one that gets nothing is
failed alone. Amounts are those of ``TokenModel.stream_bytes``: shared prefixes count once for each.
"""

from __future__ import annotations

from narrows.coding.events import AnswerSpec

GROWTH_TOKENS = 256
"""Of a new answer's tokens, as many have room from the start: else all would begin and none end."""


class CacheAccount:
    """``limit_bytes``: the model's ``cache_bytes``. One thread at a time."""

    def __init__(self, limit_bytes: int) -> None:
        self._left = limit_bytes

    def take(self, more_bytes: int) -> bool:
        """Reserve that much more (negative: give back); false where there is too little."""
        if more_bytes > self._left:
            return False
        self._left -= more_bytes
        return True


class LinkCache:
    """One link's reservations, by answer. ``limit_bytes``: what the far end offered."""

    def __init__(self, account: CacheAccount, limit_bytes: int) -> None:
        self._account = account
        self._own = CacheAccount(limit_bytes)
        self._held: dict[int, int] = {}

    def reserve(self, number: int, need_bytes: int) -> bool:
        """See that the answer has as much; never less than before. False: it keeps what it had."""
        more = need_bytes - self._held.get(number, 0)
        if more <= 0:
            return True
        if not self._own.take(more):
            return False
        if not self._account.take(more):
            self._own.take(-more)
            return False
        self._held[number] = need_bytes
        return True

    def drop(self, number: int) -> None:
        held = self._held.pop(number, 0)
        self._own.take(-held)
        self._account.take(-held)

    def close(self) -> None:
        for number in list(self._held):
            self.drop(number)


def first_tokens(spec: AnswerSpec) -> int:
    """For how many tokens a new answer shall have room."""
    prompt = max(len(spec.prompt) + len(spec.resume), 1)
    return prompt + min(max(spec.max_tokens - len(spec.resume), 1), GROWTH_TOKENS)
