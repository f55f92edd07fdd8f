"""Strong models behind a server: whatever it does, the answer ends with the right code."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

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
    Usage,
)
from narrows.enclave.backend import BackendRequest
from narrows.enclave.config import UpstreamConfig
from narrows.enclave.upstream import UpstreamBackend

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
BODY = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 5}


@asynccontextmanager
async def server(handler: Handler, path: str = "/v1/chat/completions") -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_post(path, handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
    try:
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        await runner.cleanup()


async def answer(url: str, **limits: Any) -> list[Event]:
    backend = UpstreamBackend(UpstreamConfig(url=url, model="m", **limits))
    try:
        request = BackendRequest(BODY, bytes(32))
        return [event async for event in backend.generate(request)]
    finally:
        await backend.close()


def run(handler: Handler, **limits: Any) -> list[Event]:
    async def go() -> list[Event]:
        async with server(handler) as url:
            return await answer(url, **limits)

    return asyncio.run(go())


def stream(*chunks: bytes, pause_s: float = 0.0, cut: bool = False) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for chunk in chunks:
            await response.write(chunk)
        await asyncio.sleep(pause_s)
        if cut:
            assert request.transport is not None
            request.transport.abort()
        return response

    return handler


def delta(finish: str | None = None, **fields: object) -> bytes:
    chunk = {"choices": [{"index": 0, "delta": fields, "finish_reason": finish}]}
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"
USAGE = b'data: {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 2}}\n\n'


def test_an_answer_with_reasoning_and_usage() -> None:
    events = run(
        stream(
            delta(role="assistant", content=""),
            delta(reasoning_content="hm"),
            delta(content="żó"),
            delta(content="łć"),
            delta("length"),
            USAGE,
            DONE,
        )
    )
    assert events == [
        Opened(Coding.TEXT),
        Switch(Channel.REASONING),
        Text(b"hm"),
        Switch(Channel.CONTENT),
        Text("żó".encode()),
        Text("łć".encode()),
        Usage(7, 2),
        Finished(Finish.LENGTH),
    ]


def test_tool_calls_become_switches() -> None:
    def call(index: int, **function: str) -> dict[str, object]:
        return {"index": index, "id": "chosen-by-server", "function": function}

    events = run(
        stream(
            delta(tool_calls=[call(0, name="f", arguments="")]),
            delta(tool_calls=[call(0, arguments='{"a":')]),
            delta(tool_calls=[call(0, arguments="1}")]),
            delta(tool_calls=[call(1, name="g", arguments="{}")]),
            delta("tool_calls"),
            DONE,
        )
    )
    assert events == [
        Opened(Coding.TEXT),
        Switch(Channel.TOOL_NAME),
        Text(b"f"),
        Switch(Channel.TOOL_ARGUMENTS),
        Text(b'{"a":'),
        Text(b"1}"),
        Switch(Channel.TOOL_NAME),
        Text(b"g"),
        Switch(Channel.TOOL_ARGUMENTS),
        Text(b"{}"),
        Finished(Finish.TOOL_CALLS),
    ]


def test_an_empty_answer_is_an_answer() -> None:
    assert run(stream(delta("stop"), DONE)) == [Opened(Coding.TEXT), Finished(Finish.STOP)]


def test_lone_surrogates_and_nul_survive() -> None:
    text = "\ud800 \x00 \udfff"
    events = run(stream(delta(content=text), delta("stop"), DONE))
    assert events[1] == Text(text.encode("utf-8", "surrogatepass"))


@pytest.mark.parametrize(
    ("status", "failure"),
    [
        (400, Failure.UPSTREAM_REJECTED),
        (401, Failure.INTERNAL),
        (403, Failure.INTERNAL),
        (404, Failure.INTERNAL),
        (413, Failure.UPSTREAM_REJECTED),
        (429, Failure.OVERLOADED),
        (500, Failure.UPSTREAM_REFUSED),
        (503, Failure.OVERLOADED),
        (302, Failure.INTERNAL),
    ],
)
def test_refusals(status: int, failure: Failure) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        return web.Response(status=status, text="secret words", headers={"Location": "/x"})

    assert run(handler) == [Opened(Coding.TEXT), Failed(failure)]


@pytest.mark.parametrize(
    ("handler", "failure"),
    [
        (stream(delta(content="a"), cut=True), Failure.UPSTREAM_BROKE),
        (stream(delta(content="a")), Failure.UPSTREAM_BROKE),
        (stream(delta(content="a"), DONE), Failure.UPSTREAM_BROKE),
        (stream(b"data: {nonsense\n\n"), Failure.UPSTREAM_MALFORMED),
        (stream(b"data: []\n\n"), Failure.UPSTREAM_MALFORMED),
        (stream(b'data: {"choices": [1]}\n\n'), Failure.UPSTREAM_MALFORMED),
        (stream(b'data: {"choices": [{}, {}]}\n\n'), Failure.UPSTREAM_MALFORMED),
        (stream(delta(content=5)), Failure.UPSTREAM_MALFORMED),
        (stream(delta(tool_calls=[{"index": -1}])), Failure.UPSTREAM_MALFORMED),
        (stream(b'data: {"error": {"message": "x"}}\n\n'), Failure.UPSTREAM_MALFORMED),
        (stream(b"data: " + b"[" * 100_000 + b"\n\n"), Failure.UPSTREAM_MALFORMED),
        (stream(b"x" * 300_000), Failure.UPSTREAM_MALFORMED),
        (stream(delta(content="a"), pause_s=30), Failure.UPSTREAM_SLOW),
        (stream(pause_s=30), Failure.UPSTREAM_SLOW),
        (stream(*[delta(content="y" * 1000)] * 200), Failure.UPSTREAM_MALFORMED),
    ],
)
def test_broken_streams(handler: Handler, failure: Failure) -> None:
    events = run(
        handler,
        token_timeout_s=0.3,
        first_token_timeout_s=0.5,
        max_line_bytes=200_000,
        max_answer_bytes=100_000,
    )
    assert events[0] == Opened(Coding.TEXT)
    assert events[-1] == Failed(failure)
    assert not any(isinstance(event, Finished) for event in events)


def test_an_endless_answer_ends_at_the_answer_timeout() -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        while True:
            await response.write(b": keep-alive\n\n")
            await asyncio.sleep(0.02)

    assert run(endless, answer_timeout_s=0.5)[-1] == Failed(Failure.UPSTREAM_SLOW)


def test_nobody_listens() -> None:
    events = asyncio.run(answer("http://127.0.0.1:9/v1"))
    assert events == [Opened(Coding.TEXT), Failed(Failure.UPSTREAM_REFUSED)]


def test_closing_the_answer_closes_the_connection() -> None:
    gone = asyncio.Event()

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        try:
            while True:
                await response.write(delta(content="x"))
                await asyncio.sleep(0.01)
        finally:
            gone.set()

    async def go() -> None:
        async with server(endless) as url:
            backend = UpstreamBackend(UpstreamConfig(url=url, model="m"))
            events = backend.generate(BackendRequest(BODY, bytes(32)))
            for _ in range(3):
                await anext(events)
            await events.aclose()
            await asyncio.wait_for(gone.wait(), 10)
            await backend.close()

    asyncio.run(go())


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.binary(max_size=80), max_size=6))
def test_any_bytes_end_with_a_code(chunks: list[bytes]) -> None:
    events = run(stream(*[b"data: " + chunk + b"\n" for chunk in chunks]))
    assert isinstance(events[-1], Failed | Finished)
