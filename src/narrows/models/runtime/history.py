"""The host-side state of one history in the runtime: its tokens, its pages, what is unread."""

from __future__ import annotations

from narrows.models.api import Logits
from narrows.models.runtime.kv import scope_root


class History:
    """``start`` is the window's first token; ``pending`` is read before all else (runtime.py)."""

    def __init__(self, scope: int = 0) -> None:
        self.history: list[int] = []
        self.scope = scope
        self.start = 0
        self.pages: list[int] = []
        # Prefix-cache node of the last full page; -1: not cached further.
        self.node = scope_root(scope)
        self.last: Logits | None = None
        self.pending: list[int] = []
        self.kept: Logits | None = None
        self.closed = False

    @property
    def length(self) -> int:
        return len(self.history) + len(self.pending)

    @property
    def fed(self) -> int:
        """Tokens in the cache."""
        return len(self.history) - self.start
