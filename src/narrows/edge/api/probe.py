"""Whether a strong model answers: the edge asks it for one token when nothing else says so.

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
from collections.abc import Callable

from narrows.edge.answer import EdgeAnswer
from narrows.edge.api.noise_keys import noise_keys
from narrows.edge.api.request import parse_chat
from narrows.edge.models import EdgeModel
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

    def __init__(self, model: EdgeModel, coins: Callable[[int], bytes]) -> None:
        """``coins``: as of ``Service.random_bytes``."""
        self._model = model
        self._coins = coins
        self._ask = asyncio.Event()
        if model.config.probe:
            self._ask.set()
            model.answers = "unknown"

    def heard(self, answer: EdgeAnswer) -> None:
        if answer.finish is not None:
            self._answers()
        elif self._model.config.probe and answer.error and answer.error.code in _GONE:
            self._ask.set()

    async def run(self) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            await self._ask.wait()
            link = self._model.link
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
        if not code or code in _ALIVE or (code == _BUSY and self._model.answers == "ok"):
            self._answers()
        elif code in _GONE or code == _BUSY:
            if self._model.answers != "down":
                log.warning("the strong model %s does not answer (%s)", self._model.name, code)
            self._model.answers = "down"

    def _answers(self) -> None:
        if self._model.answers == "down":
            log.info("the strong model %s answers again", self._model.name)
        self._model.answers = "ok"
        self._ask.clear()

    async def _code(self) -> str:
        model = self._model
        name, limits = model.name, model.config.limits
        body = {
            "model": name,
            "messages": [{"role": "user", "content": "Hi"}],
            "max_tokens": 1,
        }
        asked = parse_chat(body, name, limits)
        (key,) = noise_keys(model.secret, SCOPE, asked, self._coins)
        uid = self._coins(16).hex()
        changed = asyncio.Event()
        request = Request(uid=uid, body=asked.body, noise_key=key, scope=SCOPE)
        size_bytes = limits.answer_bytes
        answer = EdgeAnswer(request, (), size_bytes, size_bytes, changed.set)
        try:
            await model.link.start([answer])
        except ApiError as error:
            return error.code
        try:
            while not answer.ended:
                changed.clear()
                await changed.wait()
        finally:
            model.link.cancel(answer)
        return answer.error.code if answer.error is not None else ""
