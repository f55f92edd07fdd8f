"""What all requests of an edge share: its configuration, its link, its counts and limits."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from narrows.edge import problems, shape
from narrows.edge.access import Access
from narrows.edge.client import LinkClient
from narrows.edge.config import EdgeConfig
from narrows.edge.stats import StatsRecorder


@dataclass(slots=True)
class Service:
    """``wall_s``: seconds since the epoch. ``random_bytes``: the edge's trusted coins."""

    config: EdgeConfig
    link: LinkClient
    access: Access
    stats: StatsRecorder
    secret: bytes
    wall_s: Callable[[], float] = time.time
    random_bytes: Callable[[int], bytes] = secrets.token_bytes
    stopping: bool = False
    answers: int = 0
    bodies_bytes: int = 0

    @property
    def fingerprint(self) -> str:
        return shape.fingerprint(self.config.model_name, self.link.model.digest)

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

    def count_delivered(self, text_bytes: int) -> None:
        """Text that was handed to a client."""
        self.stats.traffic(self.link.model.name).answer_bytes += text_bytes

    def count_answer(self, tokens: int) -> None:
        """An answer that reached its client complete."""
        counts = self.stats.traffic(self.link.model.name)
        counts.answers += 1
        counts.tokens += tokens
