"""What stands before the routes: paths as clients write them, request ids, the log, web pages.

Everything here is said by a client, so it is bounded before it is repeated: a request id is taken
over where it is short and printable, a path is written to the log percent-encoded and cut, and
nothing else of a request is.

A browser lets a page read a reply only where the reply names the page's origin. Starlette answers
preflights, which carry no key, and marks replies, streams included. What browsers send without
asking first is refused in ``access.py``: a page that is not named spends nothing.
"""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import quote

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from narrows.edge.config import EdgeConfig

log = logging.getLogger("narrows.edge.requests")

PREFLIGHT_S = 600
MAX_ID_CHARS = 128
MAX_LOGGED_CHARS = 200
GONE = 499
LINK_BYTES_HEADER = "x-narrows-link-bytes"
_RATES = [f"x-ratelimit-{what}" for what in ("limit", "remaining", "reset")]
_READABLE = (
    "request-id",
    "retry-after",
    "x-request-id",
    "x-should-retry",
    LINK_BYTES_HEADER,
    *(f"{what}-{unit}" for what in _RATES for unit in ("requests", "tokens")),
)
_ID = re.compile(rb"[!-~]{1,%d}" % MAX_ID_CHARS)
_BARE = ("audio", "chat", "completions", "embeddings", "images", "messages", "models", "responses")
_RECORD = "narrows.record"


@dataclass(slots=True)
class RequestRecord:
    """What is known of a request besides its content. ``key_id``: None before a key was looked
    at. ``link_bytes``: code length of its answers, None where it asked for none. ``headers``: go
    out with its reply."""

    request_id: str
    key_id: int | None = None
    link_bytes: float | None = None
    headers: dict[str, str] = field(default_factory=dict)


def record_of(scope: Scope) -> RequestRecord:
    """The record of a request that came through ``Front``."""
    record: RequestRecord = scope[_RECORD]
    return record


def make_front(app: ASGIApp, config: EdgeConfig) -> ASGIApp:
    """``app`` as clients see it."""
    if config.cors_origins:
        app = CORSMiddleware(
            app,
            allow_origins=config.cors_origins,
            allow_methods=("GET", "POST", "DELETE"),
            allow_headers=("*",),
            expose_headers=_READABLE,
            max_age=PREFLIGHT_S,
        )
    return Front(app, config.request_log)


def plain_path(path: str) -> str:
    """The path that has a route: without slashes at its end, and with the ``/v1`` that clients of
    other servers leave out."""
    path = path.rstrip("/") or "/"
    bare = path[1:].partition("/")[0] in _BARE
    return "/v1" + path if bare else path


class Front:
    """Outermost. ``logs``: a line for each request, when it is over."""

    def __init__(
        self,
        app: ASGIApp,
        logs: bool,
        clock_s: Callable[[], float] = time.monotonic,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._app = app
        self._logs = logs
        self._clock_s = clock_s
        self._random_bytes = random_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record = RequestRecord(self._request_id(scope))
        path = plain_path(scope["path"])
        status, started_s = GONE, self._clock_s()

        async def marked(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                own = {"x-request-id": record.request_id} | record.headers
                if path.startswith("/v1/messages"):  # what Anthropic's clients call it
                    own["request-id"] = record.request_id
                fields = [
                    (name.encode("ascii"), text.encode("ascii")) for name, text in own.items()
                ]
                message["headers"] = [*message.get("headers", ()), *fields]
            await send(message)

        try:
            await self._app({**scope, "path": path, _RECORD: record}, receive, marked)
        finally:
            if self._logs:
                took_s = self._clock_s() - started_s
                log.info("%s", _line(scope["method"], path, status, record, took_s))

    def _request_id(self, scope: Scope) -> str:
        given = [value for name, value in scope["headers"] if name == b"x-request-id"]
        if len(given) == 1 and _ID.fullmatch(given[0]):
            return str(given[0].decode("ascii"))
        return "req_" + self._random_bytes(16).hex()


def _line(method: str, path: str, status: int, record: RequestRecord, took_s: float) -> str:
    """Words without spaces, so that no client can write a second line, or another's fields."""
    shown = quote(path[:MAX_LOGGED_CHARS], errors="replace")
    key = "-" if record.key_id is None else str(record.key_id)
    link = "-" if record.link_bytes is None else f"{record.link_bytes:.0f}"
    words = [quote(method[:16]), shown[:MAX_LOGGED_CHARS], str(status), record.request_id]
    return " ".join([*words, f"key={key}", f"link_bytes={link}", f"ms={1000 * took_s:.0f}"])
