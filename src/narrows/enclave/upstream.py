"""Strong model behind any OpenAI-compatible server, streamed, as text.

How its failures end an answer: ``modelserver``. With token ids instead: ``tokens/backend.py``.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from narrows.coding import markup
from narrows.coding.events import Coding, Event, Failed, Failure, Opened
from narrows.coding.kept import FIELD, ReasoningLevel, level_of, reads_counts
from narrows.enclave.backend import BackendRequest
from narrows.enclave.chunks import ChunkReader
from narrows.enclave.config import UpstreamConfig
from narrows.enclave.less.withheld import ReasoningFilter, ReasoningRule, kept
from narrows.enclave.modelserver import ModelServer, answered
from narrows.enclave.parameters import UpstreamParameters
from narrows.errors import InputError
from narrows.models.api import Tokenizer

log = logging.getLogger("narrows.enclave.upstream")

_OURS = (markup.FIELD, FIELD)
"""What the link's two ends say to each other."""


class UpstreamBackend:
    """Backend over HTTP. ``server``: shared with another backend of the same server. ``rule``:
    what of the reasoning may leave."""

    def __init__(
        self,
        config: UpstreamConfig,
        server: ModelServer | None = None,
        rule: ReasoningRule | None = None,
    ) -> None:
        self._config = config
        self._rule = rule or ReasoningRule()
        self._server = server or ModelServer(config)
        self.parameters = UpstreamParameters(
            config.server, config.pass_, config.drop, config.extra_body, images=config.images
        )

    @property
    def tokenizer(self) -> Tokenizer | None:
        """None: a server sends text."""
        return None

    async def close(self) -> None:
        await self._server.close()

    async def generate(self, request: BackendRequest) -> AsyncGenerator[Event, None]:
        """The events of one answer; see ``modelserver`` for how failures end it."""
        try:
            body = self.parameters.applied(request.body)
        except InputError as error:
            events = refused(error, Coding.TEXT)
        else:
            events = self.answer(body)
        async with contextlib.aclosing(events):
            async for event in events:
                yield event

    async def answer(self, body: Mapping[str, Any]) -> AsyncGenerator[Event, None]:
        """The same of a request that ``parameters`` have been applied to."""
        raw = "prompt" in body
        reader = ChunkReader(self._config.max_answer_bytes, raw=raw)
        path = "/completions" if raw else "/chat/completions"
        events = self._server.events(path, self._request_bytes(body), reader)
        if level_of(self._rule.most, body) is not ReasoningLevel.SEND:
            begun = self._config.reasoning == "begun" and not raw
            hidden = ReasoningFilter(self._rule.limit_bytes, begun)
            events = kept(events, reader, hidden, reads_counts(body))
        async with contextlib.aclosing(answered(events, Coding.TEXT)) as answer:
            async for event in answer:
                yield event

    def _request_bytes(self, body: Mapping[str, Any]) -> bytes:
        sent = {name: value for name, value in body.items() if name not in _OURS}
        sent["model"] = self._config.model
        sent["stream"] = True
        sent["stream_options"] = {"include_usage": True}
        return json.dumps(sent).encode("ascii")


async def refused(error: InputError, coding: Coding) -> AsyncGenerator[Event, None]:
    """An answer to a request that cannot be had here; why is for the log."""
    log.warning("a request that the model server is not asked: %s", error)
    yield Opened(coding)
    yield Failed(Failure.BAD_REQUEST)
