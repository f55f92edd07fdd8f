"""Draw a scenario many times and compute, per draw, what leaves and how long a theft takes.

Only inputs with a range become arrays; everything else stays a float, so the cost is one pass of
numpy per equation. The result holds the draws of the outputs; percentiles are nearest-rank, so
they are defined for times that never come (``inf``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from narrows.errors import InputError
from narrows.plan import equations as eq
from narrows.plan.distribution import Number, Samples
from narrows.plan.fields import DEMAND_KEYS
from narrows.plan.scenario import Scenario

CODINGS = ("raw", "compressed", "coupled", "verified")
SENT = CODINGS[:3]  # the others are what a thief can use of these
DAYS = ("p50", "p95", "p99")
DEFAULT_DRAWS = 100_000
MAX_DRAWS = 5_000_000
PERCENTILES = (0.05, 0.5, 0.95)

Inputs = dict[str, Number]


@dataclass(slots=True)
class Outcome:
    """Outputs of one coding, each a float or float64 [draws]. ``verified`` stands for the
    deployed coding with verification: its bytes are the ones a verifier cannot explain;
    ``audited`` likewise, for an auditor who counts signalling and timing too.

    ``outflow``: bytes over the life. ``days``: time to exfiltrate under ``cap`` (bytes/day).
    ``caps``: smallest cap per day quantile. ``rush``: payload that leaves once someone has been
    alarmed. ``reach``: payload a thief has at the end.
    ``served``: share of the busiest median day that fits under the cap.
    """

    bits: Number
    outflow: Number
    caps: dict[str, Number]
    cap: Number
    days: Number
    rush: Number
    reach: Number
    served: Number


@dataclass(slots=True)
class Forecast:
    """All draws of one scenario. ``tokens``: leaving the enclave over the life."""

    scenario: Scenario
    draws: int
    seed: int
    inputs: Inputs
    weights: Number
    target: Number
    tokens: Number
    tokens_first_day: Number
    outcomes: dict[str, Outcome] = field(default_factory=dict)

    @property
    def deployed(self) -> str:
        """The coding that the scenario runs."""
        return self.scenario.deployed

    @property
    def carrier(self) -> str:
        """The coding whose bytes pass the gate: ``deployed`` without regard to who checks it."""
        return self.scenario.choices["defender.coding"]


def percentiles(values: Number, shares: tuple[float, ...] = PERCENTILES) -> tuple[float, ...]:
    """Nearest-rank percentiles of draws, or of a plain value."""
    if not isinstance(values, np.ndarray) or values.ndim == 0:
        return (float(values),) * len(shares)
    ranks = [max(0, math.ceil(share * values.size) - 1) for share in shares]
    ordered = np.partition(values, sorted(set(ranks)))
    return tuple(float(ordered[rank]) for rank in ranks)


def median(values: Number) -> float:
    return percentiles(values, (0.5,))[0]


def draw_inputs(scenario: Scenario, draws: int, seed: int) -> Inputs:
    return {path: dist.draw(path, seed, draws) for path, dist in scenario.numbers.items()}


def median_inputs(scenario: Scenario) -> Inputs:
    return {path: dist.median for path, dist in scenario.numbers.items()}


def _weights(inputs: Inputs) -> Number:
    if "model.weights" in inputs:
        return inputs["model.weights"]
    return eq.weights_bytes(
        inputs["model.parameters"], inputs.get("model.bytes_per_parameter", 2.0)
    )


def training_tokens(inputs: Inputs) -> Number | None:
    """Training tokens, or tokens per parameter times parameters (Chinchilla: 20)."""
    if "model.training_tokens" in inputs:
        return inputs["model.training_tokens"]
    if "model.tokens_per_parameter" in inputs:
        return inputs["model.tokens_per_parameter"] * inputs["model.parameters"]
    return None


def _growth(inputs: Inputs, scenario: Scenario, day: Number, summed: bool) -> Number:
    per_year = inputs.get("demand.growth")
    if per_year is None:
        return day if summed else 1.0
    function = eq.growth_days if summed else eq.growth_at
    curve = scenario.choices["demand.growth_curve"]
    return function(day, per_year, curve, inputs.get("demand.growth_ceiling", 1.0))


def _first_day_tokens(inputs: Inputs, scenario: Scenario) -> Number:
    """Tokens generated on the mean first day, before shares are taken off."""
    get = inputs.get
    if "demand.tokens_per_day" in inputs:
        return inputs["demand.tokens_per_day"]
    if "demand.text_per_day" in inputs:
        return inputs["demand.text_per_day"] * 8.0 / inputs["coding.raw"]
    if "demand.bytes_per_request" in inputs:
        sent = inputs["demand.requests_per_day"] * inputs["demand.bytes_per_request"]
        return sent * 8.0 / inputs["coding.raw"]
    if "demand.requests_per_day" in inputs:
        return inputs["demand.requests_per_day"] * inputs["demand.tokens_per_request"]
    if "demand.revenue" in inputs:
        return inputs["demand.revenue"] / inputs["demand.price"]
    if "demand.users" in inputs:
        return inputs["demand.users"] * inputs["demand.tokens_per_user_per_day"]
    multiple, trained = get("demand.training_multiple"), training_tokens(inputs)
    if multiple is not None and trained is not None:
        return multiple * trained / _growth(inputs, scenario, inputs["demand.lifetime"], True)
    # No demand given: the answers fill the cap.
    carrier = scenario.choices["defender.coding"]
    return inputs["defender.cap"] * 8.0 / inputs[f"coding.{carrier}"]


def cumulative_tokens(inputs: Inputs, scenario: Scenario, first_day: Number, day: Number) -> Number:
    """Tokens that have left the enclave by ``day``."""
    return first_day * _growth(inputs, scenario, day, True)


def codings_of(scenario: Scenario) -> tuple[str, ...]:
    """All that a scenario can be told of: ``audited`` where its values were measured."""
    return (*CODINGS, "audited") if scenario.has("coding.unexplained") else CODINGS


def audit_parts(inputs: Inputs, tokens: Number) -> dict[str, Number]:
    """What an audit leaves unexplained of each of ``tokens``, bits, by kind."""
    segments = np.maximum(tokens, 1.0) / eq.SEGMENT_TOKENS
    worth = inputs["coding.unexplained"] * eq.SEGMENT_TOKENS
    bound = eq.bound_bits(segments, worth, inputs["defender.audit_share"])
    return {
        "tokens": inputs["coding.unexplained"],
        "signalling": inputs["coding.signalling"],
        "timing": inputs["coding.timing"],
        "bound": bound / np.maximum(tokens, 1.0) - inputs["coding.unexplained"],
    }


def evaluate(
    scenario: Scenario, inputs: Inputs, codings: tuple[str, ...] | None = None
) -> Forecast:
    """The whole model, once, on given inputs (draws or single values), for ``codings``; all of
    them where none are named."""
    weights = _weights(inputs)
    target = eq.target_bytes(
        weights, inputs["attacker.useful_fraction"], inputs["attacker.weight_compression"]
    )
    leaving = (
        inputs["demand.output_share"]
        * (1.0 - inputs["demand.internal_share"])
        * (1.0 - inputs["demand.hidden_share"])
    )
    first = _first_day_tokens(inputs, scenario)
    if scenario.given & DEMAND_KEYS:
        first = first * leaving
    lifetime = inputs["demand.lifetime"]
    tokens = cumulative_tokens(inputs, scenario, first, lifetime)
    result = Forecast(scenario, 1, 0, inputs, weights, target, tokens, first)
    peak = first * np.maximum(1.0, _growth(inputs, scenario, lifetime, False))
    carrier = inputs[f"coding.{result.carrier}"]
    for coding in codings or codings_of(scenario):
        if coding == "verified":
            extractable = inputs["coding.extractable"]
            hidden = eq.unexplained_bits(extractable, inputs["coding.raw"], carrier)
            found = _outcome(result, carrier, hidden / carrier, peak, extractable)
        elif coding == "audited":
            left = np.minimum(sum(audit_parts(inputs, tokens).values()), carrier)
            found = _outcome(result, carrier, left / carrier, peak, left / carrier)
        else:
            found = _outcome(result, inputs[f"coding.{coding}"], 1.0, peak, 1.0)
        result.outcomes[coding] = found
    return result


def _outcome(
    result: Forecast, bits: Number, payload: Number, peak: Number, hidden: Number
) -> Outcome:
    """``payload``: share of the link's bytes that an attacker controls (1 unverified);
    ``hidden``: of what reaches one account, the most that may be his."""
    inputs = result.inputs
    usable, response = inputs["attacker.usable_share"], inputs["attacker.response_time"]
    lifetime = inputs["demand.lifetime"]
    headroom = 1.0 + inputs["defender.headroom"]
    busiest = eq.bytes_of(peak, bits)
    caps = {
        day: busiest * eq.busy_day_factor(inputs["demand.busy_day"], day) * headroom for day in DAYS
    }
    outflow = eq.bytes_of(result.tokens, bits)
    given = inputs.get("defender.cap")
    cap = caps[result.scenario.choices["defender.serve"]] if given is None else given
    allowance = outflow if given is None else cap * lifetime
    if "defender.lifetime_cap" in inputs:
        allowance = np.minimum(cap * lifetime, inputs["defender.lifetime_cap"])
    quiet = usable * cap * payload
    rush: Number = 0.0
    if np.any(response):
        rush = eq.rush_bytes(cap, response, inputs["defender.burst"]) * payload
    if "attacker.accounts" in inputs:
        drain = _account_rate(inputs, hidden)
        quiet, rush = np.minimum(quiet, drain), np.minimum(rush, drain * response)
    served: Number = 1.0
    if given is not None:
        with np.errstate(over="ignore"):
            served = np.minimum(1.0, given * headroom / np.maximum(caps["p50"], 1e-300))
    return Outcome(
        bits=bits * payload,
        outflow=outflow * payload,
        caps=caps,
        cap=cap,
        days=eq.theft_days(result.target, quiet, rush, response),
        rush=rush,
        reach=eq.reach_bytes(quiet, rush, lifetime, allowance * payload, usable),
        served=served,
    )


def _account_rate(inputs: Inputs, hidden: Number) -> Number:
    """Payload bytes/day that reach a thief who only has accounts: n · bytes · share (arXiv
    2601.01296), the share not above what nobody can explain, ``hidden``."""
    share = np.minimum(inputs["attacker.steganography_share"], hidden)
    return inputs["attacker.accounts"] * inputs["attacker.bytes_per_account"] * share


def simulate(scenario: Scenario, draws: int = DEFAULT_DRAWS, seed: int = 1) -> Forecast:
    """``draws`` futures of ``scenario``. Same seed and draws, same result, on any machine with
    the same numpy. Raises InputError outside 1..5,000,000 draws."""
    if not 1 <= draws <= MAX_DRAWS:
        raise InputError(f"draws must be between 1 and {MAX_DRAWS:,}")
    result = evaluate(scenario, draw_inputs(scenario, draws, seed))
    result.draws, result.seed = draws, seed
    return result


def theft_probability(result: Forecast, coding: str) -> float:
    """Share of the futures in which a thief has the target before the life ends."""
    return float(np.mean(result.outcomes[coding].reach >= result.target * (1 - 1e-12)))


def as_samples(values: Number, draws: int) -> Samples:
    """``values`` as float64 [draws], broadcasting a plain value."""
    return np.broadcast_to(np.asarray(values, dtype=np.float64), (draws,))
