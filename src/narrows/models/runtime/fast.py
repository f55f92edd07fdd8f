"""The fast engine: packed weights, a paged cache, and threads that run ``forward`` together."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from narrows.errors import ArtifactError
from narrows.models.runtime.engine import Batch, Tensors, check_tensors
from narrows.models.runtime.fast_step import forward
from narrows.models.runtime.kernels import dot_form
from narrows.models.runtime.matmul import aligned, pack, padded, probe
from narrows.models.runtime.numerics import PAGE_TOKENS, PRODUCTS, Shape, rope_tables

MAX_ROWS = 256
_ARENAS = (("keys", np.int8), ("values", np.int8))
_LAYER_PRODUCTS = PRODUCTS[:4]


def _value_pad(shape: Shape) -> int:
    return padded(shape.head_dim)


def page_bytes(shape: Shape) -> int:
    """Bytes of one page: keys and values of 64 tokens, two scales and a sum for each."""
    per_head = PAGE_TOKENS * (shape.head_dim + _value_pad(shape) + 12)
    return shape.layers * shape.kv_heads * per_head


class FastEngine:
    """``runtime.engine.Engine`` in numba. One ``forward`` at a time (a lock sees to it)."""

    def __init__(self, shape: Shape, tensors: Tensors, pages: int, threads: int) -> None:
        if not probe():
            raise ArtifactError("this processor's byte products are not exact")
        check_tensors(shape, tensors)
        self.shape = shape
        self.backend = f"numba-{dot_form()}"
        self.threads = threads
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(threads - 1, "narrows-model") if threads > 1 else None
        self._load(tensors)
        self._cache = self._make_cache(pages)
        self._capacity = 0
        self._logits = np.empty((0, shape.vocab), np.int32)
        self._reserve(16)

    def _load(self, tensors: Tensors) -> None:
        shape = self.shape
        weights, scales, sums = [], [], []
        for name in _LAYER_PRODUCTS:
            outputs, inputs = tensors[f"layers.0.{name}"].shape
            packed = aligned((shape.layers, padded(outputs) * inputs), np.int8)
            scale = np.zeros((shape.layers, padded(outputs)), np.float32)
            total = np.zeros((shape.layers, padded(outputs)), np.int32)
            for n in range(shape.layers):
                matrix = tensors[f"layers.{n}.{name}"]
                pack(matrix, packed[n])
                scale[n, :outputs] = tensors[f"layers.{n}.{name}.scale"]
                total[n, :outputs] = 128 * matrix.sum(axis=1, dtype=np.int32)
            weights.append(packed)
            scales.append(scale)
            sums.append(total)
        head = aligned((padded(shape.vocab) * shape.hidden,), np.int8)
        pack(tensors["head"], head)
        head_sums = np.zeros(padded(shape.vocab), np.int32)
        for start in range(0, shape.vocab, 4096):
            rows = tensors["head"][start : start + 4096]
            head_sums[start : start + len(rows)] = 128 * rows.sum(axis=1, dtype=np.int32)
        head_scale = np.zeros(padded(shape.vocab), np.float32)
        head_scale[: shape.vocab] = tensors["head.scale"]
        self._weights = (*weights, head)
        self._scales = (*scales, head_scale)
        self._sums = (*sums, head_sums)
        self._embedding = (tensors["embed"], tensors["embed.scale"])
        self._extras = (*self._per_layer(tensors), *rope_tables(shape))

    def _per_layer(self, tensors: Tensors) -> list[NDArray[np.float32]]:
        found = []
        for name in ("qkv.bias", "q_norm", "k_norm"):
            if f"layers.0.{name}" in tensors:
                rows = [tensors[f"layers.{n}.{name}"] for n in range(self.shape.layers)]
                found.append(np.stack(rows))
            else:
                found.append(np.zeros((1, 1), np.float32))
        return found

    def _make_cache(self, pages: int) -> tuple[NDArray[Any], ...]:
        # Memory that was never written is not resident: a page costs nothing before its use.
        shape = self.shape
        lead = (pages, shape.layers, shape.kv_heads)
        return (
            aligned((*lead, PAGE_TOKENS * shape.head_dim), np.int8),
            aligned((*lead, PAGE_TOKENS * _value_pad(shape)), np.int8),
            np.empty((*lead, PAGE_TOKENS), np.float32),
            np.empty((*lead, PAGE_TOKENS), np.float32),
            np.empty((*lead, PAGE_TOKENS), np.int32),
        )

    def _reserve(self, rows: int) -> None:
        """Work memory for ``rows`` rows and every thread's scratch."""
        if rows <= self._capacity:
            return
        rows = min(MAX_ROWS, max(rows, 2 * self._capacity))
        shape = self.shape
        twice = [rows * (1 + (name in shape.wide)) for name in PRODUCTS]
        widest = max(scale.shape[-1] for scale in self._scales[:4])
        self._work = (
            np.empty((rows, shape.hidden), np.float32),
            aligned((max(twice[0], twice[2], twice[4]), shape.hidden), np.uint8),
            aligned((twice[1], shape.q_width), np.uint8),
            aligned((twice[3], shape.ffn), np.uint8),
            aligned((max(twice[:4]), widest), np.int32),
            np.empty((rows, shape.q_width), np.float32),
            np.empty((rows, shape.heads, shape.head_dim), np.uint8),
            np.empty((rows, shape.heads), np.float32),
            np.empty(rows, np.float32),
        )
        self._own = [self._scratch(twice[4]) for _ in range(self.threads)]
        self._capacity = rows

    def _scratch(self, head_rows: int) -> tuple[NDArray[Any], ...]:
        shape = self.shape
        context = shape.max_context
        widest = max(2 * shape.ffn, shape.q_width + 2 * shape.kv_width, shape.hidden, 64)
        return (
            np.empty(widest, np.float32),
            np.empty((2, max(shape.head_dim, 64)), np.uint8),
            np.empty((shape.group, context), np.int32),
            np.empty(context, np.float32),
            np.empty((2 * shape.group, context), np.uint8),
            np.empty((2 * shape.group, _value_pad(shape)), np.int32),
            np.empty((head_rows, 64), np.int32),
        )

    def copy_page(self, source: int, target: int) -> None:
        for array in self._cache:
            array[target] = array[source]

    def forward(self, batch: Batch) -> NDArray[np.int32]:
        with self._lock:
            return self._forward(batch)

    def _forward(self, batch: Batch) -> NDArray[np.int32]:
        shape = self.shape
        rows, outputs = len(batch.tokens), len(batch.wanted)
        if not 1 <= rows <= MAX_ROWS:
            raise ValueError(f"{rows} rows in a batch; 1 to {MAX_ROWS} are possible")
        self._reserve(rows)
        if len(self._logits) < outputs:
            self._logits = np.empty((outputs, shape.vocab), np.int32)
        logits = self._logits[:outputs]
        sizes = (
            shape.hidden, shape.ffn, shape.layers, shape.heads, shape.kv_heads, shape.head_dim,
            _value_pad(shape), shape.head_block, shape.ffn_block, int(shape.qkv_bias),
            int(shape.qk_norm), shape.vocab,
        )  # fmt: skip
        wides = tuple(int(name in shape.wide) for name in PRODUCTS)
        arrays = (batch.tokens, batch.positions, batch.table_of, batch.tables, batch.wanted)
        sync = aligned((24,), np.int64)
        sync[:] = 0

        def run(thread: int) -> None:
            forward(
                thread, self.threads, sync, sizes, wides, shape.norm_eps, shape.state_eps,
                shape.query_scale, self._embedding, self._weights, self._scales, self._sums,
                self._extras, self._cache, arrays, self._work, self._own[thread], logits,
            )  # fmt: skip

        if self._pool is None:
            run(0)
            return logits
        others = [self._pool.submit(run, thread) for thread in range(1, self.threads)]
        run(0)
        for other in others:
            other.result()
        return logits
