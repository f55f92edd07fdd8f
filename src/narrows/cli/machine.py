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
# What only a disk or the table of open files says. Any other refusal of a file comes with its
# name, and without one is as likely a bug.
_NAMELESS = (*_FULL, errno.EFBIG, errno.EIO, errno.EMFILE, errno.ENFILE)
_FILES = (
    *_NAMELESS,
    errno.EACCES,
    errno.EEXIST,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.ENOTEMPTY,
    errno.EPERM,
    errno.EROFS,
)
_PORTS = (errno.EADDRINUSE, errno.EADDRNOTAVAIL)
# Other codes of SQLite (no such table, a constraint) are of a statement: a bug.
_DATABASES = (
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_NOTADB,
)
MAX_NAME_CHARS = 200


def machine_error(error: BaseException) -> NarrowsError | None:
    """What to tell of an error that came through from the system; None where it is a bug."""
    if isinstance(error, OSError):
        return _system(error)
    if isinstance(error, sqlite3.DatabaseError):
        # The low byte: the rest tells causes of one code apart.
        if getattr(error, "sqlite_errorcode", 0) & 0xFF not in _DATABASES:
            return None
        return InputError(f"a database in the state folder cannot be used: {error}")
    if isinstance(error, RuntimeError) and "no locator available" in str(error):  # numba's
        return InputError(
            "there is no folder for compiled kernels: neither narrows' own nor one in the "
            "user's home can be written",
            "name one that can: NUMBA_CACHE_DIR",
        )
    return None


def _system(error: OSError) -> NarrowsError | None:
    forbidden = error.errno == errno.EACCES and "to bind on" in (error.strerror or "")  # asyncio's
    if error.errno in _PORTS or forbidden:
        return PeerError(f"cannot listen: {error.strerror}", "choose another address or port")
    names = [_shown(name) for name in (error.filename, error.filename2) if name is not None]
    if error.errno is None or error.errno not in (_FILES if names else _NAMELESS):
        return None
    why = os.strerror(error.errno)
    remedy = "make room on that disk" if error.errno in _FULL else ""
    if not names:
        return InputError(f"the system refuses: {why}", remedy)
    return InputError(f"cannot use {' or '.join(names)}: {why}", remedy)


def _shown(name: object) -> str:
    text = os.fsdecode(name) if isinstance(name, bytes | str) else str(name)
    start = text if len(text) <= MAX_NAME_CHARS else text[:MAX_NAME_CHARS] + "…"
    return start if start.isprintable() else repr(start)
