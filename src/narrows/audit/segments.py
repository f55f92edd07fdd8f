"""Segments: the parts of answers that are charged as one, with all that charging them needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from narrows.audit.charge import SEGMENT_TOKENS
from narrows.audit.keybook import Use
from narrows.coding.events import AnswerSpec, Coding
from narrows.wire.messages import Request


@dataclass(frozen=True, slots=True)
class Segment:
    """At most 256 tokens of one answer, ids of the vocabulary with that digest. ``start``: the
    answer's tokens ahead of them, resumed ones included, so also the noise position of the first
    one; they are the first of ``said``, which the answer's segments share and which grows.
    ``costs_q16``: what each token cost on the link; 0 where the token code did not carry it
    (a literal). ``digest``: of the link's tape through the record that completed the segment.
    ``since``: bytes of the link's data ahead of the record that brought its first token.
    ``why``: not creditable, if so."""

    link: int
    answer: int
    index: int
    request: Request
    spec: AnswerSpec
    vocabulary: bytes
    said: list[int]
    start: int
    tokens: tuple[int, ...]
    costs_q16: tuple[int, ...]
    digest: bytes
    since: int
    why: str | None

    @property
    def before(self) -> list[int]:
        """The answer's tokens ahead of the segment's."""
        return self.said[: self.start]

    @property
    def link_q16(self) -> int:
        return sum(self.costs_q16)

    @property
    def coded(self) -> int:
        """Tokens that the token code carried."""
        return sum(1 for cost in self.costs_q16 if cost)


Emit = Callable[[Segment], None]


@dataclass(slots=True)
class Answering:
    """An open answer: collects tokens, cuts segments. ``digest`` names the tape so far,
    ``position`` is the link's data ahead of the present record. ``said``: all its tokens up to
    the last cut. ``head``: a switch has come."""

    link: int
    number: int
    request: Request
    spec: AnswerSpec
    vocabulary: bytes
    use: Use
    why: str | None
    emit: Emit
    digest: Callable[[], bytes]
    position: Callable[[], int]
    index: int = 0
    since: int = 0
    head: bool = False
    said: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    costs_q16: list[int] = field(default_factory=list)

    def take(self, token: int, cost_q16: int) -> None:
        if not self.tokens:
            self.since = self.position()
        self.tokens.append(token)
        self.costs_q16.append(cost_q16)
        if len(self.tokens) >= SEGMENT_TOKENS:
            self.cut()

    def refuse(self, why: str) -> None:
        """From here on nothing of it is credited; what came before stays a segment."""
        if self.why is None:
            self.cut()
            self.why = why

    def cut(self) -> None:
        """End the segment, where it has any tokens."""
        if not self.tokens:
            return
        self.emit(
            Segment(
                self.link,
                self.number,
                self.index,
                self.request,
                self.spec,
                self.vocabulary,
                self.said,
                len(self.said),
                tuple(self.tokens),
                tuple(self.costs_q16),
                self.digest(),
                self.since,
                self.why,
            )
        )
        self.index += 1
        self.said += self.tokens
        self.tokens.clear()
        self.costs_q16.clear()


def coding_fault(coding: Coding) -> str | None:
    return "foreign text" if coding is Coding.TEXT else None
