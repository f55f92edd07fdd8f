"""The real vLLM on this machine's processor: ``make engines-test``, which installs it.

``NARROWS_VLLM``: its command. The model is the built-in strong one, in float32.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engines.make_folder import make_folder
from narrows.coding.events import Coding, Event, Finished, Opened, Tokens
from narrows.enclave.backend import BackendRequest
from narrows.enclave.config import EnclaveConfig, UpstreamConfig
from narrows.enclave.models import make_backend
from narrows.enclave.tokens.backend import TokenBackend
from ports import free_port

pytestmark = [pytest.mark.engines, pytest.mark.timeout(1800)]

START_S = 600
KEY = bytes(range(32))
QUESTIONS = ("Why is the sky blue?", "Name three rivers.", "Tell a story about a gate.")


@pytest.fixture(scope="module")
def folder() -> Path:
    return make_folder(Path("build/engines/smollm2-135m"))


@pytest.fixture(scope="module")
def url(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    command = os.environ.get("NARROWS_VLLM")
    if not command:
        pytest.skip("no vLLM here: make engines-test")
    port = free_port()
    log = tmp_path_factory.mktemp("vllm") / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [
                command, "serve", str(folder), "--served-model-name", "m", "--dtype", "float32",
                "--enforce-eager", "--max-model-len", "1024", "--host", "127.0.0.1",
                "--port", str(port),
            ],
            stdout=out,
            stderr=subprocess.STDOUT,
            env=os.environ
            | {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"},
        )  # fmt: skip
        try:
            url = f"http://127.0.0.1:{port}/v1"
            deadline = time.monotonic() + START_S
            while not is_up(url):
                assert process.poll() is None, log.read_text()[-3000:]
                assert time.monotonic() < deadline, log.read_text()[-3000:]
                time.sleep(0.5)
            yield url
        finally:
            process.terminate()
            process.wait(60)


def is_up(url: str) -> bool:
    try:
        with urllib.request.urlopen(url + "/models", timeout=5):
            return True
    except OSError:
        return False


def backend_on(url: str, folder: Path, **changes: Any) -> TokenBackend:
    fields = {"url": url, "model": "m", "folder": folder, "tokens": "required"} | changes
    backend = make_backend(EnclaveConfig(upstream=UpstreamConfig(**fields)))
    assert isinstance(backend, TokenBackend)
    return backend


async def answer(
    backend: TokenBackend,
    question: str,
    key: bytes = KEY,
    resume: tuple[int, ...] = (),
    **body: Any,
) -> list[Event]:
    assert backend.tokenizer is not None
    whole = {"messages": [{"role": "user", "content": question}], "max_tokens": 40} | body
    request = BackendRequest(whole, key, resume, tokenizer=backend.tokenizer.digest)
    return [event async for event in backend.generate(request)]


def ids(events: list[Event]) -> list[int]:
    assert isinstance(events[-1], Finished)
    return [i for event in events if isinstance(event, Tokens) for i in event.ids]


def test_answers_are_coupled_and_the_same_whatever_else_runs(url: str, folder: Path) -> None:
    """Alone, 64 at once, resumed, and behind a cancel: the key decides (float32)."""

    async def check() -> None:
        backend = backend_on(url, folder)
        await backend.start()
        try:
            alone = [await answer(backend, question) for question in QUESTIONS]
            assert all(events[0] == Opened(Coding.COUPLED) for events in alone)
            keys = [KEY, *(bytes([n]) * 32 for n in range(1, 64))]
            asked = [(QUESTIONS[n % 3], key) for n, key in enumerate(keys)]
            together = await asyncio.gather(*(answer(backend, q, key) for q, key in asked))
            assert ids(together[0]) == ids(alone[0])
            assert len({tuple(ids(events)) for events in together}) > 60
            whole = ids(alone[2])
            resumed = await answer(backend, QUESTIONS[2], resume=tuple(whole[:11]))
            assert ids(resumed) == whole[11:]
            assert backend.tokenizer is not None
            body = {"messages": [{"role": "user", "content": QUESTIONS[0]}], "max_tokens": 900}
            request = BackendRequest(body, KEY, tokenizer=backend.tokenizer.digest)
            given_up = backend.generate(request)
            for _ in range(3):
                await anext(given_up)
            await given_up.aclose()
            assert ids(await answer(backend, QUESTIONS[1])) == ids(alone[1])
            shaped = [
                ids(await answer(backend, QUESTIONS[0], temperature=0.6, top_p=0.5))
                for _ in range(2)
            ]
            assert shaped[0] == shaped[1]
            greedy = await answer(backend, QUESTIONS[0], temperature=0)
            assert greedy[0] == Opened(Coding.PLAIN)
            assert ids(greedy)
        finally:
            await backend.close()

    asyncio.run(check())


def test_hostile_fields_are_a_400_and_the_engine_lives(url: str) -> None:
    key = KEY.hex()
    odd: list[Any] = [0, -1, 1.5, "", "x", key[:-1], key + "0", "z" * 64, [], [1], [key], 1 << 64]
    fields: list[dict[str, Any]] = [{"narrows_key": value} for value in odd]
    fields += [{"narrows_key": key, "narrows_position": v} for v in odd if v != 0]
    fields += [{"narrows_position": value} for value in odd]
    fields += [{"narrows_key": key, f"narrows_{n}": v} for n in range(13) for v in odd]
    others = [{"n": 2}, {"n": 8}, {"temperature": 0}]
    bodies = [{"vllm_xargs": one} for one in fields]
    bodies += [{"vllm_xargs": {"narrows_key": key}} | other for other in others]
    assert len(bodies) >= 190
    codes = [status(url, body) for body in bodies]
    assert set(codes) == {400}
    assert status(url, {"vllm_xargs": {"narrows_key": key}}) == 200


def status(url: str, body: dict[str, Any]) -> int:
    whole = {"model": "m", "prompt": [1, 2, 3], "max_tokens": 2} | body
    request = urllib.request.Request(
        url + "/completions",
        json.dumps(whole).encode(),
        {"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=120) as got:
            return int(got.status)
    except urllib.error.HTTPError as error:
        return error.code
