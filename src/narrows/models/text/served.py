"""A chat request as vLLM hands it to the model's template, so that both make one prompt of it.

What is not like vLLM: text that looks like a control token stays text (``ChatRenderer``), and
``strftime_now`` tells one day.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from narrows.errors import InputError

PROMPT_FIELDS = ("tools", "reasoning_effort", "chat_template_kwargs")
"""Fields of a request, beside its messages, of which the prompt is made."""

_CARRIED = ("role", "name", "tool_call_id")


def served_messages(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The messages; arguments of earlier calls as objects. InputError: what it would refuse."""
    if not all(isinstance(message, Mapping) for message in messages):
        raise InputError("a message that is no object")
    return [_message(message) for message in messages]


def served_tools(tools: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The tools, a description or parameters that they lack being null. InputError."""
    if not isinstance(tools, list | tuple):
        raise InputError("tools is no list")
    absent = {"name": None, "description": None, "parameters": None}
    return [{"type": "function", "function": absent | _function(tool)} for tool in tools]


def template_variables(body: Mapping[str, Any]) -> dict[str, Any]:
    """What a request says to the template beside messages and tools. InputError."""
    said = body.get("chat_template_kwargs") or {}
    if not isinstance(said, dict):
        raise InputError("chat_template_kwargs is no object")
    effort = body.get("reasoning_effort")
    if effort is not None:
        said = {"reasoning_effort": effort, "enable_thinking": effort != "none"} | said
    return dict(said)


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    made = {name: message[name] for name in _CARRIED if name in message}
    made["content"] = _content(message.get("content"))
    if message.get("role") != "assistant":
        return made
    if message.get("tool_calls"):
        if not isinstance(message["tool_calls"], list):
            raise InputError("tool_calls is no list")
        made["tool_calls"] = [_call(call) for call in message["tool_calls"]]
    thought = message.get("reasoning", message.get("reasoning_content"))
    if thought is not None:
        made |= {"reasoning": thought, "reasoning_content": thought}
    return made


def _content(content: object) -> object:
    if not isinstance(content, list):
        return content
    texts = []
    for part in content:
        text = part.get("text", part.get("refusal")) if isinstance(part, dict) else None
        if not isinstance(text, str):
            raise InputError("a message has a part that is no text")
        texts.append(text)
    return "\n".join(texts)


def _function(row: object) -> dict[str, Any]:
    function = row.get("function") if isinstance(row, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise InputError("a tool, or an earlier call, of no function")
    return dict(function)


def _call(call: Mapping[str, Any]) -> dict[str, Any]:
    function = _function(call)
    written = function.get("arguments")
    try:
        arguments = json.loads(written) if isinstance(written, str) and written else {}
    except (ValueError, RecursionError) as error:
        raise InputError("the arguments of an earlier call are no JSON") from error
    if not isinstance(arguments, dict):
        raise InputError("the arguments of an earlier call are no object")
    return dict(call) | {"function": function | {"arguments": arguments}}
