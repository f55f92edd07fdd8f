"""One forward pass of the fast engine, run by every thread at once (docs/numerics.md).

Threads share all buffers and meet at barriers; between two barriers each array is written by
the thread that owns the row (row phases) or the outputs (products), and read only after the
next barrier. So there is no order that could change a result, and no lock. Rows are numbered by
their place among the ``live`` ones: all of them, but in the last layer, once its keys and values
are stored, only the wanted ones, since nothing reads the others any more.

The arguments come as tuples of arrays:
  embedding  values int8 or int16 [vocab, hidden], scales float32 [vocab]
  weights    packed int8 [layers, bytes] for qkv, o, gate_up, down, and head int8 [bytes]
  scales     float32 [layers, outputs] for the four, and head [outputs]
  sums       int32 likewise: 128 * sum of the row's weights
  extras     qkv bias float32 [layers, outputs] or [1, 1]; q and k norm [layers, head_dim];
             rope cos and sin float32 [context, head_dim / 2]
  cache      keys, values, key_scale, value_scale, key_sum (see fast_attention)
  batch      tokens, positions, table index int32 [rows]; page tables int32 [tables, pages];
             wanted rows int32 [outputs]
  work       state float32 [rows, hidden]; left operands uint8 for hidden, q_width and ffn;
             acc int32; mixed float32 [rows, q_width]; queries uint8 [rows, heads, head_dim];
             query_scales float32 [rows, heads]; token_scales float32 [rows];
             per thread: rows float32, bytes, sums, exponents, split, mix
"""

# Kernels have no annotations: numba infers their types.
# mypy: disable-error-code="no-untyped-def, no-any-return"

from __future__ import annotations

import numpy as np
from numba import njit

from narrows.models.runtime.fast_attention import attend, project_row
from narrows.models.runtime.fast_rows import (
    add_row,
    hadamard,
    norm_scale,
    quantise_into,
    swiglu,
    take_row,
)
from narrows.models.runtime.kernels import atomic_add, barrier, dot_rows
from narrows.models.runtime.matmul import multiply

_HIGH, _LOW = np.float32(2.0**29), np.float32(-(2.0**29))

_jit = njit(cache=True, nogil=True, error_model="numpy")


@_jit
def clamp(values, out):
    for j in range(len(out)):
        out[j] = np.int32(min(max(values[j], _LOW), _HIGH))


