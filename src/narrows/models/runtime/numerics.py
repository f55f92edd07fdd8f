"""The numbers of the exact runtime that every implementation shares (docs/numerics.md).

Invariants
- Nothing here calls libm: tables come from ``decimal`` and Python integers, the exp2
  polynomial from written-out coefficients. Two machines get the same bytes.
- ``Shape`` is checked against the bounds that the overflow proofs of docs/numerics.md need;
  an engine that is given a ``Shape`` may rely on them.
"""

from __future__ import annotations

import decimal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from narrows.errors import ArtifactError

NUMERICS_VERSION = 1

NARROW_LIMIT = 127  # activations of one byte: [-127, 127], stored with 128 added
WIDE_LIMIT = 32767  # of two bytes: [-32767, 32767], stored with 32768 added, high byte apart
PROBABILITY_LIMIT = 65535  # attention weights: two bytes, unsigned
TINY = np.float32(2.0**-40)  # a row whose largest magnitude is below this counts as zero
LOGIT_LIMIT = 1 << 29
PAGE_TOKENS = 64
MAX_CONTEXT = 8192
MAX_INPUT = 1 << 15  # longest dot product: 255 * 127 * 2**15 < 2**31
MAX_ROW_SCALE = 16.0  # float32 stays finite through every layer: docs/numerics.md, "Ranges"
MAX_BIAS = float(1 << 20)
MAX_NORM_WEIGHT = float(1 << 16)
EXPONENT_LIMIT = 100  # exp2 is used on [-100, 100] only: far from subnormal and infinite
FFN_ROTATION = 512
PRODUCTS = ("qkv", "o", "gate_up", "down", "head")

ROUND = np.float32(12582912.0)  # 1.5 * 2**23: adding and taking it away rounds to nearest even
LOG2_E = np.float32(1.44269502162933349609375)  # log2(e), nearest float32
# ln(2)**k / k!, nearest float32, k = 6 .. 0: relative error below 2**-22 on [-1/2, 1/2]
EXP2_COEFFICIENTS = tuple(
    np.float32(c)
    for c in (
        0.00015403530393381609,
        0.0013333558146428443,
        0.009618129107628477,
        0.05550410866482158,
        0.2402265069591007,
        0.6931471805599453,
        1.0,
    )
)


# What this process may have set for itself must not reach a table.
_DECIMAL = decimal.Context(prec=60, rounding=decimal.ROUND_HALF_EVEN)


@dataclass(frozen=True)
class Shape:
    """Sizes of a quantised model. ``head_dim`` is the true one; keys and values are stored
    in ``head_dim`` int8 each. ``state_eps`` is norm_eps in the units of the
    rotated residual stream. ``wide`` names the products whose activations have two bytes."""

    vocab: int
    hidden: int
    ffn: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    max_context: int
    norm_eps: float
    state_eps: float
    qkv_bias: bool
    qk_norm: bool
    wide: frozenset[str]
    rope_base: float
    rope_scaling: Mapping[str, float] | None

    @property
    def q_width(self) -> int:
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        return self.kv_heads * self.head_dim

    @property
    def group(self) -> int:
        """Query heads that share one key-value head."""
        return self.heads // self.kv_heads

    @property
    def ffn_block(self) -> int:
        return power_of_two_block(self.ffn, FFN_ROTATION)

    @property
    def head_block(self) -> int:
        return power_of_two_block(self.head_dim, self.head_dim)

    @property
    def query_scale(self) -> np.float32:
        """log2(e) / sqrt(head_dim) / head_block: makes scores exponents of two."""
        with decimal.localcontext(_DECIMAL):
            root = decimal.Decimal(self.head_dim).sqrt()
            return np.float32(float(1 / (decimal.Decimal(2).ln() * root * self.head_block)))


def power_of_two_block(size: int, cap: int) -> int:
    """The largest power of two that divides ``size`` and is at most ``cap``."""
    block = size & -size
    while block > cap:
        block >>= 1
    return block


def check_shape(shape: Shape) -> None:
    """Raise ArtifactError unless every bound that docs/numerics.md proves from holds."""
    limits = {
        "vocab": (shape.vocab, 2, 1 << 18),
        "hidden": (shape.hidden, 4, MAX_INPUT),
        "ffn": (shape.ffn, 4, MAX_INPUT),
        "layers": (shape.layers, 1, 256),
        "heads": (shape.heads, 1, 256),
        "kv_heads": (shape.kv_heads, 1, 256),
        "head_dim": (shape.head_dim, 4, 256),
        "q_width": (shape.q_width, 4, MAX_INPUT),
        "max_context": (shape.max_context, 2 * PAGE_TOKENS, MAX_CONTEXT),
    }
    for name, (value, low, high) in limits.items():
        if not low <= value <= high:
            raise ArtifactError(f"{name} is {value}; {low} to {high} are supported")
    if shape.heads % shape.kv_heads:
        raise ArtifactError("query heads are not a multiple of key-value heads")
    for name in ("hidden", "ffn", "head_dim"):
        if getattr(shape, name) % 4:
            raise ArtifactError(f"{name} is not a multiple of 4")
    if shape.max_context % PAGE_TOKENS:
        raise ArtifactError(f"max_context is not a multiple of {PAGE_TOKENS}")
    if not (0 < shape.norm_eps < 1 and 0 < shape.state_eps < MAX_INPUT):
        raise ArtifactError("a norm's epsilon is out of range")
    if not 1 <= shape.rope_base <= 1e12:
        raise ArtifactError("the rope base is out of range")
    if not shape.wide <= set(PRODUCTS):
        raise ArtifactError("unknown product among the wide ones")


