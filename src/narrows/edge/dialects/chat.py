"""OpenAI's chat completions, whole and streamed.

Ids are fresh random bits of the edge, ``created`` its clock, ``system_fingerprint`` a digest of
what the edge runs; key order is this file's. Nothing in them is the enclave's but the text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from narrows.coding.events import Channel, Finish
from narrows.edge.answer import Piece
from narrows.edge.dialects.dialect import Ended, TokenUsage, event, joined, random_id
from narrows.edge.problems import ApiError

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


def usage_body(tokens: TokenUsage) -> dict[str, Any]:
    counts: dict[str, Any] = {
        "prompt_tokens": tokens.prompt,
        "completion_tokens": tokens.completion,
        "total_tokens": tokens.total,
    }
    if tokens.reasoning is not None:
        counts["completion_tokens_details"] = {"reasoning_tokens": tokens.reasoning}
    return counts | tokens.narrows


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


class ChatDialect:
    """``answers``: how many choices. ``created_s``: seconds since the epoch. ``with_usage``: the
    client asked for it at the end of its stream."""

    def __init__(
        self,
        answers: int,
        *,
        model: str,
        created_s: int,
        system_fingerprint: str,
        with_usage: bool,
        random_bytes: Callable[[int], bytes],
    ) -> None:
        self._random_bytes = random_bytes
        self._head = {
            "id": random_id("chatcmpl-", random_bytes),
            "object": "",
            "created": created_s,
            "model": model,
            "system_fingerprint": system_fingerprint,
        }
        self._with_usage = with_usage
        self._makers = [DeltaMaker(self._call_id) for _ in range(answers)]
        self._messages = [WholeMessage() for _ in range(answers)]

    @property
    def reply_id(self) -> str:
        return str(self._head["id"])

    def add(self, index: int, pieces: Sequence[Piece]) -> None:
        self._messages[index].add(pieces)

    def whole(self, ends: Sequence[Ended], tokens: TokenUsage) -> dict[str, Any]:
        choices = [
            message.choice(index, end.reason, self._call_id)
            for index, (message, end) in enumerate(zip(self._messages, ends, strict=True))
        ]
        head = self._head | {"object": "chat.completion"}
        return head | {"choices": choices, "usage": usage_body(tokens)}

    def begin(self, prompt_tokens: int) -> bytes:
        return b"".join(
            self._chunk(index, {"role": "assistant", "content": ""}, None)
            for index in range(len(self._makers))
        )

    def pieces(self, index: int, pieces: Sequence[Piece]) -> bytes:
        deltas = self._makers[index].deltas(pieces)
        return b"".join(self._chunk(index, delta, None) for delta in deltas)

    def finish(self, index: int, end: Ended) -> bytes:
        return self._chunk(index, {}, end.reason)

    def end(self, tokens: TokenUsage) -> bytes:
        done = b"data: [DONE]\n\n"
        if not self._with_usage:
            return done
        head = self._head | {"object": "chat.completion.chunk"}
        return event(head | {"choices": [], "usage": usage_body(tokens)}) + done

    def failed(self, problem: ApiError) -> bytes:
        return event(problem.body())

    def error(self, problem: ApiError) -> dict[str, Any]:
        return problem.body()

    def ping(self) -> bytes:
        return b": waiting\n\n"

    def _call_id(self) -> str:
        return random_id("call_", self._random_bytes)

    def _chunk(self, index: int, delta: dict[str, Any], finish: Finish | None) -> bytes:
        reason = None if finish is None else FINISH_REASONS[finish]
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}
        body = self._head | {"object": "chat.completion.chunk", "choices": [choice]}
        return event(body | {"usage": None} if self._with_usage else body)
