"""What all requests of an edge share: its configuration, its link, its counts and limits."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from narrows.edge import problems
from narrows.edge.answer import EdgeAnswer
from narrows.edge.api.access import Access
from narrows.edge.api.rates import RateBook
from narrows.edge.books.stats import StatsRecorder
from narrows.edge.books.transcripts import TranscriptLog
from narrows.edge.config import EdgeConfig
from narrows.edge.cost import mode_of, saved_bytes
from narrows.edge.dialects.chat import fingerprint
from narrows.edge.dialects.responses_store import ResponsesStore
from narrows.edge.link.upkeep import LinkClient
from narrows.edge.local import LOCAL, LocalModel
from narrows.edge.watch import AnswerWatch


@dataclass(slots=True)
class Service:
    """``wall_s``: seconds since the epoch. ``random_bytes``: the edge's trusted coins.
    ``started_s``: when it began to serve. ``model``: whether the strong model answers, ``ok``,
    ``down`` or ``unknown``."""

    config: EdgeConfig
    link: LinkClient
    access: Access
    stats: StatsRecorder
    secret: bytes
    watch: AnswerWatch
    wall_s: Callable[[], float] = time.time
    random_bytes: Callable[[int], bytes] = secrets.token_bytes
    started_s: int = field(init=False)
    replies: ResponsesStore = field(init=False)
    local: LocalModel | None = None
    transcripts: TranscriptLog | None = None
    model: str = "ok"
    rates: RateBook = field(default_factory=RateBook)
    stopping: bool = False
    answers: int = 0
    bodies_bytes: int = 0

    def __post_init__(self) -> None:
        self.started_s = int(self.wall_s())
        limits = self.config.limits
        self.replies = ResponsesStore(
            limits.reply_key_bytes, limits.replies_bytes, limits.reply_s, time.monotonic
        )

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.config.model_name, self.link.weak.digest)

    @contextmanager
    def admit(self, answers: int, body_bytes: int) -> Iterator[None]:
        """Room for a request while it is served. Raises ApiError where there is none."""
        limits = self.config.limits
        if self.stopping:
            raise problems.shutting_down()
        if self.answers + answers > limits.answers:
            raise problems.overloaded()
        if self.bodies_bytes + answers * body_bytes > limits.bodies_bytes:
            raise problems.overloaded("The requests in flight are too large together.")
        self.answers += answers
        self.bodies_bytes += answers * body_bytes
        try:
            yield
        finally:
            self.answers -= answers
            self.bodies_bytes -= answers * body_bytes

    def count_delivered(self, answer: EdgeAnswer, text_bytes: int) -> None:
        """Text of an answer that was handed to a client."""
        if text_bytes and not answer.local:
            self.stats.traffic(answer.weak.name).answer_bytes += text_bytes

    def count_answer(self, answer: EdgeAnswer, tokens: int) -> None:
        """An answer that reached its client complete."""
        model = self.config.model_name + (LOCAL if answer.local else "")
        place = (answer.request.scope, model, mode_of(answer))
        self.stats.cost(place, round(answer.bits), saved_bytes(answer))
        if answer.local:
            return
        counts = self.stats.traffic(answer.weak.name)
        counts.answers += 1
        counts.tokens += tokens
        self.stats.coded(answer.coding)
        if not answer.resumes:  # else its bits hold what came twice, under another model perhaps
            self.stats.imitation(answer.weak.label).add(1, answer.text_bytes, round(answer.bits))

    def keep(self, answer: EdgeAnswer, completion_id: str, choice: int, created_s: int) -> None:
        """A complete answer with its prompt, where transcripts are wanted."""
        if self.transcripts is not None and answer.record is not None and not answer.local:
            self.transcripts.add(answer, completion_id, choice, created_s)