def shape_from_header(header: Mapping[str, Any]) -> Shape:
    """The ``numerics`` part of an artifact's header, checked. Raises ArtifactError."""
    try:
        part = header["numerics"]
        if part["version"] != NUMERICS_VERSION:
            raise ArtifactError(
                f"made for numerics version {part['version']}, this runtime has {NUMERICS_VERSION}",
                "import the model again",
            )
        scaling = part["rope_scaling"]
        shape = Shape(
            **{
                key: _whole(part[key])
                for key in (
                    "vocab",
                    "hidden",
                    "ffn",
                    "layers",
                    "heads",
                    "kv_heads",
                    "head_dim",
                    "max_context",
                )
            },
            norm_eps=float(part["norm_eps"]),
            state_eps=float(part["state_eps"]),
            qkv_bias=part["qkv_bias"] is True,
            qk_norm=part["qk_norm"] is True,
            wide=frozenset(str(name) for name in part["wide"]),
            rope_base=float(part["rope_base"]),
            rope_scaling=None if scaling is None else {k: float(scaling[k]) for k in SCALING_KEYS},
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"the header's numerics part is malformed: {error!r}") from error
    check_shape(shape)
    return shape


def _whole(value: object) -> int:
    if type(value) is not int:
        raise ValueError(f"{value!r} is not a whole number")
    return value


SCALING_KEYS = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position")


def rope_frequencies(shape: Shape) -> list[decimal.Decimal]:
    """Radians per position, one for each of head_dim / 2 pairs, to 40 digits.

    base ** (-2 i / head_dim); with Llama-3 scaling where the header has it (Llama 3.1 model
    card: long wavelengths divided by ``factor``, a linear ramp between the two bounds).
    """
    with decimal.localcontext(_DECIMAL):
        base = decimal.Decimal(shape.rope_base)
        log_base = base.ln()
        rates = []
        for i in range(shape.head_dim // 2):
            rate = (-log_base * 2 * i / shape.head_dim).exp()
            rates.append(_scaled(rate, shape.rope_scaling))
        return rates


_TWO_PI = decimal.Decimal("6.28318530717958647692528676655900576839433879875021164194989")


def _scaled(rate: decimal.Decimal, scaling: Mapping[str, float] | None) -> decimal.Decimal:
    if scaling is None:
        return rate
    factor, low, high, original = (decimal.Decimal(scaling[key]) for key in SCALING_KEYS)
    turns = original * rate / _TWO_PI  # full turns within the original context
    if turns > high:
        return rate
    if turns < low:
        return rate / factor
    smooth = (turns - low) / (high - low)
    return (1 - smooth) * rate / factor + smooth * rate


def _unit_vector(angle: decimal.Decimal) -> tuple[int, int]:
    """(cos, sin) of an angle in [0, 6.3], Q128, by Taylor series over integers."""
    one = 1 << 160
    with decimal.localcontext(_DECIMAL):  # the thread's own context may have fewer digits
        x = int(angle * one)
    term, k, parts = one, 0, [0, 0, 0, 0]
    while term:
        parts[k & 3] += term
        k += 1
        term = (term * x >> 160) // k
    return (parts[0] - parts[2]) >> 32, (parts[1] - parts[3]) >> 32


def _powers(real: int, imag: int, count: int) -> NDArray[np.int64]:
    """Q30 (cos, sin) of 0, 1, .. count-1 times the angle of the Q128 unit vector: [count, 2]."""
    rows = np.empty((count, 2), np.int64)
    a, b = 1 << 128, 0
    half = 1 << 97
    for i in range(count):
        rows[i] = ((a + half) >> 98, (b + half) >> 98)
        a, b = (a * real - b * imag) >> 128, (a * imag + b * real) >> 128
    return rows


_LOW_STEPS = 128


def rope_tables(shape: Shape) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """cos and sin, float32 [max_context, head_dim / 2].

    Position p = 128 h + l. Q30 integers of the angles 128 h and l (each within 2**-30 of the
    true value) are multiplied as complex numbers, rounded to Q30, converted to float32.
    """
    pairs = shape.head_dim // 2
    high_steps = -(-shape.max_context // _LOW_STEPS)
    cos = np.empty((high_steps * _LOW_STEPS, pairs), np.float32)
    sin = np.empty_like(cos)
    for i, rate in enumerate(rope_frequencies(shape)):
        unit = _unit_vector(rate)
        low = _powers(*unit, _LOW_STEPS)
        for _ in range(7):  # squaring seven times: 128 times the angle
            unit = (
                (unit[0] * unit[0] - unit[1] * unit[1]) >> 128,
                (2 * unit[0] * unit[1]) >> 128,
            )
        high = _powers(*unit, high_steps)
        c = high[:, None, 0] * low[None, :, 0] - high[:, None, 1] * low[None, :, 1]
        s = high[:, None, 0] * low[None, :, 1] + high[:, None, 1] * low[None, :, 0]
        cos[:, i] = ((c + (1 << 29)) >> 30).astype(np.float32).ravel() * np.float32(2.0**-30)
        sin[:, i] = ((s + (1 << 29)) >> 30).astype(np.float32).ravel() * np.float32(2.0**-30)
    return cos[: shape.max_context].copy(), sin[: shape.max_context].copy()
