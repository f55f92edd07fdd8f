"""Strangers at the witness's port: idle, slow, many. None of them keeps a gate out."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest

from ledger.ledger_helpers import Deployment, make_keys, served
from ledger.peers import listening, read_request
from ledger.test_witness import Log
from narrows.bench.gate_peers import Counter, deployment, enclave_process
from narrows.ledger.log.note import format_hashes
from narrows.ledger.witness import server as witness_http
from narrows.ledger.witness.slots import MAX_CONNECTIONS, Slots
from narrows.wire.http_call import Connection

PATIENCE_S = 60.0
BUDGET_BYTES = 1 << 40


@contextlib.contextmanager
def _strangers(port: int, count: int, says: bytes = b"") -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as stack:
        found = []
        for _ in range(count):
            found.append(stack.enter_context(socket.create_connection(("127.0.0.1", port))))
            with contextlib.suppress(OSError):
                found[-1].sendall(says)
        yield found


@pytest.mark.slow
@pytest.mark.parametrize(
    "says", [b"", b"POST /x HTTP/1.1\r\nX: ", b"POST /x HTTP/1.1\r\nContent-Length: 9\r\n\r\n"]
)
def test_a_gate_starts_and_serves_beside_idle_strangers(says: bytes) -> None:
    with deployment(BUDGET_BYTES) as site, enclave_process("flood") as inside:
        with _strangers(site.witness_port, MAX_CONNECTIONS + 50, says):
            gate = site.start_gate(inside)
            with _strangers(site.witness_port, MAX_CONNECTIONS + 50, says):
                counter = Counter(gate.port)
                deadline = time.monotonic() + PATIENCE_S
                while counter.arrived_bytes < 3_000_000:  # several leases
                    assert time.monotonic() < deadline
                    time.sleep(0.05)
                counter.close()
                gate.process.terminate()
                assert gate.process.wait(PATIENCE_S) == 0
        gate.kill()


def test_the_one_who_waits_longest_in_the_largest_network_makes_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("narrows.ledger.witness.slots.MAX_CONNECTIONS", 4)
    slots = Slots()
    pairs = [socket.socketpair() for _ in range(8)]
    ours = [pair[0] for pair in pairs]
    for pair in pairs:
        pair[1].setblocking(False)

    def cut(number: int) -> bool:
        try:
            return pairs[number][1].recv(1) == b""
        except BlockingIOError:
            return False

    hosts = ["10.0.0.1", "2001:db8::1", "2001:db8::2", "2001:db8::3%eth0"]
    for sock, host in zip(ours, hosts, strict=False):
        assert slots.enter(sock, host)
    slots.mark(ours[1], busy=True)  # its request is being carried out
    assert slots.enter(ours[4], "10.0.0.2")
    assert [cut(n) for n in range(5)] == [False, False, True, False, False]
    for number in (0, 3, 4):
        slots.mark(ours[number], busy=True)
    assert not slots.enter(ours[5], "10.0.0.3"), "nobody idle: nobody is cut off"
    slots.mark(ours[0], busy=False)
    assert slots.enter(ours[5], "10.0.0.3")
    assert cut(0)
    for number in range(6):
        slots.leave(ours[number])
    for pair in pairs:
        for sock in pair:
            sock.close()


def test_a_request_has_one_deadline_however_it_drips(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(witness_http, "IDLE_TIMEOUT_S", 0.5)
    made = Deployment.create(tmp_path / "state")
    with served(made) as client:

        def drip(start: bytes, again: bytes) -> None:
            with socket.create_connection((client._host, client._port)) as sock:
                sock.sendall(start)
                deadline = time.monotonic() + PATIENCE_S
                while time.monotonic() < deadline:
                    try:
                        sock.sendall(again)
                    except OSError:
                        return
                    time.sleep(0.1)
            raise AssertionError("it was never cut off")

        head = b"POST /latest HTTP/1.1\r\n"
        with ThreadPoolExecutor(4) as threads:
            for done in [
                threads.submit(drip, b"", b"P"),
                threads.submit(drip, head, b"X: y\r\n"),
                threads.submit(drip, head + b"Content-Length: 9999\r\n\r\n", b"x"),
                threads.submit(drip, head + b"X: ", b"y" * 100_000),
            ]:
                done.result()
    made.close()


def test_statuses_of_add_checkpoint_are_those_of_c2sp(tmp_path: Path) -> None:
    made = Deployment.create(tmp_path / "state")
    with served(made) as client:
        deadline = time.monotonic() + PATIENCE_S
        connection = Connection(client._host, client._port, deadline)

        def add(old: str, signed: bytes, proof: list[bytes] | None = None) -> tuple[int, bytes]:
            body = f"old {old}\n{format_hashes(proof or [])}\n".encode() + signed
            found = connection.post("/add-checkpoint", body, "text/plain", 9999, deadline)
            return found.status, found.body

        log, fork = Log(made), Log(made)
        first = log.grow(b"a", b"b")
        other = fork.grow(b"a", b"x")
        assert add("0", log.signed(origin="other.example"))[0] == 404
        assert add("0", log.signed(make_keys(9, 1)[0]))[0] == 403
        assert add("3", first)[0] == 400
        assert add("\u00b2".encode().decode("latin-1"), first)[0] == 400
        for old in ("+0", "-1", "00", "\u0663", "", "9" * 20):
            assert add(old, first)[0] == 400
        assert add("0", first[:-20])[0] == 400
        assert add("1", first, log.tree.consistency(1)) == (409, b"0\n")
        assert add("0", first)[0] == 200
        status, body = add("2", other)
        assert (status, body[:1].isdigit()) == (409, False)
        second = log.grow(b"c")
        assert add("1", second, log.tree.consistency(1)) == (409, b"2\n")
        assert add("2", second, [bytes(32)])[0] == 422
        assert add("2", second, log.tree.consistency(2))[0] == 200
        connection.close()
        for length in (b"\xc2\xb2", b"+1", b"1_0", b"-1", b" ", b"99999999"):
            with socket.create_connection((client._host, client._port)) as raw:
                raw.sendall(b"POST /latest HTTP/1.1\r\nContent-Length: " + length + b"\r\n\r\n")
                raw.settimeout(PATIENCE_S)
                assert b" 413 " in raw.recv(100)
    made.close()


# -- a witness that turns on its gates ---------------------------------------------------------


class _Turncoat:
    """A way to the witness that relays, until ``hostile`` is something to say again and again."""

    def __init__(self, port: int) -> None:
        self._port, self.hostile, self.every_s = port, b"", 0.0
        self.turned = threading.Event()

    def __call__(self, client: socket.socket) -> None:
        while True:
            request = read_request(client)
            if self.hostile:
                self.turned.set()
                while True:
                    client.sendall(self.hostile)
                    time.sleep(self.every_s)
            with socket.create_connection(("127.0.0.1", self._port)) as upstream:
                upstream.sendall(request.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
                while more := upstream.recv(65_536):
                    client.sendall(more)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("hostile", "every_s"),
    [(b"H", 1.0), (b"HTTP/1.1 100 Continue\r\n\r\n", 0.1), (b"HTTP/1.1 200 x\r\nX: y\r\n", 0.0)],
)
def test_a_gate_ends_on_sigterm_while_its_witness_drips(hostile: bytes, every_s: float) -> None:
    with deployment(BUDGET_BYTES) as site, enclave_process("flood") as inside:
        turncoat = _Turncoat(site.witness_port)
        with listening(turncoat) as url:
            server = SimpleNamespace(server_address=("127.0.0.1", urlsplit(url).port))
            gate = replace(site, server=server).start_gate(inside)  # type: ignore[arg-type]
            counter = Counter(gate.port)
            _wait(lambda: counter.arrived_bytes > 100_000)
            turncoat.every_s, turncoat.hostile = every_s, hostile
            assert turncoat.turned.wait(PATIENCE_S)
            counter.join(PATIENCE_S)  # its lease is used up, and no other is granted
            gate.process.terminate()
            assert gate.process.wait(PATIENCE_S) == 0
            gate.kill()


def _wait(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)
