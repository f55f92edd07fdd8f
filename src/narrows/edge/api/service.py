"""What all requests of an edge share: its configuration, its models, its counts and limits."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from narrows.edge import problems
from narrows.edge.answer import EdgeAnswer
from narrows.edge.api.access import Access
from narrows.edge.api.rates import RateBook
from narrows.edge.books.stats import StatsRecorder
from narrows.edge.books.transcripts import TranscriptLog
from narrows.edge.config import EdgeConfig
from narrows.edge.cost import mode_of, saved_bytes
from narrows.edge.dialects.responses_store import ResponsesStore
from narrows.edge.local import LocalModel
from narrows.edge.model_table import LOCAL
from narrows.edge.models import EdgeModel, EdgeModels
from narrows.edge.watch import EdgeAlarms


@dataclass(slots=True)
class Service:
    """``wall_s``: seconds since the epoch. ``random_bytes``: the edge's trusted coins.
    ``started_s``: when it began to serve."""

    config: EdgeConfig
    models: EdgeModels
    access: Access
    stats: StatsRecorder
    alarms: EdgeAlarms
    wall_s: Callable[[], float] = time.time
    random_bytes: Callable[[int], bytes] = secrets.token_bytes
    started_s: int = field(init=False)
    replies: ResponsesStore = field(init=False)
    local: LocalModel | None = None
    transcripts: TranscriptLog | None = None
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

    def count_answer(self, model: EdgeModel, answer: EdgeAnswer, tokens: int) -> None:
        """An answer that reached its client complete."""
        name = model.name + (LOCAL if answer.local else "")
        place = (answer.request.scope, name, mode_of(answer))
        self.stats.cost(place, round(answer.bits), saved_bytes(answer))
        if answer.local:
            return
        counts = self.stats.traffic(answer.weak.name)
        counts.answers += 1
        counts.tokens += tokens
        self.stats.coded(answer.coding)
        if not answer.resumes:  # else its bits hold what came twice, under another model perhaps
            label = model.weak_label(answer.weak.label)
            self.stats.imitation(label).add(1, answer.text_bytes, round(answer.bits))

    def keep(self, answer: EdgeAnswer, completion_id: str, choice: int, created_s: int) -> None:
        """A complete answer with its prompt, where transcripts are wanted."""
        if self.transcripts is not None and answer.record is not None and not answer.local:
            self.transcripts.add(answer, completion_id, choice, created_s)

    def health(self, models: Sequence[EdgeModel]) -> dict[str, Any]:
        """Whether ``models`` can be had: ``ok``, ``unavailable``, or ``partly`` where some can; and
        why. Of one model its own fields, else those of each by its name."""
        closed = self.alarms.book.closed
        may = not self.stopping and not closed
        good = [may and model.serves for model in models]
        status = "ok" if all(good) else "partly" if any(good) else "unavailable"
        body: dict[str, Any] = {"status": status, "alarm": "closed" if closed else "none"}
        if len(models) == 1:
            return body | models[0].standing()
        each = {
            model.name: {"status": "ok" if well else "unavailable"} | model.standing()
            for model, well in zip(models, good, strict=True)
        }
        return body | {"models": each}
