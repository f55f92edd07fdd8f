"""What OpenAI's two APIs of numbered choices share: head, end and errors of a reply.

Ids are fresh random bits of the edge, ``created`` its clock, ``system_fingerprint`` a digest of
what the edge runs; key order is this file's. Nothing in them is the enclave's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from narrows.coding.events import Finish
from narrows.edge.dialects.dialect import TokenUsage, event, random_id
from narrows.edge.problems import ApiError

FINISH_REASONS = {
    Finish.STOP: "stop",
    Finish.LENGTH: "length",
    Finish.TOOL_CALLS: "tool_calls",
    Finish.CONTENT_FILTER: "content_filter",
}


@dataclass(frozen=True, slots=True)
class ChoicesHead:
    """``created_s``: seconds since the epoch. ``with_usage``: the client asked for it at the end
    of its stream."""

    model: str
    created_s: int
    system_fingerprint: str
    with_usage: bool
    random_bytes: Callable[[int], bytes]


class ChoicesDialect:
    """``prefix``: of the reply's id. ``kind``, ``chunk_kind``: ``object`` of a whole reply and of a
    stream's chunks."""

    def __init__(self, head: ChoicesHead, prefix: str, kind: str, chunk_kind: str) -> None:
        self._kind, self._chunk_kind = kind, chunk_kind
        self._with_usage = head.with_usage
        self._head = {
            "id": random_id(prefix, head.random_bytes),
            "object": "",
            "created": head.created_s,
            "model": head.model,
            "system_fingerprint": head.system_fingerprint,
        }

    @property
    def reply_id(self) -> str:
        return str(self._head["id"])

    def end(self, tokens: TokenUsage) -> bytes:
        done = b"data: [DONE]\n\n"
        if not self._with_usage:
            return done
        head = self._head | {"object": self._chunk_kind}
        return event(head | {"choices": [], "usage": usage_body(tokens)}) + done

    def failed(self, problem: ApiError) -> bytes:
        return event(problem.body())

    def error(self, problem: ApiError) -> dict[str, Any]:
        return problem.body()

    def ping(self) -> bytes:
        return b": waiting\n\n"

    def _whole(self, choices: list[dict[str, Any]], tokens: TokenUsage) -> dict[str, Any]:
        head = self._head | {"object": self._kind}
        return head | {"choices": choices, "usage": usage_body(tokens)}

    def _chunk(self, choice: dict[str, Any]) -> bytes:
        body = self._head | {"object": self._chunk_kind, "choices": [choice]}
        return event(body | {"usage": None} if self._with_usage else body)


def usage_body(tokens: TokenUsage) -> dict[str, Any]:
    counts: dict[str, Any] = {
        "prompt_tokens": tokens.prompt,
        "completion_tokens": tokens.completion,
        "total_tokens": tokens.total,
    }
    if tokens.reasoning is not None:
        counts["completion_tokens_details"] = {"reasoning_tokens": tokens.reasoning}
    return counts | tokens.narrows
