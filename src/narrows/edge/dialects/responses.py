"""Replies of OpenAI's Responses API, whole and streamed.

    response.created, response.in_progress,
    then per item response.output_item.added, its part's added, deltas and done, output_item.done,
    then response.completed, or incomplete, or failed

Each event has the next sequence number. A message, a reasoning and a call are items, each with
one part at most. Reasoning comes as ``reasoning_text``; summaries are not made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from narrows.coding.events import Channel, Finish
from narrows.edge.answer import Piece
from narrows.edge.dialects.dialect import Block, Blocks, Ended, TokenUsage, event, random_id
from narrows.edge.problems import ApiError

_PARTS = {  # channel: kind of its part, of its deltas, and where the part has its text
    Channel.CONTENT: ("output_text", "response.output_text", "text"),
    Channel.REFUSAL: ("refusal", "response.refusal", "refusal"),
    Channel.REASONING: ("reasoning_text", "response.reasoning_text", "text"),
}
_PREFIXES = {Channel.CONTENT: "msg_", Channel.REFUSAL: "msg_", Channel.REASONING: "rs_"}
_ARGUMENTS = "response.function_call_arguments"


class ResponsesDialect:
    """``said``: the request's words that a reply repeats. ``keep``: gets the messages that an
    assistant said, once the reply is complete."""

    def __init__(
        self,
        *,
        model: str,
        created_s: int,
        said: dict[str, Any],
        random_bytes: Callable[[int], bytes],
        keep: Callable[[str, dict[str, Any], list[dict[str, Any]]], None],
    ) -> None:
        self._model = model
        self._created_s = created_s
        self._said = said
        self._random_bytes = random_bytes
        self._keep = keep
        self._id = random_id("resp_", random_bytes)
        self._blocks = Blocks()
        self._ids: list[tuple[str, str]] = []  # of each block: the item's, and the call's
        self._sequence = 0
        self._end = Ended(Finish.STOP)

    @property
    def reply_id(self) -> str:
        return self._id

    def add(self, index: int, pieces: Sequence[Piece]) -> None:
        self._blocks.feed(pieces)

    def whole(self, ends: Sequence[Ended], tokens: TokenUsage) -> dict[str, Any]:
        return self._ended(ends[0], tokens)

    def begin(self, prompt_tokens: int) -> bytes:
        first = self._response("in_progress", [], None, None)
        return self._event("response.created", response=first) + self._event(
            "response.in_progress", response=first
        )

    def pieces(self, index: int, pieces: Sequence[Piece]) -> bytes:
        events = []
        for step in self._blocks.feed(pieces):
            if step.what == "open":
                events.append(self._opened(step.at))
            elif step.what == "text":
                events.append(self._delta(step.at, step.text))
            else:
                events.append(self._closed(step.at, "completed"))
        return b"".join(events)

    def finish(self, index: int, end: Ended) -> bytes:
        self._end = end
        status = "completed" if self._reason(end) is None else "incomplete"
        return b"".join(self._closed(step.at, status) for step in self._blocks.finish())

    def end(self, tokens: TokenUsage) -> bytes:
        response = self._ended(self._end, tokens)
        return self._event(f"response.{response['status']}", response=response)

    def failed(self, problem: ApiError) -> bytes:
        code = "rate_limit_exceeded" if problem.status == 429 else "server_error"
        error = {"code": code, "message": problem.message}
        response = self._response("failed", self._output("incomplete"), None, None)
        return self._event("response.failed", response=response | {"error": error})

    def error(self, problem: ApiError) -> dict[str, Any]:
        return problem.body()

    def ping(self) -> bytes:
        return b": waiting\n\n"

    def _ended(self, end: Ended, tokens: TokenUsage) -> dict[str, Any]:
        reason = self._reason(end)
        status = "completed" if reason is None else "incomplete"
        response = self._response(status, self._output(status), reason, tokens)
        self._keep(self._id, response, _messages(self._blocks.list, self._call_id))
        return response

    @staticmethod
    def _reason(end: Ended) -> str | None:
        reasons = {Finish.LENGTH: "max_output_tokens", Finish.CONTENT_FILTER: "content_filter"}
        return reasons.get(end.reason)

    def _response(
        self,
        status: str,
        output: list[dict[str, Any]],
        incomplete: str | None,
        tokens: TokenUsage | None,
    ) -> dict[str, Any]:
        usage = None
        if tokens is not None:
            usage = {
                "input_tokens": tokens.prompt,
                "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
                "output_tokens": tokens.completion,
                "output_tokens_details": {"reasoning_tokens": tokens.reasoning or 0},
                "total_tokens": tokens.total,
                **tokens.narrows,
            }
        head = {
            "id": self._id,
            "object": "response",
            "created_at": self._created_s,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": None if incomplete is None else {"reason": incomplete},
            "model": self._model,
            "output": output,
            "usage": usage,
        }
        return head | self._said

    def _output(self, last_status: str) -> list[dict[str, Any]]:
        last = len(self._blocks.list) - 1
        return [
            self._item(at, last_status if at == last else "completed")
            for at in range(len(self._blocks.list))
        ]

    def _item(self, at: int, status: str, empty: bool = False) -> dict[str, Any]:
        block = self._blocks.list[at]
        if at == len(self._ids):
            self._ids.append(self._new_ids(block))
        item_id, call_id = self._ids[at]
        if block.channel is Channel.TOOL_ARGUMENTS:
            return {
                "id": item_id,
                "type": "function_call",
                "status": status,
                "call_id": call_id,
                "name": block.name,
                "arguments": "" if empty else block.text,
            }
        content = [] if empty else [_part(block, block.text)]
        if block.channel is Channel.REASONING:
            # A status has no place in a reasoning item that a client sends back.
            return {"id": item_id, "type": "reasoning", "summary": [], "content": content}
        return {
            "id": item_id,
            "type": "message",
            "status": status,
            "role": "assistant",
            "content": content,
        }

    def _new_ids(self, block: Block) -> tuple[str, str]:
        prefix = _PREFIXES.get(block.channel, "fc_")
        call_id = random_id("call_", self._random_bytes) if prefix == "fc_" else ""
        return random_id(prefix, self._random_bytes), call_id

    def _call_id(self, at: int) -> str:
        return self._ids[at][1]

    def _opened(self, at: int) -> bytes:
        item = self._item(at, "in_progress", empty=True)
        events = self._event("response.output_item.added", output_index=at, item=item)
        block = self._blocks.list[at]
        if block.channel is not Channel.TOOL_ARGUMENTS:
            events += self._in_part("response.content_part.added", at, part=_part(block, ""))
        return events

    def _delta(self, at: int, text: str) -> bytes:
        block = self._blocks.list[at]
        if block.channel is Channel.TOOL_ARGUMENTS:
            return self._in_item(f"{_ARGUMENTS}.delta", at, delta=text)
        name = _PARTS[block.channel][1]
        return self._in_part(f"{name}.delta", at, delta=text, **_logprobs(block))

    def _closed(self, at: int, status: str) -> bytes:
        block = self._blocks.list[at]
        item = self._item(at, status)
        if block.channel is Channel.TOOL_ARGUMENTS:
            names = {"arguments": block.text, "name": block.name}
            events = self._in_item(f"{_ARGUMENTS}.done", at, **names)
        else:
            _, name, where = _PARTS[block.channel]
            text = {where: block.text}
            events = self._in_part(f"{name}.done", at, **text, **_logprobs(block))
            part = _part(block, block.text)
            events += self._in_part("response.content_part.done", at, part=part)
        return events + self._event("response.output_item.done", output_index=at, item=item)

    def _in_item(self, kind: str, at: int, **fields: Any) -> bytes:
        return self._event(kind, item_id=self._ids[at][0], output_index=at, **fields)

    def _in_part(self, kind: str, at: int, **fields: Any) -> bytes:
        return self._in_item(kind, at, content_index=0, **fields)

    def _event(self, kind: str, **fields: Any) -> bytes:
        body = {"type": kind, "sequence_number": self._sequence, **fields}
        self._sequence += 1
        return event(body, kind)


def _part(block: Block, text: str) -> dict[str, Any]:
    kind, _, where = _PARTS[block.channel]
    part: dict[str, Any] = {"type": kind, where: text}
    return part | {"annotations": [], "logprobs": []} if kind == "output_text" else part


def _logprobs(block: Block) -> dict[str, Any]:
    return {"logprobs": []} if block.channel is Channel.CONTENT else {}


def _messages(blocks: Sequence[Block], call_id: Callable[[int], str]) -> list[dict[str, Any]]:
    """What was said, as the assistant's message of a chat."""
    texts: dict[str, str] = {}
    calls = []
    names = {Channel.CONTENT: "content", Channel.REFUSAL: "refusal"}
    names[Channel.REASONING] = "reasoning_content"
    for at, block in enumerate(blocks):
        if block.channel is Channel.TOOL_ARGUMENTS:
            function = {"name": block.name, "arguments": block.text}
            calls.append({"id": call_id(at), "type": "function", "function": function})
        else:
            name = names[block.channel]
            texts[name] = texts.get(name, "") + block.text
    message: dict[str, Any] = {"role": "assistant"} | texts
    if calls:
        message["tool_calls"] = calls
    return [message] if len(message) > 1 else []
