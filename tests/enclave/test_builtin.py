"""The built-in strong model: batched, reproducible, stopped where it must stop."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from models.tiny import tiny_source
from narrows.coding.events import (
    Coding,
    Event,
    Failed,
    Failure,
    Finish,
    Finished,
    Opened,
    Tokens,
    Usage,
)
from narrows.enclave.backend import BackendRequest
from narrows.enclave.builtin import BuiltinBackend, _Job
from narrows.models.api import TokenModel
from narrows.models.checkpoint.pack import pack
from narrows.models.registry import load_model


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("builtin") / "tiny.narrows"
    pack(tiny_source(), path, name="tiny")
    return path


def load(artifact: Path) -> TokenModel:
    return load_model(artifact, threads=1, kv_bytes=16 << 20)


def request(content: str = "hello", key: int = 1, **body: Any) -> BackendRequest:
    messages = [{"role": "user", "content": content}]
    return BackendRequest({"messages": messages, "max_tokens": 12} | body, bytes([key]) * 32)


async def collect(backend: BuiltinBackend, wanted: BackendRequest) -> list[Event]:
    return [event async for event in backend.generate(wanted)]


def ids(events: list[Event]) -> list[int]:
    return [token for event in events if isinstance(event, Tokens) for token in event.ids]


def with_backend(
    artifact: Path, test: Callable[[BuiltinBackend], Awaitable[None]], **options: int
) -> None:
    async def go() -> None:
        backend = BuiltinBackend(load(artifact), **options)
        try:
            await test(backend)
        finally:
            await backend.close()

    asyncio.run(go())


def test_an_answer_has_its_events_in_order(artifact: Path) -> None:
    async def check(backend: BuiltinBackend) -> None:
        events = await collect(backend, request())
        assert events[0] == Opened(Coding.COUPLED)
        assert isinstance(events[-1], Finished)
        usage = events[-2]
        assert isinstance(usage, Usage)
        assert usage.completion_tokens == len(ids(events)) <= 12
        greedy = await collect(backend, request(temperature=0))
        assert greedy[0] == Opened(Coding.PLAIN)

    with_backend(artifact, check)


def test_the_same_key_gives_the_same_answer_in_any_company(artifact: Path) -> None:
    async def check(backend: BuiltinBackend) -> None:
        alone = [ids(await collect(backend, request("x", key))) for key in range(6)]
        together = await asyncio.gather(
            *(collect(backend, request("x", key, max_tokens=12)) for key in range(6))
        )
        assert [ids(events) for events in together] == alone
        assert len({tuple(answer) for answer in alone}) > 1

    with_backend(artifact, check, max_batch=4)


def test_resuming_continues_the_very_same_answer(
    artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def check(backend: BuiltinBackend) -> None:
        whole = ids(await collect(backend, request("go on", 3)))
        assert len(whole) > 4
        wanted = request("go on", 3, max_tokens=len(whole))
        for known in (4, len(whole) - 1, len(whole)):
            resumed = BackendRequest(wanted.body, wanted.noise_key, tuple(whole[:known]))
            events = await collect(backend, resumed)
            assert ids(events) == whole[known:]
            assert events[-1] == Finished(Finish.LENGTH), "the whole answer has its tokens"
        monkeypatch.setattr("narrows.enclave.backend.DEFAULT_MAX_TOKENS", len(whole))
        body = {name: said for name, said in wanted.body.items() if name != "max_tokens"}
        resumed = BackendRequest(body, wanted.noise_key, tuple(whole[:4]))
        assert ids(await collect(backend, resumed)) == whole[4:]

    with_backend(artifact, check)


def test_stop_strings_end_the_answer(artifact: Path) -> None:
    async def check(backend: BuiltinBackend) -> None:
        tokenizer = backend.tokenizer
        assert tokenizer is not None
        whole = ids(await collect(backend, request("stop", 5)))
        text = b"".join(map(tokenizer.token_bytes, whole)).decode(errors="replace")
        stop = text[len(text) // 2 : len(text) // 2 + 2]
        stopped = await collect(backend, request("stop", 5, stop=[stop]))
        shown = b"".join(map(tokenizer.token_bytes, ids(stopped))).decode(errors="replace")
        assert stop in shown
        assert whole[: len(ids(stopped))] == ids(stopped)
        assert stopped[-1] == Finished(Finish.STOP)

    with_backend(artifact, check)


def test_what_it_cannot_do_is_said(artifact: Path) -> None:
    async def check(backend: BuiltinBackend) -> None:
        tools = await collect(backend, request(tools=[{"type": "function"}]))
        assert tools[-1] == Failed(Failure.BAD_REQUEST)
        long = await collect(backend, request("word " * 5000))
        assert long[-1] == Failed(Failure.PROMPT_TOO_LONG)

    with_backend(artifact, check)


def test_a_closed_answer_frees_its_place(artifact: Path) -> None:
    async def check(backend: BuiltinBackend) -> None:
        async with contextlib.aclosing(backend.generate(request(max_tokens=300))) as events:
            await anext(events)
            await anext(events)
        other = await asyncio.wait_for(collect(backend, request("y")), 60)
        assert isinstance(other[-1], Finished)

    with_backend(artifact, check, max_batch=1)


def test_a_crowd_is_refused_not_queued_without_end(artifact: Path) -> None:
    async def check(backend: BuiltinBackend) -> None:
        everything = await asyncio.gather(
            *(collect(backend, request("z", key % 250)) for key in range(40))
        )
        ends = [events[-1] for events in everything]
        assert all(end == Failed(Failure.OVERLOADED) or isinstance(end, Finished) for end in ends)
        assert any(isinstance(end, Finished) for end in ends)

    with_backend(artifact, check, max_batch=2, max_waiting=3)


def test_a_full_cache_fails_the_newest_answers_alone(artifact: Path) -> None:
    page_bytes = load(artifact).stream_bytes(1)
    model = load_model(artifact, threads=1, kv_bytes=6 * page_bytes)

    async def go() -> None:
        alone = BuiltinBackend(load(artifact))
        backend = BuiltinBackend(model)
        try:
            many = [request(f"x{key}", key, max_tokens=100) for key in range(20)]
            came = await asyncio.gather(*(collect(backend, one) for one in many))
            ends = [events[-1] for events in came]
            assert {type(end) for end in ends} == {Finished, Failed}
            assert {end for end in ends if isinstance(end, Failed)} == {Failed(Failure.OVERLOADED)}
            for wanted, events in zip(many, came, strict=True):
                if isinstance(events[-1], Finished):
                    assert ids(events) == ids(await collect(alone, wanted))
            assert isinstance((await collect(backend, many[0]))[-1], Finished)
        finally:
            await backend.close()
            await alone.close()

    asyncio.run(go())


def test_running_answers_go_on_while_a_long_prompt_is_read(artifact: Path) -> None:
    """Between two parts of a prompt the others get their tokens."""
    model = load(artifact)
    seen: list[str] = []
    long_asked = threading.Event()
    catch_up, advance = model.catch_up, model.advance

    def watched_catch_up(stream: Any, limit: int) -> int:
        left = catch_up(stream, limit)
        seen.append("part" if left else "whole")
        return left

    def watched_advance(streams: Any, tokens: Any) -> Any:
        seen.append("step")
        assert long_asked.wait(60)
        return advance(streams, tokens)

    model.catch_up, model.advance = watched_catch_up, watched_advance  # type: ignore[method-assign]

    async def go() -> None:
        backend = BuiltinBackend(model)
        try:
            short = asyncio.create_task(collect(backend, request("a", 3, max_tokens=200)))
            while "step" not in seen:
                await asyncio.sleep(0.001)
            long = asyncio.create_task(collect(backend, request("long " * 80, 4, max_tokens=2)))
            while backend._waiting.empty():
                await asyncio.sleep(0.001)
            long_asked.set()
            await asyncio.gather(short, long)
        finally:
            await backend.close()

    asyncio.run(go())
    first = seen.index("part")
    rest = seen[first : first + 4]
    assert rest[:3] == ["part", "step", "part"] or rest[:3] == ["part", "step", "whole"]


def test_an_answer_is_stopped_whose_client_went_before_its_first_token(
    artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def check(backend: BuiltinBackend) -> None:
        job = await backend._admit(request(max_tokens=100))
        assert isinstance(job, _Job)

        async def admitted(wanted: BackendRequest) -> _Job:
            return job

        monkeypatch.setattr(backend, "_admit", admitted)
        events = backend.generate(request())
        assert await anext(events) == Opened(Coding.COUPLED)
        assert not job.cancelled
        await events.aclose()
        assert job.cancelled

    with_backend(artifact, check)
