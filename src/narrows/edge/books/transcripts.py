"""Released answers with their prompts, kept for training: JSON lines in ``STATE/edge/transcripts``.

What is kept has left already: only answers that reached their client complete, and of these
the content. Opt-in, by ``[edge.transcripts] keep = true``; a request with ``store: false`` and
the keys of ``exclude_keys`` are left out.

- A file holds one UTC day's rows, or the next part of them: ``2026-01-31.0000.jsonl``. Folder
  0700, files 0600. The oldest go when there are more bytes or days than configured.
- Rows are written about once a second and at exit, each time one append and one fdatasync (and
  an fsync of the folder for a new file). kill -9 or a power cut loses at most the rows since the
  last one; a line that was torn by it is cut off at the next append. A failed write takes back
  what it wrote and keeps the rows, up to ``PENDING_BYTES``, for the next try.
- ``redact`` writes files anew without the rows (aside, fsync, rename, fsync of the folder), and
  leaves a note, so that answers which are still on their way are not written afterwards. The
  disk may keep freed blocks: use an encrypted one.
- One lock file orders the edge, ``redact`` and readers.

What someone achieves who reads them: he has the clients' conversations. Who writes them: he
decides what the next weak model learns, which costs compression, never budget or weights.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from narrows.coding.spec import message_text
from narrows.durable import replacing
from narrows.edge.answer import EdgeAnswer
from narrows.edge.books.append import append_lines, whole_lines
from narrows.edge.books.stats import utc_day
from narrows.edge.books.store import edge_dir
from narrows.edge.config import TranscriptConfig
from narrows.errors import NarrowsError

log = logging.getLogger("narrows.edge.transcripts")

PENDING_BYTES = 32 << 20
MAX_LINE_BYTES = 1 << 22
FILE_BYTES = 8 << 20
LOCK_S = 5.0
NOTE_S = 2 * 86_400  # no answer takes that long
_SUFFIX = ".jsonl"
_NAME = re.compile(r"\d{4}-\d{2}-\d{2}\.\d{4,9}\.jsonl", re.ASCII)
_LOCK = ".lock"
_NOTES = "redactions"


def transcripts_dir(state_dir: Path) -> Path:
    return edge_dir(state_dir) / "transcripts"


class TranscriptLog:
    """``add`` on the loop's thread, ``flush`` on any one thread; what both change is guarded."""

    def __init__(
        self, folder: Path, config: TranscriptConfig, wall_s: Callable[[], float] = time.time
    ) -> None:
        self._folder = folder
        self._config = config
        self._wall_s = wall_s
        self._guard = threading.Lock()
        self._pending: list[tuple[dict[str, Any], bytes]] = []  # what redaction asks for, line
        self._pending_bytes = 0
        self._dropped = 0
        self._room_bytes = min(PENDING_BYTES, config.max_bytes // 2)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def add(self, answer: EdgeAnswer, completion_id: str, choice: int, created_s: int) -> None:
        """A complete answer; kept from the next flush on."""
        key = answer.request.scope
        response = "".join(answer.record or ())
        if key in self._config.exclude_keys or not response or answer.finish is None:
            return
        names = {"id": completion_id, "key": key, "time_s": created_s}
        row = names | {
            "choice": choice,
            "weak": answer.weak.label,
            "finish": answer.finish.name.lower(),
        }
        body = answer.request.body
        said = {"prompt": body["prompt"]} if "prompt" in body else prompt_fields(body["messages"])
        row |= said | {"response": response}
        line = json.dumps(row, separators=(",", ":")).encode("ascii")
        with self._guard:
            if len(line) >= MAX_LINE_BYTES or self._pending_bytes + len(line) > self._room_bytes:
                self._dropped += 1
                return
            self._pending.append((names, line + b"\n"))
            self._pending_bytes += len(line)

    def flush(self) -> bool:
        """Write what waits; false, with a log line, where that fails. Blocks for ``LOCK_S``
        at most where someone holds the lock."""
        with self._guard:
            pending, self._pending, self._pending_bytes = self._pending, [], 0
            dropped, self._dropped = self._dropped, 0
        if dropped:
            log.warning("%d answers were not kept: too large, or not written", dropped)
        try:
            with locked(self._folder, wait_s=LOCK_S):
                notes = _read_notes(self._folder)
                lines = b"".join(line for row, line in pending if not _noted(row, notes))
                self._expire(len(lines))
                if lines:
                    append_lines(self._current(), lines)
        except OSError as error:
            log.error("transcripts are not written, kept for the next try: %s", error)
            with self._guard:
                self._pending = pending + self._pending
                self._pending_bytes = sum(len(line) for _, line in self._pending)
            return False
        return True

    def _current(self) -> Path:
        day = utc_day(self._wall_s())
        own = [path for path in files(self._folder) if _part(path).startswith(day)]
        limit = min(FILE_BYTES, self._config.max_bytes // 8)
        if own and own[-1].stat().st_size < limit:
            return own[-1]
        part = int(own[-1].name.split(".")[1]) + 1 if own else 0
        return self._folder / f"{day}.{part:04d}{_SUFFIX}"

    def _expire(self, coming_bytes: int) -> None:
        oldest_day = utc_day(self._wall_s() - 86_400 * self._config.max_days)
        present = files(self._folder)
        sizes = {path: path.stat().st_size for path in present}
        total = sum(sizes.values()) + coming_bytes
        for path in present:
            if path.name[:10] >= oldest_day and total <= self._config.max_bytes:
                break
            path.unlink()
            total -= sizes[path]


def _part(path: Path) -> str:
    """Its name where the edge gave it; empty for a file that someone else put there."""
    return path.name if _NAME.fullmatch(path.name) else ""


def prompt_fields(messages: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """``prompt`` as text; and ``messages`` where it is more than one message of a user."""
    plain = [{"role": str(m.get("role", "user")), "content": message_text(m)} for m in messages]
    if len(plain) == 1 and plain[0]["role"] == "user":
        return {"prompt": plain[0]["content"]}
    text = "\n".join(f"{m['role']}: {m['content']}" for m in plain)
    return {"prompt": text, "messages": plain}


def files(folder: Path) -> list[Path]:
    """Oldest first."""
    return sorted(folder.glob(f"[0-9]*{_SUFFIX}"), key=lambda path: path.name)


@contextmanager
def locked(folder: Path, *, shared: bool = False, wait_s: float = 600.0) -> Iterator[None]:
    """Hold the folder's lock. Raises OSError where it is not free in time."""
    mode = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    end_s = time.monotonic() + wait_s
    try:
        while True:
            try:
                fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end_s:
                    raise
                time.sleep(0.02)
        yield
    finally:
        os.close(descriptor)  # the lock goes with it


@contextmanager
def reading(folder: Path) -> Iterator[list[Path]]:
    """The files, whole lines only, while nothing writes to them. Raises NarrowsError."""
    with ExitStack() as held:
        try:
            held.enter_context(locked(folder, shared=True))
            present = files(folder)
            for path in present:
                descriptor = os.open(path, os.O_RDWR)
                try:
                    os.ftruncate(descriptor, whole_lines(descriptor))
                finally:
                    os.close(descriptor)
        except OSError as error:
            raise NarrowsError(f"cannot read the transcripts in {folder}: {error}") from error
        yield present


def is_kept_by_an_edge(folder: Path) -> bool:
    """Whether it is an edge's own folder of transcripts, to be read with ``reading`` alone."""
    return (folder / _LOCK).exists()


def redact(folder: Path, *, ids: Sequence[str] = (), keys: Sequence[int] = (), now_s: float) -> int:
    """Take out all answers with these ids, and all so far of these API keys; how many rows
    were taken out. Raises NarrowsError; doing it again is safe."""
    notes = [{"id": one, "at_s": int(now_s)} for one in ids]
    notes += [{"key": one, "at_s": int(now_s)} for one in keys]
    try:
        with locked(folder):
            kept = [n for n in _read_notes(folder) if n.get("at_s", 0) > now_s - NOTE_S]
            _replace(folder / _NOTES, [json.dumps(note).encode() + b"\n" for note in kept + notes])
            return sum(redact_file(path, notes) for path in files(folder))
    except OSError as error:
        raise NarrowsError(f"cannot redact {folder}: {error}", "run it again") from error


def redact_file(path: Path, notes: Sequence[dict[str, Any]]) -> int:
    """The same for one file of rows, written anew where it holds any. Raises OSError."""
    kept: list[bytes] = []
    gone = 0
    with path.open("rb") as rows:
        for line in rows:
            if _noted(_parsed(line), notes):
                gone += 1
            else:
                kept.append(line)
    if gone:
        _replace(path, kept)
    return gone


def _noted(row: dict[str, Any], notes: Sequence[dict[str, Any]]) -> bool:
    """Whether a note takes a row out: its id, or its key and it was begun before the note."""
    return any(
        note["id"] == row.get("id")
        if "id" in note
        else note["key"] == row.get("key") and row.get("time_s", 0) <= note["at_s"]
        for note in notes
    )


def _parsed(line: bytes) -> dict[str, Any]:
    with contextlib.suppress(ValueError, RecursionError):
        row = json.loads(line)
        if isinstance(row, dict):
            return row
    return {}


def _read_notes(folder: Path) -> list[dict[str, Any]]:
    path = folder / _NOTES
    if not path.exists():
        return []
    notes = map(_parsed, path.read_bytes().splitlines())
    return [n for n in notes if type(n.get("at_s")) is int and ("id" in n or "key" in n)]


def _replace(path: Path, lines: Sequence[bytes]) -> None:
    with replacing(path, 0o600) as file:
        file.writelines(lines)
