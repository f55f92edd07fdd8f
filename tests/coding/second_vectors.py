"""A link vector, read by the decoder of ``second/``: with the fixed shares that
docs/link-format.md gives its tokens."""

from __future__ import annotations

from collections.abc import Sequence

from coding.link_scripts import Vector, costs, said, specs
from coding.second.link import Link
from narrows.coding.events import AnswerSpec

LIKELY, OTHER, END = range(3)


class Recorded:
    """``logits``: the share of the recorded token, and which it is."""

    vocab_size = 3
    ends = frozenset({END})
    specials = frozenset({OTHER, END})

    def __init__(self, rows: list[list[float]]) -> None:
        self._rows = rows

    def token_bytes(self, token: int) -> bytes:
        return (b"x", b"?", b"")[token]

    def logits(self, tokens: Sequence[int]) -> list[int]:
        row = self._rows[tokens[0]]
        at = min(len(tokens) - 1, len(row) - 1)
        share = round(2 ** (32 - row[at]))
        return [min(max(share, 2), 2**32 - 2), END if at == len(row) - 1 else LIKELY]


class FixedShares:
    def __init__(self, spec: AnswerSpec, coding: int) -> None:
        """Nothing is learned."""

    def prepare(self, logits: list[int]) -> None:
        self.share, self.token = logits

    def find(self, target: int) -> tuple[int, int, int]:
        if target < self.share:
            return self.token, 0, self.share
        if target < 2**32 - 1:
            return OTHER, self.share, 2**32 - 1 - self.share
        return LIKELY + END - self.token, 2**32 - 1, 1

    def update(self, token: int) -> None: ...

    def skip(self) -> None: ...

    def close(self) -> None: ...


def second(vector: Vector, link: type[Link] = Link) -> list[str]:
    """The events that ``link`` makes of the vector's bytes."""
    reader = link(Recorded(costs(vector)), vector["options"], FixedShares, specs(vector))
    events = reader.decode(bytes.fromhex(vector["bytes"]))
    return [said(number, event) for number, event in events]
