"""What each measure buys in theft time: alone on top of the limit, and in order.

The scale is the same service throughout: a limit that just serves the wanted day of the demand in
each coding. Without a limit no other measure counts, because a faster line drowns it; so "alone"
means the limit and that one measure. A scenario with a cap of its own is rescaled to the same
tokens per day in the other codings, and ends at that cap.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from narrows.plan import equations as eq
from narrows.plan.distribution import Number
from narrows.plan.simulate import Forecast, audit_parts, median


@dataclass(frozen=True, slots=True)
class Step:
    """``days``: median theft time with this and all earlier measures; ``factor``: what it
    multiplied the time by; ``alone_factor``: what it buys by itself on top of the limit.
    ``deployed``: the scenario already has it."""

    name: str
    days: float
    factor: float
    alone_days: float
    alone_factor: float
    deployed: bool


def _service_cap(result: Forecast) -> Number:
    """Tokens/day that the deployed cap lets pass, as the common scale of all codings."""
    carrier = result.carrier
    return result.outcomes[carrier].cap * 8.0 / result.inputs[f"coding.{carrier}"]


def waterfall(result: Forecast) -> list[Step]:
    inputs = result.inputs
    tokens = _service_cap(result)
    response, burst = inputs["attacker.response_time"], inputs["defender.burst"]
    usable = inputs["attacker.usable_share"]
    bits = {name: inputs[f"coding.{name}"] for name in ("raw", "compressed", "coupled")}

    def days(payload_bits: Number, share: Number, answered: Number) -> float:
        rate = eq.bytes_of(tokens, payload_bits)
        rush = eq.rush_bytes(rate, answered, burst)
        return median(eq.theft_days(result.target, share * rate, rush, answered))

    def verified(carrier: Number) -> Number:
        return eq.unexplained_bits(inputs["coding.extractable"], bits["raw"], carrier)

    scenario = result.scenario
    audited = scenario.has("coding.unexplained") and (scenario.audit or not scenario.verification)

    def checked(carrier: Number) -> Number:
        """By an auditor, where one was measured: he counts more than a verifier."""
        if not audited:
            return verified(carrier)
        return np.minimum(sum(audit_parts(inputs, result.tokens).values()), carrier)

    unlimited = median(result.target / inputs["defender.line_rate"])
    limit = days(bits["raw"], 1.0, 0.0)
    carrier = result.carrier
    rows = [
        ("upload limit", limit, limit, True),
        (
            "compress answers",
            days(bits["compressed"], 1.0, 0.0),
            days(bits["compressed"], 1.0, 0.0),
            carrier in ("compressed", "coupled"),
        ),
        (
            "couple sampling",
            days(bits["coupled"], 1.0, 0.0),
            days(bits["coupled"], 1.0, 0.0),
            carrier == "coupled",
        ),
        (
            "audit answers" if audited else "verify answers",
            days(checked(bits["coupled"]), 1.0, 0.0),
            days(checked(bits["raw"]), 1.0, 0.0),
            scenario.audit if audited else scenario.verification,
        ),
    ]
    if _watched(usable):
        rows.append(
            (
                "watch and respond",
                days(checked(bits["coupled"]), usable, response),
                days(bits["raw"], usable, response),
                True,
            )
        )
    steps = [Step("no limit", unlimited, 1.0, unlimited, 1.0, False)]
    for name, together, alone, deployed in rows:
        before = steps[-1].days
        base = unlimited if name == "upload limit" else limit
        steps.append(Step(name, together, together / before, alone, alone / base, deployed))
    return steps


def _watched(usable: Number) -> bool:
    return bool(np.min(usable) < 1.0)
