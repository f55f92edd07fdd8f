"""The exceptions that narrows raises on purpose.

    NarrowsError
    ├── InputError          something the user wrote or passed is wrong: file, flag, scenario
    ├── ArtifactError       a model file is truncated, altered, unknown or unsafe to load
    ├── LinkError           the coded link broke a rule; the link is closed, never repaired
    ├── BudgetError         the ledger refuses: depleted, behind its witness, bad signature
    └── PeerError           another process is missing, refuses, or broke the protocol

Each carries ``message`` (what happened) apart from ``remedy`` (what a person should do
about it). An exception of a dependency never crosses the border of the package that
called it: it is wrapped, with ``raise … from``.
"""

from __future__ import annotations


class NarrowsError(Exception):
    """Base of all. ``exit_code`` is what a command that dies of it returns."""

    exit_code = 1

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message} ({self.remedy})" if self.remedy else self.message


class InputError(NarrowsError):
    """A file, flag or scenario that a user wrote is wrong. ``problems`` holds every one."""

    exit_code = 2

    def __init__(self, message: str, remedy: str = "", problems: tuple[str, ...] = ()) -> None:
        super().__init__(message, remedy)
        self.problems = problems


class ArtifactError(NarrowsError):
    """A model file cannot be trusted to mean what it says. Nothing of it was loaded."""

    exit_code = 3


class LinkError(NarrowsError):
    """The coded link broke a rule (checksum, limits, grammar). The link must be closed."""

    exit_code = 4


class BudgetError(NarrowsError):
    """The ledger refuses to grant, change or start."""

    exit_code = 5


class PeerError(NarrowsError):
    """Another process could not be reached, refused, or broke the protocol."""

    exit_code = 6


def missing_extra(sentence: str, extra: str) -> InputError:
    """For work that needs packages which only ``extra`` of ``pyproject.toml`` brings."""
    return InputError(sentence, f"in the folder of narrows: .venv/bin/pip install -e '.[{extra}]'")
