"""Strong model behind a server that says its token ids.

Ids cross in a third to a half of what their text costs, and in less than half of that again
where the server draws them with the answer's key. What cannot be asked for by ids goes as text,
through ``UpstreamBackend``: what only the server's parsers can do (``_unfit``), messages that the
model's template does not take, links whose weak model has another tokenizer, and everything while
the server does not say its ids. An answer that is resumed has ids already, so it stays with them.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from narrows.coding.events import (
    Coding,
    Event,
    Failed,
    Failure,
    Finish,
    Finished,
    NoiseFamily,
    Opened,
    Switch,
    Tokens,
    Usage,
)
from narrows.coding.kept import ReasoningLevel, level_of, reads_counts
from narrows.coding.markup import CallForm, Markup, ReasoningForm, reads_markup
from narrows.enclave.backend import BackendRequest, stop_strings, tokens_left, without_room
from narrows.enclave.config import UpstreamConfig
from narrows.enclave.less.hidden import (
    AnswerFront,
    Closing,
    HiddenStore,
    cut_behind_marker,
    inner_key,
    may_reason,
)
from narrows.enclave.less.withheld import ReasoningRule
from narrows.enclave.modelserver import ModelServer, answered
from narrows.enclave.tokens.completion import SHAPING, Asked, CompletionReader
from narrows.enclave.tokens.dialect import completion
from narrows.enclave.tokens.probe import Capability
from narrows.enclave.tokens.standing import Standing
from narrows.enclave.tokens.strong import StrongText
from narrows.enclave.upstream import UpstreamBackend, refused
from narrows.errors import ArtifactError, InputError
from narrows.models.api import Tokenizer
from narrows.models.text.served import PROMPT_FIELDS
from narrows.wire.parameters import PARAMETERS

log = logging.getLogger("narrows.enclave.upstream")

GREEDY_BELOW = 1e-5  # what vLLM takes for greedy, which draws nothing
_LOST = (Failure.UPSTREAM_REFUSED, Failure.UPSTREAM_BROKE)


@dataclass(frozen=True, slots=True)
class _Plan:
    asked: Asked
    native: bool
    markup: Markup
    stops: tuple[str, ...]
    before: tuple[int, ...]

    @property
    def coding(self) -> Coding:
        return Coding.PLAIN if self.asked.key is None else Coding.COUPLED


class TokenBackend:
    """Backend over token ids, and over text where they cannot be had. ``coins``: random bytes,
    as many as it is asked for. ``rule``: what of the reasoning may leave."""

    def __init__(
        self,
        config: UpstreamConfig,
        server: ModelServer,
        strong: StrongText,
        standing: Standing,
        coins: Callable[[int], bytes] = os.urandom,
        *,
        rule: ReasoningRule | None = None,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._server = server
        self._strong = strong
        self._standing = standing
        self._rule = rule or ReasoningRule()
        self._text = UpstreamBackend(config, server, self._rule)
        self._hidden = HiddenStore(now_s)
        self._secret = coins(32)
        self._answers = dict.fromkeys(Coding, 0)

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The strong model's."""
        return self._strong.tokenizer

    async def start(self) -> None:
        """Begin to probe. PeerError where ids are required and cannot be had."""
        self._standing.start()
        if self._config.tokens == "required":
            await self._standing.require(self._config.first_token_timeout_s)

    def figures(self) -> Mapping[str, float]:
        """How the server stands, and answers by their coding."""
        counts = {f"answers_{coding.name.lower()}": n for coding, n in self._answers.items()}
        return self._standing.figures() | counts

    async def close(self) -> None:
        await self._standing.stop()
        await self._server.close()

    async def generate(self, request: BackendRequest) -> AsyncGenerator[Event, None]:
        """The events of one answer; see ``modelserver`` for how failures end it."""
        try:
            body = self._text.parameters.applied(request.body)
        except InputError as error:
            events = refused(error, Coding.PLAIN)
        else:
            events = await self._events(replace(request, body=body))
        async with contextlib.aclosing(events):
            async for event in events:
                if isinstance(event, Opened):
                    self._answers[event.coding] += 1
                yield event

    async def _events(self, request: BackendRequest) -> AsyncGenerator[Event, None]:
        plan = await self._plan(request)
        if plan is None:
            events = self._text.answer(request.body)
        elif plan.asked.max_tokens < 1:
            events = _ended(request)
        elif not self._hides(request.body, plan):
            events = answered(self._completion(plan), plan.coding, plan.asked.noise)
        else:
            known = self._hidden.get(request.scope, request.noise_key) if request.resume else None
            if request.resume and known is None:
                return _forgotten(plan)
            events = answered(self._without_reasoning(plan, request, known), Coding.PLAIN)
        return self._noticed(events)

    async def _noticed(self, events: AsyncGenerator[Event, None]) -> AsyncGenerator[Event, None]:
        """``events``, of which a failure may say that the server has gone."""
        async with contextlib.aclosing(events):
            async for event in events:
                if isinstance(event, Failed) and event.code in _LOST:
                    self._standing.lost()
                yield event

    async def _plan(self, request: BackendRequest) -> _Plan | None:
        """What to ask for; None where the answer goes as text."""
        body = request.body
        if request.tokenizer != self._strong.tokenizer.digest:
            return None
        if "prompt" in body:  # what the server puts before a text is its own business
            return None
        verdict = await self._standing.settled()
        if not verdict.ids and not request.resume:
            return None
        try:
            prompt, markup = await asyncio.to_thread(self._written, body)
        except (InputError, ArtifactError) as error:
            log.info("an answer goes as text: %s", error)
            return None
        extra = {
            name: said
            for name, said in self._text.parameters.extra.items()
            if name not in PARAMETERS
        }
        why = _unfit(body, markup, self._strong.calls, verdict)
        if extra and verdict.native:
            why = "extra_body, which only chat completions take"
        if why and not request.resume:
            log.info("an answer goes as text: %s", why)
            return None
        start = len(request.resume)
        room = (verdict.context or self._strong.context) - len(prompt) - start
        asked = Asked(
            (*prompt, *request.resume),
            tokens_left(request, room),
            body,
            request.noise_key if verdict.coupled and _couples(body, verdict.family) else None,
            start,
            self._salt(request.scope),
            body.get("response_format"),
            family=verdict.family,
            extra=extra,
        )
        return _Plan(asked, verdict.native, markup, tuple(stop_strings(body)), request.resume)

    def _written(self, body: Mapping[str, Any]) -> tuple[list[int], Markup]:
        return self._strong.prompt(body), self._strong.markup(body)

    def _salt(self, scope: int) -> str:
        """Of the server's prefix cache: whose request it is, in words that nobody can guess."""
        return hashlib.sha256(self._secret + str(scope).encode()).hexdigest()

    async def _completion(self, plan: _Plan) -> AsyncGenerator[Event, None]:
        asked = plan.asked
        reader = CompletionReader(
            asked,
            self._strong.tokenizer,
            max_bytes=self._config.max_answer_bytes,
            stops=plan.stops,
            before=plan.before,
        )
        at = asked.position
        head = plan.markup.head
        async with contextlib.aclosing(
            completion(self._server, self._config.model, asked, reader, plan.native)
        ) as events:
            async for event in events:
                if isinstance(event, Tokens):
                    for channel in head:
                        yield Switch(channel)
                    head = ()
                    if asked.key is not None:
                        self._standing.watch(asked.key, at, event.ids, asked.noise)
                        at += len(event.ids)
                yield event

    def _hides(self, body: Mapping[str, Any], plan: _Plan) -> bool:
        sends = level_of(self._rule.most, body) is ReasoningLevel.SEND
        return not sends and may_reason(plan.markup.reasoning)

    async def _without_reasoning(
        self, plan: _Plan, request: BackendRequest, known: tuple[int, ...] | None
    ) -> AsyncGenerator[Event, None]:
        """The answer whose reasoning stays inside, opened once it is over (``hidden.py``).
        ``known``: of one that goes on."""
        form, scope, key = plan.markup.reasoning, request.scope, request.noise_key
        plan = replace(plan, markup=replace(plan.markup, reasoning=ReasoningForm.NONE))
        front: list[int] = []
        if known is None and form is ReasoningForm.MARKED:
            async with contextlib.aclosing(self._completion(plan)) as events:
                first, front = await self._front(events)
                if not front:
                    self._hidden.put(scope, key, ())
                    yield Opened(plan.coding, plan.asked.noise)
                    for event in first:
                        yield event
                    async for event in events:
                        yield event
                    return
        hidden, finish = known, None
        if hidden is None:
            ids, finish = await self._reasoning(plan, front)
            hidden = (*front, *ids)
            self._hidden.put(scope, key, hidden)
        asked = plan.asked
        start = len(asked.prompt) - asked.position
        asked = replace(
            asked,
            prompt=(*asked.prompt[:start], *hidden, *asked.prompt[start:]),
            max_tokens=asked.max_tokens - len(hidden),
        )
        if hidden and reads_counts(request.body):
            plan = replace(plan, markup=replace(plan.markup, reasoning=ReasoningForm.KEPT))
        plan = replace(plan, asked=asked)
        yield Opened(plan.coding, asked.noise)
        if finish is not None or asked.max_tokens < 1:
            for channel in plan.markup.head:
                yield Switch(channel)
            yield Usage(start, len(hidden) + asked.position)
            yield Finished(Finish.LENGTH if finish is None else finish)
            return
        async with contextlib.aclosing(self._completion(plan)) as events:
            async for event in events:
                if isinstance(event, Usage):
                    said = event.completion_tokens + len(hidden)
                    yield Usage(event.prompt_tokens - len(hidden), said)
                else:
                    yield event

    async def _front(self, events: AsyncGenerator[Event, None]) -> tuple[list[Event], list[int]]:
        """What came of an answer until it was known whether it begins with reasoning, and where
        it does the ids that open it."""
        front, first = AnswerFront(self._strong.tokenizer), list[Event]()
        async for event in events:
            first.append(event)
            if isinstance(event, Tokens) and front.feed(event.ids):
                break
        return first, front.ids if front.reasons else []

    async def _reasoning(
        self, plan: _Plan, front: Sequence[int]
    ) -> tuple[Sequence[int], Finish | None]:
        """The ids of an answer's reasoning behind ``front``, and how the answer ends with it, if
        it does."""
        asked = plan.asked
        asked = replace(
            asked,
            prompt=(*asked.prompt, *front),
            max_tokens=asked.max_tokens - len(front),
            key=None if asked.key is None else inner_key(asked.key),
        )
        if asked.max_tokens < 1:
            return (), Finish.LENGTH
        tokenizer, ids = self._strong.tokenizer, list[int]()
        closing = Closing(tokenizer)
        # Its own bound of bytes is above ours, which ends the answer and does not fail it.
        limit_bytes = max(self._config.max_answer_bytes, 2 * self._rule.limit_bytes)
        reader = CompletionReader(asked, tokenizer, max_bytes=limit_bytes)
        async with contextlib.aclosing(
            completion(self._server, self._config.model, asked, reader, plan.native)
        ) as events:
            async for event in events:
                if isinstance(event, Tokens):
                    ids += event.ids
                    closing.feed(event.ids)
                if closing.over:
                    return cut_behind_marker(tokenizer, ids), None
                if closing.size_bytes > self._rule.limit_bytes:
                    return ids, Finish.LENGTH
                if isinstance(event, Finished):
                    return ids, event.reason
        return ids, Finish.LENGTH


