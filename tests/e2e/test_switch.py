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
from e2e.fakes import ScriptedModel
from narrows.cli.main import main
from narrows.edge.stats import read_stats
from narrows.weak.pack import pack
from weak.tiny import tiny_source

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
    return [f"{prompt} says {n} żółw " for n in range(10)]


@pytest.mark.slow
def test_a_switch_under_64_streams(
    chains: Callable[..., Chain], model: ScriptedModel, tmp_path: Path
) -> None:
    artifact = tmp_path / "newer.narrows"
    digest = pack(tiny_source(), artifact, name="newer", threads=1).hex()
    model.script = lambda body: pieces(body["messages"][-1]["content"])
    model.delay_s = 0.12
    folders = (tmp_path / "inside", tmp_path / "outside")
    for folder in folders:
        folder.mkdir()
    chain = chains(strong=model.url, weak_folders=folders).start()
    client = chain.client()  # one for all: making one takes longer than an answer
    over, switched, wrong = threading.Event(), threading.Event(), []
    done, after = [0] * STREAMS, [0] * STREAMS

    def stream(index: int) -> None:
        while not over.is_set():
            prompt, begun_after = f"{index}.{done[index]}", switched.is_set()
            try:
                chunks = client.chat.completions.create(
                    model="smollm2-135m-instruct",
                    messages=[{"role": "user", "content": prompt}],
                    stream=True,
                )
                text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is a failed answer
                wrong.append(repr(error))
                return
            if text != "".join(pieces(prompt)):
                wrong.append(text)
            done[index] += 1
            after[index] += begun_after

    with ThreadPoolExecutor(STREAMS) as pool:
        for index in range(STREAMS):
            pool.submit(stream, index)
        try:
            until(lambda: model.running == STREAMS)
            assert health(chain)["weak_model"] == "bytes"
            for folder in folders:
                narrows("weak", "switch", str(artifact), "--folder", str(folder))
            until(lambda: health(chain)["weak_digest"] == digest)
            switched.set()
            until(lambda: bool(wrong) or all(after))
            until(lambda: not health(chain)["draining"])
        finally:
            over.set()
    assert wrong == []
    assert min(done) >= 2
    used = read_stats(chain.state).by_day
    until(lambda: {w for day in read_stats(chain.state).by_day.values() for w in day} >= {
        "bytes", "newer"})  # fmt: skip
    assert used
    chain.assert_paid()
    # The old model is gone from both processes, and the gate has one link left.
    for name in ("enclave", "edge"):
        log = chain.state / "log" / f"{name}.log"
        until(lambda log=log: "bytes unloaded" in log.read_text())
