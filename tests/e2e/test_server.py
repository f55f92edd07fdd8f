"""Between a model server and a client nothing is dropped, invented or vetoed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from e2e.chain import Chain
from e2e.fakes import Refusal, ScriptedModel
from models.tiny import tiny_source
from narrows.models.checkpoint.pack import pack

# An import asks for one chat that renders; no conversation of these tests is that one.
VETO = (
    "{% for m in messages %}{% if m.content == 'Hello.' %}{{ m.content }}"
    "{% else %}{{ raise_exception('no such turn') }}{% endif %}{% endfor %}"
)
MODEL = "smollm2-135m-instruct"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Chain, ScriptedModel]]:
    """The weak model's template refuses every conversation that is held here."""
    state: Path = tmp_path_factory.mktemp("server")
    source = tiny_source()
    tokenizer = dataclasses.replace(source.tokenizer, chat_template=VETO)
    pack(dataclasses.replace(source, tokenizer=tokenizer), state / "veto.narrows", name="veto")
    model = ScriptedModel(lambda body: ["hello"])
    chain = Chain(state, strong=model.url, weak=str(state / "veto.narrows")).start()
    yield chain, model
    chain.stop()
    model.stop()


def test_the_weak_models_template_vetoes_nothing(served: tuple[Chain, ScriptedModel]) -> None:
    chain, model = served
    model.script = lambda body: ["exactly ", "this"]
    assert chain.ask("x") == "exactly this"


def test_the_server_gets_what_the_client_said_and_no_more(
    served: tuple[Chain, ScriptedModel],
) -> None:
    chain, model = served
    model.script = lambda body: ["{}"]
    messages: list[Any] = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b", "reasoning_content": "because"},
        {"role": "user", "content": "c"},
    ]
    form: Any = {"type": "json_object", "schema": {"type": "object"}}
    chain.client().chat.completions.create(
        model=MODEL, messages=messages, seed=11, response_format=form
    )
    seen = model.seen[-1]
    assert seen["messages"] == messages
    assert seen["seed"] == 11
    assert seen["response_format"] == form
    assert not {"max_tokens", "max_completion_tokens"} & set(seen)


@pytest.mark.parametrize("stream", [False, True])
def test_parallel_calls_of_one_index_arrive_as_two(
    served: tuple[Chain, ScriptedModel], stream: bool
) -> None:
    chain, model = served
    model.script = lambda body: (
        [
            {"tool_calls": [{"index": 0, "id": name, "function": {"name": name, "arguments": "{"}}]}
            for name in ("get_time", "get_place")
        ]
        + [
            {"tool_calls": [{"index": 0, "id": name, "function": {"arguments": "}"}}]}
            for name in ("get_time", "get_place")
        ]
    )
    tool: Any = {"type": "function", "function": {"name": "get_time"}}
    calls = (streamed_calls if stream else whole_calls)(chain, tool)
    assert calls == [("get_time", "{}"), ("get_place", "{}")]


def whole_calls(chain: Chain, tool: Any) -> list[tuple[str, str]]:
    made = chain.client().chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "x"}], tools=[tool]
    )
    calls: Any = made.choices[0].message.tool_calls
    return [(call.function.name, call.function.arguments) for call in calls]


def streamed_calls(chain: Chain, tool: Any) -> list[tuple[str, str]]:
    names: dict[int, str] = {}
    arguments: dict[int, str] = {}
    for chunk in chain.stream("x", tools=[tool]):
        for call in chunk.choices[0].delta.tool_calls or []:
            names[call.index] = names.get(call.index, "") + (call.function.name or "")
            said = call.function.arguments or ""
            arguments[call.index] = arguments.get(call.index, "") + said
    return [(names[index], arguments[index]) for index in sorted(names)]


@pytest.mark.parametrize(
    ("refusal", "status", "code"),
    [
        (
            Refusal(400, "This model's maximum context length is 9 tokens."),
            400,
            "context_length_exceeded",
        ),
        (Refusal(401, "wrong key"), 502, "enclave_failed"),
        (Refusal(404, "no model named so"), 502, "enclave_failed"),
    ],
)
def test_a_refusal_that_no_repetition_mends(
    served: tuple[Chain, ScriptedModel], refusal: Refusal, status: int, code: str
) -> None:
    chain, model = served
    model.script = lambda body: refusal
    with pytest.raises(openai.APIStatusError) as failed:
        chain.ask("x")
    assert (failed.value.status_code, failed.value.code) == (status, code)
    assert failed.value.response.headers["x-should-retry"] == "false"
    assert refusal.text not in failed.value.message
    assert refusal.text in (chain.state / "log" / "enclave.log").read_text()
