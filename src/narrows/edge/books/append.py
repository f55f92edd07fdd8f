"""Files of lines that are only appended to. A line that a crash tore is cut off by the next
writer: what is there are whole lines, each written before ``append_lines`` returned."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from narrows.durable import sync_folder


def append_lines(path: Path, data: bytes) -> None:
    """Put whole lines at the end of ``path`` (made with mode 0600) and sync. Raises OSError;
    then nothing of them stays, if the disk allows that."""
    fresh = not path.exists()
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        end = whole_lines(descriptor)
        os.ftruncate(descriptor, end)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
            os.fdatasync(descriptor)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, end)
            raise
    finally:
        os.close(descriptor)
    if fresh:
        sync_folder(path.parent)


def whole_lines(descriptor: int) -> int:
    """The length of a file up to its last line's end."""
    end = os.fstat(descriptor).st_size
    while end:
        start = max(0, end - 65536)
        at = os.pread(descriptor, end - start, start).rfind(b"\n")
        if at >= 0:
            return start + at + 1
        end = start
    return 0
