"""Attention over the paged int8 cache, batched (docs/numerics.md, "One pass", 4).

Cache of one layer: keys and values int8 [kv_heads, pages, 64, head_dim], their units float32
[kv_heads, pages, 64]. Slots that were never written are zero, and stale ones hold finite
numbers: they score minus infinity, so their weight is 0, whatever they hold.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from narrows.models.device.ops import exp2, fixed, nonzero_top
from narrows.models.device.products import Products
from narrows.models.runtime.engine import Batch
from narrows.models.runtime.numerics import (
    EXPONENT_LIMIT,
    PAGE_TOKENS,
    PROBABILITY_LIMIT,
    Shape,
)

_ELEMENTS = 1 << 26  # bounds the memory of one part: scores, and gathered keys


@dataclass(frozen=True)
class Part:
    """Rows of a batch that attend in one call.

    ``rows`` [r]; ``pages`` [tables, p]: one table for all rows, or one for each; ``last``
    [tables, r / tables]: the newest position that each row sees."""

    rows: torch.Tensor
    pages: torch.Tensor
    last: torch.Tensor


def parts_of(batch: Batch, shape: Shape, device: torch.device) -> list[Part]:
    """A batch cut so that rows of one table share its keys, and single rows go together."""
    counts = np.bincount(batch.table_of, minlength=len(batch.tables))
    alone = np.flatnonzero(counts[batch.table_of] == 1)
    found = []
    for rows in _cut(alone, batch, shape.kv_heads * shape.head_dim):
        found.append(_part(batch, rows, batch.table_of[rows], len(rows), device))
    for table in np.flatnonzero(counts > 1):
        own = np.flatnonzero(batch.table_of == table)
        for rows in _cut(own, batch, shape.heads):
            found.append(_part(batch, rows, batch.table_of[rows[:1]], 1, device))
    return found


def _cut(rows: np.ndarray, batch: Batch, each: int) -> Iterator[np.ndarray]:
    """``each``: elements that a row takes for every token of its history."""
    if not len(rows):
        return
    tokens = int(batch.positions[rows].max()) + PAGE_TOKENS
    step = max(1, _ELEMENTS // (tokens * each))
    for start in range(0, len(rows), step):
        yield rows[start : start + step]


def _part(
    batch: Batch, rows: np.ndarray, tables: np.ndarray, count: int, device: torch.device
) -> Part:
    positions = batch.positions[rows]
    pages = int(positions.max()) // PAGE_TOKENS + 1
    return Part(
        torch.from_numpy(rows.astype(np.int64)).to(device),
        torch.from_numpy(batch.tables[tables, :pages].astype(np.int64)).to(device),
        torch.from_numpy(positions.reshape(count, -1).astype(np.int64)).to(device),
    )


def attend_part(
    products: Products,
    part: Part,
    q: torch.Tensor,
    q_unit: torch.Tensor,
    cache: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor],
) -> torch.Tensor:
    """``q`` int8 [rows, heads, head_dim] and ``q_unit`` [rows, heads] of the whole batch;
    ``cache``: keys, their units, values, theirs, of the layer. float32 [part's rows,
    heads * head_dim]."""
    heads, dim = q.shape[1:]
    kv_heads = cache[0].shape[0]
    tables, each = part.last.shape
    group = heads // kv_heads

    def query(x: torch.Tensor) -> torch.Tensor:
        """[rows, heads, ...] to [kv_heads * tables, rows of a table * group, ...]."""
        rest = x.shape[2:]
        split = x[part.rows].reshape(tables, each, kv_heads, group, *rest)
        order = split.permute(2, 0, 1, 3, *range(4, split.dim()))
        return order.reshape(kv_heads * tables, each * group, *rest)

    def history(x: torch.Tensor) -> torch.Tensor:
        found = x[:, part.pages]  # [kv_heads, tables, pages, 64, ...]
        return found.reshape(kv_heads * tables, -1, *found.shape[4:])

    last = part.last[:, :, None].expand(tables, each, group).reshape(tables, -1)
    mixed = attend(
        products,
        query(q),
        query(q_unit),
        history(cache[0]),
        history(cache[1]),
        history(cache[2]),
        history(cache[3]),
        last.repeat(kv_heads, 1),
    )
    back = mixed.reshape(kv_heads, tables, each, group, dim).permute(1, 2, 0, 3, 4)
    return back.reshape(tables * each, heads * dim)


def attend(
    products: Products,
    q: torch.Tensor,
    q_unit: torch.Tensor,
    k: torch.Tensor,
    k_unit: torch.Tensor,
    v: torch.Tensor,
    v_unit: torch.Tensor,
    last: torch.Tensor,
) -> torch.Tensor:
    """q int8 [b, m, d] over k, v int8 [b, t, d]; units [b, m] and [b, t]; ``last`` [b, m].
    float32 [b, m, d]."""
    m = q.shape[1]
    scores = products.bmm(q, k).to(torch.float32)
    z = (scores * k_unit[:, None]) * q_unit[..., None]
    unseen = torch.arange(k.shape[1], device=q.device) > last[..., None]
    z = z.masked_fill(unseen, -torch.inf)
    t = (z - z.amax(-1, keepdim=True)).clamp(min=-float(EXPONENT_LIMIT))
    e = torch.round(exp2(t) * float(PROBABILITY_LIMIT))
    total = e.to(torch.int32).sum(-1, dtype=torch.int32).to(torch.float32)
    w = e * v_unit[:, None]
    zero, top = nonzero_top(w.amax(-1))
    limit = fixed(PROBABILITY_LIMIT, top)
    g = torch.round(w * torch.div(limit, top)[..., None]).to(torch.int32)
    halves = torch.cat(((g >> 8) - 128, (g & 255) - 128), 1).to(torch.int8)
    sums = products.bmm(halves, v.transpose(1, 2))
    sums = (sums + 128 * v.sum(1, dtype=torch.int32)[:, None]).to(torch.float32)
    mixed = sums[:, :m] * 256.0 + sums[:, m:]
    worth = torch.div(torch.div(top, limit), total)
    return (mixed * worth[..., None]).masked_fill(zero[..., None], 0.0)
