"""Who may ask: API keys, and on an open loopback edge, no browser pages.

Once a key was ever made, every request to ``/v1`` needs an active one. Without keys the edge
listens on loopback only; there a web page could still make its visitor's browser spend the
budget, so requests that name a foreign host (DNS rebinding) or origin are refused.
"""

from __future__ import annotations

import datetime
import sqlite3
from collections.abc import Mapping
from urllib.parse import urlsplit

from narrows.edge.books import keys
from narrows.edge.books.stats import StatsRecorder, utc_day
from narrows.edge.problems import ApiError
from narrows.errors import InputError
from narrows.wire.address import is_loopback

OPEN_SCOPE = 0
SECONDS_PER_DAY = 86400


class Access:
    """Reads keys from the database on every request: revoking works at once."""

    def __init__(self, database: sqlite3.Connection, stats: StatsRecorder) -> None:
        self._database = database
        self._stats = stats

    def check_listener(self, host: str) -> None:
        """Raises InputError where an edge without keys would listen beyond loopback."""
        if not is_loopback(host) and not keys.any_key(self._database):
            raise InputError(
                f"an edge without API keys would listen on {host}",
                "make one with narrows key new, or listen on 127.0.0.1",
            )

    def scope(self, headers: Mapping[str, str]) -> tuple[int, int | None]:
        """The caller's key number and daily share. Raises ApiError."""
        scheme, _, key = headers.get("authorization", "").partition(" ")
        given = key.strip() if scheme.lower() == "bearer" else ""
        given = given or headers.get("x-api-key", "").strip()  # as Anthropic's clients send it
        found = keys.find_key(self._database, given)
        if found is not None:
            return found
        if keys.any_key(self._database):
            what = "is wrong or revoked" if given else "is missing"
            ways = "'Authorization: Bearer nk-...' or 'x-api-key: nk-...'"
            message = f"The API key {what}: send {ways}."
            raise ApiError(401, "invalid_api_key", message, kind="authentication_error")
        _refuse_browsers(headers)
        return OPEN_SCOPE, None

    def check_share(self, scope: int, share_bytes: int | None, now_s: float) -> None:
        """Raises ApiError where the key has used its share of today, or of the month. Advisory:
        answers in flight are not counted, and the gate's budget holds whatever happens here."""
        day, new_bits = utc_day(now_s), self._stats.unwritten_bits(scope)
        month_bytes, month_bits = keys.month_use(self._database, scope, day)
        if month_bytes is not None and month_bits + new_bits >= 8 * month_bytes:
            raise _used_up(month_bytes, "this month", seconds_to_month(now_s))
        if share_bytes is None:
            return
        if keys.bits_used(self._database, scope, day) + new_bits >= 8 * share_bytes:
            wait_s = SECONDS_PER_DAY - int(now_s) % SECONDS_PER_DAY
            raise _used_up(share_bytes, "today", wait_s)


def seconds_to_month(now_s: float) -> int:
    """Until the next month begins (UTC)."""
    now = datetime.datetime.fromtimestamp(now_s, datetime.UTC)
    first = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    after = (first + datetime.timedelta(days=32)).replace(day=1)
    return max(1, int(after.timestamp() - now_s))


def _used_up(share_bytes: int, when: str, wait_s: int) -> ApiError:
    return ApiError(
        429,
        "key_share_exhausted",
        f"This API key has used its {share_bytes:,} bytes of {when}'s code length.",
        kind="insufficient_quota",
        retry_after_s=wait_s,
    )


def _host(netloc: str) -> str:
    try:
        return urlsplit(f"//{netloc}").hostname or ""
    except ValueError:
        return ""


def _refuse_browsers(headers: Mapping[str, str]) -> None:
    origin = headers.get("origin")
    foreign_origin = origin is not None and not is_loopback(_host(origin.partition("://")[2]))
    if foreign_origin or not is_loopback(_host(headers.get("host", ""))):
        message = "Without API keys this edge serves programs on its own machine only."
        raise ApiError(403, "foreign_origin", message, kind="permission_error")
