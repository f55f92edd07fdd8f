"""Paths below a user's home folder, as people write them: ``~`` and ``~user``."""

from __future__ import annotations

from pathlib import Path

from narrows.errors import InputError


def expanded(path: str | Path) -> Path:
    """``path`` with the home folder that its ``~`` or ``~user`` stands for. Raises InputError
    where there is none: no such user, or one without a home."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise InputError(
            f"{path}: {Path(path).parts[0]} has no home folder here", "write the path out"
        ) from error
