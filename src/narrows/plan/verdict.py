"""The first line of a forecast, and one plain sentence for each result that surprises."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from narrows.plan import show
from narrows.plan.audited import audit_of, sentences
from narrows.plan.budget import Budget
from narrows.plan.distribution import Number
from narrows.plan.drivers import Driver
from narrows.plan.fields import DEMAND_KEYS
from narrows.plan.measures import Step
from narrows.plan.simulate import Forecast, evaluate, median, theft_probability

SAFE_PROBABILITY = 0.05
NAMES = {
    "raw": "raw answers",
    "compressed": "compressed answers",
    "coupled": "coupled answers",
    "verified": "verified answers",
    "audited": "audited answers",
}


_LIFE_FASTER = (
    "A longer life makes the theft faster, not only likelier: one cap for the whole life has to "
    "serve its last days, when demand has grown."
)
_LIFE_SLOWER = (
    "A longer life slows the theft, because the same tokens are spread over more days and each "
    "day's cap is smaller."
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """``level``: protected, protectable, uncertain or unprotectable. ``probability``: of a
    theft within the life as deployed; ``best_probability``: with coupling and verification, or
    an audit whose measurement counts."""

    level: str
    line: str
    probability: float
    best_probability: float


def best_case(result: Forecast) -> Forecast:
    """The same futures with every measure there is: coupled, and verified or audited."""
    scenario = result.scenario
    choices = {**scenario.choices, "defender.coding": "coupled"}
    codings = tuple(name for name in ("verified", "audited") if name in result.outcomes)
    best = evaluate(replace(scenario, choices=choices, verification=True), result.inputs, codings)
    best.draws, best.seed = result.draws, result.seed
    return best


def _deployed_words(result: Forecast, coding: str) -> str:
    name = NAMES[result.carrier]
    if coding == "audited":
        return f"{name}, audited at {show.share(median(result.inputs['defender.audit_share']))}"
    return f"{name}, verified" if coding == "verified" else name


def _cheapest(result: Forecast, codings: tuple[str, ...]) -> str | None:
    """The first coding, in order of effort, that is safe with the deployed traffic."""
    for coding in ("compressed", "coupled", *codings):
        if theft_probability(result, coding) <= SAFE_PROBABILITY:
            return coding
    return None


def judge(result: Forecast, budget: Budget) -> Verdict:
    """An audit whose values nobody measured for such a model is as if it were not deployed; the
    verdict then says what is missing."""
    audit = audit_of(result)
    counts = audit is not None and audit.missing is None
    coding = result.deployed
    if coding == "audited" and not counts:
        coding = "verified" if result.scenario.verification else result.carrier
    found = _judge(result, budget, coding, counts)
    if audit is None:
        return found
    return replace(found, line=f"{found.line} {sentences(audit)}")


def _judge(result: Forecast, budget: Budget, coding: str, audited: bool) -> Verdict:
    """``coding``: what is deployed; ``audited``: an audit counts among the measures."""
    deployed = result.outcomes[coding]
    probability = theft_probability(result, coding)
    life = show.days(median(result.inputs["demand.lifetime"]))
    theft = show.days(median(deployed.days))
    words = _deployed_words(result, coding)
    checks = ("verified", "audited") if audited else ("verified",)
    if probability <= SAFE_PROBABILITY:
        line = (
            f"PROTECTED with {words}: a thief who owns the enclave has the weights within "
            f"{life} in {show.share(probability)} of the futures."
        )
        return Verdict("protected", line, probability, probability)
    best = best_case(result)
    by_check = {name: theft_probability(best, name) for name in checks}
    check = min(checks, key=lambda name: by_check[name])
    best_probability = by_check[check]
    holds = _holds(result, budget)
    if "attacker.accounts" in result.inputs:  # such a thief is held by his accounts
        holds = "Fewer accounts, or fewer bytes for each, help more than a lower limit."
    if best_probability <= SAFE_PROBABILITY:
        measure = _cheapest(result, checks)
        both = "couple and verify" if check == "verified" else "couple and audit"
        cure = f"use {NAMES[measure]}" if measure else both
        line = (
            f"NOT PROTECTED with {words}: theft within {life} in {show.share(probability)} of "
            f"the futures (median {theft}), but it can be: {cure}. {holds}"
        )
        return Verdict("protectable", line, probability, best_probability)
    ratio = show.factor(median(best.outcomes[check].reach / best.target))
    chance = show.share(best_probability)
    if best_probability <= 0.5:
        same = probability == best_probability
        deployed_too = "" if same else f" (as deployed: {show.share(probability)})"
        line = (
            f"NOT RELIABLY PROTECTED: even coupled and {check}, the weights are gone within "
            f"{life} in {chance} of the futures{deployed_too}. {holds}"
        )
        return Verdict("uncertain", line, probability, best_probability)
    line = (
        "CANNOT BE PROTECTED by an upload limit that serves this demand: even coupled and "
        f"{check}, {ratio} of what a thief needs leaves within {life} (theft in {chance} of the "
        f"futures). {holds}"
    )
    return Verdict("unprotectable", line, probability, best_probability)


def _holds(result: Forecast, budget: Budget) -> str:
    kind, size, need = "lifetime", budget.safe_bytes, budget.need_bytes
    coding, mark = result.carrier, ""
    if budget.net is not None:
        kind, size, need = "net", budget.net.safe_bytes, budget.net.need_bytes
        coding, audit = "audited", audit_of(result)
        mark = audit.mark if audit is not None else ""
    text = f"A {kind} budget of {show.size(size)} would hold"
    if need > size:
        pace = median(result.outcomes[coding].outflow / result.inputs["demand.lifetime"])
        lasts = size / pace if pace > 0 else float("inf")
        text += f", and lasts {show.days(lasts)}{mark} of this demand"
    return text + "."


def notes(result: Forecast, drivers: list[Driver], steps: list[Step]) -> list[str]:
    """One sentence of plain words for each thing that a reader would stumble over."""
    return [
        *_fixed_cap(result),
        *_accounts(result),
        *_rush(result),
        *_demand(result, drivers),
        *_idle(result, drivers),
        *_verification(steps),
        *_served(result),
    ]


def _fixed_cap(result: Forecast) -> list[str]:
    if not result.scenario.has("defender.cap"):
        return []
    text = (
        "Raw, compressed and coupled answers take equally long to steal through, because the cap "
        "is a fixed number of bytes"
    )
    if not result.scenario.given & DEMAND_KEYS:
        return [f"{text}; the coding decides how many tokens fit under it."]
    fits = ", ".join(
        f"{show.share(median(result.outcomes[coding].served))} {coding}"
        for coding in ("raw", "compressed", "coupled")
    )
    return [f"{text}; the coding decides how much of the busiest demand fits under it: {fits}."]


def _accounts(result: Forecast) -> list[str]:
    inputs = result.inputs
    if "attacker.accounts" not in inputs:
        return []
    outcome = result.outcomes[result.deployed]
    drain: Number = (
        inputs["attacker.accounts"]
        * inputs["attacker.bytes_per_account"]
        * inputs["attacker.steganography_share"]
    )
    if median(drain) >= median(inputs["attacker.usable_share"] * outcome.cap):
        return []
    return [
        f"The cap does not matter here: the thief's accounts carry {show.size(median(drain))}/day, "
        f"less than the {show.size(median(outcome.cap))}/day that it lets pass."
    ]


def _rush(result: Forecast) -> list[str]:
    inputs = result.inputs
    response = inputs["attacker.response_time"]
    chance = float(np.mean(result.outcomes[result.deployed].rush >= result.target))
    if chance <= SAFE_PROBABILITY:
        return []
    return [
        f"In {show.share(chance)} of the futures one loud rush during the response time of "
        f"{show.days(median(response))} takes everything, so hiding from the watchers gains "
        "a thief nothing."
    ]


def _demand(result: Forecast, drivers: list[Driver]) -> list[str]:
    """Signs that people do not expect, of inputs that matter."""
    if result.scenario.has("defender.cap"):
        return []
    lines = []
    for driver in drivers:
        faster = driver.days_high < driver.days_low
        if driver.path in DEMAND_KEYS and driver.share > 0.1 and faster:
            lines.append(
                f"A higher value of {driver.label} makes the theft faster, not slower: the cap "
                "has to grow with the demand."
            )
        elif driver.path == "demand.lifetime" and driver.share > 0.02:
            lines.append(_LIFE_FASTER if faster else _LIFE_SLOWER)
    return lines


def _idle(result: Forecast, drivers: list[Driver]) -> list[str]:
    """Inputs that vary threefold or more and still decide nothing, when that is not obvious."""
    lines = []
    fixed_cap = result.scenario.has("defender.cap")
    for driver in drivers:
        rank = driver.rank_correlation or 0.0
        if abs(rank) > 0.05 or driver.low <= 0 or driver.high < 3 * driver.low:
            continue
        used = driver.days_low != driver.days_high
        if driver.path in DEMAND_KEYS and fixed_cap:
            why = "the cap is fixed, so demand only decides who is served"
        elif driver.path == "demand.lifetime" and driver.rank_correlation is not None:
            why = "the day's cap sets the pace; the life only decides whether there is time"
        elif not used or driver.rank_correlation is None:
            continue
        else:
            why = "the other inputs' ranges drown it"
        lines.append(f"A change of {driver.label} hardly moves the theft time: {why}.")
    return lines


def _verification(steps: list[Step]) -> list[str]:
    step = next((step for step in steps if step.name == "verify answers"), None)
    if step is None or step.factor > 4 or step.alone_factor < 3 * step.factor:
        return []
    return [
        f"Verification alone slows the theft {show.factor(step.alone_factor)}, after coupling "
        f"only {show.factor(step.factor)}: coupled answers carry hardly more bits than a "
        "verifier leaves unexplained."
    ]


def _served(result: Forecast) -> list[str]:
    if not result.scenario.has("defender.cap") or not result.scenario.given & DEMAND_KEYS:
        return []
    served = median(result.outcomes[result.carrier].served)
    if served >= 1.0:
        return []
    return [
        f"At the busiest time the cap serves only {show.share(served)} of a median day's demand "
        f"with {NAMES[result.carrier]}."
    ]
