"""Answers whose link broke: which of them wait for another link, and how they go on there."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import msgspec

from narrows.edge import problems
from narrows.edge.answer import EdgeAnswer
from narrows.edge.link.link import EdgeLink
from narrows.edge.problems import ApiError
from narrows.wire.gatestate import PortState

MAX_RESUME = 1 << 17


def fail_answers(answers: Sequence[EdgeAnswer], reason: ApiError) -> None:
    """End those that go on, for their clients and inside."""
    for answer in answers:
        if not answer.ended:
            answer.fail(reason)
            answer.abort()


class Orphans:
    """``resume_s``: how long an answer waits. ``ended``: told each answer that is over."""

    def __init__(self, resume_s: float, ended: Callable[[EdgeAnswer], None]) -> None:
        self._resume_s = resume_s
        self._ended = ended
        self._waiting: dict[EdgeAnswer, tuple[int, ...]] = {}

    @property
    def answers(self) -> list[EdgeAnswer]:
        return list(self._waiting)

    def take_from(
        self,
        link: EdgeLink,
        error: Exception | None,
        verified: Mapping[int, tuple[int, ...]],
        state: PortState,
    ) -> None:
        """What the end of ``link`` means to the answers that were open on it. ``verified``:
        their first tokens that a check has covered, by number."""
        if state.state != "ok":
            reason = problems.budget_error(state.state, state.retry_after_s)
        else:
            reason = problems.link_corrupt() if error else problems.link_lost()
        may_resume = state.state == "ok" and self._resume_s > 0
        for answer in link.answers:
            known = verified.get(-1 if answer.number is None else answer.number)
            if not answer.opened:
                known = tuple(answer.request.resume)
            fits = known is not None and len(known) <= MAX_RESUME
            if may_resume and fits and answer.lose(time.monotonic(), self._resume_s):
                self._waiting[answer] = known or ()
            else:
                answer.fail(reason)
                self._ended(answer)

    def give_to(self, link: EdgeLink) -> None:
        """All of them go on there, where their tokens mean the same."""
        waiting, self._waiting = self._waiting, {}
        for answer, verified in waiting.items():
            if answer.ended:
                self._ended(answer)
            elif answer.opened and answer.tokenizer != link.model.tokenizer.digest:
                answer.fail(problems.link_lost())
                self._ended(answer)
            else:
                resume = list(verified)
                answer.request = msgspec.structs.replace(answer.request, resume=resume)
                link.start(answer)

    def give_up(self) -> None:
        """End those that waited too long, forget those that no one waits for any more."""
        now_s = time.monotonic()
        for answer in self.answers:
            if now_s - answer.lost_s > self._resume_s:
                answer.fail(problems.link_lost())
            if answer.ended:
                del self._waiting[answer]
                self._ended(answer)
