"""The messages of a request: every role, text parts, and pictures and files where the edge's
limits have room for any. What passes is rebuilt field by field, so nothing unknown travels
inward. The weak model reads the text alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from narrows.edge.api import policy
from narrows.edge.config import EdgeLimits
from narrows.edge.problems import ApiError, bad_request, check_known, too_long
from narrows.errors import InputError
from narrows.wire.media import MEDIA_PARTS, media_bytes, media_part

ROLES = ("developer", "system", "user", "assistant", "tool", "function")
MAX_NAME_CHARS = 256
MAX_CALLS = 128
REASONING = ("reasoning_content", "reasoning")
"""What earlier turns thought, by either name that model servers use."""
_FIELDS = ("role", "content", "name", "tool_call_id")
_ASSISTANT_FIELDS = (*_FIELDS, "refusal", "tool_calls", *REASONING)
_SHOWING = ("user", "tool")
_WIDE_PARTS = ("image_url", "input_audio", "file", "input_image", "input_file")


def check_messages(value: object, limits: EdgeLimits, max_tokens: int) -> list[dict[str, Any]]:
    """Raises ``ApiError``; ``max_tokens`` is for the price in a refusal."""
    if not isinstance(value, list) or not value:
        raise bad_request("messages must be a list of at least one message.", "messages")
    if len(value) > limits.messages:
        raise too_long(f"More than {limits.messages} messages.")
    checked = [
        _Message(index, message, max_tokens, limits.media > 0).check()
        for index, message in enumerate(value)
    ]
    count, _ = media_bytes(checked)
    if count > limits.media:
        message = f"messages hold {count} pictures and files; {limits.media} are accepted."
        raise bad_request(message, "messages")
    size_bytes = sum(_text_bytes(message) for message in checked)
    if size_bytes > limits.prompt_bytes:
        raise too_long(
            f"The prompt has {size_bytes:,} bytes of text; {limits.prompt_bytes:,} are accepted."
        )
    return checked


def _text_bytes(value: object) -> int:
    if isinstance(value, str):
        return len(value.encode("utf-8", "surrogatepass"))
    if isinstance(value, Mapping):
        if value.get("type") in MEDIA_PARTS:  # no text; the body's own limit bounds it
            return 0
        return sum(map(_text_bytes, value.values()))
    if isinstance(value, list):
        return sum(map(_text_bytes, value))
    return 0


class _Message:
    """One message on its way through the checks. ``where`` names it in errors."""

    def __init__(self, index: int, message: object, max_tokens: int, media: bool) -> None:
        self._media = media
        self._where = f"messages[{index}]"
        if not isinstance(message, dict):
            raise self._bad("must be an object")
        self._fields = {name: field for name, field in message.items() if field is not None}
        self._max_tokens = max_tokens

    def _bad(self, what: str, inner: str = "") -> ApiError:
        where = self._where + inner
        return bad_request(f"{where} {what}.", where)

    def check(self) -> dict[str, Any]:
        role = self._fields.get("role")
        if role not in ROLES:
            raise self._bad(f"must be one of {', '.join(ROLES)}", ".role")
        if self._fields.get("annotations") == []:  # as a client's library hands an answer back
            del self._fields["annotations"]
        names = _ASSISTANT_FIELDS if role == "assistant" else _FIELDS
        check_known(self._fields, names, self._where)
        checked: dict[str, Any] = {"role": role}
        content = self._content(role)
        if content is not None:
            checked["content"] = content
        for name in ("name", "tool_call_id"):
            if name in self._fields:
                checked[name] = self._short(name)
        if role == "tool" and "tool_call_id" not in checked:
            raise self._bad("is missing", ".tool_call_id")
        if role == "function" and "name" not in checked:
            raise self._bad("is missing", ".name")
        if role == "assistant":
            self._assistant(checked)
        elif content is None:
            raise self._bad("is missing", ".content")
        return checked

    def _content(self, role: str) -> str | list[dict[str, Any]] | None:
        content = self._fields.get("content")
        if content is None or isinstance(content, str):
            return content
        if not isinstance(content, list):
            raise self._bad("must be a string or a list of text parts", ".content")
        return [self._part(index, part, role) for index, part in enumerate(content)]

    def _part(self, index: int, part: object, role: str) -> dict[str, Any]:
        inner = f".content[{index}]"
        if not isinstance(part, dict):
            raise self._bad("must be an object", inner)
        kind = part.get("type")
        if self._media and kind in MEDIA_PARTS and role in _SHOWING:
            try:
                return media_part(part)
            except InputError as error:
                raise self._bad(error.message, inner) from error
        if kind in _WIDE_PARTS:
            raise policy.refuse_image_input(self._max_tokens)
        name = "refusal" if kind == "refusal" and role == "assistant" else "text"
        text = part.get(name)
        if kind != name or not isinstance(text, str):
            raise self._bad("must be a text part", inner)
        check_known(part, ("type", name), self._where + inner)
        return {"type": name, name: text}

    def _short(self, name: str) -> str:
        value = self._fields[name]
        if not isinstance(value, str) or len(value) > MAX_NAME_CHARS:
            raise self._bad(f"must be a string of {MAX_NAME_CHARS} characters at most", f".{name}")
        return value

    def _assistant(self, checked: dict[str, Any]) -> None:
        for name in ("refusal", *REASONING):
            if name in self._fields:
                if not isinstance(self._fields[name], str):
                    raise self._bad("must be a string", f".{name}")
                checked[name] = self._fields[name]
        if self._fields.get("tool_calls", []) != []:
            checked["tool_calls"] = self._tool_calls(self._fields["tool_calls"])
        if len(checked) == 1:
            raise self._bad("has neither content nor tool_calls")

    def _tool_calls(self, calls: object) -> list[dict[str, Any]]:
        if not isinstance(calls, list) or len(calls) > MAX_CALLS:
            raise self._bad(f"must be a list of {MAX_CALLS} calls at most", ".tool_calls")
        return [self._tool_call(index, call) for index, call in enumerate(calls)]

    def _tool_call(self, index: int, call: object) -> dict[str, Any]:
        inner = f".tool_calls[{index}]"
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(call, dict) or not isinstance(function, dict):
            raise self._bad("must be a call of a function", inner)
        texts = (call.get("id"), function.get("name"), function.get("arguments"))
        if call.get("type", "function") != "function" or not all(
            isinstance(text, str) for text in texts
        ):
            raise self._bad("must have an id and a function's name and arguments", inner)
        # ``index`` is of a stream; clients that put its chunks together leave it there.
        check_known(call, ("id", "type", "function", "index"), self._where + inner)
        check_known(function, ("name", "arguments"), f"{self._where}{inner}.function")
        name, arguments = function["name"], function["arguments"]
        if len(call["id"]) > MAX_NAME_CHARS or len(name) > MAX_NAME_CHARS:
            raise self._bad("has too long an id or name", inner)
        return {
            "id": call["id"],
            "type": "function",
            "function": {"name": name, "arguments": arguments},
        }
