"""What the machine refuses a command, in one sentence: files, folders, disks, ports, homes.

Who can mend it is the person at the machine, so a traceback would only hide what to do. An
error that this module does not know is a bug.
"""

from __future__ import annotations

import errno
import os
import sqlite3

from narrows.errors import InputError, NarrowsError, PeerError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_FILES = (
    *_FULL,
    errno.EACCES,
    errno.EEXIST,
    errno.EFBIG,
    errno.EIO,
    errno.EISDIR,
    errno.ELOOP,
    errno.EMFILE,
    errno.ENAMETOOLONG,
    errno.ENFILE,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.ENOTEMPTY,
    errno.EPERM,
    errno.EROFS,
)
_PORTS = (errno.EADDRINUSE, errno.EADDRNOTAVAIL)
MAX_NAME_CHARS = 200


def machine_error(error: BaseException) -> NarrowsError | None:
    """What to tell of an error that came through from the system; None where it is a bug."""
    if isinstance(error, OSError):
        return _system(error)
    if isinstance(error, sqlite3.OperationalError):  # no room, no permission, no such folder
        return InputError(f"a database in the state folder cannot be used: {error}")
    if isinstance(error, RuntimeError) and "no locator available" in str(error):  # numba's
        return InputError(
            "there is no folder for compiled kernels: neither narrows' own nor one in the "
            "user's home can be written",
            "name one that can: NUMBA_CACHE_DIR",
        )
    return None


def _system(error: OSError) -> NarrowsError | None:
    if error.errno in _PORTS:
        return PeerError(f"cannot listen: {error.strerror}", "choose another address or port")
    if error.errno not in _FILES:
        return None
    why = os.strerror(error.errno)
    remedy = "make room on that disk" if error.errno in _FULL else ""
    names = [_shown(name) for name in (error.filename, error.filename2) if name is not None]
    if not names:
        return InputError(f"the system refuses: {why}", remedy)
    return InputError(f"cannot use {' or '.join(names)}: {why}", remedy)


def _shown(name: object) -> str:
    text = os.fsdecode(name) if isinstance(name, bytes | str) else str(name)
    start = text if len(text) <= MAX_NAME_CHARS else text[:MAX_NAME_CHARS] + "…"
    return start if start.isprintable() else repr(start)
