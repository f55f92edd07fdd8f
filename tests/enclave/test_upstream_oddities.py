"""Servers as they are: nothing of an answer is dropped or invented, or it fails with its code."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest
from aiohttp import web

from enclave.test_upstream import DONE, delta, run, server, stream
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
    Text,
)
from narrows.enclave.backend import BackendRequest
from narrows.enclave.config import UpstreamConfig
from narrows.enclave.upstream import UpstreamBackend


def fragment(
    index: int | None = 0, call_id: str | None = None, **function: object
) -> dict[str, object]:
    made: dict[str, object] = {"function": function}
    if index is not None:
        made["index"] = index
    return made if call_id is None else made | {"id": call_id, "type": "function"}


def calls_of(events: list[Event]) -> list[tuple[str, str]]:
    """(name, arguments) of each call."""
    calls: list[list[str]] = []
    part = 0
    for event in events:
        if isinstance(event, Switch) and event.channel is Channel.TOOL_NAME:
            calls.append(["", ""])
            part = 0
        elif isinstance(event, Switch) and event.channel is Channel.TOOL_ARGUMENTS:
            part = 1
        elif isinstance(event, Text):
            calls[-1][part] += event.data.decode()
    return [(name, arguments) for name, arguments in calls]


def with_calls(*fragments: dict[str, object]) -> list[Event]:
    chunks = [delta(tool_calls=[one]) for one in fragments]
    return run(stream(*chunks, delta("tool_calls"), DONE))


X, Y = ("f", '{"x":1}'), ("g", '{"y":2}')


@pytest.mark.parametrize(
    ("fragments", "calls"),
    [
        # Parallel calls that all say index 0.
        (
            [
                fragment(0, "a", name="f", arguments='{"x":1}'),
                fragment(0, "b", name="g", arguments='{"y":2}'),
            ],
            [X, Y],
        ),
        (
            [
                fragment(0, "a", name="f", arguments='{"x"'),
                fragment(0, "a", arguments=":1}"),
                fragment(0, "b", name="f", arguments='{"y"'),
                fragment(0, "b", arguments=":2}"),
            ],
            [X, ("f", '{"y":2}')],
        ),
        # No ids and one index: a name behind whole arguments begins a call.
        (
            [
                fragment(0, name="f", arguments='{"x":1}'),
                fragment(0, name="f", arguments='{"y":2}'),
            ],
            [X, ("f", '{"y":2}')],
        ),
        # The same id for each index.
        (
            [
                fragment(0, "call", name="f", arguments='{"x":1}'),
                fragment(1, "call", name="g", arguments='{"y":2}'),
            ],
            [X, Y],
        ),
        # No index.
        (
            [
                fragment(None, "a", name="f", arguments='{"x":1}'),
                fragment(None, "b", name="g", arguments='{"y"'),
                fragment(None, arguments=":2}"),
            ],
            [X, Y],
        ),
        # A name behind the id, in pieces, behind the arguments, said again each time.
        ([fragment(0, "a"), fragment(0, name="f"), fragment(0, arguments='{"x":1}')], [X]),
        (
            [
                fragment(0, "a", name="get_"),
                fragment(0, name="weather", arguments=""),
                fragment(0, arguments="{}"),
            ],
            [("get_weather", "{}")],
        ),
        ([fragment(0, "a", arguments='{"x"'), fragment(0, name="f", arguments=":1}")], [X]),
        (
            [
                fragment(0, "a", name="f", arguments=""),
                fragment(0, "a", name="f", arguments='{"x"'),
                fragment(0, "a", name="f", arguments=":1}"),
            ],
            [X],
        ),
        # Indexes that alternate, that begin at 1, that come backwards.
        (
            [
                fragment(0, "a", name="f", arguments='{"x"'),
                fragment(1, "b", name="g", arguments='{"y"'),
                fragment(0, arguments=":1}"),
                fragment(1, arguments=":2}"),
            ],
            [X, Y],
        ),
        ([fragment(1, "a", name="f", arguments='{"x":1}')], [X]),
        (
            [
                fragment(1, "a", name="f", arguments='{"x":1}'),
                fragment(0, "b", name="g", arguments='{"y":2}'),
            ],
            [X, Y],
        ),
        ([fragment(0, "a", name="f")], [("f", "")]),
        ([fragment(0, "a", name="f", arguments='{"t":"}{"}')], [("f", '{"t":"}{"}')]),
    ],
)
def test_tool_calls_are_put_together(
    fragments: list[dict[str, object]], calls: list[tuple[str, str]]
) -> None:
    events = with_calls(*fragments)
    assert events[-1] == Finished(Finish.TOOL_CALLS)
    assert calls_of(events) == calls


def test_text_amid_a_calls_arguments_waits_until_they_are_whole() -> None:
    """Else the link would carry the rest of them as another call's."""
    chunks = [
        delta(tool_calls=[fragment(0, "a", name="f", arguments='{"x"')]),
        delta(content="\n"),
        delta(tool_calls=[fragment(0, arguments=":1}")]),
        delta(content="so"),
        delta(tool_calls=[fragment(1, "b", name="g", arguments="{")]),
        delta(content="!"),
        delta("tool_calls"),
        DONE,
    ]
    said: list[tuple[Channel, str]] = [(Channel.CONTENT, "")]
    for event in run(stream(*chunks)):
        if isinstance(event, Switch):
            said.append((event.channel, ""))
        elif isinstance(event, Text):
            said[-1] = (said[-1][0], said[-1][1] + event.data.decode())
    assert said[1:] == [
        (Channel.TOOL_NAME, "f"),
        (Channel.TOOL_ARGUMENTS, '{"x":1}'),
        (Channel.CONTENT, "\nso!"),
        (Channel.TOOL_NAME, "g"),
        (Channel.TOOL_ARGUMENTS, "{"),
    ]


