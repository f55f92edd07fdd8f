"""What roles log: lines for people, or one JSON object a line for machines.

``narrows ROLE --log-format json``; ``narrows up`` gives it on to its roles by ``LOG_FORMAT``. A
line has ``time`` (UTC, milliseconds), ``level``, ``role``, ``logger`` and ``message``, and where
something was raised ``raised``, the end of the traceback. It is ASCII: what a stranger put into a
message can neither end the line nor drive a terminal. ``message`` and ``raised`` are bounded.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType

LOG_FORMAT = "NARROWS_LOG_FORMAT"
FORMATS = ("text", "json")
MAX_MESSAGE_CHARS = 4096
MAX_RAISED_CHARS = 16_384
_role = ""
"""Whose lines are JSON in this process; empty: none."""


def json_line(
    level: str, role: str, logger: str, message: str, raised: str = "", time_s: float | None = None
) -> str:
    """One line, without its end. ``time_s``: Unix time, None for now."""
    at = datetime.datetime.fromtimestamp(time.time() if time_s is None else time_s, datetime.UTC)
    fields = {
        "time": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "level": level,
        "role": role,
        "logger": logger,
        "message": message[:MAX_MESSAGE_CHARS],
    }
    if raised:
        fields["raised"] = raised[-MAX_RAISED_CHARS:]
    return json.dumps(fields)


class JsonLines(logging.Formatter):
    """Records of one role as lines of JSON."""

    def __init__(self, role: str) -> None:
        super().__init__()
        self._role_name = role

    def format(self, record: logging.LogRecord) -> str:
        try:
            message = record.getMessage()
        except Exception as error:  # noqa: BLE001 - a line of a library that does not fit its words
            message = f"{record.msg!s} ({error!s})"
        raised = self.formatException(record.exc_info) if record.exc_info else ""
        return json_line(
            record.levelname, self._role_name, record.name, message, raised, record.created
        )


def start_logging(role: str, log_format: str) -> None:
    """Send this process's log to standard error, in one of ``FORMATS``. As JSON that includes
    warnings and what a thread, or the process, ends by."""
    global _role
    handler = logging.StreamHandler(sys.stderr)
    if log_format == "json":
        _role = role
        handler.setFormatter(JsonLines(role))
        logging.captureWarnings(True)
        sys.excepthook = _ended
        threading.excepthook = lambda raised: _ended(
            raised.exc_type, raised.exc_value or raised.exc_type(), raised.exc_traceback
        )
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])


def line_printer(role: str, log_format: str) -> Callable[[str], None]:
    """For a role that logs a few lines without ``logging``: prints one to standard error."""

    def say(text: str) -> None:
        line = f"narrows {role}: {text}"
        if log_format == "json":
            line = json_line("INFO", role, f"narrows.{role}", text)
        with contextlib.suppress(OSError, ValueError):  # a full disk, a closed pipe
            print(line, file=sys.stderr, flush=True)

    return say


def as_error_line(message: str) -> str | None:
    """What a role ends with, as a line of its log; None where its log is for people."""
    return json_line("ERROR", _role, f"narrows.{_role}", message) if _role else None


def _ended(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if not issubclass(kind, SystemExit | KeyboardInterrupt):
        logging.getLogger(f"narrows.{_role}").critical("%s", error, exc_info=(kind, error, trace))
