"""A newer weak model under 64 streams, through real processes: nothing fails, nothing is lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from e2e.chain import Chain
from e2e.fakes import HOLD, ScriptedModel
from models.tiny import tiny_source
from narrows.cli.main import main
from narrows.edge.books.stats import read_stats
from narrows.models.checkpoint.pack import pack

STREAMS = 64


def narrows(*arguments: str) -> None:
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    assert not caught.value.code


def health(chain: Chain) -> dict[str, Any]:
    answer: dict[str, Any] = httpx2.get(f"http://127.0.0.1:{chain.api_port}/healthz").json()
    return answer


def until(condition: Callable[[], bool], seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.1)


def pieces(prompt: str) -> list[str]:
    """Those of the first wave stop half-way until they are told to go on."""
    text = [f"{prompt}.{n} żółw " for n in range(4)]
    return [*text[:2], HOLD, *text[2:]] if prompt.startswith("a") else text


def text_of(prompt: str) -> str:
    return "".join(piece for piece in pieces(prompt) if piece != HOLD)


@pytest.mark.slow
def test_a_switch_under_64_streams(
    chains: Callable[..., Chain], model: ScriptedModel, tmp_path: Path
) -> None:
    artifact = tmp_path / "newer.narrows"
    digest = pack(tiny_source(), artifact, name="newer", threads=1).hex()
    model.script = lambda body: pieces(body["messages"][-1]["content"])
    folders = (tmp_path / "inside", tmp_path / "outside")
    for folder in folders:
        folder.mkdir()
    chain = chains(strong=model.url, weak_folders=folders).start()
    client = chain.client(timeout=240.0)  # one for all: making one takes longer than an answer
    half_way = [threading.Event() for _ in range(STREAMS)]

    def stream(prompt: str, begun: threading.Event | None = None) -> str:
        text = ""
        for chunk in client.chat.completions.create(
            model="smollm2-135m-instruct",
            messages=[{"role": "user", "content": prompt}],
            stream=True,
        ):
            text += "".join(choice.delta.content or "" for choice in chunk.choices)
            if begun is not None and ".0 " in text:
                begun.set()
        return text

    with ThreadPoolExecutor(2 * STREAMS) as pool:
        first = [pool.submit(stream, f"a{n}", half_way[n]) for n in range(STREAMS)]
        try:
            until(lambda: all(event.is_set() for event in half_way) or any(t.done() for t in first))
            assert not any(task.done() for task in first)
            assert health(chain)["weak_model"] == "bytes"
            for folder in folders:
                narrows("weak", "switch", str(artifact), "--folder", str(folder))
            until(lambda: health(chain)["weak_digest"] == digest)
            second = [pool.submit(stream, f"b{n}") for n in range(STREAMS)]
            for n, task in enumerate(second):
                assert task.result() == text_of(f"b{n}")
            assert health(chain)["draining"]
            assert not any(task.done() for task in first)
        finally:
            model.released.set()
        for n, task in enumerate(first):
            assert task.result() == text_of(f"a{n}")
    until(lambda: not health(chain)["draining"])
    until(lambda: answers_by_model(chain) == {"bytes": STREAMS, "newer": STREAMS})
    chain.assert_paid()
    for name in ("enclave", "edge"):  # the old model is gone from both processes
        log = chain.state / "log" / f"{name}.log"
        until(lambda log=log: "bytes unloaded" in log.read_text())


def answers_by_model(chain: Chain) -> dict[str, int]:
    days = read_stats(chain.state).by_day.values()
    models = {weak for day in days for weak in day}
    return {weak: sum(day[weak].answers for day in days if weak in day) for weak in models}
