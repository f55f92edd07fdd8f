"""Limits as people write them: flags such as ``1h=50MB``, and the ``[budget]`` block of a plan."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

from narrows.errors import InputError
from narrows.ledger.auditors import PPT, NetLimits
from narrows.ledger.limits import Limits
from narrows.ledger.log.canonical import MAX_INTEGER, is_name

DEFAULT_POOL_PPT = PPT // 1_000_000
_SIZES = {"": 1, "B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_LENGTHS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_KEYS = ("lineage", "lifetime_bytes", "windows_bytes", "accounts")


@dataclass(frozen=True, slots=True)
class BudgetBlock:
    """What a ``[budget]`` block says. ``accounts`` have no limits of their own."""

    lineage: str
    limits: Limits
    accounts: dict[str, Limits]


def account(text: str) -> tuple[str, Limits]:
    """``NAME[:lifetime=SIZE][,LENGTH=SIZE...]``. Errors: ``InputError``."""
    name, _, rest = text.partition(":")
    return name, limits([word for word in rest.split(",") if word], f"--account {name}")


def limits(words: list[str], where: str) -> Limits:
    """``lifetime=SIZE`` and ``LENGTH=SIZE`` words. Errors: ``InputError``."""
    lifetime: int | None = None
    windows: dict[int, int] = {}
    for word in words:
        name, equals, size = word.partition("=")
        if not equals:
            raise InputError(f"{where}: {word!r} is not NAME=SIZE")
        if name == "lifetime":
            lifetime = _amount(size, _SIZES, where)
        else:
            windows[_amount(name, _LENGTHS, where)] = _amount(size, _SIZES, where)
    return Limits(lifetime, tuple(sorted(windows.items())))


def parts(share: float, whole: int, flag: str) -> int:
    """``share``, 0 to 1, as so many of ``whole`` parts. Errors: ``InputError``."""
    if not 0 <= share <= 1:  # no number is not
        raise InputError(f"{flag} is {share}, not a number from 0 to 1")
    return round(share * whole)


def net(
    now: NetLimits | None, lifetime: str | None, windows: list[str], delta: float | None
) -> NetLimits | None:
    """The net budget that the flags ask for; what they do not name stays as ``now``. Errors:
    ``InputError``."""
    if lifetime is not None:
        words = [f"lifetime={lifetime}", *windows]
        pool_ppt = now.delta_ppt if now is not None else DEFAULT_POOL_PPT
        now = NetLimits(limits(words, "--net-lifetime, --net-window"), pool_ppt)
    elif windows:
        raise InputError("--net-window without --net-lifetime", "a net budget has a lifetime")
    if delta is None:
        return now
    if now is None:
        raise InputError("--net-delta without --net-lifetime", "a net budget has a lifetime")
    return NetLimits(now.limits, parts(delta, PPT, "--net-delta"))


def read_block(path: Path) -> BudgetBlock:
    """The ``[budget]`` block of a file that ``narrows plan --budget`` wrote, or of one like it.
    Raises ``InputError`` with every mistake and its line."""
    from narrows.tomlfile import read_toml

    file = read_toml(path)
    block = file.data.get("budget")
    if not isinstance(block, dict) or set(file.data) != {"budget"}:
        raise InputError(f"{path} must hold one [budget] block", "see narrows plan --budget FILE")
    problems = [
        f"{file.where(('budget', key))}: budget.{key}: no such key; there are: {', '.join(_KEYS)}"
        for key in block
        if key not in _KEYS
    ]

    def bad(key: str, remedy: str) -> None:
        problems.append(f"{file.where(('budget', key))}: budget.{key}: {remedy}")

    lineage, lifetime = block.get("lineage"), block.get("lifetime_bytes")
    if not _is_word(lineage):
        bad("lineage", 'must be a name, as in "base-1"')
    if not _is_size(lifetime):
        bad("lifetime_bytes", "must be whole bytes, as in 2000000000")
    windows: dict[int, int] = {}
    table = block.get("windows_bytes", {})
    for length, size in table.items() if isinstance(table, dict) else [("", None)]:
        try:
            length_ms = _amount(length, _LENGTHS, "windows")
        except InputError:
            length_ms = 0
        if length_ms < 1 or length_ms in windows or not _is_size(size):
            bad("windows_bytes", 'must be lengths to whole bytes, as in { "1h" = 50000000 }')
        else:
            windows[length_ms] = size
    accounts = block.get("accounts", [])
    if not isinstance(accounts, list) or not accounts or not all(map(_is_word, accounts)):
        bad("accounts", 'must be names of gate ports\' accounts, as in ["answers"]')
        accounts = []
    if problems:
        raise InputError(f"{path} is no budget", problems=tuple(problems))
    return BudgetBlock(
        str(lineage),
        Limits(lifetime, tuple(sorted(windows.items()))),
        dict.fromkeys(accounts, Limits(None)),
    )


def _is_word(value: object) -> bool:
    return isinstance(value, str) and is_name(value)


def _is_size(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 <= value <= MAX_INTEGER


def _amount(text: str, units: dict[str, int], where: str) -> int:
    """A whole number with a unit, decimal: 2GB is 2·10^9."""
    digits = text.rstrip("".join(set("".join(units))))
    unit = text[len(digits) :]
    if not digits.isascii() or not digits.isdigit() or len(digits) > 19 or unit not in units:
        known = " ".join(unit for unit in units if unit)
        raise InputError(f"{where}: {text!r} is not a whole number with a unit of {known}")
    return int(digits) * units[unit]
