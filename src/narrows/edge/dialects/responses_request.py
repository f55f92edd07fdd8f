"""A request of OpenAI's Responses API as a chat completion request.

The checks of values are those of ``api/request.py``: what is made here is one of its bodies.
Input items become messages: calls join the assistant's message before them, a call's output is a
tool's message, reasoning goes with the assistant's next words. What a chat completion has no word
for (built-in tools, files, conversations, background) is refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from narrows.edge.api import policy
from narrows.edge.config import EdgeLimits
from narrows.edge.dialects.fields import BodyFields, texts
from narrows.edge.problems import bad_request

MAX_PARTS = 4096
_MOVED = {
    "model": "model",
    "max_output_tokens": "max_tokens",
    "temperature": "temperature",
    "top_p": "top_p",
    "stream": "stream",
    "parallel_tool_calls": "parallel_tool_calls",
}
_HINTS = (
    "client_metadata",
    "metadata",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "safety_identifier",
    "service_tier",
    "user",
)
_WIDE = ("input_image", "input_file", "input_audio")
_REASONED = "reasoning.encrypted_content"  # asked for by clients that keep nothing here


class ResponsesRequest(NamedTuple):
    """``chat``: the body of a chat completion request, without the messages before.
    ``instructions``: of this turn alone. ``previous``: the reply that it goes on from.
    ``said``: the request's own words that a reply repeats."""

    chat: dict[str, Any]
    instructions: str | None
    previous: str | None
    store: bool
    said: dict[str, Any]

    def joined(self, before: list[dict[str, Any]]) -> dict[str, Any]:
        """The chat request behind the messages ``before``."""
        head = []
        if self.instructions is not None:
            head = [{"role": "system", "content": self.instructions}]
        return self.chat | {"messages": [*head, *before, *self.chat["messages"]]}


def responses_request(data: Mapping[str, Any], limits: EdgeLimits) -> ResponsesRequest:
    """Raises ``ApiError``."""
    fields = BodyFields(data)
    chat: dict[str, Any] = {}
    fields.move(chat, _MOVED)
    instructions = fields.text("instructions")
    previous = fields.text("previous_response_id")
    store = fields.flag("store")
    chat["messages"] = _messages(fields.take("input"), limits)
    said = {
        "instructions": instructions,
        "max_output_tokens": chat.get("max_tokens"),
        "metadata": data.get("metadata") if isinstance(data.get("metadata"), dict) else {},
        "parallel_tool_calls": chat.get("parallel_tool_calls", True),
        "previous_response_id": previous,
        "reasoning": _reasoning(fields.inner("reasoning"), chat),
        "store": store is not False,
        "temperature": chat.get("temperature", 1.0),
        "text": _text(fields.inner("text"), chat),
        "tool_choice": "auto",
        "tools": [],
        "top_p": chat.get("top_p", 1.0),
        "truncation": "disabled",
    }
    _add_tools(fields, chat, said, limits)
    _refuse_wide(fields, chat)
    if fields.take("truncation") not in (None, "disabled"):
        raise fields.bad("truncation", "must be disabled: a prompt that is too long is refused")
    if fields.flag("background"):
        raise fields.bad("background", "must be false: an answer ends with its connection")
    fields.drop(_HINTS)
    fields.finish()
    if store is False:
        chat["store"] = False
    return ResponsesRequest(chat, instructions, previous, store is not False, said)


def _refuse_wide(fields: BodyFields, chat: Mapping[str, Any]) -> None:
    length = chat.get("max_tokens")
    price_tokens = length if isinstance(length, int) else 0
    top = fields.take("top_logprobs")
    include = fields.list("include", 64) or []
    if top not in (None, 0) or "message.output_text.logprobs" in include:
        raise policy.refuse_logprobs(max(1, price_tokens), top)
    for name in include:
        if name != _REASONED:
            raise fields.bad("include", f"may name {_REASONED} alone")
    options = fields.inner("stream_options")
    if options is not None:
        options.flag("include_obfuscation")
        options.finish()


def _reasoning(config: BodyFields | None, chat: dict[str, Any]) -> dict[str, Any]:
    """Reasoning is shown as it is, or not at all: summaries of it are not made."""
    said: dict[str, Any] = {"effort": None, "summary": None}
    if config is not None:
        said["effort"] = config.text("effort")
        if said["effort"] is not None:
            chat["reasoning_effort"] = said["effort"]
        if config.take("summary") == "none":
            chat["reasoning"] = "keep"
        config.drop(("generate_summary", "context"))
        config.finish()
    return said


def _text(config: BodyFields | None, chat: dict[str, Any]) -> dict[str, Any]:
    said: dict[str, Any] = {"format": {"type": "text"}}
    if config is None:
        return said
    if config.take("verbosity") not in (None, "medium"):
        raise config.bad("verbosity", "must be medium", "unsupported_parameter")
    wanted = config.inner("format")
    if wanted is not None:
        kind = wanted.take("type")
        if kind == "json_schema":
            inner = {"name": wanted.need_text("name"), "schema": wanted.take("schema")}
            wanted.move(inner, {"description": "description", "strict": "strict"})
            chat["response_format"] = {"type": kind, "json_schema": inner}
            said = {"format": {"type": kind} | inner}
        elif kind == "json_object":
            chat["response_format"] = {"type": kind}
            said = {"format": {"type": kind}}
        elif kind != "text":
            raise wanted.bad("type", "must be text, json_object or json_schema")
        wanted.finish()
    config.finish()
    return said


