"""A request of Anthropic's Messages API as a chat completion request.

The checks of values are those of ``api/request.py``: what is made here is one of its bodies.
Blocks that a chat completion has no word for are refused by name.

Decisions where the two APIs differ:

- ``thinking: disabled`` hides what the model thought; the other kinds let it be seen. Whether and
  how long a model thinks is its server's business.
- ``is_error`` of a tool's result becomes ``Error: `` before its text: chat has no flag for it.
- A signature is the edge's own and says nothing, so a thinking block comes back without a check.
- An assistant's turn at the end would have to be continued, which no chat template does: refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from narrows.edge.api import policy
from narrows.edge.config import EdgeLimits
from narrows.edge.dialects.fields import BodyFields, texts
from narrows.edge.problems import ApiError, bad_request

MAX_BLOCKS = 4096
SCHEMA_NAME = "answer"
_HINTS = (
    "cache_control",
    "context_management",
    "diagnostics",
    "inference_geo",
    "metadata",
    "service_tier",
    "speed",
    "user_profile_id",
    "workspace_id",
)
_WIDE = ("image", "document", "search_result", "container_upload")
_MOVED = {
    "model": "model",
    "max_tokens": "max_tokens",
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "stop_sequences": "stop",
    "stream": "stream",
}


class AnthropicRequest(NamedTuple):
    """``chat``: the body of a chat completion request. ``thinking``: it may be shown."""

    chat: dict[str, Any]
    thinking: bool


def anthropic_request(
    data: Mapping[str, Any], limits: EdgeLimits, counting: bool = False
) -> AnthropicRequest:
    """``counting``: of ``count_tokens``, which names no ``max_tokens``. Raises ``ApiError``."""
    fields = BodyFields(data)
    chat: dict[str, Any] = {}
    fields.move(chat, _MOVED)
    if not counting and "max_tokens" not in chat:
        raise fields.bad("max_tokens", "is missing", "missing_required_parameter")
    messages: list[dict[str, Any]] = []
    if (system := fields.take("system")) is not None:
        text = texts(system, "system", ("text",), MAX_BLOCKS)
        messages.append({"role": "system", "content": text})
    turns = fields.list("messages", limits.messages)
    if not turns:
        raise fields.bad("messages", "must be a list of at least one message")
    for index, turn in enumerate(turns):
        messages += _Turn(turn, f"messages[{index}]", limits).messages()
    if messages[-1]["role"] == "assistant":
        raise bad_request("The last message must be the user's: answers start anew.", "messages")
    chat["messages"] = messages
    _add_tools(fields, chat, limits)
    _add_format(fields, chat)
    thinking = _thinking(fields.inner("thinking"))
    if not thinking:
        chat["reasoning"] = "keep"  # nobody would see it
    fields.drop(_HINTS)
    fields.finish()
    return AnthropicRequest(chat, thinking)


class _Turn:
    """One message; a user's may hold tool results, which are messages of their own in a chat."""

    def __init__(self, value: object, where: str, limits: EdgeLimits) -> None:
        self._where = where
        fields = BodyFields(value, where)
        role = fields.take("role")
        if role not in ("user", "assistant", "system"):
            raise fields.bad("role", "must be user, assistant or system")
        self._role = str(role)
        content = fields.take("content")
        fields.finish()
        if isinstance(content, str):
            content = [{"type": "text", "text": content}]
        if not isinstance(content, list) or not 1 <= len(content) <= MAX_BLOCKS:
            raise fields.bad("content", "must be a string or a list of blocks")
        self._blocks = content
        self._limits = limits
        self._text: list[str] = []
        self._thought: list[str] = []
        self._calls: list[dict[str, Any]] = []
        self._results: list[dict[str, Any]] = []

    def messages(self) -> list[dict[str, Any]]:
        for index, block in enumerate(self._blocks):
            self._take(BodyFields(block, f"{self._where}.content[{index}]"))
        if self._role != "assistant":
            text = "".join(self._text)
            rest = [{"role": self._role, "content": text}] if self._text else []
            return self._results + rest
        message: dict[str, Any] = {"role": "assistant"}
        if self._text:
            message["content"] = "".join(self._text)
        if self._thought:
            message["reasoning_content"] = "".join(self._thought)
        if self._calls:
            message["tool_calls"] = self._calls
        if not self._text and not self._calls:
            message["content"] = ""
        return [message]

    def _take(self, block: BodyFields) -> None:
        kind = block.take("type")
        own = _BLOCKS.get((self._role, str(kind)))
        if own is not None:
            own(self, block)
        elif kind in _WIDE:
            raise policy.refuse_image_input(0)
        else:
            raise block.bad("type", f"is no block that a message of {self._role} may have here")
        block.drop(("cache_control",))
        block.finish()

    def text(self, block: BodyFields) -> None:
        self._text.append(block.need_text("text"))
        block.drop(("citations",))

    def thinking(self, block: BodyFields) -> None:
        self._thought.append(block.need_text("thinking"))
        block.text("signature")

    def tool_use(self, block: BodyFields) -> None:
        call_id, name = block.need_text("id"), block.need_text("name")
        given = block.take("input")
        if not isinstance(given, dict):
            raise block.bad("input", "must be an object", "invalid_type")
        # Not escaped twice: a body of the largest size has to fit into a message inward.
        arguments = json.dumps(given, separators=(",", ":"), ensure_ascii=False)
        function = {"name": name, "arguments": arguments}
        self._calls.append({"id": call_id, "type": "function", "function": function})
        if (caller := block.inner("caller")) is not None:
            if caller.take("type") != "direct":
                raise caller.bad("type", "must be direct")
            caller.finish()

    def tool_result(self, block: BodyFields) -> None:
        if self._text:  # as in Anthropic's API: a chat would have it behind the user's words
            raise block.bad("type", "must stand before the text of its message")
        call_id = block.need_text("tool_use_id")
        content = block.take("content")
        if isinstance(content, list) and any(
            isinstance(part, dict) and part.get("type") in _WIDE for part in content
        ):
            raise policy.refuse_image_input(0)
        text = texts("" if content is None else content, block.path("content"), ("text",), 4096)
        if block.flag("is_error"):
            text = f"Error: {text}"
        self._results.append({"role": "tool", "tool_call_id": call_id, "content": text})


