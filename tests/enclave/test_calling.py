"""The built-in model calls tools by its own template, and where a call is promised there is one."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from edge.standin import ByteTokenizer
from enclave.templates import HERMES, LLAMA3
from models.tiny import tiny_source, tiny_tokenizer_data
from narrows.coding.events import (
    Channel,
    Coding,
    Event,
    Failed,
    Failure,
    Finish,
    Finished,
    Opened,
    Switch,
    Tokens,
)
from narrows.coding.markup import FIELD, VERSION, CallForm, markup_of
from narrows.coding.spec import strong_prompt
from narrows.edge.markup import MarkupReader
from narrows.enclave.backend import BackendRequest
from narrows.enclave.builtin import BuiltinBackend
from narrows.enclave.draw.calling import ToolCalling
from narrows.enclave.draw.forms import FormMaker
from narrows.models.checkpoint.pack import pack
from narrows.models.registry import load_model

COLOUR = {"type": "object", "properties": {"colour": {"enum": ["red", "blue"]}},
          "required": ["colour"], "additionalProperties": False}  # fmt: skip


def tool(name: str, schema: Any = None, **more: Any) -> dict[str, Any]:
    said = {"name": name, "description": "d"} | ({"parameters": schema} if schema else {}) | more
    return {"type": "function", "function": said}


PAINT, STOP = tool("paint", COLOUR), tool("stop", {"type": "object", "additionalProperties": False})


@pytest.fixture(scope="module", params=[HERMES, LLAMA3], ids=["hermes", "llama3"])
def backend(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    data = dataclasses.replace(tiny_tokenizer_data(), chat_template=request.param)
    source = dataclasses.replace(tiny_source(context_length=1024), tokenizer=data)
    path: Path = tmp_path_factory.mktemp("tools") / "tiny.narrows"
    pack(source, path, name="tiny")
    made = BuiltinBackend(load_model(path, threads=1, kv_bytes=16 << 20))
    yield made
    asyncio.run(made.close())


def answer(backend: BuiltinBackend, key: int = 1, **body: Any) -> list[Event]:
    messages = [{"role": "user", "content": "x"}]
    asked = {"messages": messages, "max_tokens": 120, FIELD: VERSION} | body
    wanted = BackendRequest(asked, bytes([key]) * 32)

    async def run() -> list[Event]:
        return [event async for event in backend.generate(wanted)]

    return asyncio.run(run())


def parts(backend: BuiltinBackend, events: list[Event], names: set[str]) -> list[tuple[Any, str]]:
    """As the edge takes it apart."""
    assert backend.tokenizer is not None
    head = [event.channel for event in events if isinstance(event, Switch)]
    ids = [token for event in events if isinstance(event, Tokens) for token in event.ids]
    text = b"".join(map(backend.tokenizer.token_bytes, ids)).decode("utf-8", "replace")
    reader = MarkupReader(markup_of(head), names)
    return [*reader.feed(text), *reader.finish()]


def calls(found: list[tuple[Any, str]]) -> list[tuple[str, Any]]:
    names = [text for channel, text in found if channel is Channel.TOOL_NAME]
    written = [text for channel, text in found if channel is Channel.TOOL_ARGUMENTS]
    return list(zip(names, map(json.loads, written), strict=True))


def test_a_call_that_is_asked_for_comes_and_is_of_its_schema(backend: BuiltinBackend) -> None:
    both, named = [PAINT, STOP], {"type": "function", "function": {"name": "paint"}}
    for key in range(4):
        for choice in ("required", named):
            events = answer(backend, key, tools=both, tool_choice=choice)
            assert events[0] == Opened(Coding.COUPLED)
            assert events[-1] == Finished(Finish.STOP)
            ((name, said),) = calls(parts(backend, events, {"paint", "stop"}))
            assert name == "paint" or (choice == "required" and said == {})
            if name == "paint":
                assert said["colour"] in ("red", "blue")


def test_what_is_not_promised_is_free_and_what_is_strict_holds(backend: BuiltinBackend) -> None:
    free = answer(backend, tools=[PAINT], max_tokens=20)
    assert any(isinstance(event, Switch) for event in free)
    assert isinstance(free[-1], Finished)
    told = answer(backend, tools=[PAINT], tool_choice="none", max_tokens=20)
    assert not any(isinstance(event, Switch) for event in told)
    for more in ({"parallel_tool_calls": False}, {"tools": [tool("paint", COLOUR, strict=True)]}):
        for key in range(4):
            events = answer(backend, key, **{"tools": [PAINT], "max_tokens": 40} | more)
            for name, said in calls(parts(backend, events, {"paint"})):
                assert (name, list(said)) == ("paint", ["colour"])


def test_the_model_hears_of_tools_and_of_what_came_of_them(backend: BuiltinBackend) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "paint", "arguments": "{}"}}
    turns = [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "done"},
    ]
    events = answer(backend, tools=[PAINT], messages=turns, max_tokens=5)
    assert isinstance(events[-1], Finished)
    body = {"messages": turns, "tools": [PAINT]}
    assert backend.tokenizer is not None
    ids = strong_prompt(backend._model, body)
    text = b"".join(map(backend.tokenizer.token_bytes, ids)).decode()
    assert "paint" in text
    assert "done" in text


@pytest.mark.parametrize(
    "body",
    [
        {"tool_choice": "required", "response_format": {"type": "json_object"}},
        {"tool_choice": "required", "guided_regex": "a"},
        {"tool_choice": {"type": "function", "function": {"name": "none"}}},
        {"tool_choice": "required", "tools": [tool("f", {"type": "array"})]},
        {"tool_choice": "required", "tools": [tool("f", {"not": {}})]},
        {"tool_choice": "required", "tools": [tool("f", {"enum": ["x" * 40_000]})]},
        {"tools": [{"type": "function"}]},
        {FIELD: 0},
    ],
)
def test_what_cannot_be_forced_is_refused(backend: BuiltinBackend, body: dict[str, Any]) -> None:
    assert answer(backend, **{"tools": [PAINT]} | body)[-1] == Failed(Failure.BAD_REQUEST)


def test_of_calls_that_are_not_forced_the_form_is_held_to_letter_by_letter() -> None:
    calling = ToolCalling.__new__(ToolCalling)
    calling.form = CallForm.HERMES
    maker = FormMaker(ByteTokenizer())
    call = '<tool_call>\n{"name": "paint", "arguments": {"colour":"red"}}\n</tool_call>'
    one, strict = {"parallel_tool_calls": False}, {"tools": [tool("paint", COLOUR, strict=True)]}
    for more, text, fits in (
        (one, "<tool_cal x", True),
        (one, f"hm {call}", True),
        (one, f"{call}{call}", False),
        (strict, f"{call} and\n{call} so", True),
        (strict, call.replace("red", "green"), False),
        (strict, call.replace("paint", "print"), False),
    ):
        form = maker.form({}, calling.grammar({"tools": [PAINT]} | more))
        assert form is not None
        try:
            for token in text.encode():
                assert form.allowed()[token]
                form.took(token)
        except AssertionError:
            assert not fits, text
        else:
            assert fits, text
