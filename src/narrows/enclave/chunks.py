"""A model server's chunks as events of an answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from narrows.coding.events import (
    Channel,
    Event,
    Failure,
    Finish,
    Finished,
    Switch,
    Text,
    Usage,
)
from narrows.enclave.calls import Begun, ToolCalls
from narrows.enclave.refusal import failure_of
from narrows.enclave.sse import Malformed

MAX_TOKEN_COUNT = 1 << 24  # bound on the usage figures we believe

_FINISH = {
    "stop": Finish.STOP,
    "eos_token": Finish.STOP,
    "stop_sequence": Finish.STOP,
    "length": Finish.LENGTH,
    "max_tokens": Finish.LENGTH,
    "max_length": Finish.LENGTH,
    "max_new_tokens": Finish.LENGTH,
    "model_length": Finish.LENGTH,
    "tool_calls": Finish.TOOL_CALLS,
    "function_call": Finish.TOOL_CALLS,
    "content_filter": Finish.CONTENT_FILTER,
}
_CALL = (Channel.TOOL_NAME, Channel.TOOL_ARGUMENTS)
_UNCARRIED = ("function_call", "audio", "images")


class ServerError(Exception):
    """An error that the server said inside its stream. ``words`` are for the log alone."""

    def __init__(self, failure: Failure, words: str) -> None:
        super().__init__(words)
        self.failure = failure


def read_chunk(payload: bytes) -> dict[str, Any]:
    """One chunk of any of the server's APIs. Raises ``Malformed`` and ``ServerError``."""
    try:
        data = json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise Malformed("a chunk is not JSON") from error
    if not isinstance(data, dict):
        raise Malformed("a chunk is not an object")
    if data.get("error") is not None:
        raise _server_error(data["error"])
    return data


def choices_of(data: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The choices of a chunk: one at most."""
    choices = data.get("choices") or []
    if not isinstance(choices, list) or len(choices) > 1:
        raise Malformed("more than one choice")
    if not all(isinstance(choice, dict) for choice in choices):
        raise Malformed("a choice is not an object")
    return choices


def reason_of(choice: Mapping[str, Any]) -> str | None:
    """Why a choice ends, in the server's word; None where it goes on."""
    reason = choice.get("finish_reason")
    if reason is not None and not isinstance(reason, str):
        raise Malformed("a finish reason is not a string")
    return reason


def finish_of(reason: str) -> Finish:
    """The link's word for it. ``ServerError`` for one that is not known."""
    finish = _FINISH.get(reason)
    if finish is None:
        raise ServerError(Failure.UPSTREAM_BROKE, f"it ended the answer with {reason[:80]!r}")
    return finish


class ChunkReader:
    """One answer's chunks in order; holds the state between them. Text that comes amid a call's
    arguments is held until they are whole: a call crosses in one piece. ``Malformed`` for what is
    no chunk of an answer, and for more than ``max_answer_bytes`` of text. ``raw``: chunks of
    ``/v1/completions``, whose choices hold text and nothing else."""

    stopped = False  # the server looks for stop strings itself

    def __init__(self, max_answer_bytes: int, raw: bool = False) -> None:
        self._left_bytes = max_answer_bytes
        self._raw = raw
        self._channel = Channel.CONTENT
        self._calls = ToolCalls(max_answer_bytes)
        self._held: list[tuple[Channel, bytes]] = []
        self._reason: str | None = None
        self._usage: Usage | None = None
        self.reasoning_tokens: int | None = None  # as the server counts them
        self._empty = True

    def chunk(self, payload: bytes) -> list[Event]:
        """The events of one chunk. Raises ``Malformed`` and ``ServerError``."""
        data = read_chunk(payload)
        self._empty = False
        self._read_usage(data.get("usage"))
        return [event for choice in choices_of(data) for event in self._choice(choice)]

    def end(self) -> list[Event]:
        """The events behind the last chunk, with the answer's end; none where the server did not
        say how it ends."""
        if self._empty:
            raise Malformed("a stream without an event")
        if self._reason is None:
            return []
        finish = finish_of(self._reason)
        events = [*self._parts(self._calls.finish()), *self._release()]
        if self._usage is not None:
            events.append(self._usage)
        return [*events, Finished(finish)]

    def _choice(self, choice: Mapping[str, Any]) -> list[Event]:
        if self._raw:
            if choice.get("delta") or choice.get("message"):
                raise Malformed("a choice of another API")
            self._reason = self._reason or reason_of(choice)
            return self._text(Channel.CONTENT, choice.get("text"))
        delta = choice.get("delta") or choice.get("message") or {}
        if not isinstance(delta, dict):
            raise Malformed("a delta is not an object")
        if not delta and choice.get("text"):
            raise Malformed("a choice of another API")
        events = self._delta(delta)
        self._reason = self._reason or reason_of(choice)
        return events

    def _delta(self, delta: Mapping[str, Any]) -> list[Event]:
        for name in _UNCARRIED:
            if delta.get(name):
                raise Malformed(f"a delta with {name}, which no one asked for")
        reasoning = delta.get("reasoning_content") or delta.get("reasoning")
        events = self._text(Channel.REASONING, reasoning)
        events += self._text(Channel.CONTENT, delta.get("content"))
        events += self._text(Channel.REFUSAL, delta.get("refusal"))
        calls = delta.get("tool_calls") or []
        if not isinstance(calls, list):
            raise Malformed("tool_calls is not a list")
        for call in calls:
            events += self._parts(self._calls.add(call))
        return events if self._calls.is_open else events + self._release()

    def _parts(self, parts: list[str]) -> list[Event]:
        events: list[Event] = []
        for part in parts:
            if isinstance(part, Begun):
                events += self._release()
                self._channel = Channel.TOOL_NAME
                events.append(Switch(Channel.TOOL_NAME))
                events += self._text(Channel.TOOL_NAME, str(part))
            else:
                events += self._text(Channel.TOOL_ARGUMENTS, part)
        return events

    def _text(self, channel: Channel, value: object) -> list[Event]:
        if value is None or value == "":
            return []
        if not isinstance(value, str):
            raise Malformed("text is not a string")
        data = value.encode("utf-8", "surrogatepass")
        self._left_bytes -= len(data)
        if self._left_bytes < 0:
            raise Malformed("the answer is longer than the limit")
        if channel not in _CALL and self._calls.is_open:
            self._held.append((channel, data))
            return []
        return self._said(channel, data)

    def _release(self) -> list[Event]:
        held, self._held = self._held, []
        return [event for channel, data in held for event in self._said(channel, data)]

    def _said(self, channel: Channel, data: bytes) -> list[Event]:
        if channel == self._channel:
            return [Text(data)]
        self._channel = channel
        return [Switch(channel), Text(data)]

    def _read_usage(self, usage: object) -> None:
        if not isinstance(usage, dict):
            return
        counts = [usage.get("prompt_tokens"), usage.get("completion_tokens")]
        if all(isinstance(n, int) and 0 <= n <= MAX_TOKEN_COUNT for n in counts):
            self._usage = Usage(int(counts[0] or 0), int(counts[1] or 0))
            details = usage.get("completion_tokens_details")
            thought = details.get("reasoning_tokens") if isinstance(details, dict) else None
            if type(thought) is int and 0 <= thought <= self._usage.completion_tokens:
                self.reasoning_tokens = thought


def _server_error(error: object) -> ServerError:
    words = json.dumps(error)
    code = error.get("code") if isinstance(error, dict) else None
    status = code if isinstance(code, int) and 400 <= code < 600 else 0
    return ServerError(failure_of(status, words), words)
