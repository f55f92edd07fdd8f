"""The engine in PyTorch (``runtime.engine.Engine``): one code for CPUs and CUDA devices.

Whether a device computes the integers of docs/numerics.md is not assumed: ``torch_engine``
asks ``probe`` first, and loading compares the artifact's conformance digest as ever.
"""

from __future__ import annotations

import threading

import numpy as np
import torch
from numpy.typing import NDArray

from narrows.models.device.attention import Part, attend_part, parts_of
from narrows.models.device.ops import (
    gated,
    hadamard,
    head_norm,
    norm_scale,
    quantise,
    rope,
    to_logits,
)
from narrows.models.device.products import Products, products_for
from narrows.models.runtime.engine import Batch, Tensors, check_tensors
from narrows.models.runtime.numerics import (
    NARROW_LIMIT,
    PAGE_TOKENS,
    WIDE_LIMIT,
    Shape,
    rope_tables,
)

_Left = tuple[torch.Tensor, torch.Tensor]


class _Matrix:
    """A weight matrix, its rows' scales, and 128 times their sums (for low bytes)."""

    def __init__(
        self, tensors: Tensors, name: str, products: Products, device: torch.device
    ) -> None:
        values = _on(tensors[name], device)
        self.outputs = len(values)
        self.weight = products.weight(values)
        self.scale = _on(tensors[f"{name}.scale"], device)
        self.low_sums = 128 * values.sum(1, dtype=torch.int32)


