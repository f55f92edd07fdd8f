"""A model's markup, taken apart: forms, cuts anywhere, hostile text."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from narrows.coding.events import Channel
from narrows.coding.markup import CallForm, Markup, ReasoningForm, markup_of, reads_markup
from narrows.edge import markup as markup_module
from narrows.edge.calls import read_call
from narrows.edge.markup import MarkupReader
from narrows.errors import LinkError

TOOLS = frozenset({"add", "get_weather"})
FORMS = [Markup(reasoning, calls) for reasoning in ReasoningForm for calls in CallForm]
HERMES = Markup(calls=CallForm.HERMES)
LLAMA3 = Markup(calls=CallForm.LLAMA3)
ADD = '{"name": "add", "arguments": {"a": 1}}'
PARAMS = '{"name": "add", "parameters": {"a": [1, {"b": "}"}]}}'
ARGS = '{"a": [1, {"b": "}"}]}'


def call(inner: str) -> str:
    return f"<tool_call>\n{inner}\n</tool_call>"


def parts(markup: Markup, *pieces: str) -> list[tuple[str, str]]:
    """What ``pieces`` are, joined where a channel goes on."""
    reader = MarkupReader(markup, TOOLS)
    told = [part for piece in pieces for part in reader.feed(piece)]
    joined: list[tuple[str, list[str]]] = []
    for channel, text in [*told, *reader.finish()]:
        name = channel.name.lower()
        assert text
        if joined and joined[-1][0] == name and channel is not Channel.TOOL_NAME:
            joined[-1][1].append(text)
        else:
            joined.append((name, [text]))
    return [(name, "".join(texts)) for name, texts in joined]


def content(text: str) -> tuple[str, str]:
    return ("content", text)


def called(arguments: str = '{"a": 1}', name: str = "add") -> list[tuple[str, str]]:
    return [("tool_name", name), ("tool_arguments", arguments)]


HERMES_CASES = [
    ("", []),
    ("plain < text", [content("plain < text")]),
    (call(ADD), called()),
    (f"Let me see.\n{call(ADD)}", [content("Let me see.\n"), *called()]),
    (f"{call(ADD)}\n{call(ADD)}\n", called() * 2),
    (f"{call(ADD)} and so", [*called(), content(" and so")]),
    ("<tool_call>" + ADD, called()),
    ("<tool_call>" + ADD + "\n</tool_", called()),
    ("<tool_call>" + ADD[:-5], [content("<tool_call>" + ADD[:-5])]),
    ('<tool_call>{"arguments": {"s": "</t>"}, "name": "add"}</tool_call>', called('{"s": "</t>"}')),
    (call(ADD.replace("add", "no_tool")), [content(call(ADD.replace("add", "no_tool")))]),
    (call('{"name": "add"}'), [content(call('{"name": "add"}'))]),
    (call("not json") + call(ADD), [content(call("not json")), *called()]),
    ("a</tool_call>b", [content("a</tool_call>b")]),
    (
        "<tool_call><tool_call>" + ADD + "</tool_call>",
        [content("<tool_call><tool_call>" + ADD + "</tool_call>")],
    ),
]
LLAMA3_CASES = [
    (PARAMS, called(ARGS)),
    ("<|python_tag|>" + PARAMS, called(ARGS)),
    ("\n" + PARAMS + "; " + PARAMS + "\n", called(ARGS) * 2),
    (PARAMS.replace("parameters", "arguments"), called(ARGS)),
    (PARAMS + " is how", [*called(ARGS), content(" is how")]),
    ("text " + PARAMS, [content("text " + PARAMS)]),
    (" {}", [content(" {}")]),
    (PARAMS[:-1], [content(PARAMS[:-1])]),
    ("<|python_tag|>print(1)", [content("<|python_tag|>print(1)")]),
    ("<|python_tag|>", [content("<|python_tag|>")]),
    (";" + PARAMS, [content(";" + PARAMS)]),
    ('{"a": "\\"}"} and', [content('{"a": "\\"}"} and')]),
    ("}" + PARAMS, [content("}" + PARAMS)]),
]
MARKED = Markup(ReasoningForm.MARKED, CallForm.HERMES)
BEGUN = Markup(ReasoningForm.BEGUN, CallForm.HERMES)
REASONING_CASES = [
    (MARKED, "<think>\nhm\n</think>\n\nyes", [("reasoning", "\nhm\n"), content("\n\nyes")]),
    (MARKED, "\n<think>hm</think>", [("reasoning", "hm")]),
    (MARKED, "yes <think>no</think>", [content("yes <think>no</think>")]),
    (MARKED, " yes", [content(" yes")]),
    (MARKED, "\n ", [content("\n ")]),
    (MARKED, "<think>hm</thi", [("reasoning", "hm</thi")]),
    (MARKED, "<thin", [content("<thin")]),
    (MARKED, f"<think>{call(ADD)}</think>{call(ADD)}", [("reasoning", call(ADD)), *called()]),
    (BEGUN, "hm</think>yes", [("reasoning", "hm"), content("yes")]),
    (BEGUN, "<think>hm</think></think>", [("reasoning", "hm"), content("</think>")]),
    (BEGUN, "  ", [("reasoning", "  ")]),
    (BEGUN, "hm", [("reasoning", "hm")]),
    (
        Markup(ReasoningForm.MARKED, CallForm.LLAMA3),
        "<think>a</think>\n" + PARAMS,
        [("reasoning", "a"), *called(ARGS)],
    ),
    (
        Markup(ReasoningForm.MARKED),
        "<think>a</think>" + call(ADD),
        [("reasoning", "a"), content(call(ADD))],
    ),
]
CASES = [
    *((HERMES, text, want) for text, want in HERMES_CASES),
    *((LLAMA3, text, want) for text, want in LLAMA3_CASES),
    *REASONING_CASES,
]


@pytest.mark.parametrize(("markup", "text", "want"), CASES)
def test_forms(markup: Markup, text: str, want: list[tuple[str, str]]) -> None:
    assert parts(markup, text) == want
    assert parts(markup, *text) == want
    for at in range(len(text)):
        assert parts(markup, text[:at], text[at:]) == want


_MARKS = (
    "<think>", "</think>", "<tool_call>", "</tool_call>", "<|python_tag|>", "<", "</", "<t", "\n",
    " ", ";", "{", "}", '"', "\\", "é", "x", ADD, PARAMS, '{"name": "add", "arguments": {}}',
)  # fmt: skip
_texts = st.lists(st.sampled_from(_MARKS), max_size=14).map("".join)


@given(st.sampled_from(FORMS), _texts, st.lists(st.integers(0, 200), max_size=8))
@settings(max_examples=300, deadline=None)
def test_cuts_change_nothing_and_no_text_is_lost(
    markup: Markup, text: str, cuts: list[int]
) -> None:
    whole = parts(markup, text)
    at = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    assert parts(markup, *(text[a:b] for a, b in itertools.pairwise(at))) == whole
    said = "".join(part for _, part in whole)
    assert re.sub(r"[^xé\\1]", "", said) == re.sub(r"[^xé\\1]", "", text)  # in no marker
    for channel, part in whole:
        if channel != "tool_name":
            assert part in text


def hermes_by_regex(text: str) -> Iterator[tuple[str, str]]:
    """The same rule, over a whole text at once."""
    at, behind = 0, False
    for found in re.finditer(r"<tool_call>((?:(?!</tool_call>).)*)(</tool_call>|$)", text, re.S):
        between = text[at : found.start()]
        if not (behind and not between.strip(" \n")):
            yield from [content(between)] if between else []
        one = read_call(found[1], ("arguments",), TOOLS)
        behind = one is not None
        yield from called(one.arguments, one.name) if one else [content(found[0])]
        at = found.end()
    if not (behind and not text[at:].strip(" \n")) and text[at:]:
        yield content(text[at:])


@given(_texts)
@settings(max_examples=200, deadline=None)
def test_hermes_is_what_a_regular_expression_finds(text: str) -> None:
    want: list[tuple[str, str]] = []
    for channel, part in hermes_by_regex(text):
        if want and want[-1][0] == channel == "content":
            want[-1] = (channel, want[-1][1] + part)
        else:
            want.append((channel, part))
    got = parts(HERMES, text)
    partial = re.search(r"<tool_call>[^<]*</t?o?o?l?_?c?a?l?l?$", text)  # an end marker that is cut
    assert got == want or partial


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "add", "name": "add", "arguments": {}}',
        '{"name": "add", "arguments": {"a": 1, "a": 2}}',
        '{"name": "add", "arguments": {"a": NaN}}',
        '{"name": "add", "arguments": "{}"}',
        '{"name": "add", "arguments": [1]}',
        '{"name": "add", "arguments": {}} {}',
        '{"name": ["add"], "arguments": {}}',
        '{"name": "add", "arguments": {}, "parameters": {}}',
        '[{"name": "add", "arguments": {}}]',
        '{"name": "add", "arguments": {},}',
        '{"name": "add" "arguments": {}}',
        '{"name": "add", "arguments": {"a": ' + "[" * 100_000 + "]" * 100_000 + "}}",
        '{"name": "add", "arguments": {"a": ' + "1" * 5000 + "}}",
        "",
        "{",
        "{}",
    ],
)
def test_no_calls(text: str) -> None:
    assert read_call(text, ("arguments", "parameters"), TOOLS) is None


_values = st.none() | st.text(max_size=5) | st.integers(0, 9) | st.floats(0, 1)


@given(st.dictionaries(st.text(max_size=5), _values, max_size=3))
@settings(max_examples=60, deadline=None)
def test_arguments_are_passed_on_as_written(arguments: dict[str, object]) -> None:
    for written in (json.dumps(arguments), json.dumps(arguments, indent=1, ensure_ascii=False)):
        text = f'{{ "arguments" :{written}, "id": 3,\n"name": "get_weather" }}\n'
        assert read_call(text, ("arguments",), TOOLS) == ("get_weather", written)


HOSTILE: list[tuple[Markup, Callable[[int], str], int]] = [
    (HERMES, lambda n: "<tool_call>" * n, 100_000),
    (HERMES, lambda n: "<tool_call></tool_call>" * n, 10_000),
    (HERMES, lambda n: call(ADD) + " " * 20 * n, 10_000),
    (HERMES, lambda n: "<tool_call>" + " " * 20 * n + "</tool_call>", 10_000),
    (HERMES, lambda n: "<tool_cal" * n, 10_000),
    (LLAMA3, lambda n: "{" * 10 * n, 10_000),
    (LLAMA3, lambda n: '{"' + "\\" * 10 * n, 10_000),
    (LLAMA3, lambda n: "<|python_tag|>" * n, 10_000),
    (LLAMA3, lambda n: PARAMS + ";" * 20 * n, 10_000),
    (MARKED, lambda n: " " * 20 * n, 10_000),
    (MARKED, lambda n: "<think>" * n, 100_000),
    (BEGUN, lambda n: "</think" * n, 10_000),
]


@pytest.mark.parametrize(("markup", "make", "count"), HOSTILE)
def test_hostile_text_is_read_in_little_time_and_memory(
    markup: Markup, make: Callable[[int], str], count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = make(count)
    whole = parts(markup, text)  # linear, or this does not end
    assert sum(len(part) for _, part in whole) <= len(text)
    monkeypatch.setattr(markup_module, "MAX_HELD_CHARS", 1000)
    text = make(300)
    whole = parts(markup, text)
    reader = MarkupReader(markup, TOOLS)
    for at in range(0, len(text), 7):
        reader.feed(text[at : at + 7])
        assert reader._held_chars <= 1000
        assert len(reader._text) < 30
    assert parts(markup, *text) == whole


def test_what_is_held_too_long_is_content(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(markup_module, "MAX_HELD_CHARS", 100)
    long = json.dumps({"name": "add", "arguments": {"a": "x" * 100}})
    text = call(long) + call(ADD)
    assert parts(HERMES, *text) == [content(call(long)), *called()]
    text = call(ADD) + " " * 101 + call(ADD)
    want = [*called(), content(" " * 101), *called()]
    assert parts(HERMES, text) == parts(HERMES, *text) == want
    text = PARAMS.replace("1", "1" * 100)
    assert parts(LLAMA3, text) == parts(LLAMA3, *text) == [content(text)]


def test_heads() -> None:
    assert len({markup.head for markup in FORMS}) == len(FORMS)
    assert Markup().head == ()
    for markup in FORMS:
        assert markup_of(markup.head) == markup
        places = [Channel.CONTENT, *markup.head]
        # Each switch says something, so that no end drops it.
        assert all(a != b for a, b in itertools.pairwise(places))
    for head in ([Channel.CONTENT], [Channel.TOOL_NAME, Channel.REASONING]):
        with pytest.raises(LinkError):
            markup_of(head)
    assert reads_markup({"markup": 1})
    assert not any(reads_markup({"markup": value}) for value in (True, 2, "1", None, [1]))
