"""The gate's figures for others: ``STATE/gate/stats.json``, replaced as a whole.

Nothing of the gate depends on it: a disk that takes no writes costs the figures and a line in
the log, never a link. What failed since the gate's start stands in the next file that it takes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(slots=True)
class Latency:
    """Calls and their seconds, all in all. Written by one thread."""

    calls: int = 0
    seconds: float = 0.0

    def add(self, seconds: float) -> None:
        self.calls += 1
        self.seconds += seconds

    def figures(self) -> dict[str, object]:
        return {"calls": self.calls, "seconds": round(self.seconds, 3)}


class StatsFile:
    """One writer. ``say``: hears of the first failure of a row of them, and of its end."""

    def __init__(self, path: Path, say: Callable[[str], None]) -> None:
        self._path, self._say = path, say
        self._failures = 0
        self._fault = ""  # of the last attempt
        self._last_fault = ""

    def failures(self) -> dict[str, object]:
        """How many writes the disk refused, and what it said the last time."""
        return {"count": self._failures, "last": self._last_fault}

    def replace(self, stats: Mapping[str, object]) -> bool:
        """Write ``stats``; false where the disk refuses. No fsync: after a crash these numbers
        are of no use, the ledger's are."""
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            new = self._path.with_suffix(".new")
            new.write_text(json.dumps(stats, indent=1) + "\n")
            new.replace(self._path)
        except OSError as error:
            self._failures += 1
            if not self._fault:
                self._say(f"the figures are not written, the gate goes on: {error}")
            self._fault = self._last_fault = str(error)[:200]
            return False
        if self._fault:
            self._say("the figures are written again")
            self._fault = ""
        return True
