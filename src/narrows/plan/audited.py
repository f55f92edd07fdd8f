"""What an audit would leave a thief, whose measurement says so, and what would have to be measured.

Values of a small model are extrapolated to a large one: whatever they say is marked. They count in
the verdict only where they come from a model of the same kind in the same arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from narrows.plan import equations as eq
from narrows.plan import show
from narrows.plan.distribution import Number
from narrows.plan.scenario import Scenario
from narrows.plan.simulate import Forecast, audit_parts, median, percentiles, theft_probability

MARK = "†"
SAME_SIZE = 2.0
SAFE_SHARE = 0.05
_NAMES = {"experts": "a mixture-of-experts model", "dense": "a dense model", "unknown": "a model"}
_EIGHT_BITS = ("int8", "fp8")
_WIDE = ("bfloat16", "float32")


@dataclass(frozen=True, slots=True)
class Audit:
    """``bits``: medians by kind, of each token that leaves; ``total_bits``: their sum, at most
    the coding's own. ``most_bits``: what a token may leave unexplained in all so that in 95 % of
    the futures nothing is stolen; ``even_bits``: in half of them. ``source``: the model that was
    audited. ``extrapolated``: it is another one. ``missing``: what would have to be measured for
    the values to count; None where they do."""

    share: float
    bits: dict[str, float]
    total_bits: float
    most_bits: float
    even_bits: float
    probability: float
    times: float
    source: str
    extrapolated: bool
    missing: str | None

    @property
    def mark(self) -> str:
        return MARK if self.extrapolated else ""

    @property
    def footnote(self) -> str:
        return f"{MARK} Extrapolated from {self.source}." if self.extrapolated else ""


def audit_of(result: Forecast) -> Audit | None:
    """None where the scenario has no measured values of an audit."""
    outcome = result.outcomes.get("audited")
    if outcome is None:
        return None
    scenario, inputs = result.scenario, result.inputs
    bits = {kind: median(part) for kind, part in audit_parts(inputs, result.tokens).items()}
    most, even = percentiles(_break_even_bits(result), (SAFE_SHARE, 0.5))
    return Audit(
        median(inputs["defender.audit_share"]),
        bits,
        median(outcome.bits),
        most,
        even,
        theft_probability(result, "audited"),
        median(outcome.reach / result.target),
        _source(scenario),
        not _same_size(scenario),
        _missing(scenario),
    )


def _break_even_bits(result: Forecast) -> Number:
    """Bits of a token at which what a thief can use is what he needs, whatever he has for
    accounts: all that he reaches grows with them in proportion."""
    inputs, carrier = result.inputs, result.outcomes[result.carrier]
    response = inputs["attacker.response_time"]
    usable = inputs["attacker.usable_share"]
    lifetime = inputs["demand.lifetime"]
    given = "defender.cap" in inputs
    allowance = carrier.cap * lifetime if given else carrier.outflow
    if "defender.lifetime_cap" in inputs:
        allowance = np.minimum(carrier.cap * lifetime, inputs["defender.lifetime_cap"])
    rush = eq.rush_bytes(carrier.cap, response, inputs["defender.burst"])
    reach = eq.reach_bytes(usable * carrier.cap, rush, lifetime, allowance, usable)
    with np.errstate(over="ignore"):  # where nothing leaves no charge is too high
        return carrier.bits * result.target / np.maximum(reach, 1e-300)


def _source(scenario: Scenario) -> str:
    kind = _NAMES[scenario.choices["coding.audited_kind"]]
    arithmetic = scenario.choices["coding.audited_arithmetic"]
    size = scenario.numbers.get("coding.audited_parameters")
    text = kind if size is None else f"{kind} of {show.count(size.median)} parameters"
    if arithmetic == "exact":
        return f"{text} in arithmetic that the auditor repeats to the bit"
    return text if arithmetic == "unknown" else f"{text} in {arithmetic}"


def _same_size(scenario: Scenario) -> bool:
    mine = scenario.numbers.get("model.parameters")
    other = scenario.numbers.get("coding.audited_parameters")
    if mine is None or other is None:
        return False
    ratio = mine.median / other.median
    return 1 / SAME_SIZE <= ratio <= SAME_SIZE


def _missing(scenario: Scenario) -> str | None:
    """A model of that size is the model itself; another one stands for it if kind and arithmetic
    are the same. Mixtures of experts: either of the two, since both are what a dense model in
    bfloat16 says nothing about."""
    mine, kind = scenario.choices["model.kind"], scenario.choices["coding.audited_kind"]
    arithmetic = scenario.choices["coding.audited_arithmetic"]
    if _same_size(scenario) and kind == mine:
        return None
    width = scenario.numbers.get("model.bytes_per_parameter")
    narrow = width is not None and width.median <= 1
    if mine == "experts":
        fits, wanted = kind == mine or arithmetic == "fp8", "a mixture-of-experts or FP8 model"
    elif mine == "dense":
        fits = kind == mine and arithmetic in (_EIGHT_BITS if narrow else _WIDE)
        wanted = f"a dense model in {'8-bit arithmetic' if narrow else 'bfloat16'}"
    else:
        fits, wanted = False, "a model of this kind and size (model.kind says which kind it is)"
    return None if fits else f"the unexplained bits a token of {wanted}"


def sentences(audit: Audit) -> str:
    """For the verdict: what an audit leaves, what it would have to be, and what is missing."""
    mark = audit.mark
    parts = ", ".join(f"{kind} {show.three(part)}{mark}" for kind, part in audit.bits.items())
    text = (
        f"An audit of {show.share(audit.share)} leaves a thief "
        f"{show.three(audit.total_bits)}{mark} bits a token ({parts}), "
        f"{show.factor(audit.times)}{mark} what he needs: theft in "
        f"{show.share(audit.probability)}{mark} of the futures. The break-even charge is "
        f"{show.three(audit.most_bits)} bits a token for 95 % of the futures, "
        f"{show.three(audit.even_bits)} for half of them."
    )
    if audit.missing is not None:
        text += f" Missing: {audit.missing}; {_wanted(audit)}."
    return " ".join(filter(None, (text, audit.footnote)))


def _wanted(audit: Audit) -> str:
    fixed = audit.total_bits - audit.bits["tokens"]
    if audit.most_bits > fixed:
        return f"at most {show.three(audit.most_bits - fixed)} would protect"
    return (
        f"no value of it would protect, since signalling and timing alone are "
        f"{show.three(fixed)}{audit.mark}"
    )
