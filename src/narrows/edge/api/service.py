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
from narrows.edge.books.figures import series
from narrows.edge.books.stats import StatsRecorder
from narrows.edge.books.transcripts import TranscriptLog
from narrows.edge.config import EdgeConfig
from narrows.edge.cost import mode_of, saved_bytes
from narrows.edge.dialects.responses_store import ResponsesStore
from narrows.edge.local import LocalModel
from narrows.edge.model_table import LOCAL
from narrows.edge.models import EdgeModel, EdgeModels
from narrows.edge.problems import ApiError
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
        self._measure(model, answer, tokens)
        if not answer.resumes:  # else its bits hold what came twice, under another model perhaps
            label = model.weak_label(answer.weak.label)
            self.stats.imitation(label).add(1, answer.text_bytes, round(answer.bits))

    def _measure(self, model: EdgeModel, answer: EdgeAnswer, tokens: int) -> None:
        figures, coding = self.stats.figures, answer.coding.name.lower()
        labels = {
            "coding": coding,
            "mode": mode_of(answer),
            "weak": model.weak_label(answer.weak.label),
        }
        figures.add("narrows_answers_total", 1, **labels)
        figures.add("narrows_answer_text_bytes_total", answer.text_bytes, **labels)
        figures.add("narrows_answer_link_bytes_total", answer.bits / 8, **labels)
        figures.add("narrows_answer_tokens_total", tokens, **labels)
        if answer.first_text_s:
            first_s = answer.first_text_s - answer.asked_s
            figures.observe("narrows_first_token_seconds", first_s, coding=coding)
            if tokens > 1:
                between_s = (answer.last_text_s - answer.first_text_s) / (tokens - 1)
                figures.observe("narrows_inter_token_seconds", between_s, coding=coding)

    def refused(self, error: ApiError) -> None:
        """A request that ended so."""
        status = str(error.status)
        self.stats.figures.add("narrows_request_errors_total", code=error.code, status=status)

    def put_gauges(self) -> None:
        """How the edge stands now, for metrics."""
        gauges = {
            series("narrows_edge_open_answers"): float(self.answers),
            series("narrows_edge_open_body_bytes"): float(self.bodies_bytes),
        }
        for model in self.models.all:
            link = model.link
            for name, value in (
                ("narrows_edge_waiting_requests", link.redial.waiting),
                ("narrows_edge_links", len(link.links)),
                ("narrows_edge_link_up", link.up),
                ("narrows_edge_decoder_late_seconds", link.decoder_late_s()),
                ("narrows_edge_strong_model_up", model.answers == "ok"),
            ):
                gauges[series(name, model=model.name)] = float(value)
            state = link.gate_state.state
            gauges[series("narrows_edge_gate_state", model=model.name, state=state)] = 1.0
        self.stats.put_gauges(gauges)

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