@pytest.mark.parametrize(
    "fragments",
    [
        [fragment(0, "a", arguments="{}")],
        [fragment(0, "a", name="f", arguments="{}"), fragment(1, "b", arguments="{}")],
        [fragment(0, "a", name="f", arguments="{}"), fragment(0, "a", name="g", arguments="{}")],
        [fragment(0, "a", name="f", arguments='{"x":1}'), fragment(0, "a", arguments='{"y":2}')],
        [fragment(0, "a", name="f", arguments={"x": 1})],
        [fragment(0, "a", name=5)],
        [fragment(0, "a", name="f" * 257)],
        [{"index": 0, "id": "a", "type": "custom", "custom": {"name": "f", "input": "x"}}],
        [fragment(number, str(number), name="f") for number in range(129)],
    ],
)
def test_tool_calls_that_fit_nothing_fail(fragments: list[dict[str, object]]) -> None:
    assert with_calls(*fragments)[-1] == Failed(Failure.UPSTREAM_MALFORMED)


@pytest.mark.parametrize(
    ("reason", "end"),
    [
        ("stop", Finished(Finish.STOP)),
        ("length", Finished(Finish.LENGTH)),
        ("max_tokens", Finished(Finish.LENGTH)),
        ("model_length", Finished(Finish.LENGTH)),
        ("content_filter", Finished(Finish.CONTENT_FILTER)),
        ("abort", Failed(Failure.UPSTREAM_BROKE)),
        ("error", Failed(Failure.UPSTREAM_BROKE)),
        ("", Failed(Failure.UPSTREAM_BROKE)),
        ("no one knows", Failed(Failure.UPSTREAM_BROKE)),
    ],
)
def test_only_a_known_finish_reason_finishes(reason: str, end: Event) -> None:
    assert run(stream(delta(content="a"), delta(reason), DONE))[-1] == end


def test_an_empty_reason_in_each_chunk_means_none_yet() -> None:
    events = run(stream(delta("", content="a"), delta("", content="b"), delta("stop"), DONE))
    assert events[-1] == Finished(Finish.STOP)


HELLO = [Opened(Coding.TEXT), Text(b"hello"), Finished(Finish.STOP)]
CHUNK = b'{"choices":[{"delta":{"content":"hello"},"finish_reason":"stop"}]}'


@pytest.mark.parametrize(
    ("chunks", "expected"),
    [
        ([b"\xef\xbb\xbfdata: " + CHUNK + b"\n\n"], HELLO),
        ([b"data:" + CHUNK + b"\r\rdata: [DONE]\r\r"], HELLO),
        ([b"data: " + CHUNK + b"\r", b"\n\r", b"\n"], HELLO),
        (
            [
                b'data: {"choices":\ndata: [{"delta":{"content":"hello"},\n',
                b'data: "finish_reason":"stop"}]}\n\n',
            ],
            HELLO,
        ),
        ([b": ping\n\nevent: message\nid: 1\ndata: " + CHUNK + b"\n"], HELLO),
        ([CHUNK.join([b"data: ", b"\n\n"]).replace(b"delta", b"message")], HELLO),
        ([b"data: " + CHUNK.replace(b'{"choices', b'{"error":null,"choices') + b"\n\n"], HELLO),
        ([], [Opened(Coding.TEXT), Failed(Failure.UPSTREAM_MALFORMED)]),
        ([b": ping\n\n"], [Opened(Coding.TEXT), Failed(Failure.UPSTREAM_MALFORMED)]),
        ([DONE], [Opened(Coding.TEXT), Failed(Failure.UPSTREAM_MALFORMED)]),
        (
            [b'data: {"choices":[{"text":"hello","finish_reason":"stop"}]}\n\n'],
            [Opened(Coding.TEXT), Failed(Failure.UPSTREAM_MALFORMED)],
        ),
        (
            [delta(function_call={"name": "f", "arguments": "{}"}), delta("function_call")],
            [Opened(Coding.TEXT), Failed(Failure.UPSTREAM_MALFORMED)],
        ),
        (
            [b'data: {"error":{"message":"maximum context length is 9","code":400}}\n\n'],
            [Opened(Coding.TEXT), Failed(Failure.PROMPT_TOO_LONG)],
        ),
        (
            [b'data: {"error":{"message":"engine died","code":500}}\n\n'],
            [Opened(Coding.TEXT), Failed(Failure.UPSTREAM_REFUSED)],
        ),
    ],
)
def test_odd_streams(chunks: list[bytes], expected: list[Event]) -> None:
    assert run(stream(*chunks)) == expected


