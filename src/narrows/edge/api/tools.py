"""Tools, the choice among them and the format of the answer: shape and size are checked here,
meaning is the model server's business (schemas pass through as they are)."""

from __future__ import annotations

import re
from typing import Any

from narrows.edge.config import EdgeLimits
from narrows.edge.problems import bad_request, check_known
from narrows.wire.parameters import schema_wrong

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")


def check_tools(value: object, limits: EdgeLimits) -> list[dict[str, Any]]:
    """Raises ``ApiError``; an absent list is an empty one."""
    if value is None:
        return []
    if not isinstance(value, list) or len(value) > limits.tools:
        raise bad_request(f"tools must be a list of {limits.tools} tools at most.", "tools")
    return [_check_tool(index, tool) for index, tool in enumerate(value)]


def _check_tool(index: int, tool: object) -> dict[str, Any]:
    where = f"tools[{index}]"
    function = tool.get("function") if isinstance(tool, dict) else None
    if not isinstance(tool, dict) or tool.get("type") != "function":
        raise bad_request(f"{where}.type must be function.", f"{where}.type")
    if not isinstance(function, dict) or not _is_name(function.get("name")):
        raise bad_request(f"{where}.function.name must be a name.", f"{where}.function.name")
    names = ("name", "description", "parameters", "strict")
    check_known(tool, ("type", "function"), where)
    check_known(function, names, f"{where}.function")
    for name, kind in (("description", str), ("parameters", dict), ("strict", bool)):
        if not isinstance(function.get(name), kind | None):
            inner = f"{where}.function.{name}"
            raise bad_request(f"{inner} has the wrong type.", inner, "invalid_type")
    kept = {name: function[name] for name in names if function.get(name) is not None}
    return {"type": "function", "function": kept}


def _is_name(value: object) -> bool:
    return isinstance(value, str) and _NAME.fullmatch(value) is not None


def check_tool_choice(value: object, tools: list[dict[str, Any]]) -> str | dict[str, Any] | None:
    if value is None:
        return None
    if value == "none":
        return "none"
    if not tools:
        raise bad_request("tool_choice needs tools.", "tool_choice")
    if value in ("auto", "required"):
        return str(value)
    function = value.get("function") if isinstance(value, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    names = [tool["function"]["name"] for tool in tools]
    if not isinstance(value, dict) or not isinstance(function, dict) or name not in names:
        message = "tool_choice must be none, auto, required, or name one of the tools."
        raise bad_request(message, "tool_choice")
    if value.get("type") != "function":
        raise bad_request("tool_choice.type must be function.", "tool_choice.type")
    check_known(value, ("type", "function"), "tool_choice")
    check_known(function, ("name",), "tool_choice.function")
    return {"type": "function", "function": {"name": name}}


def check_response_format(value: object) -> dict[str, Any] | None:
    """None where it asks for plain text."""
    if value is None:
        return None
    kind = value.get("type") if isinstance(value, dict) else None
    if not isinstance(value, dict) or kind not in ("text", "json_object", "json_schema"):
        message = "response_format.type must be text, json_object or json_schema."
        raise bad_request(message, "response_format")
    own = {"text": (), "json_object": ("schema",), "json_schema": ("json_schema",)}
    check_known(value, ("type", *own[kind]), "response_format")
    if kind == "text":
        return None
    if kind == "json_object":
        schema = value.get("schema")
        if schema is None:
            return {"type": "json_object"}
        where = "response_format.schema"
        if not isinstance(schema, dict):
            raise bad_request(f"{where} must be an object.", where, "invalid_type")
        _check_size(schema, where)
        return {"type": "json_object", "schema": schema}
    schema = value.get("json_schema")
    if not isinstance(schema, dict) or not _is_name(schema.get("name")):
        message = "response_format.json_schema needs a name."
        raise bad_request(message, "response_format.json_schema")
    names = ("name", "description", "schema", "strict")
    check_known(schema, names, "response_format.json_schema")
    inner = schema.get("schema")
    if inner is not None:
        _check_size(inner, "response_format.json_schema.schema")
    return {"type": "json_schema", "json_schema": schema}


def _check_size(schema: object, where: str) -> None:
    if found := schema_wrong(schema):
        raise bad_request(f"{where} {found.what}.", where)
