"""Keeping a link up, and every answer's way to a clear end in bounded time.

    down --dial--> greeted --run--> over --wait--> down ...

- Dialling backs off from 0.1 s to 2 s; links that break behind their greeting, with no answer
  completed, back off to 10 s, since each greeting is paid from the budget. Where nobody listened
  at all, which costs nothing, a request that waits has the gate dialled every 0.2 s.
- What the end of a link means to its answers is settled while the next one is dialled: its
  decoder may be in the middle of a slow step. Two links are never unsettled at once.
- A gate whose budget is spent is not dialled at all; its state is asked every two seconds.
- An answer ends by its last event, or here: link lost, budget spent, nothing for ``idle_s``.
- A native answer of a lost link waits ``resume_s`` for the next one and goes on there behind its
  verified tokens; those that its client already has are compared as they come again, and an
  answer that goes another way fails. Other answers fail at once.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

import msgspec

from narrows.edge import problems
from narrows.edge.answer import Answer
from narrows.edge.config import EdgeConfig
from narrows.edge.dial import Gate, Refused, Unreachable
from narrows.edge.link import MAX_OPEN, Link
from narrows.edge.problems import ApiError
from narrows.edge.stats import StatsRecorder
from narrows.edge.worker import Decoder
from narrows.errors import LinkError, NarrowsError, PeerError
from narrows.weak.api import TokenModel
from narrows.wire.gatestate import PortState

log = logging.getLogger("narrows.edge.link")

FIRST_BACKOFF_S = 0.1
DIAL_BACKOFF_S = 2.0
WANTED_DIAL_S = 0.2
BROKEN_BACKOFF_S = 10.0
STEADY_LINK_S = 10.0
WATCH_S = 0.5
QUIET_S = 1.0
VERIFIED_S = 5.0
MAX_RESUME = 1 << 17
PATIENCE_S = 5.0  # a window that opens again this soon is waited for

MakeDecoder = Callable[[TokenModel], Decoder]


class LinkClient:
    """``models``: newest first. ``make_decoder``: a fresh decoder per link. ``run`` until
    cancelled; ``start`` and ``cancel`` from the same loop."""

    def __init__(
        self,
        config: EdgeConfig,
        models: Sequence[TokenModel],
        make_decoder: MakeDecoder,
        link_options: dict[str, int],
        stats: StatsRecorder,
    ) -> None:
        self._config = config
        self._models = models
        self._make_decoder = make_decoder
        self._link_options = link_options
        self._stats = stats
        self._gate = Gate(config)
        self._link: Link | None = None
        self._up = asyncio.Event()
        self._waiting = 0  # requests that wait for a link
        self._wanted = asyncio.Event()  # set while there are any
        self._free_dial = False  # the last dial cost nothing
        self._unsettled: tuple[Link, asyncio.Task[None]] | None = None
        self._orphans: dict[Answer, tuple[int, ...]] = {}
        self._last_error = ""
        self._backoff_s = FIRST_BACKOFF_S
        self.gate_state = PortState("ok")
        self.refusal: Refused | None = None

    @property
    def up(self) -> bool:
        return self._up.is_set()

    @property
    def model(self) -> TokenModel:
        """The weak model of the current link, or the newest."""
        return self._link.model if self._link else self._models[0]

    async def start(self, answers: Sequence[Answer]) -> None:
        """Ask for answers, once there is a link. Raises ApiError where there is none in time."""
        if not self.up or self.gate_state.state != "ok":
            await self._wait_up()
        link = self._link
        if link is None:
            raise problems.link_down()
        if len(link.answers) + len(answers) > MAX_OPEN:
            link.refuse_hoarding()
            raise problems.overloaded()
        for answer in answers:
            link.start(answer)

    def _resume(self, link: Link) -> None:
        orphans, self._orphans = self._orphans, {}
        for answer, verified in orphans.items():
            if answer.ended:
                self._ended(answer)
                continue
            resume = list(verified)
            answer.request = msgspec.structs.replace(answer.request, resume=resume)
            link.start(answer)

    async def _wait_up(self) -> None:
        if self.gate_state.state != "ok":
            self.gate_state = await self._gate.state()
        if self.gate_state.state != "ok" and not self._window_opens_soon():
            raise problems.budget_error(self.gate_state.state, self.gate_state.retry_after_s)
        self._waiting += 1
        self._wanted.set()
        try:
            async with asyncio.timeout(self._config.link_wait_s):
                await self._up.wait()
        except TimeoutError as error:
            raise self._why_down() from error
        finally:
            self._waiting -= 1
            if not self._waiting:
                self._wanted.clear()

    def _why_down(self) -> ApiError:
        state = self.gate_state
        if state.state != "ok":
            return problems.budget_error(state.state, state.retry_after_s)
        if self.refusal is not None:
            return problems.link_refused(self.refusal.greeting.name)
        return problems.link_down()

    def cancel(self, answer: Answer) -> None:
        """The client has gone: stop the answer inside. Idempotent."""
        answer.fail(problems.client_gone())
        answer.abort()

    def fail_all(self, reason: ApiError) -> None:
        """End every answer with ``reason``, here and inside."""
        links = [self._link, self._unsettled[0] if self._unsettled else None]
        for link in links:
            self._fail(link.answers if link else [], reason)
        self._fail(list(self._orphans), reason)

    async def run(self) -> None:
        """Dial for ever."""
        watch = asyncio.create_task(self._watch())
        try:
            while not watch.done():
                self.gate_state = await self._gate.state()
                if self.gate_state.state == "ok" or self._window_opens_soon():
                    await self._one_link()
                    await self._pause()
                else:
                    await asyncio.sleep(DIAL_BACKOFF_S)
            watch.result()
        finally:
            watch.cancel()
            self.fail_all(problems.shutting_down())
            if self._link:
                self._link.close()
            if self._unsettled:
                self._unsettled[1].cancel()

    async def _pause(self) -> None:
        """Between two dials: the back-off, cut short where a request waits and dialling is free."""
        least_s = min(WANTED_DIAL_S, self._backoff_s)
        await asyncio.sleep(least_s)
        try:
            async with asyncio.timeout(self._backoff_s - least_s):
                await (self._wanted if self._free_dial else asyncio.Event()).wait()
        except TimeoutError:
            return

    def _window_opens_soon(self) -> bool:
        state = self.gate_state
        return state.state == "window" and state.retry_after_s <= PATIENCE_S

    async def _one_link(self) -> None:
        """One connection, from dialling to its end; sets the next wait."""
        try:
            wire = await self._gate.connect(self._count)
        except PeerError as error:
            self._free_dial = isinstance(error, Unreachable)
            self._back_off(error, DIAL_BACKOFF_S)
            return
        self._free_dial = False
        try:
            model, first = await wire.greet(self._models, self._link_options)
        except BaseException as error:
            wire.close()
            if not isinstance(error, PeerError | LinkError):
                raise
            self.refusal = error if isinstance(error, Refused) else None
            limit_s = BROKEN_BACKOFF_S if isinstance(error, Refused) else DIAL_BACKOFF_S
            self._back_off(error, limit_s)
            return
        self.refusal = None
        started_s = time.monotonic()
        link = Link(wire, model, self._make_decoder(model), self._ended)
        self._link = link
        self._up.set()
        log.info("link up, weak model %s", model.name)
        self._resume(link)
        try:
            broken = await link.run(first)
        finally:
            self._up.clear()
        if link.completed or time.monotonic() - started_s > STEADY_LINK_S:
            self._backoff_s = FIRST_BACKOFF_S
        self._back_off(broken or PeerError("the gate closed the link"), BROKEN_BACKOFF_S)
        if self._unsettled:
            await self._unsettled[1]
        self._unsettled = (link, asyncio.create_task(self._settle(link, broken)))
        self._link = None

    async def _settle(self, link: Link, error: Exception | None) -> None:
        """What the end of a link means to its answers, once its decoder has stopped."""
        if link.answers:
            verified = await asyncio.to_thread(link.verified, VERIFIED_S)
            self.gate_state = await self._gate.state()
            self._end_answers(link, error, verified)
        if self._link and self.up:  # the next link was faster
            self._resume(self._link)

    def _end_answers(
        self, link: Link, error: Exception | None, verified: dict[int, tuple[int, ...]]
    ) -> None:
        """What the end of a link means to the answers that were open on it."""
        state = self.gate_state
        if state.state != "ok":
            reason = problems.budget_error(state.state, state.retry_after_s)
        else:
            reason = problems.link_corrupt() if error else problems.link_lost()
        may_resume = state.state == "ok" and self._config.resume_s > 0
        for answer in link.answers:
            known = verified.get(-1 if answer.number is None else answer.number)
            if not answer.opened:
                known = tuple(answer.request.resume)
            fits = known is not None and len(known) <= MAX_RESUME
            if may_resume and fits and answer.lose(time.monotonic(), self._config.resume_s):
                self._orphans[answer] = known or ()
            else:
                answer.fail(reason)
                self._ended(answer)

    async def _watch(self) -> None:
        """Answers that get nothing: ask the gate why, and end them in bounded time."""
        while True:
            await asyncio.sleep(WATCH_S)
            link = self._link
            now_s = time.monotonic()
            self._give_up(now_s)
            if link is None or not self.up:
                continue
            quiet = link.waiting and now_s - link.last_read_s > QUIET_S
            if quiet or self.gate_state.state != "ok":
                self.gate_state = state = await self._gate.state()
                if state.state != "ok" and not self._window_opens_soon():
                    reason = problems.budget_error(state.state, state.retry_after_s)
                    self._fail(link.answers, reason)
            idle_s = self._config.limits.idle_s
            late = [one for one in link.answers if now_s - one.last_event_s > idle_s]
            self._fail(late, problems.stalled(idle_s))

    def _give_up(self, now_s: float) -> None:
        """Answers without a link for too long, or that no one waits for any more."""
        for answer in list(self._orphans):
            if now_s - answer.lost_s > self._config.resume_s:
                answer.fail(problems.link_lost())
            if answer.ended:
                del self._orphans[answer]
                self._ended(answer)

    @staticmethod
    def _fail(answers: Sequence[Answer], reason: ApiError) -> None:
        for answer in answers:
            if not answer.ended:
                answer.fail(reason)
                answer.abort()

    def _count(self, size_bytes: int) -> None:
        self._stats.traffic(self.model.name).link_bytes += size_bytes

    def _back_off(self, error: Exception, limit_s: float) -> None:
        text = str(error)
        if text != self._last_error:
            log.warning("%s", text, exc_info=None if isinstance(error, NarrowsError) else error)
        self._last_error = text
        self._backoff_s = min(limit_s, 2 * self._backoff_s)

    def _ended(self, answer: Answer) -> None:
        """An answer is over inside: its cost goes to its key."""
        self._stats.key_used(answer.request.scope, 1, round(answer.bits))
