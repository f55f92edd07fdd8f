"""API keys: who may spend the budget at this edge.

A key is ``nk-`` and 32 random bytes in base64url; the database holds its SHA-256. A slow hash
(scrypt) would guard passwords that people choose; 256 random bits cannot be guessed at any
speed, and a slow hash on every request would be a way to stall the edge.

The key's number is its scope on the link: nothing that the coder learns from one key's answers
touches another's. Numbers are never used twice.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from narrows.edge.books.store import transaction
from narrows.errors import InputError

PREFIX = "nk-"
MAX_KEY_CHARS = 512
MAX_NAME_CHARS = 100
MAX_LIMIT = 1_000_000_000


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """Requests and tokens a minute, answers at once, and code length in a month (UTC); None: any
    number."""

    rpm: int | None = None
    tpm: int | None = None
    concurrent: int | None = None
    share_bytes_per_month: int | None = None

    def check(self) -> None:
        """Raises InputError."""
        for name in ("rpm", "tpm", "concurrent"):
            value = getattr(self, name)
            if value is not None and not 1 <= value <= MAX_LIMIT:
                raise InputError(f"{name} is {value}, must be 1..{MAX_LIMIT:,}")
        _check_share(self.share_bytes_per_month, "month")


class FoundKey(NamedTuple):
    """An active key: its number, and what it may do."""

    key_id: int
    share_bytes_per_day: int | None = None
    limits: KeyLimits = KeyLimits()


@dataclass(frozen=True, slots=True)
class ApiKey:
    """``hint``: the last four characters, to recognise it by. ``share_bytes_per_day``: the
    code length that it may use in a day (UTC), None without limit. ``bits_*``: code length of
    its answers, measured at the edge. ``from_file``: the configuration's ``keys_file`` rules it."""

    key_id: int
    name: str
    hint: str
    created_s: int
    revoked_s: int | None
    share_bytes_per_day: int | None
    answers: int
    bits_today: int
    bits_total: int
    limits: KeyLimits
    from_file: bool


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def create_key(
    database: sqlite3.Connection,
    name: str,
    now_s: int,
    share_bytes_per_day: int | None = None,
    limits: KeyLimits | None = None,
    random_bytes: Callable[[int], bytes] = secrets.token_bytes,
) -> tuple[int, str]:
    """A new key's number and text; the text is stored nowhere. Raises InputError."""
    if not 1 <= len(name) <= MAX_NAME_CHARS or not name.isprintable():
        raise InputError(f"a key's name has 1..{MAX_NAME_CHARS} printable characters")
    _check_share(share_bytes_per_day)
    limits = limits or KeyLimits()
    limits.check()
    text = PREFIX + base64.urlsafe_b64encode(random_bytes(32)).rstrip(b"=").decode()
    with transaction(database):
        cursor = database.execute(
            "INSERT INTO api_keys (name, hash, hint, created_s, share_bytes_per_day)"
            " VALUES (?, ?, ?, ?, ?)",
            (name, _digest(text), text[-4:], now_s, share_bytes_per_day),
        )
        number = int(cursor.lastrowid or 0)
        set_limits(database, number, limits)
    return number, text


def set_limits(database: sqlite3.Connection, key_id: int, limits: KeyLimits) -> None:
    """In the caller's transaction."""
    database.execute(
        "INSERT OR REPLACE INTO key_limits VALUES (?, ?, ?, ?, ?)",
        (key_id, limits.rpm, limits.tpm, limits.concurrent, limits.share_bytes_per_month),
    )


def change_limits(
    database: sqlite3.Connection, key_id: int, share_bytes_per_day: int | None, limits: KeyLimits
) -> None:
    """Of an active key, from its next request on. Raises InputError, for one of a file too."""
    _check_share(share_bytes_per_day)
    limits.check()
    with transaction(database):
        query = "SELECT 1 FROM file_keys WHERE key_id = ?"
        if database.execute(query, (key_id,)).fetchone() is not None:
            raise InputError(f"key {key_id} is one of a file", "write its limits there, and SIGHUP")
        changed = database.execute(
            "UPDATE api_keys SET share_bytes_per_day = ? WHERE id = ? AND revoked_s IS NULL",
            (share_bytes_per_day, key_id),
        ).rowcount
        if changed != 1:
            raise InputError(f"no active key has the number {key_id}")
        set_limits(database, key_id, limits)


