"""The spool's writer: one chapter at a time, bounded, and durable within a second.

Errors end a chapter and nothing else: what called goes on, and tries again.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path

from narrows.durable import sync_folder
from narrows.errors import InputError
from narrows.private import private_folder
from narrows.wire.spool.file import (
    DATA,
    END,
    HEADER_BYTES,
    MAX_CHUNK_BYTES,
    OVERHEAD_BYTES,
    ROLL,
    Sealer,
    SpoolHeader,
    born_ms,
    read_header,
    seal_key_flaw,
    spool_files,
    tape_bytes,
)

FILE_BYTES = 64 << 20
MIN_FILES = 4
"""``max_bytes`` holds at least so many files."""
MIN_FILE_BYTES = 2 * (HEADER_BYTES + MAX_CHUNK_BYTES + 2 * OVERHEAD_BYTES)
AGE_PARTS = 8
"""A file is rolled after this part of ``max_age_s``: so long before its time a byte may go."""
RESCAN_S, TIDY_S = 1.0, 10.0  # where room lacks, and for what grows old
_ROLL_BYTES = HEADER_BYTES + 2 * OVERHEAD_BYTES
"""What a file's end and the next one's header take."""


class SpoolWriter:
    """Appends to one chapter at a time. Every method may raise OSError; then the chapter is
    over, and ``begin`` may be tried again. Not for two threads at once.

    ``max_bytes``: of all files together. ``max_age_s``: older files are removed, read or not.
    ``file_bytes``: a file's bound. ``sync_s``: what a machine's crash may take. ``clock``: Unix
    time in seconds. ``floor``: least ``base``, for a folder that was emptied. ``shown``: other
    users may read the files, where the folder lets them.
    Errors of the constructor: ``InputError``, also while another process writes there."""

    def __init__(
        self,
        folder: Path,
        public_key: bytes,
        *,
        max_bytes: int,
        max_age_s: float,
        file_bytes: int = FILE_BYTES,
        sync_s: float = 1.0,
        clock: Callable[[], float] = time.time,
        floor: int = 0,
        shown: bool = False,
    ) -> None:
        if flaw := seal_key_flaw(public_key):
            raise InputError(f"the auditor's key is refused: {flaw}")
        if not MIN_FILE_BYTES <= file_bytes <= max_bytes // MIN_FILES:
            raise InputError(
                f"{max_bytes} bytes of files of {file_bytes}: a file has {MIN_FILE_BYTES} at "
                f"least, and {MIN_FILES} must fit"
            )
        self._folder = private_folder(folder)
        self._public_key = public_key
        self._max_bytes, self._file_bytes = max_bytes, file_bytes
        self._max_age_s, self._sync_s, self._clock = max_age_s, sync_s, clock
        self._mode = 0o644 if shown else 0o600
        self._roll_s = max_age_s / AGE_PARTS
        self._file = -1
        self._header: SpoolHeader | None = None  # of the open file
        self._sealer: Sealer | None = None
        self._size = self._chunks = self._position = 0  # of the file; of the chapter's tape
        self._others_bytes = 0  # of the other files, as they were found last
        self._scanned_s = self._synced_s = 0.0
        self.oldest_ms = 0
        """Unix time at which the oldest file began, as it was found last."""
        self._unsynced = False
        self._chapter, self._base = 0, floor
        self._lock = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._resume(floor)
        except OSError as error:
            os.close(self._lock)
            raise InputError(f"cannot write to the spool {folder}: {error.strerror}") from error

    def _resume(self, floor: int) -> None:
        """Behind what is there: numbers and positions go on."""
        files = spool_files(self._folder)
        self._chapter = files[-1].chapter if files else 0
        for named in reversed(files):
            header = read_header(named.path)
            if header is not None:  # a kill may have left a file without one
                end = header.base + header.start + tape_bytes(named.path)
                self._base = max(floor, end)
                break
        self._make_room(0)

    @property
    def used_bytes(self) -> int:
        """Bytes of all files, as they were found last."""
        return self._others_bytes + self._size

    @property
    def chapter(self) -> int:
        """The number of the chapter that is open; 0: none."""
        return 0 if self._header is None else self._header.chapter

    def begin(self, boot_nonce: bytes) -> None:
        """A new chapter. OSError (ENOSPC) while there is no room for a file."""
        self.end()
        if not self._make_room(self._file_bytes):
            raise OSError(errno.ENOSPC, "the spool is full")
        self._base, self._position = self._base + self._position, 0
        self._chapter += 1
        self._open(SpoolHeader(self._chapter, 1, boot_nonce, self._base, 0, self._now_ms()))

    def append(self, data: bytes) -> None:
        """Write what comes next of the tape; the system has it when this returns."""
        for start in range(0, len(data), MAX_CHUNK_BYTES):
            part = data[start : start + MAX_CHUNK_BYTES]
            try:
                self._append(part)
            except OSError:
                self._finish()
                raise
            self._position += len(part)

    def _append(self, part: bytes) -> None:
        size = len(part) + OVERHEAD_BYTES
        if not self._room(size + _ROLL_BYTES):
            raise OSError(errno.ENOSPC, "the spool is full")
        if self._size + size + OVERHEAD_BYTES > self._file_bytes:
            self._roll()
        if self._sealer is None:
            raise OSError(errno.EBADF, "no chapter is open")
        self._put(self._sealer.seal(DATA, part))
        self._chunks += 1

    def tick(self) -> None:
        """Call it about once a second: sync what is due, roll and remove what is old."""
        now_s = self._clock()
        try:
            if self._unsynced and abs(now_s - self._synced_s) >= self._sync_s:
                os.fsync(self._file)
                self._synced_s, self._unsynced = now_s, False
            header = self._header
            old = header is not None and now_s - header.born_ms / 1000 >= self._roll_s
            if old and self._chunks and self._room(_ROLL_BYTES):
                self._roll()
            if abs(now_s - self._scanned_s) >= TIDY_S:
                self._make_room(0)
        except OSError:
            self._finish()
            raise

    def end(self) -> None:
        """End the chapter in order, if one is open. Raises nothing: where the mark cannot be
        written, the next chapter says it."""
        if self._header is not None:
            self._finish()

    def close(self) -> None:
        """End, and let another process write. Idempotent."""
        self.end()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    # -- files ---------------------------------------------------------------------------

    def _open(self, header: SpoolHeader) -> None:
        self._sealer = Sealer(header, self._public_key)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self._file = os.open(self._folder / header.name, flags, self._mode)
        self._size = self._chunks = 0
        self._header = header
        try:
            os.fchmod(self._file, self._mode)  # the umask has no say in who reads it
            self._put(self._sealer.header)
            sync_folder(self._folder)
        except OSError:
            self._finish()
            raise

    def _roll(self) -> None:
        """The old file is whole and durable before the new one has a name."""
        header, sealer = self._header, self._sealer
        if header is None or sealer is None:
            return
        self._sealer = None  # no second mark in this file, whatever fails
        self._put(sealer.seal(ROLL))
        os.fsync(self._file)
        self._shut()
        self._make_room(0)
        number, start = header.number + 1, self._position
        self._open(
            SpoolHeader(
                header.chapter, number, header.boot_nonce, header.base, start, self._now_ms()
            )
        )

    def _put(self, data: bytes) -> None:
        try:
            while data:
                done = os.write(self._file, data)
                self._size += done
                data = data[done:]
        except OSError:
            self._sealer = None  # nothing is sealed behind half a chunk
            raise
        self._unsynced = True

    def _finish(self) -> None:
        if self._file >= 0:
            with contextlib.suppress(OSError):  # the next chapter says it as well
                if self._sealer is not None and self._size >= HEADER_BYTES:
                    self._put(self._sealer.seal(END))
                os.fsync(self._file)
        self._shut()

    def _shut(self) -> None:
        if self._file >= 0:
            with contextlib.suppress(OSError):
                os.close(self._file)
        self._file, self._header, self._sealer = -1, None, None
        self._others_bytes, self._size, self._unsynced = self._others_bytes + self._size, 0, False

    # -- room ----------------------------------------------------------------------------

    def _now_ms(self) -> int:
        return max(0, int(self._clock() * 1000))

    def _room(self, need: int) -> bool:
        if self.used_bytes + need <= self._max_bytes:
            return True
        return abs(self._clock() - self._scanned_s) >= RESCAN_S and self._make_room(need)

    def _make_room(self, need: int) -> bool:
        """Remove what is too old, and count the rest anew."""
        self._scanned_s = self._clock()
        least_ms = self._now_ms() - self._max_age_s * 1000
        files = spool_files(self._folder)
        self._others_bytes, oldest_ms = 0, self._now_ms()
        for named in files:
            born = born_ms(named.path)
            if named is not files[-1] and born < least_ms:
                named.path.unlink(missing_ok=True)
                continue
            oldest_ms = min(oldest_ms, born)
            if self._header is None or named.path.name != self._header.name:
                with contextlib.suppress(FileNotFoundError):
                    self._others_bytes += named.path.lstat().st_size
        self.oldest_ms = oldest_ms
        return self.used_bytes + need <= self._max_bytes
