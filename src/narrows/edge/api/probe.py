"""Whether the strong model answers: the edge asks it for one token when nothing else says so.

It asks when the first link is up, and after an answer that failed as it does when the model is
gone, until one comes. So /healthz tells it, and becomes true again by itself: whoever balances
load by it sends no client that could find out. What a client's answers do cannot make it false,
since one request that the model cannot bear says nothing of the next.

A question and its answer cost a few bytes of the budget: one at the start, and while the model
is gone one every ``MAX_PAUSE_S`` seconds. After one that was answered, the next comes that much
later too: a client whose requests fail cannot make it hurry.
"""

from __future__ import annotations

import asyncio
import logging

from narrows.edge.answer import EdgeAnswer
from narrows.edge.api.noise_keys import noise_keys
from narrows.edge.api.request import parse_chat
from narrows.edge.api.service import Service
from narrows.edge.problems import ApiError
from narrows.wire.messages import Request

log = logging.getLogger("narrows.edge.probe")

LOOK_S = 0.2
FIRST_PAUSE_S, MAX_PAUSE_S = 1.0, 15.0
SCOPE = 0

_GONE = (
    "upstream_refused",
    "upstream_broke",
    "upstream_slow",
    "upstream_malformed",
    "enclave_failed",
    "answer_stalled",
)
_ALIVE = ("rejected", "unsupported_by_model", "context_length_exceeded", "answer_over_limit")
_BUSY = "overloaded"


class StrongModelProbe:
    """``run`` until cancelled; ``heard`` of every answer that is over inside."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._ask = asyncio.Event()
        if service.config.probe:
            self._ask.set()
            service.model = "unknown"

    def heard(self, answer: EdgeAnswer) -> None:
        if answer.finish is not None:
            self._answers()
        elif self._service.config.probe and answer.error and answer.error.code in _GONE:
            self._ask.set()

    async def run(self) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            await self._ask.wait()
            link = self._service.link
            if not link.up or link.gate_state.state != "ok":
                await asyncio.sleep(LOOK_S)
                continue
            self._judge(await self._code())
            answers = not self._ask.is_set()
            await asyncio.sleep(MAX_PAUSE_S if answers else pause_s)
            gone = not answers and self._ask.is_set()
            pause_s = min(MAX_PAUSE_S, 1.5 * pause_s) if gone else FIRST_PAUSE_S

    def _judge(self, code: str) -> None:
        """``code``: of the error that the question got; empty for an answer."""
        if not code or code in _ALIVE or (code == _BUSY and self._service.model == "ok"):
            self._answers()
        elif code in _GONE or code == _BUSY:
            if self._service.model != "down":
                log.warning("the strong model does not answer (%s)", code)
            self._service.model = "down"

    def _answers(self) -> None:
        if self._service.model == "down":
            log.info("the strong model answers again")
        self._service.model = "ok"
        self._ask.clear()

    async def _code(self) -> str:
        service = self._service
        name, limits = service.config.model_name, service.config.limits
        body = {
            "model": name,
            "messages": [{"role": "user", "content": "Hi"}],
            "max_tokens": 1,
        }
        asked = parse_chat(body, name, limits)
        (key,) = noise_keys(service.secret, SCOPE, asked, service.random_bytes)
        uid = service.random_bytes(16).hex()
        changed = asyncio.Event()
        request = Request(uid=uid, body=asked.body, noise_key=key, scope=SCOPE)
        size_bytes = limits.answer_bytes
        answer = EdgeAnswer(request, (), size_bytes, size_bytes, changed.set)
        try:
            await service.link.start([answer])
        except ApiError as error:
            return error.code
        try:
            while not answer.ended:
                changed.clear()
                await changed.wait()
        finally:
            service.link.cancel(answer)
        return answer.error.code if answer.error is not None else ""