def _check_share(share_bytes: int | None, span: str = "day") -> None:
    if share_bytes is not None and not 1 <= share_bytes < 1 << 62:
        raise InputError(f"a share is at least one byte a {span}")


def find_named(database: sqlite3.Connection, text: str) -> int:
    """The number of the active key that ``text`` names: by its number, else by its name, which
    several may have. Raises InputError where it names none, or more than one."""
    remedy = "narrows key list shows them"
    rows = database.execute("SELECT id, name FROM api_keys WHERE revoked_s IS NULL").fetchall()
    by_number = [number for number, _ in rows if str(number) == text]
    found = by_number or sorted(number for number, name in rows if name == text)
    if not found:
        raise InputError(f"no active key has the name or number {text[:MAX_NAME_CHARS]!r}", remedy)
    if len(found) > 1:
        numbers = ", ".join(map(str, found[:10]))
        raise InputError(f"{text!r} may be any of the keys {numbers}", "give a number")
    return int(found[0])


def revoke_key(database: sqlite3.Connection, key_id: int, now_s: int) -> None:
    """Revoked keys stay listed. Takes effect with the next request. Raises InputError."""
    with transaction(database):
        changed = database.execute(
            "UPDATE api_keys SET revoked_s = ? WHERE id = ? AND revoked_s IS NULL",
            (now_s, key_id),
        ).rowcount
    if changed != 1:
        raise InputError(f"no active key has the number {key_id}", "narrows key list shows them")


def list_keys(database: sqlite3.Connection, day: str) -> list[ApiKey]:
    """All keys ever made, oldest first. ``day``: ISO date (UTC) for ``bits_today``."""
    rows = database.execute(
        "SELECT id, name, hint, created_s, revoked_s, share_bytes_per_day,"
        " (SELECT coalesce(sum(answers), 0) FROM key_use WHERE key_id = id),"
        " (SELECT coalesce(sum(bits), 0) FROM key_use WHERE key_id = id AND day = ?),"
        " (SELECT coalesce(sum(bits), 0) FROM key_use WHERE key_id = id),"
        " withdrawn IS NOT NULL, rpm, tpm, concurrent, share_bytes_per_month"
        " FROM api_keys LEFT JOIN key_limits ON key_limits.key_id = id"
        " LEFT JOIN file_keys ON file_keys.key_id = id ORDER BY id",
        (day,),
    )
    return [_listed(*row) for row in rows]


def _listed(*row: Any) -> ApiKey:
    known = (*row[:9], KeyLimits(*row[10:]), bool(row[9]))
    return ApiKey(*known)


def key_names(database: sqlite3.Connection) -> dict[int, str]:
    """Of all keys ever made, by number."""
    return dict(database.execute("SELECT id, name FROM api_keys").fetchall())


def any_key(database: sqlite3.Connection) -> bool:
    """Whether a key was ever made: from then on every request needs one."""
    return database.execute("SELECT 1 FROM api_keys LIMIT 1").fetchone() is not None


def find_key(database: sqlite3.Connection, text: str) -> FoundKey | None:
    """The active key ``text``, or None.

    Looked up by digest: how long the index takes tells nothing about keys, since a guess's
    digest cannot be steered."""
    if not 1 <= len(text) <= MAX_KEY_CHARS or not text.isascii():
        return None
    row = database.execute(
        "SELECT id, share_bytes_per_day, rpm, tpm, concurrent, share_bytes_per_month"
        " FROM api_keys LEFT JOIN key_limits ON key_id = id WHERE hash = ? AND revoked_s IS NULL",
        (_digest(text),),
    ).fetchone()
    return None if row is None else FoundKey(int(row[0]), row[1], KeyLimits(*row[2:]))


def bits_used(database: sqlite3.Connection, key_id: int, day: str) -> int:
    row = database.execute(
        "SELECT bits FROM key_use WHERE key_id = ? AND day = ?", (key_id, day)
    ).fetchone()
    return 0 if row is None else int(row[0])


def bits_used_in_month(database: sqlite3.Connection, key_id: int, day: str) -> int:
    """Code length of the key's answers in the month of ``day`` (ISO date)."""
    (bits,) = database.execute(
        "SELECT coalesce(sum(bits), 0) FROM key_use WHERE key_id = ? AND day BETWEEN ? AND ?",
        (key_id, f"{day[:7]}-01", f"{day[:7]}-31"),
    ).fetchone()
    return int(bits)
