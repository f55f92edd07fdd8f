"""The inputs of a scenario: name, dimension, bounds, default and where the default is from.

This table is the only place that knows them; the reader, ``--set``, the sweep, the drivers and
the documentation all walk it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from narrows.plan import units
from narrows.plan.units import Dimension


@dataclass(frozen=True, slots=True)
class Field:
    """``path``: "section.key". ``lower``/``upper``: what a value may be, in base units;
    ``above``: the lower bound itself is excluded. ``default``: text, or None for no default."""

    path: str
    dimension: Dimension
    label: str
    default: str | None = None
    lower: float = 0.0
    upper: float = math.inf
    above: bool = True
    source: str = ""


@dataclass(frozen=True, slots=True)
class ChoiceField:
    """An input that is one of a few words."""

    path: str
    options: tuple[str, ...]
    default: str


NUMBERS: tuple[Field, ...] = (
    Field("model.parameters", units.PARAMETERS, "parameters", upper=1e18),
    Field(
        "model.bytes_per_parameter", units.BYTES_PER_PARAMETER, "bytes per parameter", upper=16.0
    ),
    Field("model.weights", units.BYTES, "weights"),
    Field("model.training_tokens", units.TOKENS, "training tokens"),
    Field("model.tokens_per_parameter", units.RATIO, "training tokens per parameter"),
    Field("demand.tokens_per_day", units.TOKENS_PER_DAY, "tokens per day"),
    Field("demand.text_per_day", units.BYTES_PER_DAY, "text per day"),
    Field("demand.requests_per_day", units.REQUESTS_PER_DAY, "requests per day"),
    Field("demand.tokens_per_request", units.TOKENS, "tokens per request"),
    Field("demand.bytes_per_request", units.BYTES, "bytes per request"),
    Field("demand.revenue", units.MONEY_PER_DAY, "revenue"),
    Field("demand.price", units.PRICE, "price per token"),
    Field("demand.users", units.COUNT, "users"),
    Field("demand.tokens_per_user_per_day", units.TOKENS_PER_DAY, "tokens per user and day"),
    Field("demand.training_multiple", units.RATIO, "tokens served per training token"),
    Field("demand.output_share", units.SHARE, "share of tokens that are output", "100%", upper=1.0),
    Field(
        "demand.internal_share",
        units.SHARE,
        "share used inside",
        "0%",
        upper=1.0,
        above=False,
    ),
    Field(
        "demand.hidden_share",
        units.SHARE,
        "share of hidden reasoning",
        "0%",
        upper=1.0,
        above=False,
    ),
    Field("demand.lifetime", units.DURATION, "lifetime", "2 years", upper=100 * 365.25),
    Field("demand.growth", units.GROWTH, "growth per year"),
    Field("demand.growth_ceiling", units.RATIO, "ceiling of growth", lower=1.0, upper=1e9),
    Field(
        "demand.busy_day",
        units.RATIO,
        "busy day (p95 / median day)",
        "1.3",
        lower=1.0,
        upper=100.0,
        above=False,
    ),
    Field(
        "coding.raw",
        units.BITS_PER_TOKEN,
        "raw bits per token",
        "17 bits/token",
        upper=1e4,
        source="log2 of a vocabulary of 131,072: the shortest code without any model",
    ),
    Field(
        "coding.compressed",
        units.BITS_PER_TOKEN,
        "compressed bits per token",
        "1.35..3.3 bits/token",
        upper=1e4,
        source="arXiv 2604.02343: 1.35 to 2.81; SmolLM2-135M on frontier answers: 0.715 bits/byte",
    ),
    Field(
        "coding.coupled",
        units.BITS_PER_TOKEN,
        "coupled bits per token",
        "0.5..1.4 bits/token",
        upper=1e4,
        source="prototypes of docs/design.md: 1.24 and 1.39; 0.37 of the best plain figure",
    ),
    Field(
        "coding.extractable",
        units.SHARE,
        "share a verifier cannot explain",
        "0.5%..6.4%",
        upper=1.0,
        source="arXiv 2511.02620: under 0.5 % of log2|V|; an attack on its defaults: 1.08 bits",
    ),
    Field(
        "coding.unexplained",
        units.BITS_PER_TOKEN,
        "unexplained bits per token",
        upper=1e4,
        above=False,
    ),
    Field(
        "coding.signalling",
        units.BITS_PER_TOKEN,
        "signalling bits per token",
        upper=1e4,
        above=False,
    ),
    Field("coding.timing", units.BITS_PER_TOKEN, "timing bits per token", upper=1e4, above=False),
    Field("coding.audited_parameters", units.PARAMETERS, "parameters as audited", upper=1e18),
    Field("attacker.weight_compression", units.RATIO, "weight compression", "1", 1.0, 1e4, False),
    Field("attacker.useful_fraction", units.SHARE, "fraction that hurts", "100%", upper=1.0),
    Field("attacker.usable_share", units.SHARE, "unnoticed share of the cap", "100%", upper=1.0),
    Field(
        "attacker.response_time",
        units.DURATION,
        "response time",
        "0 days",
        upper=36_525.0,
        above=False,
    ),
    Field("attacker.accounts", units.COUNT, "attacker's accounts"),
    Field("attacker.bytes_per_account", units.BYTES_PER_DAY, "bytes per account"),
    Field("attacker.steganography_share", units.SHARE, "steganography share", "100%", upper=1.0),
    Field("defender.cap", units.BYTES_PER_DAY, "cap"),
    Field("defender.lifetime_cap", units.BYTES, "lifetime cap"),
    Field(
        "defender.headroom",
        units.SHARE,
        "headroom over the busy day",
        "0%",
        upper=100.0,
        above=False,
    ),
    Field("defender.burst", units.RATIO, "busiest minute / mean minute", "2", 1.0, 1440.0, False),
    Field("defender.audit_share", units.SHARE, "audited share", "5%", upper=1.0),
    Field("defender.line_rate", units.BYTES_PER_DAY, "line without a limit", "10 Gbit/s"),
)

CHOICES: tuple[ChoiceField, ...] = (
    ChoiceField("model.kind", ("dense", "experts", "unknown"), "unknown"),
    ChoiceField("demand.growth_curve", ("exponential", "linear", "logistic"), "exponential"),
    ChoiceField("coding.audited_kind", ("dense", "experts", "unknown"), "unknown"),
    ChoiceField(
        "coding.audited_arithmetic",
        ("bfloat16", "float32", "int8", "fp8", "exact", "unknown"),
        "unknown",
    ),
    ChoiceField("defender.coding", ("raw", "compressed", "coupled"), "compressed"),
    ChoiceField("defender.serve", ("p50", "p95", "p99"), "p99"),
)

WINDOWS_DAYS: dict[str, float] = {"minute": 1 / 1440, "hour": 1 / 24, "day": 1.0, "week": 7.0}

FIELDS = {field.path: field for field in NUMBERS}
CHOICE_OF = {choice.path: choice for choice in CHOICES}
SWITCHES = ("defender.verification", "defender.audit")
AUDITED = ("coding.unexplained", "coding.signalling", "coding.timing")
SECTIONS = ("model", "demand", "coding", "attacker", "defender")

# Exactly one of these describes the demand; each is the set of keys that it needs.
DEMANDS: tuple[tuple[str, ...], ...] = (
    ("demand.tokens_per_day",),
    ("demand.text_per_day",),
    ("demand.requests_per_day", "demand.tokens_per_request"),
    ("demand.requests_per_day", "demand.bytes_per_request"),
    ("demand.revenue", "demand.price"),
    ("demand.users", "demand.tokens_per_user_per_day"),
    ("demand.training_multiple",),
)
DEMAND_KEYS = frozenset(key for group in DEMANDS for key in group)
