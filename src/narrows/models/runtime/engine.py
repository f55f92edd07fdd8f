"""The seam between serving (streams, pages) and arithmetic: what an engine must do.

An engine turns a batch of rows into integer logits and keeps the cache's bytes. The numba
engine and the numpy reference implement it; one for another device needs these four things and
docs/numerics.md. Whatever the engine, the same integers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from narrows.errors import ArtifactError
from narrows.models.runtime.numerics import MAX_BIAS, MAX_NORM_WEIGHT, MAX_ROW_SCALE, Shape

Tensors = Mapping[str, NDArray[Any]]
_HEAD_SCALE_LIMIT = MAX_ROW_SCALE * (1 << 17)


@dataclass(frozen=True)
class Batch:
    """Rows of one pass. All int32, contiguous.

    ``tokens``, ``positions`` [rows]; ``table_of`` [rows]: which row of ``tables`` [tables,
    pages] holds the row's pages; ``wanted`` [outputs]: the rows whose logits are computed.
    Rows of one table have distinct positions; every earlier position of that table is in the
    cache already or is a row of this batch.
    """

    tokens: NDArray[np.int32]
    positions: NDArray[np.int32]
    table_of: NDArray[np.int32]
    tables: NDArray[np.int32]
    wanted: NDArray[np.int32]


class Engine(Protocol):
    shape: Shape
    backend: str

    def copy_page(self, source: int, target: int) -> None:
        """Make ``target`` equal to ``source``, all layers."""

    def forward(self, batch: Batch) -> NDArray[np.int32]:
        """int32 [outputs, vocab], Q16 log2; valid until the next call. Stores every row's key
        and value in its page."""


def tensor_table(shape: Shape) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Name to (dtype, shape) of every tensor that the numerics need."""
    table: dict[str, tuple[str, tuple[int, ...]]] = {}

    def matrix(name: str, rows: int, columns: int) -> None:
        table[name] = ("int8", (rows, columns))
        table[f"{name}.scale"] = ("float32", (rows,))

    matrix("embed", shape.vocab, shape.hidden)
    matrix("head", shape.vocab, shape.hidden)
    projected = shape.q_width + 2 * shape.kv_width
    for n in range(shape.layers):
        prefix = f"layers.{n}."
        matrix(prefix + "qkv", projected, shape.hidden)
        matrix(prefix + "o", shape.hidden, shape.q_width)
        matrix(prefix + "gate_up", 2 * shape.ffn, shape.hidden)
        matrix(prefix + "down", shape.hidden, shape.ffn)
        if shape.qkv_bias:
            table[prefix + "qkv.bias"] = ("float32", (projected,))
        if shape.qk_norm:
            table[prefix + "q_norm"] = table[prefix + "k_norm"] = ("float32", (shape.head_dim,))
    return table


def check_tensors(shape: Shape, tensors: Tensors) -> None:
    """ArtifactError unless all tensors are there, well shaped and inside the proven ranges."""
    for name, (dtype, size) in tensor_table(shape).items():
        value = tensors.get(name)
        if value is None or value.dtype != np.dtype(dtype) or value.shape != size:
            raise ArtifactError(f"tensor {name} is missing or is not {dtype} {size}")
        if dtype == "int8":
            if value.min() < -127:
                raise ArtifactError(f"tensor {name} holds -128, which no import makes")
            continue
        low, high = _range(name)
        # Written so that NaN fails too.
        if not (value.min() >= low and value.max() <= high):
            raise ArtifactError(f"tensor {name} has values outside {low} .. {high}")


def _range(name: str) -> tuple[float, float]:
    if name == "head.scale":
        return 0.0, _HEAD_SCALE_LIMIT
    if name.endswith(".scale"):
        return 0.0, MAX_ROW_SCALE
    if name.endswith(".bias"):
        return -MAX_BIAS, MAX_BIAS
    return -MAX_NORM_WEIGHT, MAX_NORM_WEIGHT
