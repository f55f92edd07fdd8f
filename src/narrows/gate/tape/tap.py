"""The tap: records of the loop, in its order, written by a thread of their own.

The loop appends to a queue and never waits, whatever disk or auditor do. A full queue, a full
spool or a disk that fails ends the chapter, and nothing else: what is not on a tape is not
credited. The thread begins another one as soon as it can; links that are open by then are not on
it. What is queued when the gate is killed is lost, at most ``PAUSE_S`` of traffic while the disk
keeps up.

No field is written by both: the loop has ``_put_bytes``, ``_overrun`` and the links, the thread
``_taken_bytes``, ``_chapter`` and the spool. Each record says of which chapter it is, so what
comes late changes nothing.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable

from narrows.errors import NarrowsError
from narrows.gate.meter import Drawn
from narrows.gate.tape.config import TapeConfig
from narrows.wire.spool import SpoolWriter, prune_through
from narrows.wire.tape import (
    MAX_DATA_BYTES,
    MAX_OPEN_LINKS,
    NONCE_BYTES,
    Begin,
    Inward,
    LinkEnd,
    Outward,
    Record,
    TapeWriter,
)

QUEUE_BYTES = 64 << 20
RECORD_BYTES = 512  # what a record weighs beside its data
BATCH_BYTES = 1 << 16
PAUSE_S = 0.1
AGAIN_S = 1.0
START_S = CLOSE_S = 5.0
OVERRUN = "the disk was too slow for what left"


class LinkCopy:
    """One link's records. Nothing here raises or waits."""

    def __init__(self, tap: Tap, chapter: int, link: int, port: str) -> None:
        self._tap, self._chapter, self._link = tap, chapter, link
        self._position = 0
        self._over = False
        self._add(Begin(link, tap.moment_ns(), port))

    def inward(self, data: bytes) -> None:
        """Bytes of the edge, on their way to the enclave."""
        moment_ns = self._tap.moment_ns()
        for start in range(0, len(data), MAX_DATA_BYTES):
            self._add(Inward(self._link, moment_ns, data[start : start + MAX_DATA_BYTES]))

    def outward(self, data: bytes, drawn: Drawn) -> None:
        """What the gate just sent: ``data`` of the enclave, and the leases that paid for it and
        for what went with it. Each lease has as much of ``data`` as it can have paid."""
        moment_ns = self._tap.moment_ns()
        for lease, paid_bytes in drawn:
            piece, data = data[:paid_bytes], data[paid_bytes:]
            while True:
                part, piece = piece[:MAX_DATA_BYTES], piece[MAX_DATA_BYTES:]
                paid = len(part) if piece else paid_bytes
                self._add(Outward(self._link, moment_ns, lease, self._position, paid, part))
                self._position += len(part)
                paid_bytes -= paid
                if not piece:
                    break

    def end(self) -> None:
        """Nothing of the link follows. Idempotent."""
        if not self._over:
            self._add(LinkEnd(self._link, self._tap.moment_ns()))
            self._over = True
            self._tap.ended(self._chapter)

    def _add(self, record: Record) -> None:
        if not self._over:
            self._tap.put(self._chapter, record)


