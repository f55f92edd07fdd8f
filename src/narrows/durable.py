"""Files that are read once, and files that are there whole or not at all, also after a crash.

Whoever can write to a folder can swap a file in it at any moment. So a file that is checked,
shown or signed is opened once, by one descriptor, and all of that happens to the bytes that came
from it; nothing looks at the name again. ``open_once`` refuses whatever is not a regular file
without waiting for it (a FIFO would hang, a device may answer differently each time), and, unless
told otherwise, a symbolic link.

Files are written under a fresh name that no one could have prepared, synced, and renamed.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from narrows.errors import InputError

CHUNK_BYTES = 1 << 20


@contextlib.contextmanager
def open_once(path: Path, *, follow_links: bool = False) -> Iterator[io.BufferedReader]:
    """A regular file, to be read through this one descriptor.

    ``follow_links``: ``path`` itself may be a symbolic link (mounted configuration, caches of
    models); folders above it may always be. Raises OSError, and InputError where it is a link, or
    no regular file. OSErrors of the block pass through."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
    try:
        descriptor = os.open(path, flags if follow_links else flags | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno == errno.ELOOP and not follow_links:
            raise InputError(f"{path} is a symbolic link", "name the file itself") from error
        if error.errno == errno.ENXIO:  # a socket
            raise _not_regular(path) from error
        raise
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise _not_regular(path)
        yield file


def read_once(path: Path, max_bytes: int, *, follow_links: bool = False) -> bytes:
    """All bytes of a regular file of at most ``max_bytes``. Raises InputError, saying why."""
    return read_with_mode(path, max_bytes, follow_links=follow_links)[0]


def read_with_mode(path: Path, max_bytes: int, *, follow_links: bool = False) -> tuple[bytes, int]:
    """The same, and the permissions of the file that was read."""
    try:
        with open_once(path, follow_links=follow_links) as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            data = file.read(max_bytes + 1)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    if len(data) > max_bytes:
        raise InputError(f"{path} is larger than {max_bytes} bytes")
    return data, mode


def copy_once(path: Path, out: BinaryIO, *, follow_links: bool = False) -> str:
    """Copy a regular file into ``out``; the SHA-256 (hex) of the very bytes that were copied.
    Raises InputError where ``path`` cannot be read, OSError where ``out`` cannot be written."""
    digest = hashlib.sha256()
    with contextlib.ExitStack() as opened:
        try:
            file = opened.enter_context(open_once(path, follow_links=follow_links))
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror or error}") from error
        while chunk := file.read(CHUNK_BYTES):
            out.write(chunk)
            digest.update(chunk)
    return digest.hexdigest()


def _not_regular(path: Path) -> InputError:
    return InputError(f"{path} is no regular file")


@contextlib.contextmanager
def replacing(path: Path, mode: int = 0o666) -> Iterator[BinaryIO]:
    """A file that takes the place of ``path`` when the block ends without an error: written
    aside, as ``file.name``, synced, renamed, the folder synced. ``mode``: its permissions, less
    the umask. Raises OSError, and InputError where a link, a device or the like has that name;
    then ``path`` is as it was. A kill may leave ``.NAME.RANDOM.tmp``, which is never read."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISREG(path.lstat().st_mode):  # /dev/stdout, say: root would rename over it
            raise _not_regular(path)
    with _placing(path, mode, os.replace) as file:
        yield file


def _new(path: Path, mode: int) -> BinaryIO:
    # "x": a link that someone put there leads nowhere.
    return open(path, "xb", opener=lambda name, flags: os.open(name, flags, mode))


@contextlib.contextmanager
def _placing(path: Path, mode: int, place: Callable[[Path, Path], None]) -> Iterator[BinaryIO]:
    aside = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    with contextlib.ExitStack() as made:
        with _new(aside, mode) as file:
            made.callback(aside.unlink, missing_ok=True)
            yield file
            file.flush()
            os.fsync(file.fileno())
        place(aside, path)
    sync_folder(path.parent)


def write_whole(path: Path, data: bytes, mode: int = 0o666) -> None:
    """Put ``data`` in the place of ``path``, by ``replacing``. Raises InputError."""
    try:
        with replacing(path, mode) as file:
            file.write(data)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error


def write_first(path: Path, data: bytes, mode: int = 0o666) -> None:
    """Put ``data`` at ``path``, whole, unless something is there: of processes that do so at once
    the first one wins, and what is there is never replaced. Raises OSError."""
    with contextlib.suppress(FileExistsError), _placing(path, mode, os.link) as file:
        file.write(data)


def write_new(path: Path, data: bytes, mode: int = 0o666) -> None:
    """Make ``path``, and sync it and its name; never over what is there. Under that name at once,
    since media for keys may have no links: a crash may leave a part of it. Raises OSError."""
    with _new(path, mode) as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
