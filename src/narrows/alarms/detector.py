"""What every detector is, and what it says: one interface.

A detector watches what is outside already (answers that the edge has decoded, bytes that the
ledger has booked), needs no strong model, and states its null and its rate of false alarms in its
own module. Its evidence is kept by the one who runs it (``AlarmBook``), so that a restart
forgets nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

EVERYONE = -1
"""As a subject: all answers of an edge together. Others are numbers of API keys (0: no key)."""

KINDS = ("noise", "uncoupled", "cost", "share", "full")
"""What an alarm can be about; each has a policy. ``full``: the book has no room for another."""


@dataclass(frozen=True, slots=True)
class Firing:
    """A detector found what its null does not allow. ``kind``: of ``KINDS``; ``detector``: which
    test of that kind; ``note``: made of the detector's own words and figures alone."""

    kind: str
    detector: str
    subject: int
    evidence_bits: float
    note: str


class Detector(Protocol):
    """``name``: unique; what its rows in the book are filed under."""

    @property
    def name(self) -> str: ...

    def forget(self, subject: int) -> None:
        """An alarm about ``subject`` was acknowledged: begin anew."""

    def take_changed(self) -> Iterator[tuple[int, Sequence[float] | None]]:
        """The evidence by subject that changed since the last call; None: gone."""

    def restore(self, subject: int, values: Sequence[float]) -> None:
        """What ``take_changed`` gave once, from the book: not believed, ignored where unfit."""
