"""Tools, reasoning and forced formats of a server's model, as its own token ids."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from enclave.strong_folder import seen, serving, write_folder
from enclave.templates import BEGUN, HERMES, LLAMA3, OTHER_FORM, QWEN3, scripted
from enclave.test_upstream_tokens import KEY, Case, ids, run
from models.tiny import TEMPLATE
from narrows.coding.events import Channel, Coding, Event, Finish, Finished, Opened, Switch, Text
from narrows.coding.markup import CallForm, Markup, ReasoningForm
from narrows.enclave.tokens.strong import StrongText
from narrows.errors import InputError
from narrows.models.text.served import served_messages, template_variables

ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Adds <|im_end|> numbers.",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}},
    },
}
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
NO_JSON = {"function": {"name": "f", "arguments": "x"}}
TEMPLATES = {"hermes": HERMES, "qwen3": QWEN3, "begun": BEGUN, "llama3": LLAMA3}
AS_TEXT = [Opened(Coding.TEXT), Text(b"as text"), Finished(Finish.STOP)]


class Served:
    """A model's folder, and its name on the server."""

    def __init__(self, folder: Path, url: str) -> None:
        self.url = url
        self.strong = StrongText(folder)
        self._name = folder.name

    def case(self, model: str = "", **changes: Any) -> Case:
        return Case(self.url, model or self._name, self.strong, **changes)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Served]]:
    root = tmp_path_factory.mktemp("strong")
    for name, template in TEMPLATES.items():
        write_folder(root / name, template=template)
    with serving(root / "hermes") as url:
        yield {name: Served(root / name, url) for name in TEMPLATES}


