"""A session with a real vLLM, played back to the byte: no vLLM is needed here.

``tests/engines/record.py`` made it (docs/engines.md). The enclave must send the very bytes that
it sent then, and the far end of the link decode the very answers, at the same cost.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from engines.record import FILE
from engines.recording import Player, Recording, listening
from engines.session import CUT, hold, text_folder


def test_a_recorded_session_plays_back_to_the_byte(tmp_path: Path) -> None:
    recording = Recording.load(FILE)
    player = Player(recording.exchanges)

    async def play() -> list[dict[str, object]]:
        async with listening(player.play) as url:
            return await hold(url, text_folder(tmp_path / "strong"))

    answers = asyncio.run(play())
    assert not player.unknown
    assert not player.left
    for got, kept in zip(answers, recording.answers, strict=True):
        bits = kept.pop("bits", 0.0)
        assert got.pop("bits", 0.0) == pytest.approx(bits, abs=1e-5)
        assert got == kept


def test_what_was_recorded_is_what_is_claimed() -> None:
    """Coupled answers, one greedy, one resumed exactly, one as text, one refused."""
    recording = Recording.load(FILE)
    *drawn, greedy, resumed, text, refused = recording.answers
    assert recording.vllm.startswith("0.")
    assert len(drawn) == 4
    assert {answer["coding"] for answer in (*drawn, resumed)} == {"COUPLED"}
    assert resumed["ids"] == drawn[0]["ids"][CUT:]
    assert greedy["coding"] == "PLAIN"
    assert text["coding"] == "TEXT"
    assert text["text"]
    assert "400" in refused["refused"]
    assert "narrows_position" in refused["refused"]
    assert FILE.stat().st_size < 300_000
