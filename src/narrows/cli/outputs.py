"""Whether a result can be written, asked before the work of minutes whose result it is."""

from __future__ import annotations

import stat
import tempfile
from pathlib import Path

from narrows.errors import InputError


def check_places(*paths: Path | None) -> None:
    """Raises InputError where ``write_whole`` could put no file at one of these now. Nothing is
    left behind, and what is there stays as it is until the result takes its place."""
    for path in paths:
        if path is not None:
            _check(path)


def _check(path: Path) -> None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        pass
    except OSError as error:
        raise _cannot(path, error) from error
    else:
        if not stat.S_ISREG(found.st_mode):
            raise InputError(f"{path} is no regular file")
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", suffix=".tmp"):
            pass
    except OSError as error:
        raise _cannot(path, error) from error


def _cannot(path: Path, error: OSError) -> InputError:
    return InputError(f"cannot write {path}: {error.strerror or error}")
