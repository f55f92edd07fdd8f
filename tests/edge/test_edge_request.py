"""Fields of a request at every depth: passed as they are, or refused by their name."""

from __future__ import annotations

from typing import Any

import pytest

from narrows.edge.api.request import parse_chat
from narrows.edge.config import EdgeLimits
from narrows.edge.problems import ApiError

CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
TOOL = {
    "type": "function",
    "function": {
        "name": "f",
        "description": "d",
        "parameters": {"type": "object", "x-anything": {"deep": [1]}},
        "strict": True,
    },
}
SCHEMA = {"type": "object", "properties": {"a": {"x-own": 1}}}


def parse(**fields: Any) -> dict[str, Any]:
    data = {"model": "m", "messages": [{"role": "user", "content": "x"}]} | fields
    return parse_chat(data, "m", EdgeLimits()).body


def test_what_is_known_is_passed_as_it_is() -> None:
    messages = [
        {"role": "system", "content": "s", "name": "n"},
        {"role": "user", "content": [{"type": "text", "text": "a"}]},
        {"role": "assistant", "content": "b", "reasoning_content": "because"},
        {"role": "assistant", "content": "b", "reasoning": "because"},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}], "refusal": "no"},
        {"role": "assistant", "tool_calls": [CALL]},
        {"role": "tool", "content": "r", "tool_call_id": "c1"},
    ]
    fields = {
        "messages": messages,
        "tools": [TOOL],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "seed": -5,
    }
    assert parse(**fields) == fields | {"markup": 1, "reasoning": "send"}
    for kept in (
        {"type": "json_object"},
        {"type": "json_object", "schema": SCHEMA},
        {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA, "strict": True}},
    ):
        assert parse(response_format=kept)["response_format"] == kept


def test_how_much_the_model_thinks() -> None:
    for effort in ("none", "minimal", "low", "medium", "high", "xhigh", "max"):
        assert parse(reasoning_effort=effort)["reasoning_effort"] == effort
    for thinks in (True, False):
        kwargs = {"enable_thinking": thinks}
        assert parse(chat_template_kwargs=kwargs)["chat_template_kwargs"] == kwargs
    for nothing in ({}, {"enable_thinking": None}, None):
        assert "chat_template_kwargs" not in parse(chat_template_kwargs=nothing)


def test_what_says_nothing_is_left_out() -> None:
    library = {"role": "assistant", "content": "b", "annotations": [], "audio": None}
    library |= {"function_call": None, "tool_calls": [], "refusal": None}
    body = parse(messages=[library, {"role": "user", "content": "c"}])
    assert body["messages"][0] == {"role": "assistant", "content": "b"}
    streamed = {"role": "assistant", "tool_calls": [CALL | {"index": 0}]}
    assert parse(messages=[streamed])["messages"] == [{"role": "assistant", "tool_calls": [CALL]}]
    assert "max_tokens" not in parse()
    assert parse(max_completion_tokens=5)["max_tokens"] == 5


def message(**fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "x"} | fields]}


def assistant(**fields: Any) -> dict[str, Any]:
    return message(role="assistant", **fields)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs.messages"),
        (message(cache_control={}), "messages[0].cache_control"),
        (message(tool_calls=[CALL]), "messages[0].tool_calls"),
        (message(reasoning_content="x"), "messages[0].reasoning_content"),
        (assistant(prefix=True), "messages[0].prefix"),
        (assistant(function_call={"name": "f"}), "messages[0].function_call"),
        (assistant(annotations=[{}]), "messages[0].annotations"),
        (
            message(content=[{"type": "text", "text": "a", "cache_control": {}}]),
            "messages[0].content[0].cache_control",
        ),
        (assistant(tool_calls=[CALL | {"extra": 1}]), "messages[0].tool_calls[0].extra"),
        (
            assistant(tool_calls=[CALL | {"function": CALL["function"] | {"output": "x"}}]),  # type: ignore[operator]
            "messages[0].tool_calls[0].function.output",
        ),
        ({"tools": [TOOL | {"cache_control": {}}]}, "tools[0].cache_control"),
        (
            {"tools": [TOOL | {"function": TOOL["function"] | {"examples": []}}]},  # type: ignore[operator]
            "tools[0].function.examples",
        ),
        (
            {
                "tools": [TOOL],
                "tool_choice": {"type": "function", "function": {"name": "f"}, "x": 1},
            },
            "tool_choice.x",
        ),
        (
            {
                "tools": [TOOL],
                "tool_choice": {"type": "function", "function": {"name": "f", "y": 1}},
            },
            "tool_choice.function.y",
        ),
        ({"response_format": {"type": "text", "schema": SCHEMA}}, "response_format.schema"),
        ({"response_format": {"type": "json_object", "grammar": "x"}}, "response_format.grammar"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "z": 1}}},
            "response_format.json_schema.z",
        ),
        ({"stream": True, "stream_options": {"continuous": True}}, "stream_options.continuous"),
    ],
)
def test_what_is_unknown_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as refused:
        parse(**fields)
    assert (refused.value.code, refused.value.param) == ("unknown_parameter", param)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"reasoning_effort": "Very much"}, "reasoning_effort"),
        ({"reasoning_effort": 1}, "reasoning_effort"),
        ({"chat_template_kwargs": []}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"enable_thinking": 1}}, "chat_template_kwargs.enable_thinking"),
        (assistant(refusal=5), "messages[0].refusal"),
        (assistant(reasoning_content=["x"]), "messages[0].reasoning_content"),
        (assistant(tool_calls={}), "messages[0].tool_calls"),
        (assistant(tool_calls=""), "messages[0].tool_calls"),
        ({"response_format": {"type": "json_object", "schema": "x"}}, "response_format.schema"),
        (
            {"tools": [TOOL], "tool_choice": {"type": "x", "function": {"name": "f"}}},
            "tool_choice.type",
        ),
        ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
    ],
)
def test_what_has_the_wrong_type_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as refused:
        parse(**fields)
    assert refused.value.param == param
