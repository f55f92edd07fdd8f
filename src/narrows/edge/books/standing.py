"""How an edge's models stand, for other processes: ``STATE/edge/models.json``.

An edge that runs replaces it when something changed, and every ``REFRESH_S``: an older file is of
an edge that has ended. What someone achieves who writes it: a wrong line in ``narrows status``.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from narrows.durable import read_once, write_whole
from narrows.edge.books.store import edge_dir
from narrows.edge.model_table import MAX_MODELS
from narrows.errors import InputError, NarrowsError

log = logging.getLogger("narrows.edge.standing")

REFRESH_S = 5.0
SILENT_S = 20.0
"""An edge that runs is not silent for longer, whatever its disk does."""
MAX_FILE_BYTES = 1 << 18
WORDS = ("link", "gate", "model", "decoder", "weak_model")
_REMEDY = "delete it: an edge makes it anew"

Standings = Mapping[str, Mapping[str, Any]]


def standing_path(state_dir: Path) -> Path:
    """Where it is."""
    return edge_dir(state_dir) / "models.json"


class StandingFile:
    """The one writer. ``clock_s``: monotonic seconds."""

    def __init__(self, state_dir: Path, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._path = standing_path(state_dir)
        self._clock_s = clock_s
        self._written: dict[str, dict[str, Any]] | None = None
        self._written_s = 0.0
        self._failed = False

    def write(self, standings: Standings) -> None:
        """By model, as of ``WORDS``. Blocks for the disk; one that refuses costs a line in the
        log."""
        now_s = self._clock_s()
        words = {name: {word: one[word] for word in WORDS} for name, one in standings.items()}
        if words == self._written and now_s - self._written_s < REFRESH_S:
            return
        try:
            write_whole(self._path, json.dumps(words).encode(), 0o600)
        except NarrowsError as error:
            if not self._failed:
                log.error("'narrows status' does not hear how the models stand: %s", error)
            self._failed = True
            return
        self._written, self._written_s, self._failed = words, now_s, False


def read_standings(state_dir: Path, now_s: float) -> tuple[dict[str, dict[str, str]], float | None]:
    """By model, and for how long the edge has been silent; nothing and None where none ever said.
    ``now_s``: Unix time. Raises InputError."""
    path = standing_path(state_dir)
    try:
        silent_s = max(0.0, now_s - path.stat().st_mtime)
    except FileNotFoundError:
        return {}, None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error}", _REMEDY) from error
    try:
        found = json.loads(read_once(path, MAX_FILE_BYTES))
    except (ValueError, RecursionError) as error:
        raise InputError(f"cannot read {path}: {error}", _REMEDY) from error
    if (
        not isinstance(found, dict)
        or len(found) > MAX_MODELS
        or not all(map(_fits, found.values()))
    ):
        raise InputError(f"{path} says nothing of models", _REMEDY)
    return found, silent_s


def _fits(one: object) -> bool:
    return isinstance(one, dict) and all(isinstance(one.get(word), str) for word in WORDS)
