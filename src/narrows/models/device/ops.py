"""The primitives of docs/numerics.md in torch: every line one IEEE operation an element.

What must not be written in this room, since torch makes another operation of it somewhere:
- a division by a Python number (CUDA multiplies by its reciprocal) or of one (``reciprocal``
  and a product): ``torch.div`` with two tensors of the device;
- ``addcmul``, ``lerp``, ``add(alpha=...)``, ``torch.compile``: multiply and add round once;
- exp, exp2, rsqrt, softmax, norms: approximations of the device's own;
- sums, means and products of floats: their order is the device's.
"""

from __future__ import annotations

import torch

from narrows.models.runtime.numerics import (
    EXP2_COEFFICIENTS,
    EXPONENT_LIMIT,
    LOG2_E,
    LOGIT_LIMIT,
    TINY,
)

_COEFFICIENTS = tuple(float(c) for c in EXP2_COEFFICIENTS)
_LIMIT = float(EXPONENT_LIMIT)


def fixed(value: float, like: torch.Tensor) -> torch.Tensor:
    """A constant as a tensor of ``like``'s type on its device, for divisions."""
    return torch.full((1,), value, dtype=like.dtype, device=like.device)


def nonzero_top(top: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Where a row counts as zero, and the largest magnitudes with 1 in those places."""
    zero = top < float(TINY)
    return zero, top.masked_fill(zero, 1.0)


def quantise(x: torch.Tensor, limit: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows [..., n] to int32 in [-limit, limit], and what one unit is worth [...]."""
    zero, top = nonzero_top(x.abs().amax(-1))
    bound = fixed(limit, x)
    inverse = torch.div(bound, top).masked_fill(zero, 0.0)
    whole = torch.round(x * inverse[..., None]).to(torch.int32)
    return whole, torch.div(top, bound).masked_fill(zero, 0.0)


def mean_square(whole: torch.Tensor, unit: torch.Tensor, eps: float) -> torch.Tensor:
    """``sqrt(s * s * sum(a * a) / n + eps)``, binary64."""
    s = unit.to(torch.float64)
    squares = (whole * whole).sum(-1, dtype=torch.int64).to(torch.float64)
    return torch.sqrt(torch.div((s * s) * squares, fixed(whole.shape[-1], s)) + eps)


def norm_scale(whole: torch.Tensor, unit: torch.Tensor, eps: float) -> torch.Tensor:
    """What a unit is worth after the norm, binary32."""
    worth = torch.div(unit.to(torch.float64), mean_square(whole, unit, eps))
    return worth.to(torch.float32)


def head_norm(x: torch.Tensor, limit: int, eps: float, weight: torch.Tensor) -> torch.Tensor:
    """Heads [..., head_dim] divided by their root mean square, times ``weight``."""
    root = mean_square(*quantise(x, limit), eps)
    r = torch.div(fixed(1.0, root), root).to(torch.float32)
    return (x * r[..., None]) * weight


def multiply_add(a: torch.Tensor, b: torch.Tensor, c: float | torch.Tensor) -> torch.Tensor:
    """a * b + c in two roundings."""
    product = a * b
    return product + c


def exp2(t: torch.Tensor) -> torch.Tensor:
    """2 ** t for |t| <= 100, by the polynomial of docs/numerics.md."""
    n = torch.round(t)
    f = t - n
    p = torch.full_like(f, _COEFFICIENTS[0])
    for coefficient in _COEFFICIENTS[1:]:
        p = multiply_add(p, f, coefficient)
    power = ((n.to(torch.int32) + 127) << 23).view(torch.float32)
    return p * power


def gated(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """``gate / (1 + 2 ** t) * up`` with ``t = clamp(-(gate * log2(e)))``."""
    t = (-(gate * float(LOG2_E))).clamp(-_LIMIT, _LIMIT)
    return torch.div(gate, exp2(t) + 1.0) * up


def hadamard(x: torch.Tensor, block: int) -> torch.Tensor:
    """Rows [..., n] in blocks of ``block``, a power of two, unnormalised."""
    turned = x.reshape(-1, block).t().contiguous()  # the long axis last: whole vectors
    distance = 1
    while distance < block:
        pairs = turned.reshape(-1, 2, distance, turned.shape[-1])
        a, b = pairs[:, 0], pairs[:, 1]
        turned = torch.stack((a + b, a - b), 1).reshape(block, -1)
        distance *= 2
    return turned.t().reshape(x.shape)


def rope(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """x [rows, heads, head_dim]; cos, sin [rows, head_dim / 2]."""
    a, b = x.chunk(2, -1)
    c, s = cos[:, None], sin[:, None]
    return torch.cat((multiply_add(a, c, -(b * s)), multiply_add(b, c, a * s)), -1)


def to_logits(y: torch.Tensor) -> torch.Tensor:
    return y.clamp(-float(LOGIT_LIMIT), float(LOGIT_LIMIT)).to(torch.int32)