class TorchEngine:
    """Its cache takes no more than the fast engine's page_bytes a page. On a CUDA device all of
    it is taken at once. One ``forward`` at a time."""

    def __init__(
        self,
        shape: Shape,
        tensors: Tensors,
        pages: int,
        device: torch.device,
        products: Products | None = None,
    ) -> None:
        check_tensors(shape, tensors)
        self.shape = shape
        self.device = device
        self.backend = f"torch-{device}"
        self.products = products or products_for(device)
        self._lock = threading.Lock()
        self._tensors = {
            name: _on(value, device)
            for name, value in tensors.items()
            if name.startswith("embed") or name.endswith(("qkv.bias", "q_norm", "k_norm"))
        }
        names = [
            f"layers.{n}.{product}"
            for n in range(shape.layers)
            for product in ("qkv", "o", "gate_up", "down")
        ]
        self._matrices = {
            name: _Matrix(tensors, name, self.products, device) for name in [*names, "head"]
        }
        self._cos, self._sin = (_on(table, device) for table in rope_tables(shape))
        lead = (shape.layers, shape.kv_heads, pages, PAGE_TOKENS)
        self._cache = (
            _zeros((*lead, shape.head_dim), np.int8, device),
            _zeros(lead, np.float32, device),
            _zeros((*lead, shape.head_dim), np.int8, device),
            _zeros(lead, np.float32, device),
        )

    def copy_page(self, source: int, target: int) -> None:
        with self._lock:
            for array in self._cache:
                array[:, :, target] = array[:, :, source]

    def forward(self, batch: Batch) -> NDArray[np.int32]:
        with self._lock, torch.inference_mode():
            return self._forward(batch)

    def _forward(self, batch: Batch) -> NDArray[np.int32]:
        shape, device = self.shape, self.device
        parts = parts_of(batch, shape, device)
        slots = batch.positions % PAGE_TOKENS
        pages = batch.tables[batch.table_of, batch.positions // PAGE_TOKENS]
        tokens, positions, page, slot, wanted = (
            torch.from_numpy(values.astype(np.int64)).to(device)
            for values in (batch.tokens, batch.positions, pages, slots, batch.wanted)
        )
        turn = (self._cos[positions], self._sin[positions])
        state = self._tensors["embed"][tokens].to(torch.float32)
        state = state * self._tensors["embed.scale"][tokens][:, None]
        for n in range(shape.layers):
            prefix = f"layers.{n}."
            y = self._after_norm(state, prefix + "qkv", "qkv")
            mixed = self._attention(n, y, turn, (page, slot), parts)
            state = state + self._product(*self._left(mixed, "o"), prefix + "o", "o")
            y = self._after_norm(state, prefix + "gate_up", "gate_up")
            inner = hadamard(gated(y[:, : shape.ffn], y[:, shape.ffn :]), shape.ffn_block)
            state = state + self._product(*self._left(inner, "down"), prefix + "down", "down")
        logits = to_logits(self._after_norm(state[wanted], "head", "head"))
        found: NDArray[np.int32] = logits.cpu().numpy()
        return found

    def _left(self, x: torch.Tensor, product: str) -> _Left:
        return quantise(x, WIDE_LIMIT if product in self.shape.wide else NARROW_LIMIT)

    def sums(self, left: torch.Tensor, name: str) -> torch.Tensor:
        """int8 [rows, inputs] times the matrix ``name`` of the model: int32 [rows, outputs]."""
        matrix = self._matrices[name]
        return self.products.mm(left, matrix.weight, matrix.outputs)

    def _product(
        self, whole: torch.Tensor, worth: torch.Tensor, name: str, product: str
    ) -> torch.Tensor:
        """Value of every output: (sum * row scale) * ``worth`` of the left row's unit."""
        matrix, rows = self._matrices[name], len(whole)
        if product in self.shape.wide:
            halves = torch.cat((whole >> 8, (whole & 255) - 128)).to(torch.int8)
            sums = self.sums(halves, name)
            high = sums[:rows].to(torch.float32) * 256.0
            value = high + (sums[rows:] + matrix.low_sums).to(torch.float32)
        else:
            value = self.sums(whole.to(torch.int8), name).to(torch.float32)
        return (value * matrix.scale) * worth[:, None]

    def _after_norm(self, state: torch.Tensor, name: str, product: str) -> torch.Tensor:
        whole, unit = self._left(state, product)
        return self._product(whole, norm_scale(whole, unit, self.shape.state_eps), name, product)

    def _attention(
        self, n: int, y: torch.Tensor, turn: _Left, at: _Left, parts: list[Part]
    ) -> torch.Tensor:
        shape, rows = self.shape, len(y)
        if shape.qkv_bias:
            y = y + self._tensors[f"layers.{n}.qkv.bias"]
        q, k, v = y.split((shape.q_width, shape.kv_width, shape.kv_width), 1)
        page, slot = at
        layer = tuple(array[n] for array in self._cache)
        for value, kept, units in (
            (self._turned(k, f"layers.{n}.k_norm", turn), layer[0], layer[1]),
            (v.reshape(rows, -1, shape.head_dim), layer[2], layer[3]),
        ):
            whole, unit = quantise(value, NARROW_LIMIT)
            kept[:, page, slot] = whole.to(torch.int8).transpose(0, 1)
            units[:, page, slot] = unit.t()
        whole, unit = quantise(self._turned(q, f"layers.{n}.q_norm", turn), NARROW_LIMIT)
        unit = unit * float(shape.query_scale)
        narrow = whole.to(torch.int8)
        mixed = torch.empty((rows, shape.q_width), dtype=torch.float32, device=y.device)
        for part in parts:
            mixed[part.rows] = attend_part(
                self.products, part, narrow, unit, (layer[0], layer[1], layer[2], layer[3])
            )
        return mixed

    def _turned(self, x: torch.Tensor, norm: str, turn: _Left) -> torch.Tensor:
        shape = self.shape
        x = x.reshape(len(x), -1, shape.head_dim)
        if shape.qk_norm:
            x = head_norm(x, WIDE_LIMIT, shape.norm_eps, self._tensors[norm])
        return hadamard(rope(x, *turn), shape.head_block)


def _on(values: NDArray[np.generic], device: torch.device) -> torch.Tensor:
    return torch.from_numpy(np.array(values)).to(device)


def _zeros(shape: tuple[int, ...], dtype: type[np.generic], device: torch.device) -> torch.Tensor:
    if device.type == "cpu":  # numpy's zeros are not resident before they are written
        return torch.from_numpy(np.zeros(shape, dtype))
    return torch.zeros(shape, dtype=torch.from_numpy(np.zeros(0, dtype)).dtype, device=device)
