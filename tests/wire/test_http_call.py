"""Peers that send nonsense, drip, or never end: one deadline, one kind of error, and no thread
that outlives it. The client of the witness and that of etcd stand on the same code."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ledger.ledger_helpers import make_keys
from ledger.peers import listening, read_request
from narrows.ledger.log import note
from narrows.ledger.stores.etcd_http import EtcdClient, EtcdConfig
from narrows.ledger.stores.store import StoreError
from narrows.ledger.witness.server import HttpWitness
from narrows.ledger.witness.witness import WitnessError
from narrows.wire import http_call
from narrows.wire.http_call import CallError, Connection, HttpReply, printable

TIMEOUT_S = 1.0
PATIENCE_S = 30.0  # for a call of TIMEOUT_S on a busy machine
KEY = note.Verifier("w", make_keys(1, 1)[0].public_key().public_bytes_raw(), note.TYPE_COSIGNATURE)
OK = b"HTTP/1.1 200 OK\r\n"


def _says(data: bytes, end: bool = True) -> Callable[[socket.socket], None]:
    def answer(client: socket.socket) -> None:
        read_request(client)
        client.sendall(data)
        if not end:
            client.recv(1)

    return answer


def _repeats(start: bytes, again: bytes, every_s: float = 0.0) -> Callable[[socket.socket], None]:
    def answer(client: socket.socket) -> None:
        read_request(client)
        client.sendall(start)
        while True:
            client.sendall(again)
            time.sleep(every_s)

    return answer


def _never_reads(client: socket.socket) -> None:
    time.sleep(3 * TIMEOUT_S)


NONSENSE: dict[str, Callable[[socket.socket], None]] = {
    "silence": _says(b"", end=False),
    "no request is read": _never_reads,
    "a status line byte by byte": _repeats(b"HTTP/1.1 200 ", b"O", 0.1),
    "a header byte by byte": _repeats(OK + b"X: ", b"y", 0.1),
    "headers one by one": _repeats(OK, b"X: y\r\n", 0.1),
    "a body byte by byte": _repeats(OK + b"Content-Length: 1000\r\n\r\n", b"y", 0.1),
    "chunks byte by byte": _repeats(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\ny\r\n", 0.1),
    "a body without an end": _repeats(OK + b"\r\n", b"y", 0.1),
    "interim answers without end": _repeats(b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.05),
    "interim answers at once": _repeats(b"", b"HTTP/1.1 103 x\r\nA: b\r\n\r\n"),
    "a change of protocol": _says(b"HTTP/1.1 101 x\r\n\r\n", end=False),
    "a header of megabytes": _repeats(OK + b"X: ", b"y" * 65536),
    "headers without number": _repeats(OK, b"X: y\r\n" * 1000),
    "a status line of megabytes": _repeats(b"HTTP/1.1 200 ", b"y" * 65536),
    "a body too large": _repeats(OK + b"\r\n", b"y" * 65536),
    "a length too large": _says(OK + b"Content-Length: 99999999999\r\n\r\n"),
    "a length that is no number": _says(OK + b"Content-Length: \xc2\xb2\r\n\r\n12"),
    "a negative length": _says(OK + b"Content-Length: -1\r\n\r\n{}"),
    "two lengths": _says(OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}x"),
    "length and chunks": _says(
        OK + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
    ),
    "an unknown coding": _says(OK + b"Transfer-Encoding: gzip\r\n\r\n{}"),
    "a negative chunk": _repeats(OK + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n", b"y" * 65536),
    "a chunk too large": _says(OK + b"Transfer-Encoding: chunked\r\n\r\nffffffff\r\n"),
    "a chunk line of megabytes": _repeats(OK + b"Transfer-Encoding: chunked\r\n\r\n1;", b"y" * 999),
    "trailers without end": _repeats(OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X: y\r\n"),
    "a torn body": _says(OK + b"Content-Length: 9\r\n\r\n{}"),
    "no http": _says(b"SSH-2.0-x\r\n\r\n"),
    "no status": _says(b"HTTP/1.1 \xc2\xb2\xc2\xb2\xc2\xb2 x\r\n\r\n"),
    "a header without a name": _says(OK + b": y\r\nContent-Length: 2\r\n\r\n{}"),
    "a folded header": _says(OK + b"X: y\r\n z\r\nContent-Length: 2\r\n\r\n{}"),
}


def _within(call: Callable[[], object]) -> object:
    """What ``call`` returned or raised, within the deadline that it should keep by itself."""
    found: list[object] = []

    def work() -> None:
        try:
            found.append(call())
        except BaseException as error:  # noqa: BLE001 - handed on
            found.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(PATIENCE_S)
    assert found, "the call did not end"
    return found[0]


@pytest.mark.parametrize("kind", NONSENSE)
def test_a_witness_that_sends_nonsense_is_an_error_in_bounded_time(kind: str) -> None:
    with listening(NONSENSE[kind]) as url:
        client = HttpWitness("127.0.0.1", int(url.rpartition(":")[2]), KEY, TIMEOUT_S)
        found = _within(lambda: client.cosign(0, [], bytes(1 << 17)))
        assert type(found) is WitnessError
        assert found.size is None
        client.close()


@pytest.mark.parametrize("kind", NONSENSE)
def test_an_etcd_that_sends_nonsense_is_an_error_in_bounded_time(kind: str) -> None:
    with listening(NONSENSE[kind]) as url:
        client = EtcdClient(EtcdConfig((url,), "n", TIMEOUT_S))
        found = _within(lambda: client.write("/v3/kv/txn", {"x": "y" * (1 << 23)}))
        assert type(found) is StoreError
        client.close()


def test_a_tls_handshake_that_drips_is_under_the_deadline(tmp_path: Path) -> None:
    def drip(client: socket.socket) -> None:
        client.recv(65536)
        for byte in b"\x16\x03\x03\x00\x7a\x02\x00\x00\x76\x03\x03" + bytes(120):
            client.sendall(bytes([byte]))
            time.sleep(0.2)

    with listening(drip) as url:
        context = ssl.create_default_context()
        port = int(url.rpartition(":")[2])
        found = _within(
            lambda: Connection("127.0.0.1", port, time.monotonic() + TIMEOUT_S, context)
        )
        assert type(found) is CallError


@pytest.mark.parametrize(
    ("data", "body", "kept"),
    [
        (OK + b"Content-Length: 2\r\n\r\n{}", b"{}", True),
        (OK + b"content-length:2\r\nConnection: close\r\n\r\n{}", b"{}", False),
        (b"HTTP/1.0 200\r\nContent-Length: 2\r\n\r\n{}", b"{}", False),
        (OK + b"\r\n{}", b"{}", False),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n01;x=y\r\n}\r\n0\r\n\r\n", b"{}", True),
        (OK + b"Transfer-Encoding: Chunked\r\n\r\n0\r\nA: b\r\n\r\n", b"", True),
        (b"HTTP/1.1 103 x\r\nA: b\r\n\r\n" + OK + b"Content-Length: 0\r\n\r\n", b"", True),
        (b"HTTP/1.1 204 x\r\n\r\n", b"", True),
        (OK + b"Content-Length: 2\r\n\r\n{}HTTP/1.1 200 unasked\r\n\r\n", b"{}", False),
    ],
)
def test_answers_in_every_form(data: bytes, body: bytes, kept: bool) -> None:
    ended = threading.Event()

    def answer(client: socket.socket) -> None:
        read_request(client)
        client.sendall(data)
        if body and b"length" not in data.lower() and b"chunked" not in data.lower():
            return
        ended.wait(PATIENCE_S)

    with listening(answer) as url:
        deadline = time.monotonic() + PATIENCE_S
        connection = Connection("127.0.0.1", int(url.rpartition(":")[2]), deadline)
        found = connection.post("/x", b"request", "text/plain", 100, deadline)
        assert found.body == body
        assert connection.gone() is not kept
        connection.close()
        ended.set()


@contextmanager
def _answering(said: list[bytes]) -> Iterator[int]:
    """A server that says what is in ``said`` at that moment; its port."""

    def answer(client: socket.socket) -> None:
        read_request(client)
        client.sendall(said[0])

    with listening(answer) as url:
        yield int(url.rpartition(":")[2])


TEMPLATES = (
    OK + b"Content-Length: 5\r\nContent-Type: text/plain\r\n\r\n12345",
    OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x\r\nde\r\n0\r\nT: x\r\n\r\n",
    b"HTTP/1.1 409 Conflict\r\nContent-Length: 3\r\n\r\n12\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 503 x\r\n\r\n{}",
)


@st.composite
def _answers(draw: st.DrawFn) -> bytes:
    """Bytes near an answer: pieces taken out, doubled, or replaced."""
    data = bytearray(draw(st.sampled_from(TEMPLATES)))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        count = draw(st.integers(0, 6))
        junk = draw(st.one_of(st.binary(max_size=6), st.sampled_from([b"\r\n", b"\xc2\xb2", b"-"])))
        data[at : at + count] = junk
    return bytes(data)


def test_fuzzed_answers_are_an_answer_or_a_call_error() -> None:
    said = [b""]
    with _answering(said) as port:

        @settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
        @given(st.one_of(_answers(), st.binary(max_size=60)))
        def attack(data: bytes) -> None:
            said[0] = data
            deadline = time.monotonic() + PATIENCE_S
            try:
                connection = Connection("127.0.0.1", port, deadline)
                found = connection.post("/x", b"r", "text/plain", 64, deadline)
            except CallError:
                return
            connection.close()
            assert isinstance(found, HttpReply)
            assert 200 <= found.status < 600
            assert len(found.body) <= 64

        attack()


def test_fuzzed_answers_of_a_witness_are_bytes_or_a_witness_error() -> None:
    said = [b""]
    with _answering(said) as port:

        @settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
        @given(
            st.sampled_from([b"200", b"409", b"404", b"500"]),
            st.one_of(
                st.binary(max_size=40),
                st.text("0123456789\u00b2\u0663-+_ \n", max_size=24).map(str.encode),
            ),
            st.sampled_from(["cosign", "latest", "recover", "operators"]),
        )
        def attack(status: bytes, body: bytes, call: str) -> None:
            said[0] = b"HTTP/1.1 %s x\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)
            client = HttpWitness("127.0.0.1", port, KEY, PATIENCE_S)
            calls: dict[str, Callable[[], object]] = {
                "cosign": lambda: client.cosign(0, [], b"n"),
                "latest": lambda: client.latest("o", bytes(32)),
                "recover": lambda: client.recover(b"", [], b"n"),
                "operators": lambda: client.set_operators(b""),
            }
            found: WitnessError | None = None
            try:
                calls[call]()
            except WitnessError as error:
                found = error
            client.close()
            assert (found is None) is (status == b"200")
            if found is not None:
                assert found.size is None or 0 <= found.size < 1 << 63
                assert found.message.isprintable()

        attack()


def test_what_a_peer_says_is_fit_for_a_terminal() -> None:
    assert printable("a\x1b[2Jb\u202ec", 6) == "a?[2Jb"
    assert printable("a\nb", 9) == "a?b"


def test_a_witness_at_a_size_in_superscript_is_an_error() -> None:
    data = b"HTTP/1.1 409 Conflict\r\nContent-Length: 2\r\n\r\n\xc2\xb2"
    with listening(_says(data)) as url:
        client = HttpWitness("127.0.0.1", int(url.rpartition(":")[2]), KEY, PATIENCE_S)
        found = _within(lambda: client.cosign(0, [], b"n"))
        assert type(found) is WitnessError
        assert found.size is None
        client.close()


@pytest.mark.parametrize(
    "sent", [b"", b"POST / HTT", b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\nx"]
)
def test_a_test_peer_ends_with_a_client_that_hangs_up(sent: bytes) -> None:
    ended = threading.Event()

    def answer(client: socket.socket) -> None:
        try:
            read_request(client)
        finally:
            ended.set()

    with listening(answer) as url:
        with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) as client:
            client.sendall(sent)
        assert ended.wait(PATIENCE_S)


def test_a_head_costs_no_more_than_its_bytes() -> None:
    """Nothing looks at the deadline amid a line, and a gate's loop waits for whoever reads one."""
    line = b"X:" + b" " * (http_call.MAX_HEAD_BYTES - 100)
    before = time.process_time()
    for end in (b"\r", b"\0", b" "):
        assert (http_call._HEADER.fullmatch(line + end) is None) == (end != b" ")
    assert time.process_time() - before < 2.0