def _couples(body: Mapping[str, Any], family: NoiseFamily) -> bool:
    """Whether the noise decides such an answer. Behind top_p, top_k and min_p SGLang
    draws by rank, not by id."""
    asked_t, top_p = body.get("temperature"), body.get("top_p")
    if asked_t is not None and float(asked_t) < GREEDY_BELOW:
        return False
    if family is not NoiseFamily.SEED_SGLANG:
        return True
    ranked = (body.get("top_k") or -1) > 0 or (body.get("min_p") or 0) > 0
    return not ranked and (top_p is None or float(top_p) >= 1)


def _unfit(body: Mapping[str, Any], markup: Markup, calls: CallForm, verdict: Capability) -> str:
    """Why only the server's own parsers can do what is asked for; empty where ids can."""
    for name in body.keys() & PARAMETERS.keys() - {*SHAPING, *PROMPT_FIELDS}:
        if not PARAMETERS[name].is_neutral(body[name]):
            return name
    tools = body.get("tools") or []
    messages = body.get("messages") or []
    roles = {message.get("role") for message in messages}
    called = "tool" in roles or any(message.get("tool_calls") for message in messages)
    if markup != Markup() and not reads_markup(body):
        return "the edge takes no markup apart"
    if (tools or called) and calls is CallForm.NONE:
        return "the model's template writes calls of tools in no known form"
    if (tools or called) and not verdict.tools:
        return "the server makes another prompt of tools than the model's folder"
    if "function" in roles:
        return "a message of a function"
    if tools and body.get("tool_choice") not in (None, "auto", "none"):
        return "the request forces a call"
    if tools and body.get("parallel_tool_calls") is False:
        return "the request wants one call"
    if any(tool["function"].get("strict") for tool in tools):
        return "a strict tool"
    if body.get("response_format"):
        if tools or markup.reasoning is not ReasoningForm.NONE:
            return "a forced format, behind reasoning or beside tools"
        if not verdict.formats:
            return "the server forces no format on a completion"
    return ""


async def _forgotten(plan: _Plan) -> AsyncGenerator[Event, None]:
    """An answer whose reasoning is gone."""
    yield Opened(plan.coding, plan.asked.noise)
    yield Failed(Failure.UPSTREAM_BROKE)


async def _ended(request: BackendRequest) -> AsyncGenerator[Event, None]:
    """An answer without room for a token."""
    yield Opened(Coding.PLAIN)
    yield without_room(request)
