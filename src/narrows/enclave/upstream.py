"""Strong model behind any OpenAI-compatible server, streamed, as text.

How its failures end an answer: ``modelserver``. With token ids instead: ``tokens/backend.py``.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from narrows.coding.events import Coding, Event
from narrows.coding.kept import ReasoningLevel, level_of, reads_counts
from narrows.enclave.backend import BackendRequest
from narrows.enclave.chunks import ChunkReader
from narrows.enclave.config import UpstreamConfig
from narrows.enclave.modelserver import ModelServer, answered
from narrows.enclave.withheld import ReasoningFilter, ReasoningRule, kept
from narrows.models.api import Tokenizer

_PASSED = (
    "messages",
    "temperature",
    "top_p",
    "stop",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "response_format",
    "reasoning_effort",
    "chat_template_kwargs",
    "presence_penalty",
    "frequency_penalty",
)


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

    @property
    def tokenizer(self) -> Tokenizer | None:
        """None: a server sends text."""
        return None

    async def close(self) -> None:
        await self._server.close()

    async def generate(self, request: BackendRequest) -> AsyncGenerator[Event, None]:
        """The events of one answer; see ``modelserver`` for how failures end it."""
        body = request.body
        reader = ChunkReader(self._config.max_answer_bytes)
        events = self._server.events("/chat/completions", self._request_bytes(body), reader)
        if level_of(self._rule.most, body) is not ReasoningLevel.SEND:
            begun = self._config.reasoning == "begun"
            hidden = ReasoningFilter(self._rule.limit_bytes, begun)
            events = kept(events, reader, hidden, reads_counts(body))
        async with contextlib.aclosing(answered(events, Coding.TEXT)) as answer:
            async for event in answer:
                yield event

    def _request_bytes(self, body: Mapping[str, Any]) -> bytes:
        sent = {key: body[key] for key in _PASSED if body.get(key) is not None}
        sent["model"] = self._config.model
        sent["stream"] = True
        sent["stream_options"] = {"include_usage": True}
        if body.get("max_tokens") is not None:
            sent["max_tokens"] = body["max_tokens"]
        if body.get("seed") is not None:
            sent["seed"] = body["seed"]
        return json.dumps(sent).encode("ascii")
