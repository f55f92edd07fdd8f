"""OpenAI's chat completions, whole and streamed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from narrows.coding.events import Channel, Finish
from narrows.edge.answer import Piece
from narrows.edge.dialects.choices import FINISH_REASONS, ChoicesDialect, ChoicesHead
from narrows.edge.dialects.dialect import Ended, TokenUsage, joined, random_id

_TEXT_FIELDS = {
    Channel.CONTENT: "content",
    Channel.REASONING: "reasoning_content",
    Channel.REFUSAL: "refusal",
}


def fingerprint(model_name: str, weak_digest: bytes) -> str:
    return "fp_" + hashlib.sha256(model_name.encode() + b"\x00" + weak_digest).hexdigest()[:12]


class DeltaMaker:
    """Pieces of one answer as deltas, joined where they go on in the same place."""

    def __init__(self, make_id: Callable[[], str]) -> None:
        self._make_id = make_id

    def deltas(self, pieces: Sequence[Piece]) -> list[dict[str, Any]]:
        return [self._delta(piece) for piece in joined(pieces)]

    def _delta(self, piece: Piece) -> dict[str, Any]:
        if piece.channel in _TEXT_FIELDS:
            return {_TEXT_FIELDS[piece.channel]: piece.text}
        if piece.channel is Channel.TOOL_NAME:
            call: dict[str, Any] = {
                "index": piece.call,
                "id": self._make_id(),
                "type": "function",
                "function": {"name": piece.text, "arguments": ""},
            }
        else:
            call = {"index": piece.call, "function": {"arguments": piece.text}}
        return {"tool_calls": [call]}


@dataclass(slots=True)
class WholeMessage:
    """A whole answer, gathered from its pieces."""

    texts: dict[Channel, list[str]] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    arguments: list[list[str]] = field(default_factory=list)

    def add(self, pieces: Sequence[Piece]) -> None:
        for piece in pieces:
            if piece.channel is Channel.TOOL_NAME:
                self.names.append(piece.text)
                self.arguments.append([])
            elif piece.channel is Channel.TOOL_ARGUMENTS:
                self.arguments[piece.call].append(piece.text)
            else:
                self.texts.setdefault(piece.channel, []).append(piece.text)

    def choice(self, index: int, finish: Finish, make_id: Callable[[], str]) -> dict[str, Any]:
        message: dict[str, Any] = {
            "role": "assistant",
            "content": self._text(Channel.CONTENT),
            "refusal": self._text(Channel.REFUSAL),
        }
        if message["content"] is None and message["refusal"] is None and not self.names:
            message["content"] = ""
        if Channel.REASONING in self.texts:
            message["reasoning_content"] = self._text(Channel.REASONING)
        if self.names:
            message["tool_calls"] = [
                {
                    "id": make_id(),
                    "type": "function",
                    "function": {"name": name, "arguments": "".join(arguments)},
                }
                for name, arguments in zip(self.names, self.arguments, strict=True)
            ]
        return {
            "index": index,
            "message": message,
            "logprobs": None,
            "finish_reason": FINISH_REASONS[finish],
        }

    def _text(self, channel: Channel) -> str | None:
        return "".join(self.texts[channel]) if channel in self.texts else None


class ChatDialect(ChoicesDialect):
    """``answers``: how many choices."""

    def __init__(self, answers: int, head: ChoicesHead) -> None:
        super().__init__(head, "chatcmpl-", "chat.completion", "chat.completion.chunk")
        self._random_bytes = head.random_bytes
        self._makers = [DeltaMaker(self._call_id) for _ in range(answers)]
        self._messages = [WholeMessage() for _ in range(answers)]

    def add(self, index: int, pieces: Sequence[Piece]) -> None:
        self._messages[index].add(pieces)

    def whole(self, ends: Sequence[Ended], tokens: TokenUsage) -> dict[str, Any]:
        choices = [
            message.choice(index, end.reason, self._call_id)
            for index, (message, end) in enumerate(zip(self._messages, ends, strict=True))
        ]
        return self._whole(choices, tokens)

    def begin(self, prompt_tokens: int) -> bytes:
        return b"".join(
            self._delta(index, {"role": "assistant", "content": ""}, None)
            for index in range(len(self._makers))
        )

    def pieces(self, index: int, pieces: Sequence[Piece]) -> bytes:
        deltas = self._makers[index].deltas(pieces)
        return b"".join(self._delta(index, delta, None) for delta in deltas)

    def finish(self, index: int, end: Ended) -> bytes:
        return self._delta(index, {}, end.reason)

    def _call_id(self) -> str:
        return random_id("call_", self._random_bytes)

    def _delta(self, index: int, delta: dict[str, Any], finish: Finish | None) -> bytes:
        reason = None if finish is None else FINISH_REASONS[finish]
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}
        return self._chunk(choice)
