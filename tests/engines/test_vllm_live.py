"""The real vLLM on this machine's processor: ``make engines-test``, which installs it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from engines.record import record
from engines.recording import Player, Recording, listening
from engines.session import hold
from engines.vllm_server import KEY, Vllm, answer, ids, serving
from narrows.coding.events import Coding, Opened
from narrows.enclave.backend import BackendRequest
from narrows.enclave.tokens.backend import TokenBackend

pytestmark = [pytest.mark.engines, pytest.mark.timeout(7200)]

QUESTIONS = ("Why is the sky blue?", "Name three rivers.", "Tell a story about a gate.")


def on(vllm: Vllm, check: Callable[[TokenBackend], Awaitable[None]]) -> None:
    """``check`` with a backend that must couple."""

    async def go() -> None:
        backend = vllm.backend(tokens="required")
        await backend.start()
        try:
            await check(backend)
        finally:
            await backend.close()

    asyncio.run(go())


def test_answers_are_coupled_and_the_same_whatever_else_runs(vllm: Vllm) -> None:
    """Alone, 64 at once, and resumed: the key decides (float32)."""

    async def check(backend: TokenBackend) -> None:
        alone = [await answer(backend, question) for question in QUESTIONS]
        assert all(events[0] == Opened(Coding.COUPLED) for events in alone)
        keys = [KEY, *(bytes([n]) * 32 for n in range(1, 64))]
        asked = [(QUESTIONS[n % 3], key) for n, key in enumerate(keys)]
        together = await asyncio.gather(*(answer(backend, q, key) for q, key in asked))
        assert all(events[0] == Opened(Coding.COUPLED) for events in together)
        assert ids(together[0]) == ids(alone[0])
        assert len({tuple(ids(events)) for events in together}) > 60
        for n in range(1, 64, 9):
            assert ids(await answer(backend, asked[n][0], keys[n])) == ids(together[n])
        whole = ids(alone[2])
        for cut in (1, 11, len(whole) - 1):
            resumed = await answer(backend, QUESTIONS[2], resume=tuple(whole[:cut]))
            assert resumed[0] == Opened(Coding.COUPLED)
            assert ids(resumed) == whole[cut:]
        greedy = await answer(backend, QUESTIONS[0], temperature=0)
        assert greedy[0] == Opened(Coding.PLAIN)
        assert ids(greedy)

    on(vllm, check)


def test_a_cancel_frees_the_engines_slot(vllm: Vllm) -> None:
    async def check(backend: TokenBackend) -> None:
        assert backend.tokenizer is not None
        body = {"messages": [{"role": "user", "content": QUESTIONS[0]}], "max_tokens": 900}
        body |= {"ignore_eos": True}
        request = BackendRequest(body, KEY, tokenizer=backend.tokenizer.digest)
        given_up = backend.generate(request)
        for _ in range(3):
            await anext(given_up)
        assert await figure(vllm, "vllm:num_requests_running") == 1
        await given_up.aclose()
        async with asyncio.timeout(120):
            while await figure(vllm, "vllm:num_requests_running") > 0:
                await asyncio.sleep(0.1)
        assert ids(await answer(backend, QUESTIONS[1], max_tokens=8))

    on(vllm, check)


async def figure(vllm: Vllm, name: str) -> float:
    return await asyncio.to_thread(vllm.figure, name)


def test_the_prefix_cache_changes_nothing(vllm: Vllm) -> None:
    """The same prompt read anew under each salt, and found in the cache."""

    async def check(backend: TokenBackend) -> None:
        prompt = "Sum this up. " + "The gate counts what leaves, and nothing leaves unpaid. " * 40
        hits = await figure(vllm, "vllm:prefix_cache_hits_total")
        first = ids(await answer(backend, prompt))
        again = ids(await answer(backend, prompt))
        assert await figure(vllm, "vllm:prefix_cache_hits_total") > hits
        assert again == first

    on(vllm, check)


def test_preempted_answers_are_the_same(folder: Path, vllm: Vllm, tmp_path: Path) -> None:
    """A cache that holds one long answer and a half, and eight of them at once."""

    async def all_of(backend: TokenBackend, count: int) -> list[list[int]]:
        keys = [bytes([n + 1]) * 32 for n in range(count)]
        body = {"max_tokens": 300, "ignore_eos": True}
        return [
            ids(events)
            for events in await asyncio.gather(
                *(answer(backend, QUESTIONS[n % 3], key, **body) for n, key in enumerate(keys))
            )
        ]

    found: list[list[list[int]]] = []

    async def check(backend: TokenBackend) -> None:
        found.append(await all_of(backend, 8))

    on(vllm, check)
    small = ["--max-model-len", "512", "--block-size", "32", "--num-gpu-blocks-override", "24"]
    with serving(folder, tmp_path / "log", *small) as tiny:
        on(tiny, check)
        assert tiny.figure("vllm:num_preemptions_total") > 0
    assert found[1] == found[0]
    assert {len(one) for one in found[0]} == {300}


def test_hostile_fields_are_a_400_and_the_engine_lives(vllm: Vllm) -> None:
    key = KEY.hex()
    odd: list[Any] = [0, -1, 1.5, "", "x", key[:-1], key + "0", "z" * 64, [], [1], [key], 1 << 64]
    odd += ["0x" + key[2:], key.upper() + " ", "\u0660" * 64]
    fields: list[dict[str, Any]] = [{"narrows_key": value} for value in odd]
    fields += [{"narrows_key": key, "narrows_position": v} for v in odd if v != 0]
    fields += [{"narrows_position": value} for value in odd]
    fields += [{"narrows_key": key, f"narrows_{n}": v} for n in range(12) for v in odd]
    others = [{"n": 2}, {"n": 8}, {"temperature": 0}, {"top_p": 0}, {"min_p": 2}]
    bodies = [{"vllm_xargs": one} for one in fields]
    bodies += [{"vllm_xargs": {"narrows_key": key}} | other for other in others]
    assert len(bodies) >= 200
    codes = [vllm.post(body)[0] for body in bodies]
    assert set(codes) == {400}
    assert vllm.post({"vllm_xargs": {"narrows_key": key}})[0] == 200


def test_a_session_recorded_now_plays_back(vllm: Vllm, folder: Path, tmp_path: Path) -> None:
    """What ``test_vllm_recorded`` holds for the recording in the tree, for a new one."""

    async def go() -> None:
        kept = await record(vllm.url, folder)
        kept.save(tmp_path / "session.json.gz")
        again = Recording.load(tmp_path / "session.json.gz")
        player = Player(again.exchanges)
        async with listening(player.play) as url:
            assert await hold(url, folder) == again.answers
        assert not player.unknown
        assert not player.left

    asyncio.run(go())