def test_no_compression_is_asked_for_and_none_is_read() -> None:
    asked: list[str | None] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        asked.append(request.headers.get("Accept-Encoding"))
        headers = {"Content-Type": "text/event-stream", "Content-Encoding": "gzip"}
        return web.Response(body=b"\x1f\x8b", headers=headers)

    assert run(handler)[-1] == Failed(Failure.UPSTREAM_MALFORMED)
    assert asked == ["identity"]


OVERFLOWS = {
    "vLLM": (
        400,
        "This model's maximum context length is 2048 tokens. However, you requested 9000 "
        "tokens in the messages. Please reduce the length of the messages.",
    ),
    "vLLM, max_tokens": (
        400,
        "'max_tokens' or 'max_completion_tokens' is too large: 16384. This "
        "model's maximum context length is 4096 tokens and your request has 30.",
    ),
    "vLLM, engine": (
        400,
        "The decoder prompt (length 9000) is longer than the maximum model length of 2048.",
    ),
    "SGLang": (400, "The input (9000 tokens) is longer than the model's context length (2048)."),
    "SGLang, total": (
        400,
        "Requested token count exceeds the model's maximum context length of 9.",
    ),
    "llama.cpp": (400, "the request exceeds the available context size, try increasing it"),
    "llama.cpp, type": (400, '"type":"exceed_context_size_error"'),
    "llama.cpp, older": (500, "the request exceeds the available context size. try increasing it"),
    "OpenAI": (400, '"code": "context_length_exceeded"'),
    "TGI": (422, "`inputs` tokens + `max_new_tokens` must be <= 4096. Given: 9000"),
}


@pytest.mark.parametrize("name", list(OVERFLOWS))
def test_a_full_context_in_each_servers_words(name: str) -> None:
    status, words = OVERFLOWS[name]

    async def handler(request: web.Request) -> web.StreamResponse:
        return web.json_response({"error": {"message": words}}, status=status)

    assert run(handler) == [Opened(Coding.TEXT), Failed(Failure.PROMPT_TOO_LONG)]


def test_the_servers_words_are_logged_and_do_not_leave(caplog: pytest.LogCaptureFixture) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        return web.Response(status=404, text="no model `m`\nhere" + "x" * 100_000)

    with caplog.at_level(logging.WARNING):
        events = run(handler)
    assert events == [Opened(Coding.TEXT), Failed(Failure.INTERNAL)]
    assert "no model `m`" in caplog.text
    assert len(caplog.text) < 2000
    assert "\nhere" not in caplog.text  # one line, whatever they say


@pytest.mark.parametrize(
    ("body", "sent"),
    [
        ({}, {}),
        ({"max_tokens": 7, "seed": 11}, {"max_tokens": 7, "seed": 11}),
        (
            {"response_format": {"type": "json_object", "schema": {"type": "object"}}},
            {"response_format": {"type": "json_object", "schema": {"type": "object"}}},
        ),
    ],
)
def test_what_the_client_did_not_say_is_not_said(
    body: dict[str, Any], sent: dict[str, Any]
) -> None:
    seen: list[dict[str, Any]] = []
    messages = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b", "reasoning_content": "hm"},
        {"role": "user", "content": "c"},
    ]

    async def handler(request: web.Request) -> web.StreamResponse:
        seen.append(await request.json())
        return await stream(delta("stop"), DONE)(request)

    async def go() -> None:
        async with server(handler) as url:
            backend = UpstreamBackend(UpstreamConfig(url=url, model="m"))
            asked = BackendRequest({"messages": messages} | body, bytes(32))
            async for _ in backend.generate(asked):
                pass
            await backend.close()

    asyncio.run(go())
    own = {"model": "m", "stream": True, "stream_options": {"include_usage": True}}
    assert seen == [json.loads(json.dumps({"messages": messages} | own | sent))]
