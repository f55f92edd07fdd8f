"""Where alarms go: hostile and broken receivers are bounded, retried, and never obeyed."""

from __future__ import annotations

import json
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from narrows.alarms.courier import MAX_WAITING, Courier, call, deliver, post
from narrows.alarms.settings import AlarmSettings
from narrows.alarms.store import FiledAlarm

ALARM = FiledAlarm(1, "noise", "noise-key", 2, "tell", 1, 1, 1, 21.0, "[red]\x1b[31m words")


@contextmanager
def server(*replies: bytes, hold: bool = False) -> Iterator[tuple[str, list[bytes]]]:
    """Answers one connection after the other, with these bytes; then none."""
    listener = socket.create_server(("127.0.0.1", 0))
    heard: list[bytes] = []

    def serve() -> None:
        for reply in replies:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                heard.append(connection.recv(65536))
                connection.sendall(reply)
                if hold:
                    connection.recv(1)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/hook?x=1", heard
    listener.close()


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", ""),
        (b"HTTP/1.0 204\r\n\r\n", ""),
        (b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\n\r\n", "status 302"),
        (b"HTTP/1.1 500 No\r\n\r\n", "status 500"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", "the connection ended within an answer"),
        (b"HTTP/1.1 100 x\r\n\r\n" * 99, "interim answers, and no final one"),
        (b"\xff" * 20_000, "the answer's head is too long"),
        (b"HTTP/1.1 2000000000\r\n", "the answer is no HTTP"),
        (b"", "the connection ended within an answer"),
    ],
)
def test_what_a_webhook_answers(reply: bytes, why: str) -> None:
    with server(reply) as (address, _):
        assert post(address, b"{}", 20.0) == why


def test_a_webhook_that_says_nothing_is_left() -> None:
    with server(b"HTTP/1.1 2", hold=True) as (address, _):
        assert post(address, b"{}", 0.3) in ("timed out", "no answer in time")


def test_one_that_fails_is_tried_again_and_the_body_is_whole_json() -> None:
    waits: list[float] = []
    with server(b"HTTP/1.1 503 x\r\n\r\n", b"HTTP/1.1 200 x\r\n\r\n") as (address, heard):
        settings = AlarmSettings(webhook=address)
        assert deliver(settings, ALARM.figures(), waits.append) == "webhook taken"
    assert len(waits) == 1
    head, _, body = heard[1].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /hook?x=1 HTTP/1.1\r\n")
    assert json.loads(body)["note"] == ALARM.note
    assert b"\x1b" not in body


def test_tries_end() -> None:
    settings = AlarmSettings(webhook="http://127.0.0.1:1/", tries=2, timeout_s=5)
    assert "not taken" in deliver(settings, ALARM.figures(), lambda s: None)


def test_a_command_gets_its_words_as_they_are_and_no_shell() -> None:
    code = "import sys; sys.exit(sys.argv[1] != '$(id); rm *' or not sys.stdin.read())"
    assert call((sys.executable, "-c", code, "$(id); rm *"), b"{}", 60.0) == ""
    assert "exit status" in call((sys.executable, "-c", "raise SystemExit(3)"), b"{}", 60.0)
    assert "No such file" in call(("/no/such/program",), b"{}", 5.0)
    assert "not done" in call((sys.executable, "-c", "import time; time.sleep(60)"), b"", 0.3)


def test_a_courier_never_blocks_and_says_what_it_dropped() -> None:
    release = threading.Event()
    told: list[str] = []
    done: Callable[[FiledAlarm, str], None] = lambda alarm, outcome: told.append(outcome)  # noqa: E731
    settings = AlarmSettings(webhook="http://127.0.0.1:1/", tries=2, timeout_s=1)
    courier = Courier(settings, done, lambda s: release.wait(60))
    for _ in range(MAX_WAITING + 10):
        courier.send(ALARM)
    assert told.count("not sent: too many wait") >= 8
    courier._over.set()
    release.set()
    courier.close(30.0)


def test_settings_name_every_mistake() -> None:
    wrong = AlarmSettings(
        webhook="ftp://x/", command=("",), timeout_s=0, tries=99, quiet_s=-1, per_hour=0
    )
    assert len(wrong.problems()) == 6
    for address in ("http://u:p@x/", "http://x y/", "http://x:0/", "http:///", "http://x:99999/"):
        assert AlarmSettings(webhook=address).problems()
    assert AlarmSettings(webhook="https://[::1]:8443/a?b", command=("true",)).problems() == []
    assert AlarmSettings().policy("full") == "tell"
    assert AlarmSettings(cost="refuse-key").policy("full") == "close"
