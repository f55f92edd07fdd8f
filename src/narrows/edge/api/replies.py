"""The objects that clients read: OpenAI's shapes, with every free choice made here.

Ids are fresh random bits of the edge, ``created`` its clock, ``system_fingerprint`` a digest of
what the edge runs; key order is this file's. Nothing in them is the enclave's but the text.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from narrows.coding.events import Channel, Finish
from narrows.edge.answer import Piece

FINISH_REASONS = {
    Finish.STOP: "stop",
    Finish.LENGTH: "length",
    Finish.TOOL_CALLS: "tool_calls",
    Finish.CONTENT_FILTER: "content_filter",
}
_TEXT_FIELDS = {
    Channel.CONTENT: "content",
    Channel.REASONING: "reasoning_content",
    Channel.REFUSAL: "refusal",
}


def fingerprint(model_name: str, weak_digest: bytes) -> str:
    return "fp_" + hashlib.sha256(model_name.encode() + b"\x00" + weak_digest).hexdigest()[:12]


def random_id(prefix: str, random_bytes: Callable[[int], bytes] = secrets.token_bytes) -> str:
    return prefix + random_bytes(16).hex()


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """Counts for ``usage``. ``reasoning``: of the completion's; None where none are known."""

    prompt: int
    completion: int
    reasoning: int | None = None

    def body(self) -> dict[str, Any]:
        counts: dict[str, Any] = {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
        }
        if self.reasoning is not None:
            counts["completion_tokens_details"] = {"reasoning_tokens": self.reasoning}
        return counts


@dataclass(frozen=True, slots=True)
class CompletionHead:
    """What all chunks of a completion share."""

    completion_id: str
    created_s: int
    model: str
    system_fingerprint: str

    def _body(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.completion_id,
            "object": kind,
            "created": self.created_s,
            "model": self.model,
            "system_fingerprint": self.system_fingerprint,
        }

    def chunk(
        self, index: int, delta: dict[str, Any], finish: Finish | None, with_usage: bool
    ) -> dict[str, Any]:
        reason = None if finish is None else FINISH_REASONS[finish]
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}
        body = self._body("chat.completion.chunk") | {"choices": [choice]}
        return body | {"usage": None} if with_usage else body

    def usage_chunk(self, tokens: TokenUsage) -> dict[str, Any]:
        return self._body("chat.completion.chunk") | {"choices": [], "usage": tokens.body()}

    def whole(self, choices: list[dict[str, Any]], tokens: TokenUsage) -> dict[str, Any]:
        return self._body("chat.completion") | {"choices": choices, "usage": tokens.body()}


class DeltaMaker:
    """Pieces of one answer as deltas, joined where they go on in the same place."""

    def __init__(self, make_id: Callable[[], str]) -> None:
        self._make_id = make_id

    def deltas(self, pieces: Sequence[Piece]) -> list[dict[str, Any]]:
        joined: list[Piece] = []
        for piece in pieces:
            last = joined[-1] if joined else None
            if (
                last
                and (last.channel, last.call) == (piece.channel, piece.call)
                and piece.channel is not Channel.TOOL_NAME
            ):
                joined[-1] = last._replace(text=last.text + piece.text)
            else:
                joined.append(piece)
        return [self._delta(piece) for piece in joined]

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
