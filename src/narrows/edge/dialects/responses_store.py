"""Replies of the Responses API that may be gone on from: kept in memory, by API key.

Bounded in bytes, for one key and for all, and in time: the oldest of a key goes first, so no
client can push out another's beyond its own part. Nothing is written to a disk; after a restart
a client is told that its reply is not there, and sends the conversation itself.
"""

from __future__ import annotations

import json
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from narrows.edge.problems import ApiError, bad_request

OBJECT_BYTES = 512  # what a kept reply takes beside its JSON
Messages = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class _Kept:
    messages: bytes
    response: bytes
    since_s: float

    @property
    def size_bytes(self) -> int:
        return len(self.messages) + len(self.response) + OBJECT_BYTES


class ResponsesStore:
    """``key_bytes``: of one API key's replies with the conversations before them; ``all_bytes``:
    of everyone's. ``keep_s``: how long one stays. ``clock``: seconds, never backward."""

    def __init__(
        self, key_bytes: int, all_bytes: int, keep_s: float, clock: Callable[[], float]
    ) -> None:
        self._key_bytes = key_bytes
        self._all_bytes = all_bytes
        self._keep_s = keep_s
        self._clock = clock
        self._kept: dict[int, OrderedDict[str, _Kept]] = {}
        self._bytes: Counter[int] = Counter()  # by scope
        self.size_bytes = 0

    def put(self, scope: int, reply: str, messages: Messages, response: dict[str, Any]) -> None:
        """Keep it where it fits: a reply too large for its key is not there later."""
        kept = _Kept(_packed(messages), _packed(response), self._clock())
        if kept.size_bytes > self._key_bytes:
            return
        own = self._kept.setdefault(scope, OrderedDict())
        own[reply] = kept
        self._bytes[scope] += kept.size_bytes
        self.size_bytes += kept.size_bytes
        self._expire()
        while self._bytes[scope] > self._key_bytes:
            self._drop(scope, next(iter(own)))
        while self.size_bytes > self._all_bytes:
            largest = max(self._bytes, key=self._bytes.__getitem__)
            self._drop(largest, next(iter(self._kept[largest])))

    def messages(self, scope: int, reply: str) -> bytes:
        """The conversation up to and with that reply, as JSON, so that its size is known before
        it is read. ApiError where it is not kept."""
        return self._find(scope, reply, "previous_response_id").messages

    def response(self, scope: int, reply: str) -> dict[str, Any]:
        """The reply itself. ApiError where it is not kept."""
        found: dict[str, Any] = json.loads(self._find(scope, reply, "response_id").response)
        return found

    def forget(self, scope: int, reply: str) -> None:
        """ApiError where it is not kept."""
        self._find(scope, reply, "response_id")
        self._drop(scope, reply)

    def _find(self, scope: int, reply: str, param: str) -> _Kept:
        self._expire()
        own = self._kept.get(scope)
        kept = own.get(reply) if own is not None else None
        if kept is not None:
            return kept
        shown = ascii(reply[:80])[1:-1]
        message = f"The reply '{shown}' is not kept here: send the conversation as input."
        if param == "response_id":
            raise ApiError(404, "response_not_found", message, param=param)
        raise bad_request(message, param, "previous_response_not_found")

    def _expire(self) -> None:
        oldest = self._clock() - self._keep_s
        for scope in list(self._kept):
            own = self._kept[scope]
            while own and next(iter(own.values())).since_s < oldest:
                self._drop(scope, next(iter(own)))

    def _drop(self, scope: int, reply: str) -> None:
        own = self._kept[scope]
        size_bytes = own.pop(reply).size_bytes
        self.size_bytes -= size_bytes
        self._bytes[scope] -= size_bytes
        if not own:
            del self._kept[scope], self._bytes[scope]


def _packed(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode("ascii")
