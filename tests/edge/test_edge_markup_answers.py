"""Answers of tokens with markup, from the link's events to what a client reads."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest

from edge.harness import MODEL, Drop, Rig, Until, chat, wait_until
from edge.real_enclave import RealEnclave
from narrows.coding.events import Channel, Coding, Event, Finish, Finished, Opened, Switch, Tokens
from narrows.coding.markup import CallForm, Markup, ReasoningForm
from narrows.edge.answer import EdgeAnswer, Piece
from narrows.wire.messages import Request

HERMES = Markup(calls=CallForm.HERMES)
MARKED = Markup(ReasoningForm.MARKED, CallForm.HERMES)
LLAMA3 = Markup(calls=CallForm.LLAMA3)
TOOLS = [{"type": "function", "function": {"name": name}} for name in ("add", "now")]
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
NOW = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'


@pytest.fixture(scope="module")
def rig(tmp_path_factory):
    with Rig(tmp_path_factory.mktemp("state")) as rig:
        yield rig


def marked(text: str, markup: Markup, size: int = 7, reason: Finish = Finish.STOP) -> list[Event]:
    data = text.encode()
    pieces = [Tokens(tuple(data[at : at + size])) for at in range(0, len(data), size)]
    head = [Switch(channel) for channel in markup.head]
    return [Opened(Coding.COUPLED), *head, *pieces, Finished(reason)]


def told(pieces: list[Piece]) -> list[tuple[str, str, int]]:
    joined: list[tuple[str, str, int]] = []
    for channel, text, call in pieces:
        name = channel.name.lower()
        if joined and joined[-1][::2] == (name, call):
            joined[-1] = (name, joined[-1][1] + text, call)
        else:
            joined.append((name, text, call))
    return joined


class Answer:
    """One answer at the edge, on as many links as a test has."""

    def __init__(self, stops: tuple[str, ...] = (), **body: Any) -> None:
        self.request = Request("0" * 32, {"messages": [], "tools": TOOLS, "markup": 1} | body, "")
        self.aborts = 0
        self.answer = EdgeAnswer(self.request, stops, 1 << 22, 1 << 22, lambda: None)
        self.link()

    def link(self) -> None:
        self.answer.attach(lambda token: bytes([token]), self.abort)

    def abort(self) -> None:
        self.aborts += 1

    def put(self, *events: Event) -> None:
        for event in events:
            self.answer.on_event(event)


def test_reasoning_and_calls_whole_and_streamed(rig):
    text = f"<think>\nhm żó\n</think>\n\nSo.\n{CALL}\n{NOW}\n"
    for size in (1, 7, 1000):
        rig.enclave.script = lambda request, size=size: marked(text, MARKED, size)
        answer = rig.ask("hi", tools=TOOLS)
        message = answer.choices[0].message
        assert message.reasoning_content == "\nhm żó\n"
        assert message.content == "\n\nSo.\n"
        calls = [(call.function.name, call.function.arguments) for call in message.tool_calls]
        assert calls == [("add", '{"a": 1}'), ("now", "{}")]
        assert len({call.id for call in message.tool_calls}) == 2
        assert answer.choices[0].finish_reason == "tool_calls"
        assert answer.usage.completion_tokens == len(text.encode())
        counted = answer.usage.completion_tokens_details.reasoning_tokens
        assert counted == len("\nhm żó\n</think>".encode())
        with rig.client() as client:
            stream = client.chat.completions.create(
                model=MODEL,
                messages=[{"role": "user", "content": "hi"}],
                tools=TOOLS,
                stream=True,
                stream_options={"include_usage": True},
            )
            chunks = list(stream)
        deltas = [chunk.choices[0].delta for chunk in chunks[:-1]]
        assert "".join(delta.content or "" for delta in deltas) == "\n\nSo.\n"
        fragments = [call for delta in deltas for call in delta.tool_calls or []]
        heads = [(one.index, one.function.name) for one in fragments if one.id]
        assert heads == [(0, "add"), (1, "now")]
        for index, arguments in ((0, '{"a": 1}'), (1, "{}")):
            own = [one.function.arguments for one in fragments if one.index == index]
            assert "".join(own) == arguments
        assert chunks[-1].usage.completion_tokens_details.reasoning_tokens == counted
        assert chunks[-2].choices[0].finish_reason == "tool_calls"


def test_an_answer_without_markup_is_as_it_was(rig):
    rig.enclave.script = lambda request: marked(f"<think>x</think>{CALL}", Markup())
    answer = rig.ask("hi", tools=TOOLS)
    assert answer.choices[0].message.content == f"<think>x</think>{CALL}"
    assert answer.choices[0].message.tool_calls is None
    assert answer.choices[0].finish_reason == "stop"
    assert "completion_tokens_details" not in answer.usage.model_dump(exclude_none=True)


def test_no_tools_were_asked_for_and_none_are_called(rig):
    rig.enclave.script = lambda request: marked(CALL, HERMES)
    assert rig.ask("hi").choices[0].message.content == CALL


@pytest.mark.parametrize("cut", [3, 12, 30, 50])
def test_an_answer_goes_on_in_the_middle_of_its_markup(cut: int) -> None:
    text = f"<think>ab</think>{CALL}\n{NOW}"
    one = Answer()
    events = marked(text, MARKED, 1)
    head, tokens = events[:3], events[3:-1]
    one.put(*head, *tokens[:cut])
    one.answer.lose(0.0, 60.0)
    assert one.answer.resumable
    verified = one.answer.tokens[: cut // 2]
    one.request.resume.extend(verified)
    one.link()
    one.put(*head, *tokens[len(verified) :], Finished(Finish.STOP))
    assert one.answer.finish is Finish.TOOL_CALLS
    assert told(one.answer.take()) == [
        ("reasoning", "ab", -1),
        ("tool_name", "add", 0),
        ("tool_arguments", '{"a": 1}', 0),
        ("tool_name", "now", 1),
        ("tool_arguments", "{}", 1),
    ]
    assert one.answer.reasoning_tokens == len("ab</think>")


def test_a_resumed_answer_keeps_its_markup() -> None:
    for head in ([], [Switch(Channel.TOOL_ARGUMENTS)]):
        one = Answer()
        one.put(*marked(CALL, HERMES, 1)[:20])
        one.answer.lose(0.0, 60.0)
        one.link()
        one.put(Opened(Coding.PLAIN), *head, Tokens(tuple(CALL.encode())))
        assert one.answer.error is not None
        assert one.answer.error.code == "link_lost"
        assert one.aborts == 1
    one = Answer()  # nothing had come, so nothing has to be the same
    one.put(*marked(CALL, HERMES)[:2])
    one.answer.lose(0.0, 60.0)
    one.link()
    one.put(*marked("x", Markup()))
    assert one.answer.finish is Finish.STOP


def test_its_end_alone_may_come_over_another_link() -> None:
    one = Answer()
    one.put(*marked(CALL, HERMES)[:-1])
    one.answer.lose(0.0, 60.0)
    one.request.resume.extend(one.answer.tokens)
    one.link()
    one.put(Opened(Coding.PLAIN), Finished(Finish.STOP))
    assert one.answer.finish is Finish.TOOL_CALLS


@pytest.mark.parametrize(
    "events",
    [
        [Switch(Channel.REFUSAL), Tokens((65,))],
        [Switch(Channel.TOOL_NAME), Switch(Channel.TOOL_NAME), Tokens((65,))],
        [Tokens((65,)), Switch(Channel.REASONING)],
        [Switch(Channel.TOOL_NAME)] * 9,
    ],
)
def test_heads_that_say_nothing(events: list[Event]) -> None:
    one = Answer()
    one.put(Opened(Coding.PLAIN), *events)
    assert one.answer.error is not None
    assert one.answer.error.code == "upstream_malformed"
    assert one.aborts == 1


def test_an_older_edge_reads_switches_as_before() -> None:
    one = Answer(markup=0)
    one.put(
        Opened(Coding.PLAIN),
        Switch(Channel.REASONING),
        Tokens((65,)),
        Switch(Channel.CONTENT),
        Tokens(tuple(CALL.encode())),
        Finished(Finish.STOP),
    )
    assert told(one.answer.take()) == [("reasoning", "A", -1), ("content", CALL, -1)]


def test_a_stop_string_is_found_in_what_the_model_wrote() -> None:
    one = Answer(stops=("</tool_call>\n<",))
    one.put(*marked(f"{CALL}\n{NOW}", HERMES))
    assert one.answer.finish is Finish.TOOL_CALLS
    assert [piece.text for piece in one.answer.take()] == ["add", '{"a": 1}']
    one = Answer(stops=("think",))
    one.put(*marked("<think>hm", MARKED))
    assert one.answer.finish is Finish.STOP
    assert told(one.answer.take()) == [("content", "<", -1)]


def test_why_an_answer_ended_is_kept() -> None:
    one = Answer()
    one.put(*marked(CALL + "<tool_call>", HERMES, reason=Finish.LENGTH))
    assert one.answer.finish is Finish.LENGTH
    assert [piece.text for piece in one.answer.take()] == ["add", '{"a": 1}', "<tool_call>"]


def test_too_many_calls_fail_as_they_do_as_text() -> None:
    one = Answer()
    one.put(*marked(CALL * 128, HERMES, 10_000))
    assert one.answer.finish is Finish.TOOL_CALLS
    one = Answer()
    one.put(*marked(CALL * 513, HERMES, 10_000))
    assert one.answer.error is not None
    assert one.answer.error.code == "upstream_malformed"
    assert one.aborts == 1


def test_a_lost_link_in_the_middle_of_reasoning(tmp_path):
    """Over the real codec: the head and the tokens behind the verified ones come again."""
    text = "<think>" + "".join(chr(97 + n % 26) for n in range(60)) + "</think>" + CALL
    tokens = marked(text, MARKED, 1)
    seen: list[dict[str, Any]] = []
    resumes: list[list[int]] = []
    checked = False

    def thought() -> str:
        parts = (event["choices"][0]["delta"] for event in list(seen))
        return "".join(part.get("reasoning_content", "") for part in parts)

    def script(request):
        if request.body["messages"][0]["content"] == "other":
            return marked("-", Markup())
        resumes.append(request.resume)
        if len(resumes) == 1:
            whole = [*tokens[:25], Until(lambda: checked), *tokens[25:50]]
            return [*whole, Until(lambda: len(thought()) >= 35), Drop()]
        return [*tokens[:3], *tokens[3 + len(request.resume) :]]

    rig = Rig(tmp_path, real=True, resume_s=60.0)
    rig.enclave = RealEnclave()
    rig.enclave.script = script

    def read() -> None:
        url = f"{rig.url}/v1/chat/completions"
        body = chat(stream=True, tools=TOOLS)
        with httpx2.stream("POST", url, json=body, timeout=60) as answer:
            for line in answer.iter_lines():
                if line.startswith("data: {"):
                    seen.append(json.loads(line[6:]))

    with rig, ThreadPoolExecutor() as pool:
        reading = pool.submit(read)
        try:
            wait_until(lambda: len(thought()) >= 10, 60)
            rig.ask("other")
        finally:
            checked = True
        reading.result()
    assert 0 < len(resumes[1]) < 50
    assert thought() == text[7:67]
    calls = [part for event in seen for part in event["choices"][0]["delta"].get("tool_calls", [])]
    assert "".join(call["function"]["arguments"] for call in calls) == '{"a": 1}'
    assert seen[-1]["choices"][0]["finish_reason"] == "tool_calls"