_BLOCKS = {
    ("user", "text"): _Turn.text,
    ("system", "text"): _Turn.text,
    ("assistant", "text"): _Turn.text,
    ("assistant", "thinking"): _Turn.thinking,
    ("assistant", "tool_use"): _Turn.tool_use,
    ("user", "tool_result"): _Turn.tool_result,
}


def _add_tools(fields: BodyFields, chat: dict[str, Any], limits: EdgeLimits) -> None:
    tools = fields.list("tools", limits.tools) or []
    made = []
    for index, tool in enumerate(tools):
        inner = BodyFields(tool, f"tools[{index}]")
        if inner.take("type") not in (None, "custom"):
            raise inner.bad("type", "must be custom: this edge runs no tools of its own")
        function: dict[str, Any] = {"name": inner.need_text("name")}
        inner.move(function, {"description": "description", "input_schema": "parameters"})
        inner.move(function, {"strict": "strict"})
        inner.drop(("cache_control", "eager_input_streaming", "input_examples"))
        inner.finish()
        made.append({"type": "function", "function": function})
    if made:
        chat["tools"] = made
    choice = fields.inner("tool_choice")
    if choice is None:
        return
    kind = choice.take("type")
    if kind == "tool":
        chat["tool_choice"] = {"type": "function", "function": {"name": choice.need_text("name")}}
    elif isinstance(kind, str) and kind in _CHOICES:
        chat["tool_choice"] = _CHOICES[kind]
    else:
        raise choice.bad("type", "must be auto, any, tool or none")
    if choice.flag("disable_parallel_tool_use"):
        chat["parallel_tool_calls"] = False
    choice.finish()


_CHOICES = {"auto": "auto", "any": "required", "none": "none"}


def _add_format(fields: BodyFields, chat: dict[str, Any]) -> None:
    config = fields.inner("output_config")
    if config is None:
        return
    effort = config.text("effort")
    if effort is not None:
        chat["reasoning_effort"] = effort
    wanted = config.inner("format")
    if wanted is not None:
        if wanted.take("type") != "json_schema":
            raise wanted.bad("type", "must be json_schema")
        schema = wanted.take("schema")
        chat["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": SCHEMA_NAME, "schema": schema, "strict": True},
        }
        wanted.finish()
    config.finish()


def _thinking(config: BodyFields | None) -> bool:
    if config is None:
        return False
    kind = config.take("type")
    if kind not in ("enabled", "disabled", "adaptive", "between_tools"):
        raise config.bad("type", "must be enabled, adaptive or disabled")
    config.drop(("budget_tokens", "display"))
    config.finish()
    return bool(kind != "disabled")


def error_body(problem: ApiError) -> dict[str, Any]:
    """An error in the shape that Anthropic's clients read. ``x-should-retry`` goes with it."""
    error: dict[str, Any] = {"type": _kind(problem), "message": problem.message}
    if problem.param is not None:
        error["param"] = problem.param
    error["code"] = problem.code
    if problem.price_bytes is not None:
        error["price_bytes"] = problem.price_bytes
    return {"type": "error", "error": error}


def _kind(problem: ApiError) -> str:
    kinds = {
        401: "authentication_error",
        403: "permission_error",
        404: "not_found_error",
        408: "timeout_error",
        413: "request_too_large",
        429: "rate_limit_error",
        503: "overloaded_error",
        504: "timeout_error",
    }
    default = "invalid_request_error" if problem.status < 500 else "api_error"
    return kinds.get(problem.status, default)
