"""Alarms on their way: to a webhook and to a command, in a thread of its own.

Whoever hears is at most told: no answer of theirs is looked at beyond "taken or not". Bounded in
everything: ``MAX_WAITING`` alarms, attempts, seconds, bytes read. A redirect is a refusal.
"""

from __future__ import annotations

import contextlib
import json
import logging
import queue
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from narrows.alarms.settings import AlarmSettings
from narrows.alarms.store import FiledAlarm
from narrows.wire.http_call import CallError, post_json, printable

log = logging.getLogger("narrows.alarms")

MAX_WAITING = 256
RETRY_S = 2.0
_REPLY_BYTES = 1 << 20


class Courier:
    """``told``: hears what became of each alarm, in the courier's thread, or in the sender's
    where too many wait."""

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
    headers = {"User-Agent": "narrows", "Connection": "close"}
    try:
        reply = post_json(address, body, _REPLY_BYTES, time.monotonic() + timeout_s, headers)
    except CallError as error:
        return printable(str(error), 100)
    return "" if 200 <= reply.status < 300 else f"status {reply.status}"
