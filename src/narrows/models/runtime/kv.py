"""Pages of the key-value cache: who holds which, shared prefixes, a hard bound.

A page is 64 consecutive positions of one history, for all layers. Numbers only: the bytes
live in the engine.

Invariants
- ``pages`` pages exist, made once; ``take`` fails (None) rather than make one more.
- ``holders[p]`` counts streams plus the prefix cache. A page is written only while one holder
  has it; a stream that would write a shared page copies it first.
- A cached page is full, so nobody writes it. Its key is its parent's node and its 64 tokens
  themselves, no hash: two histories share a page only if every token before it is equal.
- When pages run out, cached pages that no stream holds go first, the longest unused first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from narrows.models.runtime.numerics import PAGE_TOKENS

ROOT = 0
_Key = tuple[int, tuple[int, ...]]


class PagePool:
    """Counts and the prefix cache over ``pages`` pages."""

    def __init__(self, pages: int) -> None:
        self.pages = pages
        self.holders = [0] * pages
        self._free = list(range(pages - 1, -1, -1))
        self._nodes: OrderedDict[_Key, tuple[int, int]] = OrderedDict()  # key to (node, page)
        self._next_node = ROOT + 1

    @property
    def free_pages(self) -> int:
        """Pages that ``take`` can still give, cached ones that nobody holds included."""
        idle = sum(1 for _, page in self._nodes.values() if self.holders[page] == 1)
        return len(self._free) + idle

    def take(self) -> int | None:
        """A page with one holder, or None if the bound is reached."""
        if not self._free:
            self._evict()
        if not self._free:
            return None
        page = self._free.pop()
        self.holders[page] = 1
        return page

    def hold(self, page: int) -> None:
        self.holders[page] += 1

    def drop(self, page: int) -> None:
        self.holders[page] -= 1
        if self.holders[page] == 0:
            self._free.append(page)

    def _evict(self) -> None:
        for key, (_, page) in self._nodes.items():
            if self.holders[page] == 1:
                del self._nodes[key]
                self.drop(page)
                return

    def find(self, tokens: Sequence[int], most: int, scope: int = 0) -> tuple[list[int], int]:
        """Cached pages that ``tokens`` starts with, at most ``most``, now held by the caller;
        and the node that the last of them is. Each scope has a root, so a tree, of its own."""
        node, pages = scope_root(scope), []
        for index in range(most):
            key = (node, tuple(tokens[index * PAGE_TOKENS : (index + 1) * PAGE_TOKENS]))
            found = self._nodes.get(key)
            if found is None:
                break
            self._nodes.move_to_end(key)
            node, page = found
            self.hold(page)
            pages.append(page)
        return pages, node

    def publish(self, node: int, tokens: Sequence[int], page: int) -> int:
        """Let others find a page that its holder has just filled; returns its node."""
        key = (node, tuple(tokens))
        found = self._nodes.get(key)
        if found is not None:
            return found[0]
        self.hold(page)
        self._nodes[key] = (self._next_node, page)
        self._next_node += 1
        return self._next_node - 1


def scope_root(scope: int) -> int:
    """The node where a scope's prefixes begin; beyond all that ``publish`` ever numbers."""
    return ROOT if scope == 0 else (1 << 62) + scope


def window_start(index: int, context: int) -> int:
    """First token that the model still sees when it is fed token ``index`` (from 0).

    The truncation rule: everything, up to ``context`` tokens; a token that would be one too
    many first makes the model forget all but the last ``context / 2`` tokens, which become
    positions 0, 1, ... A pure function of the index, so both ends of a link truncate alike.
    """
    if index < context:
        return 0
    half = context // 2
    return ((index - context) // half + 1) * half
