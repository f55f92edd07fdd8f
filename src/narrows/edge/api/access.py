"""Who may ask: API keys, and on an open loopback edge, no browser pages.

Once a key was ever made, every request to ``/v1`` needs an active one. Without keys the edge
listens on loopback only; there a web page could still make its visitor's browser spend the
budget, so requests that name a foreign host (DNS rebinding) or origin are refused, and those that
name a proxy. Where the operator named origins, every other one is refused, keys or not.
"""

from __future__ import annotations

import datetime
import sqlite3
from collections.abc import Mapping
from urllib.parse import urlsplit

from narrows.edge.books import keys
from narrows.edge.books.stats import StatsRecorder, utc_day
from narrows.edge.origins import ANY_ORIGIN
from narrows.edge.problems import ApiError
from narrows.errors import InputError
from narrows.wire.address import is_loopback

OPEN_SCOPE = 0
SECONDS_PER_DAY = 86400
_PROXIES = ("forwarded", "via", "x-forwarded-for", "x-real-ip")


class Access:
    """Reads keys from the database on every request: revoking works at once."""

    def __init__(
        self,
        database: sqlite3.Connection,
        stats: StatsRecorder,
        origins: tuple[str, ...] = (),
        keys_required: bool = False,
    ) -> None:
        """``origins``: of web pages that may ask. ``keys_required``: before there is any key."""
        self._database = database
        self._stats = stats
        self._origins = origins
        self._keys_required = keys_required

    def check_listener(self, host: str) -> None:
        """Raises InputError where an edge without keys would listen beyond loopback."""
        if not is_loopback(host) and not self._needs_key():
            raise InputError(
                f"an edge without API keys would listen on {host}",
                "make one with narrows key new, or listen on 127.0.0.1",
            )
        if ANY_ORIGIN in self._origins and not self._needs_key():
            raise InputError(
                "an edge without API keys would serve every web page (cors_origins = ['*'])",
                "make one with narrows key new, or name the origins",
            )

    def scope(self, headers: Mapping[str, str]) -> keys.FoundKey:
        """The caller's key. Raises ApiError."""
        self._check_origin(headers.get("origin"))
        scheme, _, key = headers.get("authorization", "").partition(" ")
        given = key.strip() if scheme.lower() == "bearer" else ""
        given = given or headers.get("x-api-key", "").strip()  # as Anthropic's clients send it
        found = keys.find_key(self._database, given)
        if found is not None:
            return found
        if self._needs_key():
            what = "is wrong or revoked" if given else "is missing"
            ways = "'Authorization: Bearer nk-...' or 'x-api-key: nk-...'"
            message = f"The API key {what}: send {ways}."
            raise ApiError(401, "invalid_api_key", message, kind="authentication_error")
        self._refuse_browsers(headers)
        return keys.FoundKey(OPEN_SCOPE)

    def _needs_key(self) -> bool:
        return self._keys_required or keys.any_key(self._database)

    def _check_origin(self, origin: str | None) -> None:
        if not self._origins or ANY_ORIGIN in self._origins or origin in (None, *self._origins):
            return
        message = "Web pages of this origin are not served; cors_origins of the edge names others."
        raise ApiError(403, "foreign_origin", message, kind="permission_error")

    def _refuse_browsers(self, headers: Mapping[str, str]) -> None:
        origin = headers.get("origin")
        named = origin is None or origin in self._origins
        foreign_origin = not named and not is_loopback(_host(str(origin).partition("://")[2]))
        forwarded = any(name in headers for name in _PROXIES)
        if foreign_origin or forwarded or not is_loopback(_host(headers.get("host", ""))):
            message = "Without API keys this edge serves programs on its own machine only."
            raise ApiError(403, "foreign_origin", message, kind="permission_error")

    def check_share(self, found: keys.FoundKey, now_s: float) -> None:
        """Raises ApiError where the key has used its share of today, or of the month. Advisory:
        answers in flight are not counted, and the gate's budget holds whatever happens here."""
        day, scope = utc_day(now_s), found.key_id
        new_bits = self._stats.unwritten_bits(scope)
        if (share_bytes := found.limits.share_bytes_per_month) is not None:
            used_bits = keys.bits_used_in_month(self._database, scope, day)
            if used_bits + new_bits >= 8 * share_bytes:
                raise _used_up(share_bytes, "this month", seconds_to_month(now_s))
        if (share_bytes := found.share_bytes_per_day) is not None:
            used_bits = keys.bits_used(self._database, scope, day)
            if used_bits + new_bits >= 8 * share_bytes:
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
