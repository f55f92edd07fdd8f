"""The equations of the forecast. docs/forecast.md states them with symbols and sources.

Pure functions of floats or float64 arrays (one entry per draw), broadcasting freely. Sizes are
bytes, times days, rates bytes/day or tokens/day, codings bits/token, shares 0..1. A time that
never comes is ``inf``.
"""

from __future__ import annotations

import numpy as np

from narrows.plan.distribution import Number, Samples
from narrows.plan.units import YEAR_DAYS

SECONDS_PER_DAY = 86_400.0
SEGMENT_TOKENS, SEGMENT_BITS, BOUND_DELTA = 256.0, 2048.0, 1e-9
"""Of an audit, as ``narrows audit`` has them unless told otherwise: tokens of a segment, B, δ."""
BOUND_RATES = 0.8 * 2.0 ** (-0.75 * np.arange(16))  # of -ln(1 - f): docs/audit.md
Z_OF_DAY = {"p50": 0.0, "p95": 1.6448536269514722, "p99": 2.3263478740408408}


def weights_bytes(parameters: Number, bytes_per_parameter: Number) -> Number:
    """W = P · w."""
    return parameters * bytes_per_parameter


def target_bytes(weights: Number, fraction: Number, compression: Number) -> Number:
    """W* = W · h / x: what a thief must move when a fraction h already hurts and the weights
    shrink x-fold (arXiv 2601.01296: 16 to 100)."""
    return weights * fraction / compression


def growth_at(day: Number, per_year: Number, curve: str, ceiling: Number) -> Number:
    """Demand on ``day`` relative to the first day, g(t). ``per_year``: factor after one year.

    exponential  g = y^(t/year)
    linear       g = 1 + (y − 1) t/year
    logistic     g = K / (1 + (K − 1) e^(−kt)); k so that growth starts as steeply as y^(t/year)
    """
    years = day / YEAR_DAYS
    if curve == "linear":
        return 1.0 + (per_year - 1.0) * years
    if curve == "logistic":
        steepness = np.log(per_year) * ceiling / (ceiling - 1.0)
        return ceiling / (1.0 + (ceiling - 1.0) * np.exp(-steepness * years))
    return np.power(per_year, years)


def growth_days(days: Number, per_year: Number, curve: str, ceiling: Number) -> Number:
    """G(t) = ∫₀ᵗ g: how many first days the first ``days`` days amount to. Closed forms."""
    years = days / YEAR_DAYS
    if curve == "linear":
        return days * (1.0 + (per_year - 1.0) * years / 2)
    if curve == "logistic":
        steepness = np.log(per_year) * ceiling / (ceiling - 1.0)
        inside = (np.exp(steepness * years) + ceiling - 1.0) / ceiling
        return YEAR_DAYS * ceiling / steepness * np.log(inside)
    rate = np.log(per_year)
    small = np.abs(rate * years) < 1e-9
    safe = np.where(small, 1.0, rate)
    return np.where(small, days, YEAR_DAYS * np.expm1(safe * years) / safe)


def bytes_of(tokens: Number, bits_per_token: Number) -> Number:
    """tokens · b / 8."""
    return tokens * bits_per_token / 8.0


def busy_day_factor(busy_day: Number, quantile: str) -> Number:
    """A day of that quantile ÷ the mean day, when days scatter lognormally:
    exp(z_q σ − σ²/2) with σ = ln(p95 day ÷ median day) / z_95."""
    sigma = np.log(busy_day) / Z_OF_DAY["p95"]
    return np.exp(Z_OF_DAY[quantile] * sigma - sigma**2 / 2)


def unexplained_bits(extractable: Number, raw: Number, carrier: Number) -> Number:
    """v = min(e · log2|V|, c) bits/token: what a verified token can still smuggle; never more
    than the c bits that leave for it (arXiv 2511.02620: e < 0.5 %)."""
    return np.minimum(extractable * raw, carrier)


def bound_bits(segments: Number, worth: Number, share: Number) -> Number:
    """The most that ``segments`` of ``worth`` bits each can have cost, as an auditor of the share
    f knows it who has drawn just that share: B min_λ (ln(16/δ) − N f ln(1 − (1 − e^(−λw))/f))/λ,
    w = worth/B. Segments above B are all audited, and cost what they cost."""
    f = np.minimum(share, 1 - 1e-9)
    w = np.minimum(np.asarray(worth, np.float64) / SEGMENT_BITS, 1.0)
    best: Number = np.inf
    for part in BOUND_RATES:
        rate = -np.log1p(-f) * part
        drawn = -segments * f * np.log1p(np.expm1(-rate * w) / f)
        best = np.minimum(best, (np.log(len(BOUND_RATES) / BOUND_DELTA) + drawn) / rate)
    exact = segments * worth
    return np.where(w < 1.0, np.maximum(best * SEGMENT_BITS, exact), exact)


def rush_bytes(cap: Number, response_days: Number, burst: Number) -> Number:
    """What leaves before someone answers an attack that anyone can see: the response time at
    the burst rate, but no more than each day's cap."""
    return cap * np.minimum(burst * response_days, np.maximum(response_days, 1.0))


def theft_days(target: Number, quiet_rate: Number, rush: Number, response_days: Number) -> Number:
    """T: the rush alone if it suffices, in proportion; else quietly until the rest is one rush.

    T = (W* − R)/r + t_r, or t_r · W*/R when R ≥ W*.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        if not np.any(rush):  # nobody waits for an answer: the common case, at a third the cost
            return target / np.asarray(quiet_rate) + response_days
        quiet = (target - rush) / quiet_rate + response_days
        loud = response_days * target / rush
        days: Samples = np.where(rush >= target, loud, quiet)
    return days


def reach_bytes(
    quiet_rate: Number, rush: Number, lifetime: Number, allowance: Number, usable: Number
) -> Number:
    """The most that a thief has at the end of the life, in payload bytes: the quiet share of
    what may leave, and one rush, all under the lifetime allowance."""
    quiet = np.minimum(quiet_rate * lifetime, usable * allowance)
    return np.minimum(quiet + rush, allowance)


def safe_allowance_bytes(target: Number, payload: Number, usable: Number, rush: Number) -> Number:
    """A: the most bytes that may ever leave so that ``reach_bytes`` stays within the target,
    max(W*/p, (W* − R)/(u p)): either the thief would need all of it, or he has one rush R and
    the share u of it, whatever the life is. ``payload``: p, his share of the link's bytes."""
    return np.maximum(target, (target - rush) / usable) / payload


def break_even_tokens_per_parameter(bits_per_parameter: Number, bits_per_token: Number) -> Number:
    """Served tokens per parameter at which the answers are as large as the weights: w/b.
    16/b for 16-bit weights (anchor case 15)."""
    return bits_per_parameter / bits_per_token
