"""Folders of a state that nobody else owns or may write, on the way and in the end.

What a role finds in its state folder it believes: keys, ledgers, alarms. So each folder from the
state folder down is opened without following a symbolic link, must belong to the user that the
role runs as, and must not be writable by group or others. Missing ones are made with mode 0700.
How the state folder itself is reached is the caller's: its own path may lead through links, and
whoever may write above it can put another in its place.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import stat
from pathlib import Path

from narrows.errors import InputError

OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def private_folder(root: Path, *names: str, shown: bool = False, make: bool = True) -> Path:
    """``root`` and below it ``names``, each checked, and made where it is missing; returns the
    last. ``shown``: others may read the last one, and links may lie in it. ``make`` false: a
    missing one is left so, and what is there is checked. ``InputError`` says what to do."""
    path = root
    try:
        if make:
            _make_above(root)
        folder = os.open(root, _FOLDER)
        try:
            _check(root, os.fstat(folder), OTHERS_WRITE)
            for number, name in enumerate(names):
                path = path / name
                made = make and _made(name, folder)
                inner = _open_inside(path, folder)
                os.close(folder)
                folder = inner
                _check(path, os.fstat(folder), OTHERS_WRITE)
                if made and shown and number == len(names) - 1:
                    os.fchmod(folder, 0o755)  # mkdir's own way gives it less the umask
            if names and not shown:
                _check_entries(path, folder)
        finally:
            os.close(folder)
    except FileNotFoundError as error:
        if make:
            raise _cannot(path, error) from error
    except OSError as error:
        raise _cannot(path, error) from error
    return root.joinpath(*names)


def _made(name: str, folder: int) -> bool:
    try:
        os.mkdir(name, 0o700, dir_fd=folder)
    except FileExistsError:
        return False
    return True


def _make_above(root: Path) -> None:
    """Every missing folder down to ``root``: ``mkdir``'s own way gives those between the
    caller's umask."""
    for folder in (*reversed(root.parents), root):
        if not folder.is_dir():
            with contextlib.suppress(FileExistsError):
                folder.mkdir(mode=0o700)


def _open_inside(path: Path, folder: int) -> int:
    try:
        return os.open(path.name, _FOLDER | os.O_NOFOLLOW, dir_fd=folder)
    except OSError as error:
        # Linux says ENOTDIR of a link where a folder is asked for, ELOOP elsewhere.
        if error.errno in (errno.ENOTDIR, errno.ELOOP):
            raise InputError(
                f"{path} is a symbolic link, or no folder", f"rm {shlex.quote(str(path))}"
            ) from error
        raise


def _check_entries(path: Path, folder: int) -> None:
    """A link or another's file in there was made while others could write the folder."""
    with os.scandir(folder) as entries:
        for entry in entries:
            try:
                found = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue  # another process of ours replaces its files
            inside = path / entry.name
            if stat.S_ISLNK(found.st_mode):
                raise InputError(f"{inside} is a symbolic link", f"rm {shlex.quote(str(inside))}")
            _check(inside, found, 0)


def _check(path: Path, found: os.stat_result, refused_mode: int) -> None:
    quoted = shlex.quote(str(path))
    if found.st_uid != os.geteuid():
        raise InputError(
            f"{path} belongs to user {found.st_uid}, not to {os.geteuid()}, whom narrows runs as",
            f"chown {os.geteuid()} {quoted}",
        )
    if found.st_mode & refused_mode:
        raise InputError(f"others may write to {path}", f"chmod go-w {quoted}")


def _cannot(path: Path, error: OSError) -> InputError:
    return InputError(f"cannot use the folder {path}: {error.strerror or error}")
