"""A model outside, beside the edge, which answers what it can: nothing of it leaves the enclave.

Any OpenAI-compatible server. It is asked whole, so a client's stream comes in one piece. What it
says is written by a stranger: bounded in size and time, and checked like what a link brings.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

from narrows.coding.events import (
    Channel,
    Coding,
    Event,
    Finish,
    Finished,
    Opened,
    Switch,
    Text,
    Usage,
)
from narrows.coding.kept import asks_less
from narrows.coding.spec import message_text
from narrows.edge.answer import MAX_TOOL_CALLS, MAX_TOOL_NAME_CHARS
from narrows.edge.api.messages import REASONING
from narrows.edge.config import LocalConfig
from narrows.errors import PeerError
from narrows.wire.http_call import CallError, post_json, printable
from narrows.wire.media import media_bytes

LOCAL, AUTO = "-local", "-auto"
Route = Literal["strong", "local", "auto"]
_THREADS = 32
_OURS = ("markup", "reasoning")  # what the link's two ends say to each other
_FINISH = {
    "stop": Finish.STOP,
    "length": Finish.LENGTH,
    "tool_calls": Finish.TOOL_CALLS,
    "content_filter": Finish.CONTENT_FILTER,
}
_MAX_COUNT = 1 << 24


def route_of(asked: object, name: str, config: LocalConfig) -> Route:
    """Who a request for the model ``asked`` goes to."""
    if config.url and asked == name + LOCAL:
        return "local"
    return "auto" if config.url and asked == name + AUTO else "strong"


def fits(config: LocalConfig, body: Mapping[str, Any]) -> bool:
    """Whether the operator's rules let the local model try."""
    messages = body["messages"]
    _, media = media_bytes(messages)
    size = media + sum(map(_chars, messages))
    systems = [message_text(one) for one in messages if one.get("role") == "system"]
    return (
        size <= config.max_prompt_chars
        and (config.tools or not body.get("tools"))
        and (not config.system or any(config.system in text for text in systems))
    )


def _chars(message: Mapping[str, Any]) -> int:
    """Of what the model would read, but for pictures and files."""
    calls = message.get("tool_calls") or ()
    said = [message_text(message), *(message.get(name) or "" for name in REASONING)]
    return sum(map(len, said)) + sum(len(call["function"]["arguments"]) for call in calls)


class LocalModel:
    """The server of ``config``."""

    def __init__(self, config: LocalConfig) -> None:
        self.config = config
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="local-model")

    async def ask(self, body: Mapping[str, Any], sure: bool) -> list[Event] | None:
        """A whole answer's events. ``sure``: None where the model is less sure of it than the
        operator wants. PeerError: there is no answer to be had."""
        loop = asyncio.get_running_loop()
        sent = {name: value for name, value in body.items() if name not in _OURS}
        sent |= {"model": self.config.model, "stream": False}
        if sure:
            sent["logprobs"] = True
        deadline = time.monotonic() + self.config.timeout_s  # waiting for a thread counts too
        said = await loop.run_in_executor(self._threads, _post, self.config, sent, deadline)
        try:
            choice = said["choices"][0]
            if sure and not _sure(choice, self.config.least_logprob):
                return None
            return _events(choice, said.get("usage"), asks_less(body))
        except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
            raise PeerError("the local model's server sent no answer of its API") from error

    def close(self) -> None:
        """Nothing more is asked."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _post(config: LocalConfig, sent: Mapping[str, Any], deadline: float) -> Any:
    """The JSON that it says. PeerError: none, or not in time."""
    headers = {"Connection": "close"}
    if config.api_key:
        headers["Authorization"] = f"Bearer {config.api_key}"
    url = config.url.rstrip("/") + "/chat/completions"
    body = json.dumps(sent).encode("ascii")
    try:
        reply = post_json(url, body, config.max_answer_bytes, deadline, headers)
        if reply.status != 200:
            raise PeerError(f"the local model's server said status {reply.status}")
        return json.loads(reply.body)
    except (CallError, ValueError, RecursionError) as error:
        said = printable(str(error), 200)
        raise PeerError(f"the local model's server gave no answer: {said}") from error


def _sure(choice: Mapping[str, Any], least: float) -> bool:
    """Whether the mean log-probability (nats) of the answer's tokens is at least ``least``; an
    answer that says none is not sure."""
    rows = (choice.get("logprobs") or {}).get("content") or []
    if not rows:
        return False
    return sum(float(row["logprob"]) for row in rows) / len(rows) >= least


def _events(choice: Mapping[str, Any], usage: object, less: bool) -> list[Event]:
    message = choice["message"]
    events: list[Event] = [Opened(Coding.TEXT)]
    reasoning = message.get("reasoning_content") or message.get("reasoning")
    if reasoning and not less:
        events += [Switch(Channel.REASONING), _text(reasoning), Switch(Channel.CONTENT)]
    if content := message.get("content"):
        events.append(_text(content))
    calls = message.get("tool_calls") or []
    if len(calls) > MAX_TOOL_CALLS:
        raise ValueError("too many tool calls")
    for call in calls:
        function = call["function"]
        if len(function["name"]) > MAX_TOOL_NAME_CHARS:
            raise ValueError("too long a tool name")
        events += [Switch(Channel.TOOL_NAME), _text(function["name"])]
        events += [Switch(Channel.TOOL_ARGUMENTS), _text(function.get("arguments") or "{}")]
    if isinstance(usage, dict):
        counts = [usage.get("prompt_tokens"), usage.get("completion_tokens")]
        if all(type(count) is int and 0 <= count <= _MAX_COUNT for count in counts):
            events.append(Usage(int(counts[0] or 0), int(counts[1] or 0)))
    return [*events, Finished(_FINISH[choice["finish_reason"]])]


def _text(value: object) -> Text:
    if not isinstance(value, str):
        raise TypeError("text is not a string")
    return Text(value.encode("utf-8", "surrogatepass"))
