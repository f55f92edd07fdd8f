"""Removing what a spool is done with, without its key."""

from __future__ import annotations

from pathlib import Path

from narrows.durable import sync_folder
from narrows.wire.spool.file import read_header, spool_files, tape_bytes


def prune(folder: Path, nonce: bytes, position: int) -> int:
    """Remove the files whose bytes all lie at or before ``position`` of the chapter's tape: whole
    earlier chapters too, the spool's newest file never. How many; 0 for an unknown chapter.
    OSError, ``InputError``."""
    for named in spool_files(folder):
        header = read_header(named.path)
        if header is not None and header.boot_nonce == nonce:
            return prune_through(folder, header.base + position)
    return 0


def prune_through(folder: Path, position: int) -> int:
    """As ``prune``, for a position of the whole spool, as credits name it."""
    removed = 0
    files = spool_files(folder)
    for named in files[:-1]:
        header = read_header(named.path)
        if header is None:
            continue
        if header.base + header.start + tape_bytes(named.path) > position:
            break
        named.path.unlink(missing_ok=True)
        removed += 1
    if removed:
        sync_folder(folder)
    return removed
