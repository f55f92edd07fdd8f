"""What must hold between the fields of a scenario; each breach is one line with its remedy."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from narrows.plan.distribution import Distribution
from narrows.plan.fields import AUDITED, DEMAND_KEYS, DEMANDS

Where = Callable[[str], str]


def _short(keys: tuple[str, ...]) -> str:
    return " and ".join(key.split(".")[1] for key in keys)


def _model(given: frozenset[str], where: Where) -> list[str]:
    problems = []
    if not given & {"model.parameters", "model.weights"}:
        problems.append(
            f"{where('model.parameters')}: model: missing; give parameters = '70B' "
            "or weights = '140 GB'"
        )
    if {"model.weights", "model.bytes_per_parameter"} <= given:
        problems.append(
            f"{where('model.bytes_per_parameter')}: model: weights and bytes_per_parameter "
            "exclude each other; drop one"
        )
    if {"model.training_tokens", "model.tokens_per_parameter"} <= given:
        problems.append(
            f"{where('model.tokens_per_parameter')}: model: training_tokens and "
            "tokens_per_parameter exclude each other; drop one"
        )
    if "model.tokens_per_parameter" in given and "model.parameters" not in given:
        problems.append(
            f"{where('model.tokens_per_parameter')}: model: tokens_per_parameter needs parameters"
        )
    return problems


def _demand(given: frozenset[str], where: Where) -> list[str]:
    keys = given & DEMAND_KEYS
    ways = "; ".join(_short(group) for group in DEMANDS)
    if not keys:
        if "defender.cap" in given:
            return []
        return [f"{where('demand.x')}: demand: missing; give one of: {ways}"]
    if any(keys == set(group) for group in DEMANDS):
        if "demand.training_multiple" in keys and not given & {
            "model.training_tokens",
            "model.tokens_per_parameter",
        }:
            return [
                f"{where('demand.training_multiple')}: demand: training_multiple needs "
                "model.training_tokens or model.tokens_per_parameter"
            ]
        return []
    line = where(min(keys))
    for group in DEMANDS:
        missing = set(group) - keys
        if keys < set(group) and missing:
            return [f"{line}: demand: {_short(group)} belong together; add the missing one"]
    listed = ", ".join(sorted(key.split(".")[1] for key in keys))
    return [f"{line}: demand: {listed} exclude each other; keep exactly one of: {ways}"]


def _growth(
    numbers: Mapping[str, Distribution], curve: str, given: frozenset[str], where: Where
) -> list[str]:
    problems = []
    growth = numbers.get("demand.growth")
    if "demand.growth_curve" in given and "demand.growth" not in given:
        problems.append(
            f"{where('demand.growth_curve')}: demand: growth_curve needs growth = '2x/year'"
        )
    if curve == "logistic" and growth and "demand.growth_ceiling" not in given:
        problems.append(
            f"{where('demand.growth')}: demand: logistic growth needs growth_ceiling = '10x'"
        )
    if curve != "logistic" and "demand.growth_ceiling" in given:
        problems.append(
            f"{where('demand.growth_ceiling')}: demand: only growth_curve = 'logistic' has a "
            "growth_ceiling"
        )
    if curve != "exponential" and growth and growth.p5 <= 1.0:
        problems.append(
            f"{where('demand.growth')}: demand: {curve} growth must be above 1x/year; a decline "
            "is exponential"
        )
    return problems


def _audit(coding: str, audit: bool, given: frozenset[str], where: Where) -> list[str]:
    have = given & set(AUDITED)
    problems = []
    if have and len(have) < len(AUDITED):
        problems.append(
            f"{where(min(have))}: coding: {_short(AUDITED)} belong together; add the missing ones"
        )
    if audit and not have:
        problems.append(
            f"{where('defender.audit')}: defender: audit needs {_short(AUDITED)} in coding: "
            "measure them, then --from-audit FILE"
        )
    if audit and coding != "coupled":
        problems.append(
            f"{where('defender.audit')}: defender: audit needs coding = 'coupled': an auditor "
            "explains answers of shared noise alone"
        )
    return problems


def check(
    numbers: Mapping[str, Distribution],
    choices: Mapping[str, str],
    given: frozenset[str],
    broken: set[str],
    where: Where,
    audit: bool = False,
) -> list[str]:
    """Problems between fields. ``broken``: fields that were written but could not be read;
    they count as given, so that one mistake is not reported twice. ``audit``: it is deployed."""
    problems = _model(given, where) + _demand(given, where)
    curve = choices["demand.growth_curve"]
    if "demand.growth" not in broken:
        problems += _growth(numbers, curve, given, where)
    problems += _audit(choices["defender.coding"], audit, given, where)
    pair = {"attacker.accounts", "attacker.bytes_per_account"}
    if len(given & pair) == 1:
        (have,) = given & pair
        problems.append(
            f"{where(have)}: attacker: accounts and bytes_per_account belong together; add the "
            "missing one"
        )
    return problems
