"""The edge as a process: ready line, Ctrl-C, kill -9, its port, and clients that misbehave."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from edge.harness import Hang, chat, native, running_enclave, wait_until
from narrows.coding.events import Coding, Opened, Tokens
from narrows.edge.books.stats import read_stats

TESTS = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def enclave():
    with running_enclave() as found:
        yield found


class Process:
    def __init__(self, popen, port, scheme):
        self.popen = popen
        self.port = port
        self.url = f"{scheme}://127.0.0.1:{port}"

    def post(self, body, path="/v1/chat/completions", **options):
        return httpx2.post(self.url + path, json=body, timeout=20, **options)

    def raw(self, body=None):
        """A connection that has asked for a stream, and its socket."""
        data = json.dumps(chat(stream=True) if body is None else body).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-length: {len(data)}\r\n"
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=20)
        connection.sendall(head.replace("host: a", "host: localhost").encode() + b"\r\n" + data)
        return connection

    def stop(self, number=signal.SIGINT):
        self.popen.send_signal(number)
        return self.popen.wait(20)


@contextmanager
def edge(state, gate_port, listen_port=0, pair=()):
    environment = os.environ | {"PYTHONPATH": str(TESTS)}
    arguments = [str(TESTS / "edge" / "run_edge.py"), str(state), str(listen_port), str(gate_port)]
    arguments += map(str, pair)
    popen = subprocess.Popen(
        [sys.executable, *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        line = popen.stdout.readline()
        if not line:
            raise RuntimeError(popen.stderr.read())
        facts = json.loads(line)
        assert facts["ready"] is True
        yield Process(popen, facts["port"], "https" if pair else "http")
    finally:
        popen.kill()
        popen.wait(10)
        popen.stdout.close()
        popen.stderr.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopping_ends_answers_with_an_error_and_leaves_nothing(tmp_path, enclave, number):
    enclave.script = lambda request: [Opened(Coding.PLAIN), Tokens((97,)), Hang()]
    with edge(tmp_path, enclave.port) as process:
        connection = process.raw()
        received = b""
        while b'"content":"a"' not in received:
            data = connection.recv(65536)
            assert data, received
            received += data
        idle = socket.create_connection(("127.0.0.1", process.port))  # holds nothing up
        process.popen.send_signal(number)
        while data := connection.recv(65536):
            received += data
        assert b"shutting_down" in received
        assert process.popen.wait(20) == 0
        assert process.popen.stderr.read().count("Traceback") == 0
        connection.close()
        idle.close()
    assert read_stats(tmp_path).total.link_bytes > 0


def test_kill_9_and_restart(tmp_path, enclave):
    enclave.script = lambda request: native("word")
    with edge(tmp_path, enclave.port) as process:
        for _ in range(3):
            assert process.post(chat()).status_code == 200
        wait_until(lambda: read_stats(tmp_path).total.answers == 3)
        enclave.script = lambda request: [Opened(Coding.PLAIN), Tokens((97,)), Hang()]
        connection = process.raw()
        connection.recv(65536)
        process.popen.kill()
        with pytest.raises(OSError):  # noqa: PT012 - reset, or an end without its last chunk
            while connection.recv(65536):
                pass
            raise ConnectionError("closed")
        connection.close()
        port = process.port
    enclave.script = lambda request: native("again")
    with edge(tmp_path, enclave.port, port) as process:
        answer = process.post(chat()).json()
        assert answer["choices"][0]["message"]["content"] == "again"
        assert process.stop() == 0
    total = read_stats(tmp_path).total
    assert (total.answers, total.answer_bytes) == (4, 3 * 4 + 5)


def test_a_second_edge_on_the_port_is_an_error(tmp_path, enclave):
    with (
        edge(tmp_path / "a", enclave.port) as process,
        pytest.raises(RuntimeError, match="cannot listen"),
        edge(tmp_path / "b", enclave.port, process.port),
    ):
        pass


def test_slow_and_rude_clients_harm_no_one(tmp_path, enclave):
    """Clients that read nothing, send half a request, or too much: others are served."""
    big = native("y" * 30_000, size=500)
    enclave.script = lambda request: big
    with edge(tmp_path, enclave.port) as process:
        deaf = [process.raw() for _ in range(8)]
        half = socket.create_connection(("127.0.0.1", process.port))
        half.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-le")
        liar = socket.create_connection(("127.0.0.1", process.port))
        liar.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 99\r\n\r\n{"
        )
        time.sleep(0.2)
        answer = process.post(chat())
        assert len(answer.json()["choices"][0]["message"]["content"]) == 30_000
        headers = {f"x-{index}": "y" * 8000 for index in range(40)}
        assert process.post(chat(), headers=headers).status_code == 431
        huge = socket.create_connection(("127.0.0.1", process.port), timeout=20)
        huge.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n"
            b"content-length: 1099511627776\r\n\r\n{"
        )
        assert b" 413 " in huge.recv(65536)
        chunks = (b" " * 65536 for _ in range(64))
        try:
            answer = httpx2.post(process.url + "/v1/chat/completions", content=chunks, timeout=20)
            assert answer.status_code == 413
        except httpx2.TransportError:
            pass  # the connection was closed on it, which is as good
        for connection in (*deaf, half, liar, huge):
            connection.close()
        assert process.post(chat()).status_code == 200
        assert process.stop() == 0