def _add_tools(
    fields: BodyFields, chat: dict[str, Any], said: dict[str, Any], limits: EdgeLimits
) -> None:
    tools = fields.list("tools", limits.tools) or []
    made = []
    for index, tool in enumerate(tools):
        inner = BodyFields(tool, f"tools[{index}]")
        if inner.take("type") != "function":
            raise inner.bad("type", "must be function: this edge runs no tools of its own")
        function: dict[str, Any] = {"name": inner.need_text("name")}
        names = ("description", "parameters", "strict")
        inner.move(function, {name: name for name in names})
        inner.drop(("defer_loading", "output_schema"))
        inner.finish()
        made.append({"type": "function", "function": function})
        blank = {"description": None, "parameters": None, "strict": None}
        said["tools"].append({"type": "function"} | blank | function)
    if made:
        chat["tools"] = made
    choice = fields.take("tool_choice")
    if choice is None:
        return
    said["tool_choice"] = choice
    if isinstance(choice, Mapping):
        named = BodyFields(choice, "tool_choice")
        if named.take("type") != "function":
            raise named.bad("type", "must be function")
        choice = {"type": "function", "function": {"name": named.need_text("name")}}
        named.finish()
    if made or choice not in ("auto", "none"):  # without tools these two say nothing
        chat["tool_choice"] = choice


def _messages(value: object, limits: EdgeLimits) -> list[dict[str, Any]]:
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    if not isinstance(value, list) or not value:
        raise bad_request("input must be a string or a list of items.", "input")
    if len(value) > limits.messages:
        raise bad_request(f"input has more than {limits.messages} items.", "input")
    turns = _Turns()
    for index, item in enumerate(value):
        turns.take(BodyFields(item, f"input[{index}]"))
    return turns.messages


class _Turns:
    """Items in order as the messages of a chat."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self._joins = False  # whether the last message takes what an assistant does next

    def take(self, item: BodyFields) -> None:
        kind = item.take("type")
        item.drop(("id", "status", "phase"))
        if kind in (None, "message"):
            self._message(item)
        elif kind == "function_call":
            function = {"name": item.need_text("name"), "arguments": item.need_text("arguments")}
            call = {"id": item.need_text("call_id"), "type": "function", "function": function}
            self._assistant().setdefault("tool_calls", []).append(call)
        elif kind == "function_call_output":
            call_id = item.need_text("call_id")
            output = item.take("output")
            self._refuse_wide(output)
            content = texts(output, item.path("output"), ("input_text", "output_text"), MAX_PARTS)
            self._add({"role": "tool", "tool_call_id": call_id, "content": content})
        elif kind == "reasoning":
            self._reasoning(item)
        else:
            raise item.bad("type", "is no item that this edge takes")
        item.finish()

    def _add(self, message: dict[str, Any]) -> None:
        self.messages.append(message)
        self._joins = False

    def _assistant(self) -> dict[str, Any]:
        if not self._joins:
            self._add({"role": "assistant"})
            self._joins = True
        return self.messages[-1]

    def _message(self, item: BodyFields) -> None:
        role = item.take("role")
        if role not in ("user", "assistant", "system", "developer"):
            raise item.bad("role", "must be user, assistant, system or developer")
        content = item.take("content")
        if isinstance(content, list) and len(content) > MAX_PARTS:
            raise item.bad("content", f"must hold {MAX_PARTS} parts at most")
        if role != "assistant":
            self._refuse_wide(content)
            text = texts(content, item.path("content"), ("input_text",), MAX_PARTS)
            self._add({"role": role, "content": text})
            return
        refusals, rest = [], []
        for index, part in enumerate(content if isinstance(content, list) else []):
            if isinstance(part, Mapping) and part.get("type") == "refusal":
                where = f"{item.path('content')}[{index}]"
                refusals.append(BodyFields(part, where).need_text("refusal"))
            else:
                rest.append(part)
        message = self._assistant()
        if "content" in message or "tool_calls" in message:
            self._joins = False
            message = self._assistant()
        if refusals:
            message["refusal"] = "".join(refusals)
            content = rest
        kinds = ("output_text", "input_text")
        message["content"] = texts(content, item.path("content"), kinds, MAX_PARTS)

    def _reasoning(self, item: BodyFields) -> None:
        """``encrypted_content`` and summaries are none of this edge's making and say nothing."""
        parts = item.list("content", MAX_PARTS) or []
        text = texts(parts, item.path("content"), ("reasoning_text", "text"), MAX_PARTS)
        item.drop(("summary", "encrypted_content"))
        if not text:
            return
        self._joins = False
        self._assistant()["reasoning_content"] = text

    def _refuse_wide(self, content: object) -> None:
        for part in content if isinstance(content, list) else []:
            if isinstance(part, Mapping) and part.get("type") in _WIDE:
                raise policy.refuse_image_input(0)
