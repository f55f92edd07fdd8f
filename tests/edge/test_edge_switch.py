"""A newer weak model while answers run: the link changes, answers do not."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest

from edge.harness import MODEL, Drop, FakeEnclave, Hang, Rig, native, wait_until
from edge.real_enclave import RealEnclave
from edge.standin import ByteTokenizer, FlatModel
from models.models import artifact_path
from narrows.coding.events import Coding, Finish, Finished, Opened, Tokens
from narrows.edge.books.stats import read_stats
from narrows.edge.link.patience import Patience
from narrows.enclave.builtin import BuiltinBackend
from narrows.enclave.config import EnclaveConfig
from narrows.enclave.server import EnclaveServer
from narrows.models.registry import load_model
from narrows.models.shelf.shelf import Shelf, Shelving
from narrows.wire.messages import Greeting


def load(name, expect):
    return load_model(name, threads=1, kv_bytes=64 << 20, expect=expect)


def put(folder, variant, at_s):
    path = folder / f"{variant}.narrows"
    shutil.copy(artifact_path(variant), folder / "aside")
    os.utime(folder / "aside", (at_s, at_s))
    (folder / "aside").rename(path)


class ShelfEnclave:
    """The enclave's own server over a tiny strong model, with a shelf."""

    def __init__(self, folder):
        self.shelf = Shelf(Shelving((), folder, frozenset(), load))
        self.port = 0

    async def start(self, port=0):
        backend = BuiltinBackend(load(artifact_path("llama"), None))
        config = EnclaveConfig(listen=f"127.0.0.1:{port}")
        self.server = EnclaveServer(config, backend, self.shelf)
        self.port = await self.server.start()

    async def stop(self):
        await self.server.stop()


@pytest.fixture
def folders(tmp_path):
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    for folder in (inside, outside):
        folder.mkdir()
        put(folder, "llama", 100)
    return inside, outside


def health(rig):
    return rig.get("/healthz").json()


def streamed(rig, seed):
    with rig.client() as client:
        stream = client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": f"count {seed}"}],
            stream=True,
            seed=seed,
            max_tokens=24,
        )
        return "".join(chunk.choices[0].delta.content or "" for chunk in stream)


def test_native_answers_are_the_same_over_a_switch(tmp_path, folders):
    inside, outside = folders
    edge_shelf = Shelf(Shelving((), outside, frozenset(), load))
    rig = Rig(tmp_path / "state", real=True, models=edge_shelf)
    rig.enclave = ShelfEnclave(inside)
    old = edge_shelf.offers[0].digest
    with rig:
        alone = [streamed(rig, seed) for seed in range(2)]
        over = threading.Event()
        got: list[list[str]] = []

        def ask():
            while not over.is_set():
                got.append([streamed(rig, seed) for seed in range(2)])

        with ThreadPoolExecutor(4) as pool:
            tasks = [pool.submit(ask) for _ in range(4)]
            try:
                wait_until(lambda: got, 60)
                put(inside, "llama3", 200)
                rig.enclave.shelf.refresh()
                put(outside, "llama3", 200)
                wait_until(lambda: health(rig)["weak_model"] == "llama3", 60)
                count = len(got)
                wait_until(lambda: len(got) > count + 3, 60)
            finally:
                over.set()
            for task in tasks:
                task.result()
        assert all(texts == alone for texts in got)
        wait_until(lambda: not health(rig)["draining"])
        wait_until(lambda: old not in edge_shelf.in_memory)
        wait_until(lambda: old not in rig.enclave.shelf.in_memory)
        assert rig.enclave.server.figures()["links"] == 1
        wait_until(
            lambda: (
                {"llama", "llama3"}
                == {weak for day in read_stats(rig.state).by_day.values() for weak in day}
            )
        )


def test_a_model_that_only_the_edge_has_costs_greetings_and_nothing_else(tmp_path, folders):
    inside, outside = folders
    shelf = Shelf(Shelving((), outside, frozenset(), load))
    rig = Rig(tmp_path / "state", real=True, models=shelf)
    rig.enclave = ShelfEnclave(inside)
    with rig:
        before = streamed(rig, 1)
        served = rig.enclave.server.figures()["links_served"]
        put(outside, "llama3", 200)
        wait_until(lambda: rig.enclave.server.figures()["links_served"] > served, 60)
        assert streamed(rig, 1) == before
        assert health(rig)["weak_model"] == "llama"
        assert health(rig)["link"] == "up"
        assert not health(rig)["draining"]
        put(inside, "llama3", 200)  # now the enclave has it as well: the next try succeeds
        rig.enclave.shelf.refresh()
        wait_until(lambda: health(rig)["weak_model"] == "llama3", 60)
        assert streamed(rig, 1) == before


def test_a_link_that_is_old_gets_a_successor_and_answers_stay_the_same(tmp_path, folders):
    """An auditor decodes links from their start, so none lives for ever. By the edge's clock
    alone; the answers of the old one end where they are."""
    inside, outside = folders
    shelf = Shelf(Shelving((), outside, frozenset(), load))
    rig = Rig(tmp_path / "state", real=True, models=shelf, link_max_s=1.0)
    rig.enclave = ShelfEnclave(inside)
    with rig:
        before = streamed(rig, 1)
        served = rig.enclave.server.figures()["links_served"]
        got = []
        while rig.enclave.server.figures()["links_served"] < served + 2:
            got.append(streamed(rig, 1))
            assert len(got) < 10_000
        assert set(got) <= {before}
        wait_until(lambda: rig.enclave.server.figures()["links"] <= 2)
        assert health(rig)["weak_model"] == "llama"
        assert streamed(rig, 1) == before


