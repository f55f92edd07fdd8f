"""A transformer runtime together with its chat template: what a name loads to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from narrows.models.api import Logits, Stream, Tokenizer
from narrows.models.text.chat import ChatRenderer
from narrows.models.text.served import served_messages, served_tools

if TYPE_CHECKING:
    from narrows.models.runtime.runtime import Runtime


class ServedModel:
    """``TokenModel`` that forwards to ``runtime`` and renders chats."""

    def __init__(self, runtime: Runtime, chat: ChatRenderer) -> None:
        self.runtime = runtime
        self.chat = chat
        self.name = runtime.name
        self.digest = runtime.digest
        self.numerics = runtime.numerics
        self.vocab_size = runtime.vocab_size
        self.max_context = runtime.max_context
        self.cache_bytes = runtime.cache_bytes
        self.tokenizer: Tokenizer = runtime.tokenizer

    def render_chat(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """Ids of the conversation up to the assistant's next answer. Raises InputError."""
        return self.chat.render(messages)

    def render_tools(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]
    ) -> list[int]:
        """The same, of a conversation with tools. Raises InputError."""
        return self.chat.render(served_messages(messages), tools=served_tools(tools))

    def stream_bytes(self, tokens: int) -> int:
        return self.runtime.stream_bytes(tokens)

    def open(self, tokens: Sequence[int], scope: int = 0, lazy: bool = False) -> Stream:
        return self.runtime.open(tokens, scope, lazy)

    def catch_up(self, stream: Stream, limit: int) -> int:
        return self.runtime.catch_up(stream, limit)

    def logits(self, stream: Stream) -> Logits:
        return self.runtime.logits(stream)

    def advance(self, streams: Sequence[Stream], tokens: Sequence[int]) -> Logits:
        return self.runtime.advance(streams, tokens)

    def extend(self, stream: Stream, tokens: Sequence[int]) -> Logits:
        return self.runtime.extend(stream, tokens)

    def fork(self, stream: Stream) -> Stream:
        return self.runtime.fork(stream)

    def close(self, stream: Stream) -> None:
        self.runtime.close(stream)
