"""Strategies against the bound, and how often any of them makes it fail: all runs at once.

An attacker chooses each segment's W from all coins before. The bound fails in a run where the
mean of M reaches 1 / delta at any moment, with the true sum of W in it: then, and only then, the
bound lies below the truth.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from narrows.audit.share.bound import Bound, grid, log_factor

Floats = NDArray[np.float64]


@dataclass(slots=True)
class Past:
    """What an attacker has seen, by run. ``logs``: log of M for each rate, [runs, rates];
    ``caught``: segments with W > 0 that were drawn; ``held``: the last W; ``drawn``: whether it
    was; ``step`` counts from 0; ``goal``: ln(1 / delta)."""

    logs: Floats
    caught: NDArray[np.int64]
    held: Floats
    drawn: NDArray[np.bool_]
    step: int
    rates: Floats
    goal: float
    rng: np.random.Generator

    def log_mean(self, more: Floats | float = 0.0) -> Floats:
        """ln of the mean of M, had the sum of W grown by ``more`` unseen."""
        logs = self.logs + np.multiply.outer(np.broadcast_to(more, len(self.held)), self.rates)
        best = logs.max(axis=1)
        return np.asarray(best + np.log(np.exp(logs - best[:, None]).mean(axis=1)))


Attacker = Callable[[Past], Floats]


def steady(past: Past) -> Floats:
    """Every segment is filled."""
    return np.ones(len(past.held))


def until_caught(past: Past) -> Floats:
    """Filled segments until one is drawn, then honest for ever."""
    return np.where(past.caught == 0, 1.0, 0.0)


def gambler(past: Past) -> Floats:
    """Little at first, double after each segment that was not drawn."""
    if past.step == 0:
        return np.full(len(past.held), 1 / 64)
    return np.where(past.drawn, 1 / 64, np.minimum(1.0, 2 * past.held))


def bold(past: Past) -> Floats:
    """What just makes the bound fail if it is not drawn, or a filled segment."""
    low, high = np.zeros(len(past.held)), np.ones(len(past.held))
    for _ in range(12):
        middle = (low + high) / 2
        fails = past.log_mean(middle) >= past.goal
        low, high = np.where(fails, low, middle), np.where(fails, middle, high)
    return high


def heavy(past: Past) -> Floats:
    """Pareto tails (1.3) where the bound is far off, filled ones where it is near."""
    drawn = np.minimum(1.0, 0.01 * past.rng.pareto(1.3, len(past.held)))
    return np.where(past.log_mean() > past.goal / 2, 1.0, drawn)


ATTACKERS: dict[str, Attacker] = {
    "steady": steady,
    "until_caught": until_caught,
    "gambler": gambler,
    "bold": bold,
    "heavy": heavy,
}


def failures(
    attacker: Attacker, share: float, delta: float, runs: int, steps: int, seed: int
) -> int:
    """Runs in which the bound was below the truth at any of ``steps`` segments."""
    rng = np.random.default_rng(seed)
    rates = grid(share)
    past = Past(
        np.zeros((runs, len(rates))),
        np.zeros(runs, np.int64),
        np.zeros(runs),
        np.zeros(runs, np.bool_),
        0,
        rates,
        -math.log(delta),
        rng,
    )
    failed = 0
    for step in range(steps):
        past.step = step
        w = attacker(past)
        past.drawn = rng.random(len(w)) < share
        past.logs += np.multiply.outer(w, rates)
        past.logs[past.drawn] += log_factor(w[past.drawn], share, rates)
        past.caught += past.drawn & (w > 0)
        past.held = w
        over = past.log_mean() >= past.goal
        if over.any():  # decided: they need not be played on
            failed += int(over.sum())
            keep = ~over
            past.logs, past.caught = past.logs[keep], past.caught[keep]
            past.held, past.drawn = past.held[keep], past.drawn[keep]
    return failed


def most_failures(runs: int, delta: float, confidence: float = 1e-6) -> int:
    """So many of ``runs`` are passed with less than ``confidence`` where each fails with at most
    ``delta``, by Chernoff's bound on the binomial tail."""
    count = math.ceil(runs * delta)
    while count < runs:
        p = count / runs
        divergence = p * math.log(p / delta)
        if p < 1:
            divergence += (1 - p) * math.log((1 - p) / (1 - delta))
        if p > delta and runs * divergence > -math.log(confidence):
            return count
        count += max(1, runs // 100_000)
    return runs


def over_truth(w: Floats, share: float, delta: float, seed: int) -> float:
    """The bound over the sum of ``w`` when all of them have passed."""
    rates = grid(share)
    drawn = np.random.default_rng(seed).random(len(w)) < share
    bound = Bound(share, delta)
    bound.add(log_factor(w[drawn], share, rates).sum(axis=0), float(w[drawn].sum()))
    return bound.total() / float(w.sum())