def asked(text: str, **body: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": scripted(text)}], "markup": 1} | body


def heads(events: list[Event]) -> list[Channel]:
    return [event.channel for event in events if isinstance(event, Switch)]


def said(strong: StrongText, events: list[Event]) -> str:
    return b"".join(map(strong.tokenizer.token_bytes, ids(events))).decode()


@pytest.mark.parametrize(
    ("template", "calls", "front"),
    [
        (HERMES, CallForm.HERMES, ReasoningForm.NONE),
        (QWEN3, CallForm.HERMES, ReasoningForm.MARKED),
        (BEGUN, CallForm.HERMES, ReasoningForm.BEGUN),
        (LLAMA3, CallForm.LLAMA3, ReasoningForm.NONE),
        (OTHER_FORM, CallForm.NONE, ReasoningForm.NONE),
        (TEMPLATE, CallForm.NONE, ReasoningForm.NONE),
    ],
)
def test_a_form_is_what_the_template_writes(
    template: str, calls: CallForm, front: ReasoningForm, tmp_path: Path
) -> None:
    folder = write_folder(tmp_path / "strong", template=template)
    strong = StrongText(folder)
    body = {"messages": [{"role": "user", "content": "hi"}], "tools": [ADD]}
    assert strong.calls is calls
    assert strong.markup(body) == Markup(front, calls)
    assert strong.markup(body | {"tool_choice": "none"}) == Markup(front)
    assert strong.markup({"messages": body["messages"]}) == Markup(front)
    named = StrongText(folder, tools="llama3", reasoning="none")
    assert named.markup(body) == Markup(calls=CallForm.LLAMA3)
    assert StrongText(folder, tools="none").markup(body) == Markup(front)
    if front is not ReasoningForm.BEGUN:
        marked = StrongText(folder, reasoning="think").markup(body)
        assert marked.reasoning is ReasoningForm.MARKED


def test_reasoning_is_off_where_the_template_closes_it(served: dict[str, Served]) -> None:
    strong = served["qwen3"].strong
    body: dict[str, Any] = {"messages": [{"role": "user", "content": "<think>"}]}
    for more, form in (
        ({}, ReasoningForm.MARKED),
        ({"reasoning_effort": "low"}, ReasoningForm.MARKED),
        ({"reasoning_effort": "none"}, ReasoningForm.NONE),
        ({"chat_template_kwargs": {"enable_thinking": False}}, ReasoningForm.NONE),
    ):
        assert strong.markup(body | more).reasoning is form
        prompt = said_ids(strong, strong.prompt(body | more))
        assert prompt.endswith("</think>\n\n") == (form is ReasoningForm.NONE)


def said_ids(strong: StrongText, tokens: list[int]) -> str:
    return b"".join(map(strong.tokenizer.token_bytes, tokens)).decode()


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_prompt_is_what_the_server_makes_of_it(name: str, served: dict[str, Served]) -> None:
    async def check(case: Case) -> None:
        assert case.standing.now.tools
        assert case.standing.now.coupled
        assert case.backend.figures()["upstream_tools"] == 1

    run(served[name].case(), check)


def test_another_prompt_of_tools_goes_as_text(served: dict[str, Served]) -> None:
    async def check(case: Case) -> None:
        assert case.standing.now.ids
        assert not case.standing.now.tools
        assert await case.answer(**asked("x", tools=[ADD])) == AS_TEXT
        plain = await case.answer(**asked("x"))
        assert plain[0] == Opened(Coding.COUPLED)

    run(served["hermes"].case("other-template"), check)


@pytest.mark.parametrize(
    ("name", "text", "head"),
    [
        ("hermes", CALL, [Channel.TOOL_NAME]),
        ("qwen3", "<think>\nhm\n</think>\n\n" + CALL, [Channel.REASONING, Channel.TOOL_NAME]),
        ("begun", "hm</think>", [Channel.REASONING, Channel.REFUSAL, Channel.TOOL_NAME]),
        ("llama3", '{"name": "add", "parameters": {"a": 1}}', [Channel.TOOL_ARGUMENTS]),
    ],
)
def test_an_answer_says_its_markup_and_then_its_ids(
    name: str, text: str, head: list[Channel], served: dict[str, Served]
) -> None:
    one = served[name]

    async def check(case: Case) -> None:
        body = asked(text, tools=[ADD], max_tokens=300)
        events = await case.answer(**body)
        assert events[0] == Opened(Coding.COUPLED)
        assert heads(events) == head
        assert events[1 : 1 + len(head)] == [Switch(channel) for channel in head]
        assert said(one.strong, events) == text
        assert events[-1] == Finished(Finish.STOP)
        row = seen(one.url)[-1]
        prompt = said_ids(one.strong, row["prompt"])
        assert "Adds <|im_end|> numbers." in prompt
        assert row["prompt"].count(2) == prompt.replace("Adds <|im_end|>", "").count("<|im_end|>")
        whole = ids(events)
        for cut in (1, len(whole) // 2, len(whole) - 1):  # in the middle of the markup
            rest = await case.answer(tuple(whole[:cut]), **body)
            assert heads(rest) == head
            assert ids(rest) == whole[cut:]
            assert seen(one.url)[-1]["prompt"] == [*row["prompt"], *whole[:cut]]
        # An edge that takes no markup apart gets text, unless it has tokens already.
        assert await case.answer(**body | {"markup": 2}) == AS_TEXT
        rest = await case.answer(tuple(whole[:3]), **body | {"markup": 2})
        assert ids(rest) == whole[3:]

    run(one.case(), check)


def test_earlier_calls_and_results_are_in_the_prompt(served: dict[str, Served]) -> None:
    one = served["hermes"]
    function = {"name": "add", "arguments": '{"a":  1}'}
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {
            "role": "assistant",
            "tool_calls": [{"id": "1", "type": "function", "function": function}],
        },
        {"role": "tool", "tool_call_id": "1", "content": "two"},
    ]

    async def check(case: Case) -> None:
        events = await case.answer(messages=messages, markup=1, max_tokens=5)
        assert events[0] == Opened(Coding.COUPLED)
        prompt = said_ids(one.strong, seen(one.url)[-1]["prompt"])
        assert '\n<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>' in prompt
        assert "<tool_response>\ntwo\n</tool_response>" in prompt
        assert "a\nb<|im_end|>" in prompt

    run(one.case(), check)


@pytest.mark.parametrize(
    "more",
    [
        {"tools": [ADD], "tool_choice": "required"},
        {"tools": [ADD], "tool_choice": {"type": "function", "function": {"name": "add"}}},
        {"tools": [ADD], "parallel_tool_calls": False},
        {"tools": [ADD | {"function": ADD["function"] | {"strict": True}}]},
        {"tools": [ADD], "response_format": {"type": "json_object"}},
        {"messages": [{"role": "function", "name": "add", "content": "2"}]},
        {"messages": [{"role": "assistant", "tool_calls": [NO_JSON]}]},
        {"messages": [{"role": "assistant", "tool_calls": [5]}]},
        {"messages": [{"role": "assistant", "tool_calls": 5}]},
        {"tools": [{"function": 5}]},
    ],
)  # fmt: skip
def test_what_only_the_servers_parsers_can_do(
    more: dict[str, Any], served: dict[str, Served]
) -> None:
    async def check(case: Case) -> None:
        assert (await case.answer(**asked("x") | more))[0] == Opened(Coding.TEXT)

    run(served["hermes"].case(), check)


def test_a_forced_format_goes_with_the_ids_where_the_server_takes_it(
    served: dict[str, Served],
) -> None:
    one = served["hermes"]
    form = {"type": "json_object"}

    async def forces(case: Case) -> None:
        assert case.backend.figures()["upstream_formats"] == 1
        events = await case.answer(**asked("free", response_format=form))
        assert events[0] == Opened(Coding.COUPLED)
        assert said(one.strong, events) == '{"forced": true}'
        row = seen(one.url)[-1]
        assert row["response_format"] == form
        assert row["vllm_xargs"]["narrows_key"] == KEY.hex()

    async def ignores(case: Case) -> None:
        assert case.standing.now.coupled
        assert not case.standing.now.formats
        assert await case.answer(**asked("free", response_format=form)) == AS_TEXT

    async def reasons(case: Case) -> None:
        assert await case.answer(**asked("free", response_format=form)) == AS_TEXT
        off = {"chat_template_kwargs": {"enable_thinking": False}}
        events = await case.answer(**asked("free", response_format=form) | off)
        assert events[0] == Opened(Coding.COUPLED)

    run(one.case(), forces)
    run(one.case("no-formats"), ignores)
    run(served["qwen3"].case(), reasons)


def test_what_the_template_sees() -> None:
    assert template_variables({"reasoning_effort": "none"}) == {
        "reasoning_effort": "none",
        "enable_thinking": False,
    }
    both = {"reasoning_effort": "low", "chat_template_kwargs": {"enable_thinking": False}}
    assert template_variables(both)["enable_thinking"] is False
    assert template_variables({"messages": []}) == {}
    (made,) = served_messages([{"role": "assistant", "content": "x", "reasoning_content": "why"}])
    assert made["reasoning"] == made["reasoning_content"] == "why"
    with pytest.raises(InputError):
        served_messages([{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}])
