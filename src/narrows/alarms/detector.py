"""What every detector is, and what it says: one interface.

A detector watches what is outside already (answers that the edge has decoded, bytes that the
ledger has booked), needs no strong model, and states its null and its rate of false alarms in its
own module. Its evidence is kept by the one who runs it (``AlarmBook``), so that a restart
forgets nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

EVERYONE = -1
"""As a subject: all answers of an edge together. Others are numbers of API keys (0: no key)."""

KINDS = ("noise", "uncoupled", "cost", "share", "full")
"""What an alarm can be about; each has a policy. ``full``: the book has no room for another."""


OF_MODEL = "@"
"""Stands between a detector's name and the model that it watches, where an edge has several."""


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


class DetectorOfModel:
    """A detector that watches one model of an edge, under a name of its own."""

    def __init__(self, detector: Detector, model: str) -> None:
        self._detector = detector
        self.name = detector.name + OF_MODEL + model

    def forget(self, subject: int) -> None:
        """As of ``Detector``."""
        self._detector.forget(subject)

    def take_changed(self) -> Iterator[tuple[int, Sequence[float] | None]]:
        """As of ``Detector``."""
        return self._detector.take_changed()

    def restore(self, subject: int, values: Sequence[float]) -> None:
        """As of ``Detector``."""
        self._detector.restore(subject, values)


def of_model(firing: Firing, model: str) -> Firing:
    """What a detector of ``model`` found."""
    return replace(firing, detector=firing.detector + OF_MODEL + model)
