"""Keeping a link up, and every answer's way to a clear end in bounded time.

    down --dial--> greeted --> current --newer model--> retired --last answer--> over
                                  |                                 ^
                                  +--------- broken ----------------+

- Dialling backs off (``redial.py``).
- What the end of a link means to its answers is settled while the next one is dialled: its
  decoder may be in the middle of a slow step. Two links are never unsettled at once.
- A gate whose budget is spent is not dialled at all; its state is asked every two seconds.
- An answer ends by its last event, or here: link lost, budget spent, nothing for ``idle_s``.
- A native answer of a lost link waits ``resume_s`` for the next one and goes on there behind its
  verified tokens; those that its client already has are compared as they come again, and an
  answer that goes another way fails. Other answers fail at once.
- Where the edge has a newer weak model than the current link's, a second link is opened that
  offers only newer ones (``switching``). New answers then go there; the old link is retired and
  ends with the last of its answers. One link drains at a time. A link that is ``link_max_s`` old
  is changed in the same way, for one with the best model that both have.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from narrows.coding.spec import whole_prompt
from narrows.edge import problems
from narrows.edge.answer import EdgeAnswer
from narrows.edge.books.stats import StatsRecorder
from narrows.edge.config import EdgeConfig
from narrows.edge.link.dial import GateDialer, Refused
from narrows.edge.link.link import MAX_OPEN, EdgeLink, Observer, Unobserved
from narrows.edge.link.orphans import Orphans, fail_answers
from narrows.edge.link.patience import LinkBytes, Patience, successors
from narrows.edge.link.redial import Redial
from narrows.edge.link.worker import Decoder, Turn
from narrows.edge.problems import ApiError
from narrows.errors import ArtifactError, NarrowsError, PeerError
from narrows.models.api import TokenModel
from narrows.models.shelf.shelf import Offer, Shelf, take_for
from narrows.wire.gatestate import PortState
from narrows.wire.messages import Greeting

T = TypeVar("T")

log = logging.getLogger("narrows.edge.link")

STATE_S = 2.0  # between two looks at a budget that is spent
STEADY_LINK_S = 10.0
WATCH_S = 0.5
QUIET_S = 1.0
VERIFIED_S = 5.0
UNWANTED_S = 10.0  # for an enclave to end what was cancelled, on a link that drains
PATIENCE_S = 5.0  # a window that opens again this soon is waited for

MakeDecoder = Callable[[TokenModel, Mapping[str, int]], Decoder]
"""By the weak model and the options that the link was greeted with."""


class LinkClient:
    """``shelf``: the weak models. ``make_decoder``: a fresh decoder per link. ``run`` until
    cancelled; ``start`` and ``cancel`` from the same loop."""

    def __init__(
        self,
        config: EdgeConfig,
        shelf: Shelf,
        make_decoder: MakeDecoder,
        link_options: dict[str, int],
        stats: StatsRecorder,
    ) -> None:
        self._config = config
        self._shelf = shelf
        self._make_decoder = make_decoder
        self._link_options = link_options
        self._stats = stats
        self._gate = GateDialer(config)
        self._link: EdgeLink | None = None
        self._serving: dict[asyncio.Task[None], EdgeLink] = {}
        self._settling: dict[asyncio.Task[None], EdgeLink] = {}
        self._turns: dict[bytes, Turn] = {}  # by weak model, see DecodeWorker
        self._patience = Patience()
        self._up = asyncio.Event()
        self._counting = asyncio.Semaphore(1)
        self._orphans = Orphans(config.resume_s, self._ended)
        self.redial = Redial()
        self.heard: Callable[[EdgeAnswer], None] = lambda answer: None
        self.observer: Observer = Unobserved()
        self.gate_state = PortState("ok")

    @property
    def up(self) -> bool:
        return self._up.is_set()

    @property
    def links(self) -> list[EdgeLink]:
        """Open ones; all but the current one drain."""
        return [link for task, link in self._serving.items() if not task.done()]

    @property
    def draining(self) -> bool:
        """Whether a retired link still has answers."""
        return any(link is not self._link for link in self.links)

    def decoder_late_s(self) -> float:
        """How far the current link's decoder is behind; a hostile link may ask much of it."""
        return self._link.decoder_late_s() if self._link else 0.0

    @property
    def weak(self) -> Offer:
        """The weak model of the current link, or the newest."""
        return self._link.offer if self._link else self._shelf.offers[0]

    async def count_tokens(self, messages: Sequence[Mapping[str, Any]]) -> int:
        """Of a whole prompt, by the weak model's tokens. ApiError as ``with_weak``."""
        return await self.with_weak(lambda model: len(whole_prompt(model, messages)))

    async def with_weak(self, work: Callable[[TokenModel], T]) -> T:
        """What ``work`` makes of the weak model. ApiError where that model is gone."""
        digest = self.weak.digest

        def run() -> T:
            model = self._shelf.take(digest)
            try:
                return work(model)
            finally:
                self._shelf.give(model)

        try:
            async with self._counting:  # a long prompt takes a second of one core
                return await asyncio.to_thread(run)
        except ArtifactError as error:
            raise problems.link_down() from error

    def models_changed(self) -> None:
        """There may be something newer on the shelf, or at the enclave: try at once."""
        self._patience.reset()

    async def start(self, answers: Sequence[EdgeAnswer]) -> None:
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

    async def _wait_up(self) -> None:
        if self.gate_state.state != "ok":
            self.gate_state = await self._gate.state()
        if self.gate_state.state != "ok" and not self._window_opens_soon():
            raise problems.budget_error(self.gate_state.state, self.gate_state.retry_after_s)
        with self.redial.wanted():
            try:
                async with asyncio.timeout(self._config.link_wait_s):
                    await self._up.wait()
            except TimeoutError as error:
                raise self._why_down() from error

    def _why_down(self) -> ApiError:
        state = self.gate_state
        if state.state != "ok":
            return problems.budget_error(state.state, state.retry_after_s)
        if self.redial.refusal is not None:
            return problems.link_refused(self.redial.refusal.greeting.name)
        return problems.link_down()

    def cancel(self, answer: EdgeAnswer) -> None:
        """The client has gone: stop the answer inside. Idempotent."""
        answer.fail(problems.client_gone())
        answer.abort()

    def fail_all(self, reason: ApiError) -> None:
        """End every answer with ``reason``, here and inside."""
        self.fail_those(lambda answer: True, reason)

    def fail_those(self, picked: Callable[[EdgeAnswer], bool], reason: ApiError) -> None:
        """The same of some of them."""
        for link in (*self._serving.values(), *self._settling.values()):
            fail_answers([one for one in link.answers if picked(one)], reason)
        fail_answers([one for one in self._orphans.answers if picked(one)], reason)

    async def run(self) -> None:
        """Dial for ever."""
        watch = asyncio.create_task(self._watch())
        try:
            while not watch.done():
                self._reap()
                self.gate_state = await self._gate.state()
                if self.gate_state.state == "ok" or self._window_opens_soon():
                    await self._connected()
                    await self._forgive_refusals()
                    await self.redial.pause()
                else:
                    await asyncio.sleep(STATE_S)
            watch.result()
        finally:
            watch.cancel()
            self.fail_all(problems.shutting_down())
            for task, link in (self._serving | self._settling).items():
                link.close()
                task.cancel()
            await asyncio.gather(*self._serving, *self._settling, return_exceptions=True)

    async def _forgive_refusals(self) -> None:
        """A link that the gate ended for a reason of its own is no broken one."""
        self.gate_state = await self._gate.state()
        if self.gate_state.state != "ok":
            self.redial.forgive()

    def _window_opens_soon(self) -> bool:
        state = self.gate_state
        return state.state == "window" and state.retry_after_s <= PATIENCE_S

    async def _connected(self) -> None:
        """From dialling to the end of the current link, over all switches; sets the next
        wait. Links that drain may outlive it."""
        try:
            link, first = await self._open(self._shelf.offers)
        except NarrowsError as error:
            self.redial.failed(error)
            return
        self.redial.greeted()
        self._use(link, first)
        if self._shelf.newer_than(link.model.digest):
            self._patience.tried()  # the enclave does not have it: just seen
        newer: asyncio.Task[tuple[EdgeLink, bytes]] | None = None
        try:
            while self._link is not None:
                newer = newer or asyncio.create_task(self._open_newer())
                ends = {newer, *self._serving, *self._settling}
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
                if newer.done() and self._link is not None:
                    self._use(*newer.result())
                    newer = None
                self._reap()
        finally:
            if newer is not None:
                newer.cancel()
                newer.add_done_callback(self._discard)

    def _reap(self) -> None:
        """Forget what is over; raises what ended it, if it was a bug."""
        for tasks in (self._serving, self._settling):
            for task in [task for task in tasks if task.done()]:
                del tasks[task]
                task.result()

    def _use(self, link: EdgeLink, first: bytes) -> None:
        """Send new answers over ``link``; the one before drains."""
        before, self._link = self._link, link
        self._serving[asyncio.create_task(self._serve(link, first))] = link
        self._up.set()
        self._patience.reset()
        log.info("link up, weak model %s", link.weak.label)
        if before is not None:
            log.info("the link with %s drains", before.weak.label)
            before.retire()
        self._orphans.give_to(link)

    def _discard(self, opened: asyncio.Task[tuple[EdgeLink, bytes]]) -> None:
        """A link that no one waits for any more."""
        if not opened.cancelled() and opened.exception() is None:
            link, _ = opened.result()
            link.close()
            self._shelf.give(link.model)

    async def _open(self, offers: Sequence[Offer]) -> tuple[EdgeLink, bytes]:
        """One connection, greeted, and what came behind the greeting. Raises NarrowsError."""
        counter = LinkBytes(self._stats, self.weak.name)
        wire = await self._gate.connect(counter)
        try:
            options = dict(self._link_options)
            offer, first = await wire.greet(offers, options)
            counter.weak = offer.name
            model = await take_for(self._shelf, offer.digest)
        except BaseException as error:
            wire.close()
            self._offer_less(error)
            raise
        turn = self._turns.setdefault(model.digest, Turn())
        decoder = self._make_decoder(model, options)
        return EdgeLink(wire, offer, model, decoder, turn, self._ended, self.observer), first

    def _offer_less(self, error: BaseException) -> None:
        """An enclave from before there were noise families refuses a hello that names them."""
        if not isinstance(error, Refused) or error.greeting is not Greeting.BAD_HELLO:
            return
        if self._link_options.pop("noise", None) is not None:
            log.warning("the enclave knows no other noise than narrows' own; it is older")

    async def _open_newer(self) -> tuple[EdgeLink, bytes]:
        """Waits for a newer model here, then tries until the enclave has it too; or until the
        link is too old, for any model."""
        while True:
            await asyncio.sleep(WATCH_S)
            link = self._link
            newer = successors(self._shelf, link, self._config.link_max_s) if link else ()
            if not newer or self.draining or not self._patience.over or not self._ready:
                continue
            try:
                return await self._open(newer)
            except NarrowsError as error:
                self._patience.tried()
                log.info("no link with %s yet: %s", newer[0].name, error)

    @property
    def _ready(self) -> bool:
        return self.up and self.gate_state.state == "ok"

    async def _serve(self, link: EdgeLink, first: bytes) -> None:
        """A link until its end. The next one is dialled while this one's answers are settled."""
        started_s = time.monotonic()
        broken: Exception | None = None
        try:
            broken = await link.run(first)
        finally:
            if link is self._link:
                self._up.clear()
        if link is self._link:
            steady = bool(link.completed) or time.monotonic() - started_s > STEADY_LINK_S
            self.redial.ended(broken or PeerError("the gate closed the link"), steady)
        if self._settling:
            await asyncio.wait(self._settling)
        self._settling[asyncio.create_task(self._settle(link, broken))] = link
        if link is self._link:
            self._link = None

    async def _settle(self, link: EdgeLink, error: Exception | None) -> None:
        """What the end of a link means to its answers, once its decoder has stopped."""
        if link.answers:
            verified = await asyncio.to_thread(link.verified, VERIFIED_S)
            self.gate_state = await self._gate.state()
            self._orphans.take_from(link, error, verified, self.gate_state)
        self._shelf.give(link.model)
        if self._link is not None and self.up:  # the next link was faster
            self._orphans.give_to(self._link)

    async def _watch(self) -> None:
        """Answers that get nothing: ask the gate why, and end them in bounded time."""
        while True:
            await asyncio.sleep(WATCH_S)
            self._orphans.give_up()
            for task, link in list(self._serving.items()):
                if not task.done() and (link is not self._link or self.up):
                    await self._watch_link(link)

    async def _watch_link(self, link: EdgeLink) -> None:
        now_s = time.monotonic()
        if link is not self._link:
            link.give_up_unwanted(now_s, UNWANTED_S)
        quiet = link.waiting and now_s - link.last_read_s > QUIET_S
        if quiet or self.gate_state.state != "ok":
            self.gate_state = state = await self._gate.state()
            if state.state != "ok" and not self._window_opens_soon():
                reason = problems.budget_error(state.state, state.retry_after_s)
                fail_answers(link.answers, reason)
        limits = self._config.limits
        for answer in link.answers:
            longest_s = limits.idle_s
            if answer.thinks:
                longest_s = max(longest_s, limits.thinking_s)
            if now_s - answer.last_event_s > longest_s:
                fail_answers([answer], problems.stalled(longest_s))

    def _ended(self, answer: EdgeAnswer) -> None:
        """An answer is over inside: its cost goes to its key, and ``heard`` hears of it."""
        self.heard(answer)
        self._stats.key_used(answer.request.scope, 1, round(answer.bits))
