"""API keys that somebody else manages: a file, read at the start and at SIGHUP.

    # name   key, or its SHA-256                  what it may do
    alice    nk-…                                 rpm=60 tpm=20000
    batch    sha256:9f86d081884c7d65…             concurrent=2 share=1000000 month-share=20000000

A key that the file names is one of the database, with a number of its own for ever. One that the
file names no longer is revoked, and comes back with the file; one that ``narrows key revoke``
revoked stays so, whatever the file says. The file is taken whole or not at all.
"""

from __future__ import annotations

import hashlib
import re
import sqlite3
import stat
from contextlib import closing
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from narrows.durable import read_with_mode
from narrows.edge.books.keys import MAX_KEY_CHARS, MAX_NAME_CHARS, KeyLimits, set_limits
from narrows.edge.books.store import open_database, transaction
from narrows.errors import InputError, NarrowsError

MAX_FILE_BYTES = 1 << 22
MAX_KEYS = 10_000
MIN_KEY_CHARS = 32  # a slow hash would be needed for what can be guessed
_PRIVATE = stat.S_IRWXG | stat.S_IRWXO
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_LIMITS = ("rpm", "tpm", "concurrent", "share", "month-share")
_MANY = 20


@dataclass(frozen=True, slots=True)
class FileKey:
    """``hint``: to recognise it by. ``line``: where it stands."""

    name: str
    digest: bytes
    hint: str
    share_bytes_per_day: int | None
    limits: KeyLimits
    line: int


def load_keys_file(path: Path) -> list[FileKey]:
    """Raises InputError with every mistake, without any key."""
    data, mode = read_with_mode(path, MAX_FILE_BYTES, follow_links=True)
    try:
        lines = data.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8") from error
    found: list[FileKey] = []
    problems: list[str] = []
    seen: dict[bytes, int] = {}
    for number, text in enumerate(lines, 1):
        words = list(takewhile(lambda word: not word.startswith("#"), text.split()))
        if not words:
            continue
        try:
            key = _parsed(words, number)
        except InputError as error:
            problems.append(f"{path.name}:{number}: {error.message}")
            continue
        if key.digest in seen:
            problems.append(f"{path.name}:{number}: the same key as in line {seen[key.digest]}")
        seen[key.digest] = number
        found.append(key)
        if not _DIGEST.fullmatch(words[1]) and mode & _PRIVATE:
            raise InputError(
                f"{path} holds keys and others may read it", f"chmod 600 {path}, or write digests"
            )
    if len(found) > MAX_KEYS:
        problems.append(f"{path.name} has {len(found):,} keys, more than {MAX_KEYS:,}")
    if problems:
        raise InputError(f"{path} is wrong", problems=tuple(problems[:_MANY]))
    return found


def _parsed(words: list[str], line: int) -> FileKey:
    if len(words) < 2:
        raise InputError("a line has a name, a key or sha256:DIGEST, and limits")
    name, secret, *rest = words
    if len(name) > MAX_NAME_CHARS or not name.isprintable():
        raise InputError(f"a name has 1..{MAX_NAME_CHARS} printable characters")
    if found := _DIGEST.fullmatch(secret):
        digest, hint = bytes.fromhex(found[1]), f"sha256:{found[1][:8]}…"
    elif secret.lower().startswith("sha256"):
        raise InputError("behind sha256: are 64 hex digits in lower case")
    elif not MIN_KEY_CHARS <= len(secret) <= MAX_KEY_CHARS or not secret.isascii():
        raise InputError(f"a key has {MIN_KEY_CHARS}..{MAX_KEY_CHARS} ASCII characters")
    else:
        digest, hint = hashlib.sha256(secret.encode()).digest(), f"…{secret[-4:]}"
    numbers: dict[str, int] = {}
    for word in rest:
        what, _, number = word.partition("=")
        if what not in _LIMITS or what in numbers or not re.fullmatch(r"[1-9][0-9]{0,17}", number):
            raise InputError(f"limits are written once each as {', '.join(_LIMITS)}=NUMBER")
        numbers[what] = int(number)
    share_bytes, month_bytes = numbers.pop("share", None), numbers.pop("month-share", None)
    limits = KeyLimits(**numbers, share_bytes_per_month=month_bytes)
    limits.check()
    return FileKey(name, digest, hint, share_bytes, limits, line)


def sync_keys(state_dir: Path, path: Path, now_s: int) -> str:
    """Make the database's keys those of the file, but for those that the command made. A line for
    the log. Raises NarrowsError, and nothing has changed then."""
    entries = load_keys_file(path)
    try:
        with closing(open_database(state_dir)) as database, transaction(database):
            return _Sync(database, now_s).run(entries, path)
    except sqlite3.Error as error:
        raise NarrowsError(f"the keys of {path} are not stored: {error}") from error


class _Sync:
    def __init__(self, database: sqlite3.Connection, now_s: int) -> None:
        self._database = database
        self._now_s = now_s

    def run(self, entries: list[FileKey], path: Path) -> str:
        rows = self._database.execute(
            "SELECT hash, id, revoked_s, withdrawn FROM api_keys LEFT JOIN file_keys ON key_id = id"
        )
        known = {bytes(row[0]): row[1:] for row in rows}
        made = [one for one in entries if known.get(one.digest, (0, 0, 0))[2] is None]
        if made:
            lines = ", ".join(str(one.line) for one in made[:_MANY])
            raise InputError(f"{path.name}: keys of 'narrows key new' in lines {lines}")
        new = refused = 0
        for one in entries:
            number, revoked_s, withdrawn = known.get(one.digest, (None, None, 0))
            if number is None:
                number, new = self._add(one), new + 1
            elif revoked_s is not None and not withdrawn:
                refused += 1
                continue
            self._update(number, one)
        named = {one.digest for one in entries}
        gone = [
            number
            for digest, (number, revoked_s, withdrawn) in known.items()
            if withdrawn is not None and revoked_s is None and digest not in named
        ]
        for number in gone:
            self._withdraw(number)
        text = f"{len(entries)} keys in {path.name}, {new} new, {len(gone)} withdrawn"
        return text + (f", {refused} refused, since they are revoked" if refused else "")

    def _add(self, one: FileKey) -> int:
        cursor = self._database.execute(
            "INSERT INTO api_keys (name, hash, hint, created_s) VALUES (?, ?, ?, ?)",
            (one.name, one.digest, one.hint, self._now_s),
        )
        number = int(cursor.lastrowid or 0)
        self._database.execute("INSERT INTO file_keys VALUES (?, 0)", (number,))
        return number

    def _update(self, number: int, one: FileKey) -> None:
        self._database.execute(
            "UPDATE api_keys SET name = ?, revoked_s = NULL, share_bytes_per_day = ? WHERE id = ?",
            (one.name, one.share_bytes_per_day, number),
        )
        self._database.execute("UPDATE file_keys SET withdrawn = 0 WHERE key_id = ?", (number,))
        set_limits(self._database, number, one.limits)

    def _withdraw(self, number: int) -> None:
        self._database.execute(
            "UPDATE api_keys SET revoked_s = ? WHERE id = ?", (self._now_s, number)
        )
        self._database.execute("UPDATE file_keys SET withdrawn = 1 WHERE key_id = ?", (number,))
