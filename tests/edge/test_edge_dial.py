"""The way to the gate: pinned TLS, constant pacing, greetings, and a link that hoards."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import json
import socket
import threading
import time

import pytest

from edge.harness import FakeEnclave, Rig, chat, native, wait_until
from edge.standin import FlatModel, LineDecoder
from narrows.edge.books.stats import read_stats
from narrows.edge.config import EdgeConfig
from narrows.edge.link.dial import Unreachable
from narrows.edge.link.upkeep import LinkClient
from narrows.errors import PeerError
from narrows.models.shelf.shelf import Shelf
from narrows.wire.gatestate import PortState
from narrows.wire.messages import Greeting
from narrows.wire.padding import frame_bytes, pad
from narrows.wire.pins import TlsFiles, make_identity, server_context
from ports import free_port


class PacedEnclave(FakeEnclave):
    """As behind a gate: everything outward in padded frames of one size, perhaps over TLS."""

    def __init__(self, size, tls=None):
        super().__init__()
        self._size = size
        self._tls = tls

    async def start(self, port=0):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]

    def _write(self, writer, data):
        for start in range(0, len(data), self._size - 1):
            writer.write(pad(data[start : start + self._size - 1], self._size))
        writer.write(pad(b"", self._size))


@pytest.fixture(scope="module")
def identities(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys")
    return {name: make_identity(folder, name) for name in ("gate", "edge", "other")}


def files(identities, own, peer):
    return TlsFiles(*identities[own], identities[peer][0])


def test_constant_pacing(tmp_path):
    rig = Rig(tmp_path, constant_bytes=100)
    rig.enclave = PacedEnclave(frame_bytes(100, tls=False))
    rig.enclave.script = lambda request: native("paced " * 50)
    with rig:
        assert rig.ask().choices[0].message.content == "paced " * 50
    assert read_stats(tmp_path).total.link_bytes % 100 == 0


@pytest.mark.parametrize("constant", [0, 200])
def test_tls_with_pinned_keys(tmp_path, identities, constant):
    context = server_context(*identities["gate"], identities["edge"][0])
    rig = Rig(tmp_path, tls=files(identities, "edge", "gate"), constant_bytes=constant)
    rig.enclave = (
        PacedEnclave(frame_bytes(constant, tls=True), context) if constant else TlsEnclave(context)
    )
    rig.enclave.script = lambda request: native("pinned")
    with rig:
        assert rig.ask().choices[0].message.content == "pinned"


class TlsEnclave(FakeEnclave):
    def __init__(self, context):
        super().__init__()
        self._tls = context

    async def start(self, port=0):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]


@pytest.mark.parametrize(
    ("own", "peer", "gate", "gate_trusts"),
    [("edge", "other", "gate", "edge"), ("other", "gate", "gate", "edge")],
    ids=["not the gate", "not the edge"],
)
def test_another_key_gets_nothing(tmp_path, identities, own, peer, gate, gate_trusts):
    context = server_context(*identities[gate], identities[gate_trusts][0])
    rig = Rig(tmp_path, tls=files(identities, own, peer), link_wait_s=0.5)
    rig.enclave = TlsEnclave(context)
    with rig:
        answer = rig.post(chat())
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "link_down")
    assert not rig.enclave.requests


@pytest.mark.parametrize(
    "greeting",
    [
        b"",
        bytes([Greeting.OK]),
        bytes([Greeting.OK, 1]),
        bytes([99, 0]),
        bytes([Greeting.OVERLOADED, 0]),
        bytes([Greeting.NO_COMMON_MODEL, 255]),
    ],
)
def test_any_other_greeting_is_no_link(tmp_path, greeting):
    rig = Rig(tmp_path, link_wait_s=0.3)
    rig.enclave.greeting = greeting
    with rig:
        assert rig.post(chat()).status_code == 503
    assert not rig.enclave.requests


def test_hello_offers_the_models_and_the_options(tmp_path):
    with Rig(tmp_path, link_options={"max_hold_ms": 77}) as rig:
        wait_until(lambda: rig.enclave.hellos)
        hello = rig.enclave.hellos[0]
    assert len(hello.weak) == 1
    assert hello.options["max_hold_ms"] == 77


def test_an_older_enclave_is_offered_no_other_noise(tmp_path):
    """It refuses a hello with an option that it does not know; the next one names none."""

    class Older(FakeEnclave):
        def _write(self, writer, data):
            if data == self.greeting and "noise" in self.hellos[-1].options:
                data = bytes([Greeting.BAD_HELLO, 0])
            super()._write(writer, data)

    rig = Rig(tmp_path)
    rig.enclave = Older()
    rig.enclave.script = lambda request: native("as before")
    with rig:
        assert rig.ask().choices[0].message.content == "as before"
    assert [hello.options.get("noise") for hello in rig.enclave.hellos] == [4, None]


def test_an_edge_that_was_first_finds_its_gate_later(tmp_path):
    port = free_port()
    with Rig(tmp_path, connect=False, gate_port=port) as rig:
        rig.enclave.script = lambda request: native("late")
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            answer = pool.submit(rig.ask)
            time.sleep(0.5)
            assert not answer.done()
            rig.call(rig.enclave.start(port))
            assert answer.result(60).choices[0].message.content == "late"


def test_an_edge_finds_its_gate_again(tmp_path):
    port = free_port()
    rig = Rig(tmp_path, connect=False, gate_port=port)
    with rig:
        rig.enclave.script = lambda request: native("back")
        rig.call(rig.enclave.start(port))
        # A server that is stopped in the middle of an accept keeps a connection unserved.
        wait_until(lambda: rig.get("/healthz").status_code == 200)
        rig.call(rig.enclave.stop())
        wait_until(lambda: rig.get("/healthz").status_code == 503)
        rig.call(rig.enclave.start(port))
        assert rig.ask().choices[0].message.content == "back"


@pytest.mark.parametrize(("error", "early"), [(Unreachable, True), (PeerError, False)])
def test_a_waiting_request_shortens_the_back_off_where_dialling_is_free(error, early):
    """With a back-off of an hour: the second dial comes early, or not at all."""

    async def second_dial():
        dials = asyncio.Queue()

        class NoGate:
            async def state(self):
                return PortState("ok")

            async def connect(self, count):
                await dials.put(None)
                raise error("nobody is there")

        client = LinkClient(
            EdgeConfig(link_wait_s=60),
            Shelf.of([FlatModel()]),
            lambda model, options: LineDecoder(),
            {},
            None,
        )
        client._gate = NoGate()
        client.redial._back_off = lambda error, limit_s: setattr(client.redial, "wait_s", 3600.0)
        running = asyncio.create_task(client.run())
        await dials.get()
        asking = asyncio.create_task(client.start([]))
        try:
            await asyncio.wait_for(dials.get(), 30 if early else 1)
            return True
        except TimeoutError:
            return False
        finally:
            for task in (running, asking):
                task.cancel()
            await asyncio.gather(running, asking, return_exceptions=True)

    assert asyncio.run(second_dial()) == early


def test_a_slow_decoder_of_a_dead_link_does_not_keep_the_next_one_away(tmp_path):
    """Its answer is settled when it stops, and goes on over the new link."""
    busy, release = threading.Event(), threading.Event()

    class Slow(LineDecoder):
        def request(self, spec):
            busy.set()
            release.wait(60)
            return super().request(spec)

    decoders = iter([Slow()])
    rig = Rig(tmp_path, resume_s=60.0)
    rig._make_decoder = lambda model, options: next(decoders, None) or LineDecoder()
    rig.enclave.script = lambda request: native(request.body["messages"][0]["content"])
    with rig, concurrent.futures.ThreadPoolExecutor(1) as pool:
        try:
            slow = pool.submit(rig.ask, "slow")
            assert busy.wait(30)
            for writer in rig.enclave.connections:
                rig._loop.call_soon_threadsafe(writer.transport.abort)
            wait_until(lambda: len(rig.enclave.hellos) == 2, 30)
            assert rig.ask("quick").choices[0].message.content == "quick"
            assert not slow.done()
        finally:
            release.set()
        assert slow.result(60).choices[0].message.content == "slow"


@contextlib.contextmanager
def impatient(rig, body):
    """A client that has asked, and leaves at the end of the block."""
    data = json.dumps(body).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(data)}"
    with socket.create_connection(("127.0.0.1", rig.port)) as connection:
        connection.sendall(head.encode() + b"\r\n\r\n" + data)
        yield


def test_an_enclave_that_ends_nothing_loses_its_link(tmp_path, monkeypatch):
    class Hoarder(FakeEnclave):
        async def _play(self, writer, number, request, cancelled):
            await asyncio.sleep(3600)

    monkeypatch.setattr("narrows.edge.link.upkeep.MAX_OPEN", 6)
    monkeypatch.setattr("narrows.edge.link.link.MAX_OPEN", 6)
    rig = Rig(tmp_path)
    rig.enclave = Hoarder()
    with rig:
        wait_until(lambda: len(rig.enclave.connections) == 1)
        inside = rig.enclave
        for _ in range(3):
            with impatient(rig, chat(n=2)):
                wait_until(lambda: len(inside.requests) == len(inside.cancels) + 2)
            wait_until(lambda: len(inside.requests) == len(inside.cancels))
        assert len(inside.cancels) == 6
        assert rig.post(chat()).status_code == 429
        wait_until(lambda: len(rig.enclave.connections) == 2)
