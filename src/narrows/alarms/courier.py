"""Alarms on their way: to a webhook and to a command, in a thread of its own.

Whoever hears is at most told: no answer of theirs is looked at beyond "taken or not". Bounded in
everything: ``MAX_WAITING`` alarms, attempts, seconds, bytes read. A redirect is a refusal.
"""

from __future__ import annotations

import contextlib
import json
import logging
import queue
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from urllib.parse import urlsplit

from narrows.alarms.settings import AlarmSettings
from narrows.alarms.store import FiledAlarm

log = logging.getLogger("narrows.alarms")

MAX_WAITING = 256
RETRY_S = 2.0
_HEAD_BYTES = 4096


class Courier:
    """``told``: hears, in the courier's thread, what became of each alarm."""

    def __init__(
        self,
        settings: AlarmSettings,
        told: Callable[[FiledAlarm, str], None],
        sleep: Callable[[float], object] | None = None,
    ) -> None:
        self._settings = settings
        self._told = told
        self._over = threading.Event()
        self._sleep = sleep or self._over.wait
        self._waiting: queue.Queue[FiledAlarm | None] = queue.Queue(MAX_WAITING)
        self._thread: threading.Thread | None = None

    def send(self, alarm: FiledAlarm) -> None:
        """Does not block; where too many wait, the alarm is filed and not sent."""
        if not self._settings.webhook and not self._settings.command:
            return
        try:
            self._waiting.put_nowait(alarm)
        except queue.Full:
            self._told(alarm, "not sent: too many wait")
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="narrows-alarms", daemon=True)
            self._thread.start()

    def close(self, wait_s: float = 1.0) -> None:
        """Send nothing more; an attempt under way may end for ``wait_s``."""
        self._over.set()
        with contextlib.suppress(queue.Full):
            self._waiting.put_nowait(None)
        if self._thread is not None:
            self._thread.join(wait_s)

    def _run(self) -> None:
        while (alarm := self._waiting.get()) is not None and not self._over.is_set():
            outcome = deliver(self._settings, alarm.figures(), self._sleep)
            if "not taken" in outcome:
                log.error("alarm %s was not sent: %s", alarm.detector, outcome)
            self._told(alarm, outcome)


def deliver(
    settings: AlarmSettings, figures: Mapping[str, object], sleep: Callable[[float], object]
) -> str:
    """To all that are configured, one after the other; what became of it, in words."""
    body = json.dumps({"narrows": "alarm", **figures}, ensure_ascii=True).encode()
    outcomes = []
    if settings.webhook:
        why = ""
        for attempt in range(settings.tries):
            if attempt:
                sleep(RETRY_S * 2 ** (attempt - 1))
            why = post(settings.webhook, body, settings.timeout_s)
            if not why:
                break
        outcomes.append(f"webhook {'not taken: ' + why if why else 'taken'}")
    if settings.command:
        why = call(settings.command, body, settings.timeout_s)
        outcomes.append(f"command {'not taken: ' + why if why else 'taken'}")
    return "; ".join(outcomes)


def call(command: Sequence[str], body: bytes, timeout_s: float) -> str:
    """Run a command with ``body`` on its standard input; why it did not take it, or nothing.
    One that is late is killed."""
    try:
        done = subprocess.run(
            list(command),
            input=body,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=timeout_s,
            check=False,
            close_fds=True,
        )
    except subprocess.TimeoutExpired:
        return f"not done within {timeout_s:g} s"
    except (OSError, ValueError) as error:
        return str(error)[:100]
    return f"exit status {done.returncode}" if done.returncode else ""


def post(address: str, body: bytes, timeout_s: float) -> str:
    """POST JSON; why it was not taken, or nothing where the status is 2xx. The deadline is one for
    all of it, but for a name's resolver."""
    parts = urlsplit(address)
    host = parts.hostname or ""
    tls = parts.scheme == "https"
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    shown = f"[{host}]" if ":" in host else host
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {shown}{f':{parts.port}' if parts.port else ''}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        "User-Agent: narrows\r\nConnection: close\r\n\r\n"
    ).encode("ascii")
    end_s = time.monotonic() + timeout_s
    try:
        with socket.create_connection((host, parts.port or (443 if tls else 80)), timeout_s) as raw:
            raw.settimeout(_left_s(end_s))
            with _wrapped(raw, host, tls) as connection:
                connection.settimeout(_left_s(end_s))
                connection.sendall(head + body)
                line = _status_line(connection, end_s)
    except (OSError, ValueError) as error:
        return str(error)[:100] or type(error).__name__
    words = line.split(b" ", 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not words[1].isdigit():
        return "no HTTP answer"
    return "" if words[1][:1] == b"2" and len(words[1]) == 3 else f"status {int(words[1][:3])}"


def _wrapped(raw: socket.socket, host: str, tls: bool) -> socket.socket:
    if not tls:
        return raw
    return ssl.create_default_context().wrap_socket(raw, server_hostname=host)


def _status_line(connection: socket.socket, end_s: float) -> bytes:
    """The answer's first line; what has no end within ``_HEAD_BYTES`` is cut there."""
    data = b""
    while b"\n" not in data and len(data) < _HEAD_BYTES:
        connection.settimeout(_left_s(end_s))
        more = connection.recv(_HEAD_BYTES - len(data))
        if not more:
            break
        data += more
    return data.split(b"\r\n", 1)[0].split(b"\n", 1)[0]


def _left_s(end_s: float) -> float:
    left_s = end_s - time.monotonic()
    if left_s <= 0:
        raise TimeoutError("too slow")
    return left_s
