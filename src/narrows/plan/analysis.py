"""The whole answer to one scenario: draws, drivers, waterfall, budget, verdict."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from narrows.plan import equations as eq
from narrows.plan.audited import Audit, audit_of
from narrows.plan.budget import Budget, as_toml, recommend
from narrows.plan.distribution import Number
from narrows.plan.drivers import Driver
from narrows.plan.drivers import find as find_drivers
from narrows.plan.measures import Step, waterfall
from narrows.plan.scenario import Scenario, load
from narrows.plan.simulate import (
    DAYS,
    DEFAULT_DRAWS,
    SENT,
    Forecast,
    median,
    percentiles,
    simulate,
    theft_probability,
    training_tokens,
)
from narrows.plan.verdict import Verdict, judge, notes


@dataclass(frozen=True, slots=True)
class Plan:
    """``break_even``: served tokens per parameter at which the answers weigh what the target
    does, per coding; None where the number of parameters is unknown. ``audit``: what one would
    leave, where its values are known."""

    forecast: Forecast
    drivers: list[Driver]
    steps: list[Step]
    budget: Budget
    verdict: Verdict
    notes: list[str]
    break_even: dict[str, Number] | None
    audit: Audit | None = None


def _break_even(result: Forecast) -> dict[str, Number] | None:
    parameters = result.inputs.get("model.parameters")
    if parameters is None:
        return None
    weight_bits = result.weights * 8.0 / parameters
    return {
        coding: eq.break_even_tokens_per_parameter(weight_bits, outcome.bits)
        for coding, outcome in result.outcomes.items()
    }


def analyse(scenario: Scenario, draws: int = DEFAULT_DRAWS, seed: int = 1) -> Plan:
    """Everything that ``narrows plan`` reports. Deterministic in (scenario, draws, seed)."""
    result = simulate(scenario, draws, seed)
    drivers, steps, budget = find_drivers(result), waterfall(result), recommend(result)
    return Plan(
        result,
        drivers,
        steps,
        budget,
        judge(result, budget),
        notes(result, drivers, steps),
        _break_even(result),
        audit_of(result),
    )


def forecast(
    source: str,
    overrides: Mapping[str, str] | None = None,
    draws: int = DEFAULT_DRAWS,
    seed: int = 1,
) -> Plan:
    """The forecast of a scenario: a TOML file's path or a preset's name ("llama-3.1-405b").

    ``overrides``: fields as ``--set`` takes them, {"limits.upload": "100 GB/day"}. Raises
    InputError with every problem of the scenario (docs/forecast.md describes every field).
    """
    return analyse(load(source, None, overrides), draws, seed)


def _number(value: float | None) -> float | None:
    """JSON knows no infinity: a time that never comes is null."""
    return None if value is None or not math.isfinite(value) else value


def _three(values: Number) -> dict[str, float | None]:
    low, middle, high = percentiles(values)
    return {"p5": _number(low), "p50": _number(middle), "p95": _number(high)}


def _inputs(scenario: Scenario) -> dict[str, object]:
    return {
        path: {
            "p5": dist.p5,
            "p50": dist.median,
            "p95": dist.p95,
            "distribution": "fixed" if dist.fixed else dist.kind,
            "default": path not in scenario.given,
        }
        for path, dist in scenario.numbers.items()
    }


def _budget(budget: Budget) -> dict[str, object]:
    return {
        "lineage": budget.lineage,
        "lifetime_bytes": budget.lifetime_bytes,
        "windows_bytes": budget.windows_bytes,
        "need_bytes": _number(budget.need_bytes),
        "safe_bytes": _number(budget.safe_bytes),
        "lasts_days": _number(budget.lasts_days),
        "toml": as_toml(budget),
        "net": None
        if budget.net is None
        else {
            "lifetime_bytes": budget.net.lifetime_bytes,
            "windows_bytes": budget.net.windows_bytes,
            "need_bytes": _number(budget.net.need_bytes),
            "safe_bytes": _number(budget.net.safe_bytes),
        },
    }


def _audit(audit: Audit | None) -> dict[str, object] | None:
    if audit is None:
        return None
    return {
        "share": audit.share,
        "bits_per_token": audit.bits,
        "total_bits_per_token": audit.total_bits,
        "break_even_bits_per_token": _number(audit.most_bits),
        "break_even_bits_per_token_p50": _number(audit.even_bits),
        "theft_probability": audit.probability,
        "measured_on": audit.source,
        "extrapolated": audit.extrapolated,
        "missing": audit.missing,
    }


def as_json(plan: Plan) -> dict[str, object]:
    """The report for machines; docs/forecast.md lists the keys. Bytes and days throughout."""
    result = plan.forecast
    outcomes = result.outcomes
    trained = training_tokens(result.inputs)
    return {
        "scenario": result.scenario.name,
        "description": result.scenario.description,
        "draws": result.draws,
        "seed": result.seed,
        "verdict": plan.verdict.level,
        "verdict_line": plan.verdict.line,
        "notes": plan.notes,
        "deployed": result.deployed,
        "weights_bytes": median(result.weights),
        "target_bytes": _three(result.target),
        "lifetime_days": _three(result.inputs["demand.lifetime"]),
        "lifetime_tokens": _three(result.tokens),
        "training_tokens": None if trained is None else _three(trained),
        "lifetime_outflow_bytes": {c: _three(outcomes[c].outflow) for c in outcomes},
        "outflow_to_weights": {c: _three(outcomes[c].outflow / result.weights) for c in outcomes},
        "cap_bytes_per_day": median(outcomes[result.carrier].cap),
        "caps_bytes_per_day": {
            c: {day: _three(outcomes[c].caps[day]) for day in DAYS} for c in SENT
        },
        "served_share": {c: _three(outcomes[c].served) for c in SENT},
        "days_to_exfiltrate": {c: _three(outcomes[c].days) for c in outcomes},
        "theft_probability": {c: theft_probability(result, c) for c in outcomes},
        "best_theft_probability": plan.verdict.best_probability,
        "break_even_tokens_per_parameter": None
        if plan.break_even is None
        else {c: _three(value) for c, value in plan.break_even.items()},
        "audit": _audit(plan.audit),
        "waterfall": [
            {
                "measure": step.name,
                "days": _number(step.days),
                "factor": _number(step.factor),
                "alone_days": _number(step.alone_days),
                "alone_factor": _number(step.alone_factor),
                "deployed": step.deployed,
            }
            for step in plan.steps
        ],
        "drivers": [
            {
                "input": driver.path,
                "label": driver.label,
                "share": driver.share,
                "rank_correlation": driver.rank_correlation,
                "margin_correlation": driver.margin_correlation,
                "low": driver.low,
                "high": driver.high,
                "days_low": _number(driver.days_low),
                "days_high": _number(driver.days_high),
            }
            for driver in plan.drivers
        ],
        "budget": _budget(plan.budget),
        "inputs": _inputs(result.scenario),
    }
