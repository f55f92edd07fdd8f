"""Limits as people write them: flags such as ``1h=50MB``, and the ``[budget]`` block of a plan."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from narrows.errors import InputError
from narrows.ledger.auditors import PPT, NetLimits
from narrows.ledger.limits import Limits
from narrows.ledger.log.canonical import MAX_INTEGER, is_name
from narrows.sizes import size_bytes

DEFAULT_POOL_PPT = PPT // 1_000_000
_LENGTHS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_KEYS = ("lineage", "lifetime_bytes", "windows_bytes", "accounts")
_NET_KEYS = ("net_lifetime_bytes", "net_windows_bytes")


@dataclass(frozen=True, slots=True)
class BudgetBlock:
    """What a ``[budget]`` block says. ``accounts`` have no limits of their own; ``net``: of what
    no auditor explains, where it says one."""

    lineage: str
    limits: Limits
    accounts: dict[str, Limits]
    net: Limits | None = None


def account(text: str) -> tuple[str, Limits]:
    """``NAME[:lifetime=SIZE][,LENGTH=SIZE...]``. Errors: ``InputError``."""
    name, _, rest = text.partition(":")
    return name, limits([word for word in rest.split(",") if word], f"--account {name}")


def limits(words: list[str], where: str) -> Limits:
    """``lifetime=SIZE`` and ``LENGTH=SIZE`` words. Errors: ``InputError``."""
    lifetimes = [word for word in words if word.startswith("lifetime=")]
    lifetime = None
    for word in lifetimes:
        lifetime = size_bytes(word.removeprefix("lifetime="), f"{where} lifetime")
    return Limits(lifetime, windows([word for word in words if word not in lifetimes], where))


def windows(words: list[str], where: str) -> tuple[tuple[int, int], ...]:
    """``LENGTH=SIZE`` words, as ``Limits`` has them. Errors: ``InputError``."""
    found: dict[int, int] = {}
    for word in words:
        length, equals, size = word.partition("=")
        if not equals:
            raise InputError(f"{where}: {word!r} is not LENGTH=SIZE", "write it as 1h=50MB")
        found[_length_ms(length, where)] = size_bytes(size, f"{where} {length}")
    return tuple(sorted(found.items()))


def parts(share: float, whole: int, flag: str) -> int:
    """``share``, 0 to 1, as so many of ``whole`` parts. Errors: ``InputError``."""
    if not 0 <= share <= 1:  # no number is not
        raise InputError(f"{flag} is {share}, not a number from 0 to 1")
    return round(share * whole)


def net(
    now: NetLimits | None, lifetime: str | None, window: list[str], delta: float | None
) -> NetLimits | None:
    """The net budget that the flags ask for; what they do not name stays as ``now``. Errors:
    ``InputError``."""
    if lifetime is not None:
        pool_ppt = now.delta_ppt if now is not None else DEFAULT_POOL_PPT
        given = Limits(size_bytes(lifetime, "--net-lifetime"), windows(window, "--net-window"))
        now = NetLimits(given, pool_ppt)
    elif window:
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
        f"{file.where(('budget', key))}: budget.{key}: no such key; there are: "
        f"{', '.join((*_KEYS, *_NET_KEYS))}"
        for key in block
        if key not in (*_KEYS, *_NET_KEYS)
    ]

    def bad(key: str, remedy: str) -> None:
        problems.append(f"{file.where(('budget', key))}: budget.{key}: {remedy}")

    lineage, lifetime = block.get("lineage"), _size(block.get("lifetime_bytes"))
    if not _is_word(lineage):
        bad("lineage", 'must be a name, as in "base-1"')
    if lifetime is None:
        bad("lifetime_bytes", 'must be whole bytes, as in 2000000000 or "2GB"')
    windows, wrong = _windows(block.get("windows_bytes", {}))
    for _ in range(wrong):
        bad("windows_bytes", 'must be lengths to whole bytes, as in { "1h" = 50000000 }')
    net = None
    if any(key in block for key in _NET_KEYS):
        most = _size(block.get("net_lifetime_bytes"))
        tight, wrong = _windows(block.get("net_windows_bytes", {}))
        if most is None:
            bad("net_lifetime_bytes", 'must be whole bytes, as in 2000000000 or "2GB"')
        for _ in range(wrong):
            bad("net_windows_bytes", 'must be lengths to whole bytes, as in { "1h" = 5000000 }')
        net = Limits(most, tuple(sorted(tight.items())))
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
        net,
    )


def _windows(table: object) -> tuple[dict[int, int], int]:
    """Milliseconds to bytes, and how many entries are no such thing."""
    if not isinstance(table, dict):
        return {}, 1
    windows: dict[int, int] = {}
    wrong = 0
    for length, written in table.items():
        size = _size(written)
        try:
            length_ms = _length_ms(length, "windows")
        except InputError:
            length_ms = 0
        if length_ms < 1 or length_ms in windows or size is None:
            wrong += 1
        else:
            windows[length_ms] = size
    return windows, wrong


def _is_word(value: object) -> bool:
    return isinstance(value, str) and is_name(value)


def _size(value: object) -> int | None:
    """Bytes, as a number or as text; None for what is neither."""
    if isinstance(value, str):
        try:
            value = size_bytes(value, "size")
        except InputError:
            return None
    return value if type(value) is int and 0 <= value <= MAX_INTEGER else None


def _length_ms(text: str, where: str) -> int:
    """A whole number with a unit of time."""
    digits = text.rstrip("".join(set("".join(_LENGTHS))))
    unit = text[len(digits) :]
    if not digits.isascii() or not digits.isdigit() or len(digits) > 19 or unit not in _LENGTHS:
        known = " ".join(_LENGTHS)
        raise InputError(f"{where}: {text!r} is no length of time, a whole number of {known}")
    return int(digits) * _LENGTHS[unit]