class Tap:
    """Copies the links of one gate. ``say``: hears why there is no copy, and when there is one
    again. ``floor``: least position of a new spool. ``moment_ns``: the gate's boot clock.
    ``queue_bytes``: of records that wait for the disk."""

    def __init__(
        self,
        config: TapeConfig,
        say: Callable[[str], None],
        floor: int = 0,
        moment_ns: Callable[[], int] = time.monotonic_ns,
        queue_bytes: int = QUEUE_BYTES,
    ) -> None:
        self.moment_ns = moment_ns
        self.done_position = 0
        """Of the spool: what lies before it is removed. Set it at any time; it only grows."""
        self._config, self._say, self._floor = config, say, floor
        self._queue: deque[tuple[int, Record | None]] = deque()  # None: the chapter ends here
        self._put_bytes = self._taken_bytes = 0
        self._queue_bytes = queue_bytes
        self._chapter = 0  # 0: nothing is copied
        self._overrun = 0  # the last chapter that had no room in the queue
        self._links = self._open = self._open_chapter = 0
        self._why = "it has not begun"
        self._told = ""
        self._spool: SpoolWriter | None = None
        self._tape: TapeWriter | None = None
        self._made = self._written_bytes = self._pruned = 0
        self._tried, self._closing = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="tape", daemon=True)

    # the loop ------------------------------------------------------------------------

    def start(self) -> None:
        """Begin, and wait for the first chapter or why there is none, for ``START_S`` at most: a
        link that was open before is never copied."""
        self._thread.start()
        self._tried.wait(START_S)

    def copy(self, port: str) -> LinkCopy | None:
        """For a link that was opened just now; None where it is not copied."""
        chapter = self._chapter if self._copies() else 0
        if not chapter or (self._config.ports and port not in self._config.ports):
            return None
        if chapter != self._open_chapter:
            self._open_chapter, self._open = chapter, 0
        if self._open >= MAX_OPEN_LINKS:
            return None
        self._open += 1
        self._links += 1
        return LinkCopy(self, chapter, self._links, port)

    def _copies(self) -> bool:
        return self._chapter > self._overrun

    def ended(self, chapter: int) -> None:
        """One of its links is over."""
        if chapter == self._open_chapter:
            self._open -= 1

    def put(self, chapter: int, record: Record) -> None:
        """Append to the queue; where it is full, end the chapter."""
        if chapter != self._chapter or chapter == self._overrun:
            return
        size = _weight(record)
        if self._put_bytes - self._taken_bytes + size > self._queue_bytes:
            self._overrun = chapter
            self._queue.append((chapter, None))
            return
        self._put_bytes += size
        self._queue.append((chapter, record))

    def stats(self) -> dict[str, object]:
        """For the stats file: no more than what the gate has charged and the disk said."""
        spool = self._spool
        return {
            "state": "copying" if self._copies() else "stopped",
            "why": "" if self._copies() else OVERRUN if self._chapter else self._why,
            "chapters": self._made,
            "tape_bytes": self._written_bytes,
            "queued_bytes": self._put_bytes - self._taken_bytes,
            "spool_bytes": 0 if spool is None else spool.used_bytes,
            "max_bytes": self._config.max_bytes,
            "oldest_ms": 0 if spool is None else spool.oldest_ms,
        }

    def close(self) -> None:
        """Write what is queued, for ``CLOSE_S`` at most, and end the chapter."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(CLOSE_S)

    # the thread ----------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            closing = self._closing.is_set()
            try:
                self._step()
            except (OSError, ValueError, NarrowsError) as error:
                self._stop(str(error))
            self._tried.set()
            if closing:
                break
            self._closing.wait(PAUSE_S if self._chapter else AGAIN_S)
        if self._spool is not None:
            self._spool.close()

    def _step(self) -> None:
        self._drain()
        if self._closing.is_set():
            return
        spool = self._spool
        if spool is None:
            spool = self._spool = self._open_spool()
        if self.done_position > self._pruned:  # first: it may make the room to begin
            self._pruned = self.done_position
            self._prune(self._pruned)
        if self._tape is None:
            self._begin(spool)
        spool.tick()

    def _prune(self, position: int) -> None:
        """What cannot be removed now goes with its age."""
        try:
            prune_through(self._config.folder, position)
        except (OSError, NarrowsError) as error:
            self._say(f"credited files of the tape are not removed: {error}")

    def _open_spool(self) -> SpoolWriter:
        config = self._config
        return SpoolWriter(
            config.folder,
            bytes.fromhex(config.auditor_key),
            max_bytes=config.max_bytes,
            max_age_s=config.max_age_s,
            file_bytes=config.file_bytes,
            floor=self._floor,
            shown=config.shown,
        )

    def _begin(self, spool: SpoolWriter) -> None:
        nonce = os.urandom(NONCE_BYTES)
        tape = TapeWriter(nonce)
        spool.begin(nonce)
        spool.append(tape.header)
        self._tape = tape
        self._made += 1
        self._chapter = self._made
        if self._told:
            self._told = ""
            self._say("the tape goes on, in a new chapter")

    def _drain(self) -> None:
        batch = bytearray()
        while self._queue:
            chapter, record = self._queue.popleft()
            if record is not None:
                self._taken_bytes += _weight(record)
            if self._tape is None or chapter != self._made:
                continue
            if record is None:
                self._write(batch)
                self._stop(OVERRUN)
                continue
            batch += self._tape.put(record)
            if len(batch) >= BATCH_BYTES:
                self._write(batch)
        self._write(batch)

    def _write(self, batch: bytearray) -> None:
        if batch and self._spool is not None:
            self._spool.append(bytes(batch))
            self._written_bytes += len(batch)
            batch.clear()

    def _stop(self, why: str) -> None:
        self._chapter, self._why, self._tape = 0, why[:200], None
        if self._spool is not None:
            self._spool.end()
        if self._why != self._told:
            self._told = self._why
            self._say(f"links are not copied onto the tape: {self._why}")


def _weight(record: Record) -> int:
    data = record.data if isinstance(record, Inward | Outward) else b""
    return RECORD_BYTES + len(data)
