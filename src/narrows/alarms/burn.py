"""Normal demand, from what left hour by hour: a forecast, tried on its own past, and an alarm.

An hour's forecast are the values at the same hour of the day, one hour earlier and one later,
on the ``MEMORY_DAYS`` before: their median, and the interval between those ranks that hold a new
exchangeable value with 80 %. Demand that has no such day is forecast from all hours.

The alarm's null: whatever came before, an hour is above its interval with a chance of at most 1
in 5 (1 in 10 where hours are exchangeable). The bet is ``Evidence``'s, one an hour, with ``ALPHA``
an hour: less than one false alarm in a century. It looks at the ledger of people, from outside the
enclave's reach; what is done about it is theirs.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from narrows.alarms.evidence import Evidence
from narrows.errors import InputError

DAY = 24
MEMORY_DAYS = 14
LEAST_HOURS = 3 * DAY
ALPHA = 1e-6
_HIGHEST_SHARE = 1 / 5
_BET = 0.4
_TRIALS = 1000
_SPARE = 1.25


@dataclass(frozen=True, slots=True)
class HourForecast:
    """Bytes."""

    low: int
    median: int
    high: int


@dataclass(frozen=True, slots=True)
class Backtest:
    """``hours`` of the past, each forecast from those before it: the share within its interval
    and above it, and the median's mean error over that of "as in the hour before"."""

    hours: int
    within: float
    above: float
    error_over_naive: float | None


@dataclass(frozen=True, slots=True)
class ProposedCap:
    """``cap_bytes`` a window of ``length_h`` hours; ``refused``: share of the second half's
    windows that a cap proposed after the first half would have cut; None with too little."""

    length_h: int
    cap_bytes: int
    highest_bytes: int
    refused: float | None


@dataclass(frozen=True, slots=True)
class DemandForecast:
    """``coming``: the next day's hours. ``days_left``: until ``left_bytes`` are spent, at 10, 50
    and 90 %; None where that is further than a century. ``alarm``: demand was not normal within the
    last day."""

    hours: int
    coming: tuple[HourForecast, ...]
    daily_bytes: float
    days_left: tuple[float | None, float | None, float | None]
    caps: tuple[ProposedCap, ...]
    backtest: Backtest
    evidence_bits: float
    alarm: bool


def forecast_demand(hourly: Sequence[int], left_bytes: int, seed: int = 1) -> DemandForecast:
    """``hourly``: bytes of complete hours, the oldest first. InputError: too few of them."""
    if len(hourly) < LEAST_HOURS:
        raise InputError(
            f"{len(hourly)} complete hours of traffic are too few for a forecast",
            f"{LEAST_HOURS} are needed: come back later",
        )
    coming = tuple(_hour(hourly, len(hourly) + ahead, len(hourly)) for ahead in range(DAY))
    backtest, evidence_bits, alarm = _tried(hourly)
    days = [sum(hourly[at : at + DAY]) for at in range(len(hourly) - DAY + 1)]
    return DemandForecast(
        len(hourly),
        coming,
        sum(days) / len(days),
        _exhausted(days[-MEMORY_DAYS * DAY :], left_bytes, random.Random(seed)),
        tuple(_cap(hourly, length) for length in (1, DAY)),
        backtest,
        evidence_bits,
        alarm,
    )


def headroom_bytes(cap_bytes: int, forecast: DemandForecast) -> int:
    """What a thief could take in one hour of an hourly cap, beside what is normal at its
    quietest: the cap less the lowest of the coming medians."""
    return max(0, cap_bytes - min(hour.median for hour in forecast.coming))


def _hour(hourly: Sequence[int], at: int, known: int) -> HourForecast:
    """Of hour ``at``, from the first ``known`` ones."""
    like = [
        hourly[place + shift]
        for day in range(1, MEMORY_DAYS + 2)
        for shift in (-1, 0, 1)
        for place in (at - day * DAY,)
        if known - MEMORY_DAYS * DAY <= place + shift < known and place + shift >= 0
    ]
    values = sorted(like if len(like) >= 6 else hourly[max(0, known - MEMORY_DAYS * DAY) : known])
    count = len(values)
    rank = math.ceil(0.9 * (count + 1)) - 1  # of a new exchangeable value, 90 % are not above it
    high = values[min(rank, count - 1)]
    return HourForecast(values[max(count - 1 - rank, 0)], values[count // 2], high)


def _tried(hourly: Sequence[int]) -> tuple[Backtest, float, bool]:
    evidence, rang_at = Evidence(1, ALPHA), -DAY
    within = above = 0
    error = naive = 0.0
    for at in range(2 * DAY, len(hourly)):
        said, came = _hour(hourly, at, at), hourly[at]
        within += said.low <= came <= said.high
        over = came > said.high
        above += over
        error += abs(came - said.median)
        naive += abs(came - hourly[at - 1])
        factor = math.log2(1 + _BET * (over / _HIGHEST_SHARE - 1))
        if evidence.observe(0, [factor]):
            rang_at = at
    count = len(hourly) - 2 * DAY
    ratio = error / naive if naive else None
    tested = Backtest(count, within / count, above / count, ratio)
    return tested, max(evidence.bits(0), 0.0), len(hourly) - rang_at <= DAY


def _exhausted(
    days: Sequence[int], left_bytes: int, rng: random.Random
) -> tuple[float | None, float | None, float | None]:
    """Days drawn again from the past ones until nothing is left; in weeks of draws, since a
    single day's luck is not what a lifetime hangs on."""
    found: list[float | None] = []
    for _ in range(_TRIALS):
        mean = sum(rng.choices(days, k=7)) / 7
        lasts = left_bytes / mean if mean else math.inf
        found.append(lasts if lasts < 36_525 else None)
    ordered = sorted(found, key=lambda one: math.inf if one is None else one)
    low, middle, high = (ordered[round(q * (_TRIALS - 1))] for q in (0.1, 0.5, 0.9))
    return low, middle, high


def _cap(hourly: Sequence[int], length: int) -> ProposedCap:
    highest = _highest(hourly, length)
    half = len(hourly) // 2
    refused = None
    if half >= 2 * DAY:
        cap = math.ceil(_SPARE * _highest(hourly[:half], length))
        later = hourly[half:]
        sums = [sum(later[at : at + length]) for at in range(len(later) - length + 1)]
        refused = sum(one > cap for one in sums) / len(sums)
    return ProposedCap(length, math.ceil(_SPARE * highest), highest, refused)


def _highest(hourly: Sequence[int], length: int) -> int:
    return max(sum(hourly[at : at + length]) for at in range(len(hourly) - length + 1))
