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
from narrows.edge.books.figures import series
from narrows.edge.books.stats import StatsRecorder
from narrows.edge.books.transcripts import TranscriptLog
from narrows.edge.config import EdgeConfig
from narrows.edge.cost import mode_of, saved_bytes
from narrows.edge.dialects.chat import fingerprint
from narrows.edge.dialects.responses_store import ResponsesStore
from narrows.edge.link.upkeep import LinkClient
from narrows.edge.local import LOCAL, LocalModel
from narrows.edge.problems import ApiError
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
        self._measure(answer, tokens)
        if not answer.resumes:  # else its bits hold what came twice, under another model perhaps
            self.stats.imitation(answer.weak.label).add(1, answer.text_bytes, round(answer.bits))

    def _measure(self, answer: EdgeAnswer, tokens: int) -> None:
        figures, coding = self.stats.figures, answer.coding.name.lower()
        labels = {"coding": coding, "mode": mode_of(answer), "weak": answer.weak.label}
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
        link = self.link
        gauges = {
            "narrows_edge_open_answers": self.answers,
            "narrows_edge_waiting_requests": link.redial.waiting,
            "narrows_edge_open_body_bytes": self.bodies_bytes,
            "narrows_edge_links": len(link.links),
            "narrows_edge_link_up": link.up,
            "narrows_edge_decoder_late_seconds": link.decoder_late_s(),
            "narrows_edge_strong_model_up": self.model == "ok",
        }
        self.stats.put_gauges(
            {series(name): float(value) for name, value in gauges.items()}
            | {series("narrows_edge_gate_state", state=link.gate_state.state): 1.0}
        )

    def keep(self, answer: EdgeAnswer, completion_id: str, choice: int, created_s: int) -> None:
        """A complete answer with its prompt, where transcripts are wanted."""
        if self.transcripts is not None and answer.record is not None and not answer.local:
            self.transcripts.add(answer, completion_id, choice, created_s)
