"""Sums of products of bytes, exact int32, in the two forms that torch has.

int8    ``torch._int_mm``: the tensor cores' own form; CUDA takes more than 16 rows and sizes
        in multiples of 8, so everything is padded with zeros. Small batched products are
        elementwise int16 products (at most 128 * 127) and an integer sum.
int32   ``torch.mm`` of int32: on CPUs, whose ``_int_mm`` is a plain loop unless oneDNN has
        byte instructions; four bytes a weight. CUDA has no such product.

No sum passes 2**31: docs/numerics.md, "Why nothing overflows".
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch.nn.functional import pad

_LEAST_ROWS = 32  # CUDA's _int_mm refuses 16 rows and fewer
_MULTIPLE = 8
_ELEMENTS = 1 << 26  # of one elementwise product: bounds its memory


class Products(Protocol):
    name: str
    row_classes: tuple[int, ...]  # batches whose products loading checks

    def weight(self, matrix: torch.Tensor) -> torch.Tensor:
        """int8 [n, k], as ``mm`` wants it."""

    def mm(self, left: torch.Tensor, weight: torch.Tensor, outputs: int) -> torch.Tensor:
        """int8 [m, k] times the ``weight`` of a matrix [outputs, k], transposed:
        int32 [m, outputs]."""

    def bmm(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """int8 [b, m, k] times int8 [b, n, k], transposed: int32 [b, m, n]."""


def _padded(size: int) -> int:
    return -(-size // _MULTIPLE) * _MULTIPLE


class Int8Products:
    name = "int8"
    row_classes: tuple[int, ...] = (1, 2, 16, 17, 33, 64, 128, 256)

    def weight(self, matrix: torch.Tensor) -> torch.Tensor:
        n, k = matrix.shape
        return pad(matrix, (0, _padded(k) - k, 0, _padded(n) - n)).contiguous()

    def mm(self, left: torch.Tensor, weight: torch.Tensor, outputs: int) -> torch.Tensor:
        m, k = left.shape
        rows = max(_LEAST_ROWS, _padded(m))
        full = pad(left, (0, weight.shape[1] - k, 0, rows - m)).contiguous()
        return torch._int_mm(full, weight.t())[:m, :outputs]

    def bmm(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        b, m, k = left.shape
        n = right.shape[1]
        if m >= _LEAST_ROWS:
            return torch.stack([self.mm(left[i], self.weight(right[i]), n) for i in range(b)])
        step = max(1, _ELEMENTS // (m * n * k))
        parts = [
            (left[i : i + step, :, None].to(torch.int16) * right[i : i + step, None]).sum(
                -1, dtype=torch.int32
            )
            for i in range(0, b, step)
        ]
        return torch.cat(parts)


class Int32Products:
    name = "int32"
    row_classes: tuple[int, ...] = (2,)

    def weight(self, matrix: torch.Tensor) -> torch.Tensor:
        return matrix.t().to(torch.int32).contiguous()

    def mm(self, left: torch.Tensor, weight: torch.Tensor, outputs: int) -> torch.Tensor:
        del outputs  # nothing is padded
        return torch.mm(left.to(torch.int32), weight)

    def bmm(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        wide = right.to(torch.int32).contiguous()
        return torch.bmm(wide, left.to(torch.int32).transpose(1, 2)).transpose(1, 2)


def products_for(device: torch.device) -> Products:
    return Int32Products() if device.type == "cpu" else Int8Products()
