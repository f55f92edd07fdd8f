"""Which noise keys were used, so that none explains two answers.

Noise that comes twice makes the second answer's luck known before its prompt is written: who
chooses that prompt chooses the answer. A resume is no second use: same answer (``uid``), same
request, and it goes on behind tokens that a link brought under this very key.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field

from narrows.wire.messages import Request

MAX_KEYS = 1 << 20
"""Then no further answer is credited: a key that is forgotten could be used again."""
MAX_TOKENS = 1 << 24
"""Of answers that may still be resumed, together."""


@dataclass(slots=True)
class Use:
    asked: bytes
    tokens: list[int] = field(default_factory=list)
    over: bool = False


class KeyBook:
    """All keys that one auditor has seen. 200 bytes a key."""

    def __init__(self, max_keys: int = MAX_KEYS, max_tokens: int = MAX_TOKENS) -> None:
        self._uses: dict[bytes, Use] = {}
        self._max_keys = max_keys
        self._max_tokens = max_tokens
        self._tokens = 0
        self._changed: set[bytes] = set()

    def put(self, key: bytes, use: Use) -> None:
        """As it was when another book was asked for its changes."""
        self._uses[key] = use
        self._tokens += len(use.tokens)

    def take_changes(self) -> list[tuple[bytes, Use]]:
        """Keys opened since the last call. Whole only while no answer is open."""
        found = [(key, self._uses[key]) for key in sorted(self._changed & self._uses.keys())]
        self._changed.clear()
        return found

    def open(self, request: Request) -> tuple[Use, str | None]:
        """The use, and why this answer is not credited, if so. Call in order of opening. A resume
        has a use of its own; the answer that it goes on from is over, should it bring more."""
        key = bytes.fromhex(request.noise_key)
        told = json.dumps([request.uid, request.scope, request.body], sort_keys=True)
        asked = hashlib.sha256(told.encode()).digest()
        resume = list(request.resume)
        old = self._uses.get(key)
        self._changed.add(key)
        if old is None:
            if len(self._uses) >= self._max_keys or self._tokens >= self._max_tokens:
                return Use(asked, over=True), "no memory for further noise keys"
            self._uses[key] = fresh = Use(asked, resume)
            self._tokens += len(resume)
            return fresh, "a resume of what was never seen" if resume else None
        if old.over or old.asked != asked or old.tokens[: len(resume)] != resume:
            return Use(asked, over=True), "noise key used twice"
        self.close(old)
        self._uses[key] = fresh = Use(asked, resume)
        self._tokens += len(resume)
        return fresh, None

    def token(self, use: Use, token: int) -> None:
        if not use.over:
            use.tokens.append(token)
            self._tokens += 1

    def close(self, use: Use) -> None:
        """There is nothing to resume of it."""
        if not use.over:
            use.over = True
            self._tokens -= len(use.tokens)
            use.tokens = []
