"""The edge's watch: every answer past the detectors, every firing into the book.

All that is looked at has left the gate already and is paid: nothing here makes another byte leave.
What an alarm does, it does to new answers and to those under way; it moves no budget.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from narrows.alarms.book import AlarmBook
from narrows.alarms.cost import BLOCK_TOKENS, CostReference, CostTest
from narrows.alarms.courier import Courier
from narrows.alarms.detector import Firing
from narrows.alarms.noise import (
    LEAST_TEMPERATURE,
    LEAST_TOP_P,
    MOST_TEMPERATURE,
    AnswerNoise,
    NoiseTest,
    null_from_json,
)
from narrows.alarms.settings import AlarmSettings
from narrows.alarms.share import HOUR_S, ShareTest
from narrows.alarms.store import AlarmStore, FiledAlarm
from narrows.alarms.uncoupled import UncoupledTest
from narrows.coding.events import Coding
from narrows.coding.kept import BYTES_PER_TOKEN
from narrows.coding.tokens.gain import GainSegment
from narrows.durable import read_once
from narrows.edge import problems
from narrows.edge.answer import EdgeAnswer
from narrows.edge.problems import ApiError
from narrows.wire.parameters import shapes_draw

log = logging.getLogger("narrows.edge.watch")

_ONE = 65536
_CONSTRAINED = ("response_format", "tools")
_MAX_NULL_BYTES = 1 << 16

StopAnswers = Callable[[Callable[[EdgeAnswer], bool], ApiError], None]


class AnswerWatch:
    """One edge's. ``stop``: ends the answers under way that a predicate picks. The loop's thread,
    but for ``flush``."""

    def __init__(
        self,
        state_dir: Path,
        settings: AlarmSettings,
        stop: StopAnswers,
        wall_s: Callable[[], float] = time.time,
    ) -> None:
        """Raises NarrowsError: no null, no store."""
        null = None
        if settings.null:
            path = Path(settings.null)
            null = null_from_json(read_once(path, _MAX_NULL_BYTES, follow_links=True))
        self.noise = NoiseTest(null)
        self.uncoupled = UncoupledTest(settings.couples)
        reference = CostReference()
        self.cost = CostTest(reference)
        self.share = ShareTest()
        self._stop = stop
        self._wall_s = wall_s
        self._loop = asyncio.get_running_loop()
        self._courier = Courier(settings, self._told)
        self._store = AlarmStore(state_dir)
        detectors = (
            self.noise,
            self.uncoupled,
            reference,
            self.cost,
            self.share,
            self.share.reference,
        )
        self.book = AlarmBook(self._store, settings, detectors, self._courier.send, wall_s)

    # -- what the link tells -----------------------------------------------------------------

    def gained(self, answer: EdgeAnswer, segments: Sequence[GainSegment]) -> None:
        """How lucky some more of its tokens were."""
        if not _is_tested(answer):
            return
        if answer.noise is None:
            answer.noise = AnswerNoise()
        sums = [(one.luck_bits, one.room_bits) for one in segments]
        found = self.noise.observe(answer.noise, answer.request.scope, sums)
        self._raise([found] if found else [])

    def moved(self, answer: EdgeAnswer) -> None:
        """More of an answer came."""
        if not answer.judged and _tokens(answer):
            answer.judged = True
            self._judge(answer)
        if not answer.ended and _tokens(answer) - answer.costed_tokens >= BLOCK_TOKENS:
            self._cost(answer)

    def ended(self, answer: EdgeAnswer) -> None:
        """It is over inside, however it ended."""
        key_id = answer.request.scope
        if answer.noise is not None:
            noise, answer.noise = answer.noise, None
            self._raise(self.noise.end(noise, key_id))
        if answer.opened:
            self._cost(answer)
        self._raise(self.share.observe(key_id, answer.bits, self._wall_s()))

    def _judge(self, answer: EdgeAnswer) -> None:
        """Whether it is coupled, once it has said anything: what fails before says nothing."""
        if not answer.resumes and _can_couple(answer):
            coupled = answer.coding is Coding.COUPLED
            self._raise(self.uncoupled.observe(answer.request.scope, coupled))

    def _cost(self, answer: EdgeAnswer) -> None:
        tokens, bits = _tokens(answer) - answer.costed_tokens, answer.bits - answer.costed_bits
        first = answer.costed_tokens == 0
        answer.costed_tokens += tokens
        answer.costed_bits += bits
        if answer.resumes:
            return  # its bits hold what came twice
        hour = int(self._wall_s() // HOUR_S) % 24
        found = self.cost.observe(answer.request.scope, _kind(answer), hour, bits, tokens, first)
        self._raise([found] if found else [])

    # -- what alarms do ----------------------------------------------------------------------

    def check(self, key_id: int) -> None:
        """Raises ApiError where an open alarm refuses this key's answers."""
        if alarm := self.book.refuses(key_id):
            raise problems.alarmed(
                alarm.alarm_id, alarm.detector, alarm.policy == "close" or alarm.subject < 0
            )

    def _raise(self, firings: Sequence[Firing]) -> None:
        for firing in firings:
            alarm = self.book.raise_(firing)
            if alarm.policy != "tell":
                self._act(alarm.subject, alarm.policy == "close", alarm.detector)

    def _act(self, subject: int, close: bool, detector: str) -> None:
        """End what is under way too, once whoever told of it has come to an end."""
        whole = close or subject < 0
        reason = problems.alarmed(0, detector, whole)
        self._loop.call_soon(self._stop, lambda one: whole or one.request.scope == subject, reason)

    def _told(self, alarm: FiledAlarm, outcome: str) -> None:
        try:
            self._loop.call_soon_threadsafe(self.book.note_sent, alarm, outcome)
        except RuntimeError:
            log.info("alarm %s: %s", alarm.detector, outcome)  # the edge has ended meanwhile

    async def flush_aside(self) -> bool:
        """Write the book, and hear of acknowledgements, with the disk in another thread."""
        self.book.collect()
        good = await asyncio.to_thread(self.book.flush)
        self.book.collect()
        return good

    def close(self) -> None:
        """The last evidence, and no more letters."""
        self._courier.close()
        self.book.collect()
        self.book.flush()
        self._store.close()


def _is_free(answer: EdgeAnswer) -> bool:
    """Whether the model's own distribution was drawn from, nearly all of it."""
    body = answer.request.body
    free = not any(body.get(name) for name in _CONSTRAINED) and not shapes_draw(body)
    return free and answer.top_p >= round(LEAST_TOP_P * _ONE)


def _is_tested(answer: EdgeAnswer) -> bool:
    """Whether the noise test's null is meant for it."""
    warm = LEAST_TEMPERATURE * _ONE <= answer.temperature <= MOST_TEMPERATURE * _ONE
    return warm and _is_free(answer)


def _can_couple(answer: EdgeAnswer) -> bool:
    """Whether an upstream that couples would couple it, whatever upstream that is."""
    return answer.temperature > 0 and "prompt" not in answer.request.body and _is_free(answer)


def _kind(answer: EdgeAnswer) -> int:
    """The cost test's class: by coding and temperature."""
    warmth = 0 if not answer.temperature else 1 if answer.temperature < 0.7 * _ONE else 2
    return int(answer.coding) * 3 + warmth


def _tokens(answer: EdgeAnswer) -> int:
    return len(answer.tokens) if answer.native else answer.text_bytes // BYTES_PER_TOKEN
