"""An attack, and the list of them.

An attack is a function of (site, effort) that makes the inside hostile, plays the receiver and
returns a ``Decoded``. Its docstring is what the report says of it: a title, then what the outsider
``Sees``, how it ``Decodes``, and what is ``Charged``.
"""

from __future__ import annotations

import inspect
import random
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from narrows.redteam.payload import Decoded, Secret

if TYPE_CHECKING:
    from narrows.redteam.site import Site

GROUPS = ("tokens", "structure", "link", "moments", "roles", "ledger")
_PARTS = ("Sees", "Decodes", "Charged")


@dataclass
class Effort:
    """How long and by which chance. ``scale``: 1 is the short form; payloads grow with it.
    ``learned``: called where what teaches the receiver is over; the charge counts from there."""

    seed: int
    scale: float = 1.0
    secret: Secret = field(init=False)
    rng: random.Random = field(init=False)  # what both ends know
    learned: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        self.secret = Secret(f"secret {self.seed}")
        self.rng = random.Random(f"shared {self.seed}")

    def times(self, count: int) -> int:
        return max(1, round(count * self.scale))


Run = Callable[["Site", Effort], Decoded]
_R = TypeVar("_R", bound=Run)


@dataclass(frozen=True)
class Attack:
    """``parts``: what the docstring says, by ``Sees``, ``Decodes``, ``Charged``. ``by_ledger``:
    the charge is what the ledger lost, since the gate that counted does not outlive it."""

    name: str
    group: str
    title: str
    parts: dict[str, str]
    run: Run
    by_ledger: bool = False


ATTACKS: dict[str, Attack] = {}


def attack(name: str, group: str, *, by_ledger: bool = False) -> Callable[[_R], _R]:
    """Put a function on the list. ValueError where its docstring lacks a part."""

    def enlist(run: _R) -> _R:
        title, _, rest = inspect.cleandoc(run.__doc__ or "").partition("\n")
        found = re.split(r"(?:^|\n|(?<=\.) )(Sees|Decodes|Charged):\s", rest.strip())
        parts = dict(zip(found[1::2], (" ".join(p.split()) for p in found[2::2]), strict=True))
        if group not in GROUPS or tuple(parts) != _PARTS or name in ATTACKS:
            raise ValueError(f"the attack {name} must say what it is, in a known group")
        ATTACKS[name] = Attack(name, group, title.rstrip("."), parts, run, by_ledger)
        return run

    return enlist
