"""All attacks: importing this fills the list."""

from __future__ import annotations

from collections.abc import Sequence

from narrows.errors import InputError
from narrows.redteam import linkforms, moments, roles, structure, tokens
from narrows.redteam.attack import ATTACKS, GROUPS, Attack

ROOMS = (tokens, structure, linkforms, moments, roles)


def every_attack() -> list[Attack]:
    """In the order of the report: by group, then as they were written."""
    return sorted(ATTACKS.values(), key=lambda one: GROUPS.index(one.group))


def chosen(names: Sequence[str]) -> list[Attack]:
    """These, in that order. InputError names every name that is none."""
    wrong = [name for name in names if name not in ATTACKS]
    if wrong:
        raise InputError(
            "no such attack",
            "'narrows redteam list' names them",
            problems=tuple(name[:80] for name in wrong),
        )
    return [one for one in every_attack() if one.name in names]
