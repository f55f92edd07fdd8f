"""Reasoning that stays inside, of a server that sends text."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from enclave.test_upstream import BODY, DONE, delta, server, stream
from narrows.coding.events import (
    Channel,
    Event,
    Finish,
    Finished,
    Switch,
    Text,
    Usage,
)
from narrows.coding.kept import ReasoningLevel
from narrows.enclave.backend import BackendRequest
from narrows.enclave.config import UpstreamConfig
from narrows.enclave.less.withheld import ReasoningFilter, ReasoningRule
from narrows.enclave.upstream import UpstreamBackend

KEEP = ReasoningRule(ReasoningLevel.KEEP)
USAGE = (
    b'data: {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 50,'
    b' "completion_tokens_details": {"reasoning_tokens": 41}}}\n\n'
)
PLAIN_USAGE = b'data: {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 50}}\n\n'


def run(
    *chunks: bytes, rule: ReasoningRule = KEEP, asks: str = "send", **config: Any
) -> list[Event]:
    async def go() -> list[Event]:
        async with server(stream(*chunks)) as url:
            upstream = UpstreamConfig(url=url, model="m", **config)
            backend = UpstreamBackend(upstream, rule=rule)
            body = BODY | ({"reasoning": asks} if asks else {})
            try:
                asked = BackendRequest(body, bytes(32))
                return [event async for event in backend.generate(asked)]
            finally:
                await backend.close()

    return asyncio.run(go())


def told(events: list[Event], channel: Channel = Channel.CONTENT) -> str:
    now, out = Channel.CONTENT, b""
    for event in events:
        now = event.channel if isinstance(event, Switch) else now
        out += event.data if isinstance(event, Text) and now is channel else b""
    return out.decode("utf-8", "surrogatepass")


def counted(events: list[Event]) -> int | None:
    said = told(events, Channel.REFUSAL)
    return int(said) if said else None


def test_what_a_server_says_apart_stays_inside() -> None:
    events = run(
        delta(reasoning_content="SECRET"),
        delta(content="shown"),
        delta(content=" too"),
        delta("stop"),
        USAGE,
        DONE,
    )
    assert not any(b"SECRET" in event.data for event in events if isinstance(event, Text))
    assert told(events) == "shown too"
    assert counted(events) == 41
    assert events[-2:] == [Usage(7, 50), Finished(Finish.STOP)]


def test_a_client_may_ask_for_less_and_never_for_more() -> None:
    chunks = (delta(reasoning_content="SECRET"), delta(content="x"), delta("stop"), USAGE, DONE)
    allowed = ReasoningRule(ReasoningLevel.SEND)
    assert told(run(*chunks, rule=allowed), Channel.REASONING) == "SECRET"
    assert told(run(*chunks, rule=allowed, asks=""), Channel.REASONING) == "SECRET"
    for rule, asks in ((allowed, "keep"), (KEEP, "send"), (KEEP, "more")):
        events = run(*chunks, rule=rule, asks=asks)
        assert told(events, Channel.REASONING) == ""
        assert told(events) == "x"
    # An edge that does not know the count gets none.
    assert counted(run(*chunks, asks="")) is None


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize(
    ("text", "shown", "begun"),
    [
        ("<think>SECRET</think>ok", "ok", False),
        (" \n<think>SECRET < /think> </thin</think>\n\nok", "\n\nok", False),
        ("<think>SECRET", "", False),
        ("<thinking>x</thinking>", "<thinking>x</thinking>", False),
        (" \n<thi", " \n<thi", False),
        ("a <think>x</think>", "a <think>x</think>", False),
        ("SECRET</think>ok</think>", "ok</think>", True),
        ("<think>SECRET</think>ok", "ok", True),
        ("SECRET", "", True),
    ],
)
def test_markers_that_a_server_leaves_in(text: str, shown: str, begun: bool, size: int) -> None:
    pieces = [delta(content=text[at : at + size]) for at in range(0, len(text), size)]
    events = run(*pieces, delta("stop"), PLAIN_USAGE, DONE, reasoning="begun" if begun else "auto")
    assert told(events) == shown
    assert told(events, Channel.REASONING) == ""
    hidden = len(text) - len(shown)
    assert (counted(events) or 0) == round(50 * hidden / len(text))


def test_reasoning_that_never_closes_ends_as_what_was_cut() -> None:
    rule = ReasoningRule(ReasoningLevel.KEEP, 1000)
    for piece in (delta(reasoning_content="x" * 90), delta(content="<think>" + "x" * 90)):
        events = run(*[piece] * 50, rule=rule)
        assert told(events) == ""
        assert counted(events) is not None
        assert 250 <= (counted(events) or 0) <= 300
        assert events[-1] == Finished(Finish.LENGTH)


def test_calls_behind_kept_reasoning() -> None:
    call = {"index": 0, "id": "c", "function": {"name": "f", "arguments": "{}"}}
    events = run(
        delta(reasoning_content="SECRET"),
        delta(tool_calls=[call]),
        delta("tool_calls"),
        USAGE,
        DONE,
    )
    assert told(events, Channel.TOOL_NAME) == "f"
    assert told(events, Channel.TOOL_ARGUMENTS) == "{}"
    assert counted(events) == 41
    assert events[-1] == Finished(Finish.TOOL_CALLS)


def shown(*events: Switch | Text, limit_bytes: int = 1 << 20) -> list[Event]:
    hidden = ReasoningFilter(limit_bytes)
    return [out for event in events for out in hidden.feed(event)] + hidden.finish()


def test_what_is_shown_keeps_its_order() -> None:
    aside = (Switch(Channel.REASONING), Text(b"SECRET"), Switch(Channel.CONTENT))
    assert shown(Text(b"\n<"), *aside, Text(b"x")) == [Text(b"\n<"), Text(b"x")]
    refused = shown(Text(b" "), Switch(Channel.REFUSAL), Text(b"no"))
    assert refused == [Text(b" "), Switch(Channel.REFUSAL), Text(b"no")]
    assert shown(Text(b" \n"), Text(b" <thin"), Text(b"k>SECRET</think> x")) == [Text(b" x")]
    assert shown(Text(b" \n"), Text(b" <thin"), Text(b"gs")) == [Text(b" \n <things")]


def test_space_without_end_is_read_once() -> None:
    """A model in a rut says a token of it at a time; each was read with all before it."""
    reads = 0

    class Space(bytes):
        def lstrip(self, chars: Any = None) -> bytes:
            nonlocal reads
            reads += len(self)
            return super().lstrip(chars)

    hidden = ReasoningFilter(1 << 12)
    data = Space(b" ")
    while not hidden.full:
        assert hidden.feed(Text(data)) == []
    assert reads <= 2 << 12
    assert hidden.hidden_bytes == (1 << 12) + 1
    assert hidden.finish() == [], "what was counted as hidden is not shown"