class OtherFlat(FlatModel):
    name = "other"
    digest = b"o" * 32

    class tokenizer(ByteTokenizer):
        digest = b"t" * 32

        def __init__(self):
            """Same bytes, another name."""

    tokenizer = tokenizer()


class TwoModels(RealEnclave):
    """First the older model, then the newer one."""

    async def _serve(self, reader, writer):
        first = not self.connections
        self.greeting = bytes([Greeting.OK, 1 if first else 0])
        self.model = FlatModel() if first else OtherFlat()
        await super()._serve(reader, writer)


def test_tokens_of_another_vocabulary_are_not_resumed(tmp_path):
    rig = Rig(tmp_path, real=True, models=[OtherFlat(), FlatModel()])
    rig.enclave = TwoModels()
    opening = [Opened(Coding.PLAIN), Tokens((97, 98))]
    rig.enclave.script = lambda request: [*opening, 0.5, Drop()]
    with rig:
        with pytest.raises((openai.APIError, openai.APIConnectionError)) as caught:
            streamed(rig, 1)
        assert "link" in str(caught.value)
        rig.enclave.script = lambda request: native("fine")
        assert rig.ask().choices[0].message.content == "fine"
    assert [request.resume for request in rig.enclave.requests] == [[], []]


def test_a_retired_link_that_breaks_hands_its_answers_on(tmp_path):
    """Both links of one vocabulary: the answer of the drained one goes on, and ends well."""

    class Newer(FlatModel):
        name, digest = "newer", b"n" * 32

    class Enclave(FakeEnclave):
        accepts_newer = False

        def _write(self, writer, data):
            if data == self.greeting:
                newer = self.hellos[-1].weak[0].digest == Newer.digest.hex()
                only = len(self.hellos[-1].weak) == 1
                if newer and self.accepts_newer:
                    data = bytes([Greeting.OK, 0])
                elif newer and only:
                    data = bytes([Greeting.NO_COMMON_MODEL, 0])
                else:
                    data = bytes([Greeting.OK, 1])
            super()._write(writer, data)

    rig = Rig(tmp_path, models=[Newer(), FlatModel()])
    rig.enclave = Enclave()
    rig.enclave.script = lambda request: [Hang()]
    with rig:
        wait_until(lambda: health(rig)["link"] == "up")
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(rig.ask)
            wait_until(lambda: rig.enclave.requests)
            rig.enclave.accepts_newer = True
            wait_until(lambda: health(rig)["draining"], 30)
            assert health(rig)["weak_model"] == "newer"
            rig.enclave.script = lambda request: native("went on")
            first = rig.enclave.connections[0]
            rig.call(_abort(first))
            assert asked.result(20).choices[0].message.content == "went on"
        wait_until(lambda: not health(rig)["draining"])
        assert rig.ask().choices[0].message.content == "went on"


async def _abort(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


def test_a_cancelled_answer_does_not_hold_an_old_link(tmp_path):
    class Newer(FlatModel):
        name, digest = "newer", b"n" * 32

    shelf = Shelf.of([FlatModel()])
    rig = Rig(tmp_path, models=shelf)
    rig.enclave.script = lambda request: [Opened(Coding.PLAIN), Tokens((97,)), Hang()]
    with rig:
        with rig.client(timeout=1.0) as client, pytest.raises(openai.APITimeoutError):
            client.chat.completions.create(
                model=MODEL, messages=[{"role": "user", "content": "hi"}]
            )
        with shelf._state:  # the shelf's own way needs files
            shelf._entries = [*Shelf.of([Newer()])._entries, *shelf._entries]
        wait_until(lambda: health(rig)["weak_model"] == "newer", 30)
        wait_until(lambda: not health(rig)["draining"], 30)
        rig.enclave.script = lambda request: [
            Opened(Coding.PLAIN), Tokens((98,)), Finished(Finish.STOP)]  # fmt: skip
        assert rig.ask().choices[0].message.content == "b"
        assert len(rig.enclave.cancels) == 1


def test_an_enclave_that_ends_nothing_does_not_hold_an_old_link(tmp_path, monkeypatch):
    class Newer(FlatModel):
        name, digest = "newer", b"n" * 32

    class Hoarder(FakeEnclave):
        async def _play(self, writer, number, request, cancelled):
            await asyncio.sleep(3600)

    monkeypatch.setattr("narrows.edge.link.upkeep.UNWANTED_S", 0.5)
    shelf = Shelf.of([FlatModel()])
    rig = Rig(tmp_path, models=shelf)
    rig.enclave = Hoarder()
    with rig:
        with rig.client(timeout=1.0) as client, pytest.raises(openai.APITimeoutError):
            client.chat.completions.create(
                model=MODEL, messages=[{"role": "user", "content": "hi"}]
            )
        with shelf._state:
            shelf._entries = [*Shelf.of([Newer()])._entries, *shelf._entries]
        wait_until(lambda: health(rig)["weak_model"] == "newer", 30)
        wait_until(lambda: not health(rig)["draining"], 30)


def test_tries_become_rare():
    now = [100.0]
    patience = Patience(lambda: now[0])
    tries = []
    while now[0] < 100 + 86_400:
        if patience.over:
            tries.append(now[0])
            patience.tried()
        now[0] += 1
    assert tries[:4] == [100, 105, 115, 135]
    assert len(tries) < 40
    assert tries[-1] - tries[-2] == 3600
    patience.reset()
    assert patience.over