@_jit
def _head(
    left,
    rows,
    wide,
    right,
    corrections,
    scales,
    token_scales,
    block,
    values,
    vocab,
    logits,
    thread,
    threads,
):
    """Logits of this thread's blocks of 64 tokens, straight from a product that stays in cache."""
    inputs = left.shape[1]
    blocks = len(right) // (inputs * 64)
    for n in range(blocks * thread // threads, blocks * (thread + 1) // threads):
        dot_rows(
            left.ctypes.data,
            inputs,
            rows * (1 + wide),
            right.ctypes.data + n * inputs * 64,
            256,
            inputs >> 2,
            block.ctypes.data,
            256,
            0,
        )
        start = n * 64
        width = min(64, vocab - start)
        row = values[:width]
        scale, correction = scales[start : start + width], corrections[start : start + width]
        for r in range(rows):
            take_row(block, r, 0, wide, correction, scale, token_scales[r], row)
            clamp(row, logits[r, start : start + width])


@_jit
def forward(
    thread,
    threads,
    sync,
    sizes,
    wides,
    eps,
    state_eps,
    query_scale,
    embedding,
    weights,
    scales,
    sums,
    extras,
    cache,
    batch,
    work,
    own,
    logits,
):
    """The whole pass. ``sizes``: hidden, ffn, layers, heads, kv_heads, head_dim, value_pad,
    head_block, ffn_block, has_bias, has_norm, vocab. ``sync``: int64 [24], zeros; its third
    cache line hands out attention work."""
    (
        hidden,
        ffn,
        layers,
        heads,
        kv_heads,
        head_dim,
        value_pad,
        head_block,
        ffn_block,
        has_bias,
        has_norm,
        vocab,
    ) = sizes
    w_qkv, w_o, w_gate_up, w_down, w_head = weights
    s_qkv, s_o, s_gate_up, s_down, s_head = scales
    c_qkv, c_o, c_gate_up, c_down, c_head = sums
    bias, q_norm, k_norm, cos, sin = extras
    keys, values, key_scale, value_scale, key_sum = cache
    tokens, positions, table_of, tables, wanted = batch
    state, left_hidden, left_mixed, left_ffn, acc, mixed, queries, query_scales, token_scales = work
    row, bytes2, score_sums, exponents, split, mix, block = own
    wide_qkv, wide_o, wide_gate_up, wide_down, wide_head = wides
    meet = sync.ctypes.data
    ticket = meet + 128
    rows = len(tokens)
    projected = (heads + 2 * kv_heads) * head_dim
    gate_up_at = np.int64(ffn)
    jobs_before = rows * kv_heads + threads
    live = np.arange(rows)
    for r in range(thread, rows, threads):
        token = tokens[r]
        scale = embedding[1][token]
        for i in range(hidden):
            state[r, i] = np.float32(embedding[0][token, i]) * scale
    for layer in range(layers):
        for r in range(thread, rows, threads):
            if layer > 0:
                add_row(
                    acc,
                    r,
                    wide_down,
                    c_down[layer - 1],
                    s_down[layer - 1],
                    token_scales[r],
                    row,
                    state[r],
                )
            scale, squares = quantise_into(state[r], r, wide_qkv, left_hidden)
            token_scales[r] = norm_scale(scale, squares, hidden, state_eps)
        barrier(meet, threads)
        multiply(left_hidden, rows * (1 + wide_qkv), w_qkv[layer], acc, thread, threads)
        barrier(meet, threads)
        for r in range(thread, rows, threads):
            position = positions[r]
            project_row(
                r,
                layer,
                acc,
                wide_qkv,
                c_qkv[layer],
                s_qkv[layer],
                token_scales[r],
                bias[layer * has_bias],
                q_norm[layer * has_norm],
                k_norm[layer * has_norm],
                has_bias,
                has_norm,
                eps,
                cos[position],
                sin[position],
                head_block,
                query_scale,
                position,
                tables[table_of[r], position >> 6],
                heads,
                kv_heads,
                head_dim,
                value_pad,
                queries,
                query_scales,
                keys,
                values,
                key_scale,
                value_scale,
                key_sum,
                row[:projected],
                bytes2,
            )
        barrier(meet, threads)
        if layer == layers - 1:  # the cache is written: from here only wanted rows are read
            live = wanted.astype(np.int64)
        # The ticket counts on over the layers, so that no one has to reset it between barriers.
        jobs = len(live) * kv_heads
        job = atomic_add(ticket, 1) - layer * jobs_before
        while job < jobs:
            r = live[job // kv_heads]
            attend(
                r,
                job % kv_heads,
                layer,
                positions[r] + 1,
                tables[table_of[r]],
                heads // kv_heads,
                head_dim,
                value_pad,
                queries,
                query_scales,
                keys,
                values,
                key_scale,
                value_scale,
                key_sum,
                score_sums,
                exponents,
                split,
                mix,
                mixed[r],
            )
            job = atomic_add(ticket, 1) - layer * jobs_before
        barrier(meet, threads)
        for k in range(thread, len(live), threads):
            scale, _ = quantise_into(mixed[live[k]], k, wide_o, left_mixed)
            token_scales[k] = scale
        barrier(meet, threads)
        multiply(left_mixed, len(live) * (1 + wide_o), w_o[layer], acc, thread, threads)
        barrier(meet, threads)
        for k in range(thread, len(live), threads):
            x = state[live[k]]
            add_row(acc, k, wide_o, c_o[layer], s_o[layer], token_scales[k], row, x)
            scale, squares = quantise_into(x, k, wide_gate_up, left_hidden)
            token_scales[k] = norm_scale(scale, squares, hidden, state_eps)
        barrier(meet, threads)
        multiply(
            left_hidden, len(live) * (1 + wide_gate_up), w_gate_up[layer], acc, thread, threads
        )
        barrier(meet, threads)
        for k in range(thread, len(live), threads):
            gate, up = row[:ffn], row[ffn : 2 * ffn]
            take_row(
                acc, k, 0, wide_gate_up, c_gate_up[layer], s_gate_up[layer], token_scales[k], gate
            )
            take_row(
                acc,
                k,
                gate_up_at,
                wide_gate_up,
                c_gate_up[layer],
                s_gate_up[layer],
                token_scales[k],
                up,
            )
            swiglu(gate, up)
            hadamard(up, ffn_block)
            scale, _ = quantise_into(up, k, wide_down, left_ffn)
            token_scales[k] = scale
        barrier(meet, threads)
        multiply(left_ffn, len(live) * (1 + wide_down), w_down[layer], acc, thread, threads)
        barrier(meet, threads)
    outputs = len(wanted)
    for k in range(thread, outputs, threads):
        x, last = state[wanted[k]], layers - 1
        add_row(acc, k, wide_down, c_down[last], s_down[last], token_scales[k], row, x)
    barrier(meet, threads)
    for k in range(thread, outputs, threads):
        scale, squares = quantise_into(state[wanted[k]], k, wide_head, left_hidden)
        token_scales[k] = norm_scale(scale, squares, hidden, state_eps)
    barrier(meet, threads)
    _head(
        left_hidden,
        outputs,
        wide_head,
        w_head,
        c_head,
        s_head,
        token_scales,
        block,
        row,
        vocab,
        logits,
        thread,
        threads,
    )
