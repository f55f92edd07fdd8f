"""Where a deployment keeps its state on this machine."""

from __future__ import annotations

import os
from pathlib import Path

from narrows.errors import InputError


def state_dir(given: Path | None) -> Path:
    """The folder given, else NARROWS_STATE, else the user's state directory; not created."""
    if given is not None:
        return given.expanduser().resolve()
    if named := os.environ.get("NARROWS_STATE"):
        return Path(named).expanduser().resolve()
    import platformdirs

    return Path(platformdirs.user_state_dir("narrows", appauthor=False))


def existing_state_dir(given: Path | None) -> Path:
    """The same, which must be there."""
    path = state_dir(given)
    if not path.is_dir():
        raise InputError(
            f"there is no state folder {path}",
            "start narrows once with 'narrows up', or name the folder with --state",
        )
    return path
