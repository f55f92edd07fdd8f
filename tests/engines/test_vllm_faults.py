"""Ways in which a real vLLM does not couple: each is noticed, coded plain, said, and exact."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path

import pytest

from engines.recording import Recorder, listening
from engines.vllm_server import Vllm, answer, ids, serving
from narrows.coding.events import Coding, Opened
from narrows.enclave.tokens.backend import TokenBackend
from narrows.errors import PeerError

pytestmark = [pytest.mark.engines, pytest.mark.timeout(7200)]

QUESTION = "Tell a story about a gate."
SAID = "the server draws without the key"


async def standing(backend: TokenBackend) -> tuple[Coding, list[int]]:
    """How an answer crosses once the probe has decided, and its tokens."""
    await backend.start()
    events = await answer(backend, QUESTION, max_tokens=24)
    assert isinstance(events[0], Opened)
    return events[0].coding, ids(events)


async def is_plain(backend: TokenBackend) -> None:
    try:
        coding, tokens = await standing(backend)
        assert coding is Coding.PLAIN
        assert tokens
        assert backend.figures()["upstream_coupled"] == 0
        assert backend.figures()["upstream_ids"] == 1
    finally:
        await backend.close()


async def is_refused(backend: TokenBackend) -> None:
    try:
        with pytest.raises(PeerError, match=SAID):
            await backend.start()
    finally:
        await backend.close()


def plain_and_said(vllm: Vllm, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "narrows.enclave.upstream")
    asyncio.run(is_plain(vllm.backend()))
    assert f"not coupled: {SAID}" in caplog.text
    asyncio.run(is_refused(vllm.backend(tokens="required")))


def test_a_wrong_key_is_noticed(vllm: Vllm, caplog: pytest.LogCaptureFixture) -> None:
    def other_key(body: bytes) -> bytes:
        asked = json.loads(body) if body else {}
        if "vllm_xargs" in asked:
            asked["vllm_xargs"]["narrows_key"] = asked["vllm_xargs"]["narrows_key"][::-1]
        return json.dumps(asked).encode() if body else b""

    caplog.set_level(logging.INFO, "narrows.enclave.upstream")

    async def check() -> None:
        async with listening(Recorder(vllm.url, other_key).pass_on) as url:
            await is_plain(vllm.backend(url=url))

    asyncio.run(check())
    assert f"not coupled: {SAID}" in caplog.text


def test_a_missing_plugin_is_noticed(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    without = str(Path(__file__).parent / "no_plugin")
    with serving(folder, tmp_path / "log", PYTHONPATH=without) as vllm:
        plain_and_said(vllm, caplog)


def test_speculative_decoding_is_noticed(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    guess = {"method": "ngram", "num_speculative_tokens": 2, "prompt_lookup_max": 3}
    arguments = ("--speculative-config", json.dumps(guess))
    with serving(folder, tmp_path / "log", *arguments) as vllm:
        plain_and_said(vllm, caplog)


def test_a_plugin_loaded_twice_says_so_and_couples_once(
    folder: Path, vllm: Vllm, tmp_path: Path
) -> None:
    """The second copy does nothing: two would draw with the noise of what one has made."""
    found = []

    async def check(backend: TokenBackend) -> None:
        try:
            found.append(await standing(backend))
        finally:
            await backend.close()

    twice = ("--logits-processors", "narrows_vllm.processor:CoupledProcessor")
    with serving(folder, tmp_path / "log", *twice) as doubled:
        asyncio.run(check(doubled.backend(tokens="required")))
        assert "loaded twice" in doubled.said()
    asyncio.run(check(vllm.backend(tokens="required")))
    assert found[0] == found[1]
    assert found[0][0] is Coding.COUPLED
