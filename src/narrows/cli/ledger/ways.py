"""The ways on which bytes could leave beside the gate, as operators answer for each.

narrows sees none of them: this is a list to go through, a file of answers, and a check that no
answer is missing, old or without consequence. What an answer says is the word of who gave it.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from narrows.config import fill_sections
from narrows.errors import InputError
from narrows.tomlfile import read_toml

MAX_WAYS = 64
MAX_TEXT_CHARS = 400
WAYS = {
    "ssh": "Shells, bastions, port forwarding, remote desktops into the inference network.",
    "backups": "Backups and snapshots of its disks, volumes and databases.",
    "notebooks": "Notebooks, consoles and job runners that reach its machines or its storage.",
    "images": "Container and machine images that are built or pushed from inside.",
    "logs": "Logs, traces and crash dumps that are shipped out.",
    "monitoring": "Metrics and health checks of its machines, their switches and accelerators.",
    "storage": "Object stores, shared file systems and caches that both sides mount.",
    "weights": "Copies of the checkpoint itself: training, evaluation, registries, mirrors.",
    "management": "Management controllers, KVM, serial consoles, the provider's own agents.",
    "updates": "Package mirrors, time, name and certificate servers, licence servers.",
    "media": "Disks, sticks and machines that are carried out, repaired or thrown away.",
    "people": "What people type, photograph or paste from a screen inside.",
}
"""Name to what it covers."""


@dataclass(frozen=True, slots=True)
class Way:
    """An answer. ``open``: whether bytes can leave so. ``how``: what is there, or what closes it.
    ``day_bytes``: the most that may leave so in a day and that nobody can tell from weights.
    ``charged``: how its bytes come onto the budget. ``checked``, ``by``: when and who."""

    open: bool | None = None
    how: str = ""
    day_bytes: int = 0
    charged: str = ""
    lineage: str = ""
    checked: datetime.date | None = None
    by: str = ""


@dataclass(frozen=True, slots=True)
class Booked:
    """What was charged to a lineage in the log: bytes in all, and when last."""

    total_bytes: int
    last: datetime.date


def read_ways(path: Path) -> dict[str, Way]:
    """The answers in a file, those of ``WAYS`` first. Raises InputError with every mistake."""
    file = read_toml(path)
    if len(file.data) > MAX_WAYS:
        raise InputError(f"{path} has over {MAX_WAYS} ways")
    names = list(dict.fromkeys((*WAYS, *file.data)))
    found: dict[str, Way] = fill_sections(file, dict.fromkeys(names, Way))
    problems = [
        f"[{name}]: {field} is no line of {MAX_TEXT_CHARS} characters at most"
        for name, way in found.items()
        for field in ("how", "charged", "lineage", "by")
        if len(text := getattr(way, field)) > MAX_TEXT_CHARS or not text.isprintable()
    ]
    problems += [f"[{name}]: no name of a way" for name in names if not _is_name(name)]
    problems += [f"[{name}]: day_bytes is below 0" for name in names if found[name].day_bytes < 0]
    if problems:
        raise InputError(f"{path} is no inventory", problems=tuple(problems))
    return found


def _is_name(text: str) -> bool:
    return 0 < len(text) <= 64 and text.isprintable()


def open_problems(
    ways: Mapping[str, Way],
    booked: Mapping[str, Booked] | None,
    today: datetime.date,
    answer_days: int,
    charge_days: int,
) -> list[str]:
    """What is missing. ``booked``: by lineage, None where there is no ledger to ask. Answers are
    good for ``answer_days``; an open way's lineage is charged once in ``charge_days``."""
    problems: list[str] = []
    for name, way in ways.items():
        problems += [f"{name}: {problem}" for problem in _problems(way, today, answer_days)]
    if booked is None:
        return problems
    for lineage in sorted({way.lineage for way in ways.values() if way.open and way.day_bytes}):
        last = booked[lineage].last if lineage in booked else None
        if last is None or (today - last).days > charge_days:
            when = "never" if last is None else f"last on {last}"
            problems.append(f"lineage {lineage or '(none)'}: {when} charged for its open ways")
    return problems


def _problems(way: Way, today: datetime.date, answer_days: int) -> Iterable[str]:
    if way.open is None:
        yield "open is not answered"
        return
    if not way.how:
        yield "how says nothing: what is there" if way.open else "how says not what closes it"
    if way.checked is None or not way.by:
        yield "checked and by do not say when and by whom"
    elif way.checked > today:
        yield f"checked on {way.checked}, which is to come"
    elif (today - way.checked).days > answer_days:
        yield f"checked on {way.checked}, over {answer_days} days ago"
    if way.open and not (way.charged and way.lineage):
        yield "open, and charged and lineage do not say how its bytes come onto which budget"


def template() -> str:
    """A file with no answer yet."""
    lines = [
        "# Ways on which bytes could leave beside the gate. Answer each; add your own.",
        "# 'narrows budget inventory --file THIS' says what is missing.",
    ]
    for name, covers in WAYS.items():
        lines += [
            "",
            f"# {covers}",
            f"[{name}]",
            "# open = true           # can bytes of the inference network leave so?",
            '# how = ""              # what is there, or what closes it',
            '# day_bytes = "0"       # the most a day that nobody can tell from weights',
            '# charged = ""          # how they come onto the budget (narrows budget charge)',
            '# lineage = ""          # whose budget',
            "# checked = 2026-01-31",
            '# by = ""',
        ]
    return "\n".join(lines) + "\n"
