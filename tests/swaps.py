"""What someone who can write to a folder does to whoever reads a file there more than once."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

_watching: list[Callable[[str], None]] = []


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and _watching and isinstance(arguments[0], str | Path):
        _watching[-1](os.fspath(arguments[0]))


sys.addaudithook(_hook)  # can never be removed; idle outside ``before_opening``


@contextlib.contextmanager
def before_opening(file: Path, opening: int, act: Callable[[], object]) -> Iterator[None]:
    """Calls ``act`` before ``file`` is opened for the ``opening``-th time in this process, by
    whatever function."""
    seen = 0

    def look(path: str) -> None:
        nonlocal seen
        if path == str(file):
            seen += 1
            if seen == opening:
                act()

    _watching.append(look)
    try:
        yield
    finally:
        _watching.clear()
