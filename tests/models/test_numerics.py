"""Tables and primitives against mathematics, exhaustively where the domain is small."""

from __future__ import annotations

import decimal
import math

import numpy as np
import pytest

from models.models import source_of
from narrows.errors import ArtifactError
from narrows.models.checkpoint.quantize import hadamard_matrix, header_part, quantize, rotation_norm
from narrows.models.runtime import fast_rows, reference
from narrows.models.runtime.kernels import dot_form
from narrows.models.runtime.matmul import aligned, multiply, pack, padded, probe
from narrows.models.runtime.numerics import rope_tables, shape_from_header


def test_exp2_is_close_and_both_implementations_agree() -> None:
    t = np.linspace(-100, 100, 200_001).astype(np.float32)
    wanted = np.exp2(t.astype(np.float64))
    got = reference.exp2(t)
    assert np.max(np.abs(got / wanted - 1)) < 2.0**-21
    gate = np.concatenate([t, -t])
    up = np.ones_like(gate)
    fast = up.copy()
    fast_rows.swiglu(gate, fast)
    x = np.clip(-(gate * reference.LOG2_E), np.float32(-100), np.float32(100))
    assert np.array_equal(fast, (gate / (np.float32(1) + reference.exp2(x))) * up)


@pytest.mark.parametrize("size", [4, 16, 36, 52, 64, 96, 576, 896, 960, 1536])
def test_rotations_are_orthogonal(size: int) -> None:
    matrix = hadamard_matrix(size).astype(np.float64)  # exact: sums of at most ``size`` ones
    assert np.array_equal(matrix @ matrix.T, rotation_norm(size) * np.eye(size))


@pytest.mark.parametrize("variant", ["llama", "llama3"])
def test_rope_tables(variant: str) -> None:
    shape = shape_from_header({"numerics": header_part(source_of(variant))})
    cos, sin = rope_tables(shape)
    rates = 10000.0 ** (-2 * np.arange(shape.head_dim // 2) / shape.head_dim)
    if variant == "llama3":
        turns = 128.0 * rates / (2 * math.pi)
        smooth = np.clip((turns - 1) / 3, 0, 1)
        rates = (1 - smooth) * rates / 8 + smooth * rates
    angles = np.arange(shape.max_context)[:, None] * rates
    assert np.max(np.abs(cos - np.cos(angles))) < 1e-7
    assert np.max(np.abs(sin - np.sin(angles))) < 1e-7


def test_a_threads_decimal_context_reaches_no_table() -> None:
    shape = shape_from_header({"numerics": header_part(source_of("llama3"))})
    usual = [*rope_tables(shape), shape.query_scale]
    with decimal.localcontext(decimal.Context(prec=6, rounding=decimal.ROUND_UP)):
        other = [*rope_tables(shape), shape.query_scale]
    assert all(np.array_equal(one, two) for one, two in zip(usual, other, strict=True))


def test_the_probe_sees_saturating_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products that add pairs in 16 bits, as on processors without VNNI."""

    def saturating(left, rows, right, acc, thread, threads):  # type: ignore[no-untyped-def]
        outputs, inputs = acc.shape[1], left.shape[1]
        blocks = right.reshape(-1, inputs // 4, 64, 4).transpose(0, 2, 1, 3)
        weights = blocks.reshape(outputs, inputs).astype(np.int64)
        products = left[:rows, None, :].astype(np.int64) * weights
        pairs = products.reshape(rows, outputs, -1, 2).sum(axis=3)
        acc[:rows] = np.clip(pairs, -32768, 32767).sum(axis=2)

    monkeypatch.setattr("narrows.models.runtime.matmul.multiply", saturating)
    assert not probe()


def test_quantisation_of_rows_agrees_at_the_edges() -> None:
    rng = np.random.default_rng(23)
    rows = [rng.standard_normal(68) * 10.0**k for k in range(-30, 31, 3)]
    rows += [np.zeros(68), np.full(68, 1.0), np.full(68, 2.0**-41), np.full(68, 2.0**-40)]
    for row in rows:
        x = row.astype(np.float32)
        for limit, wide in ((127, 0), (32767, 1)):
            left = np.zeros((2, 68), np.uint8)
            scale, squares = fast_rows.quantise_into(x, 0, wide, left)
            whole, worth = reference.quantise(x, limit)
            if wide:
                got = left[0].astype(np.int64) * 256 + left[1] - 32768
            else:
                got = left[0].astype(np.int64) - 128
            assert np.array_equal(got, whole)
            assert scale == worth
            assert squares == (whole * whole).sum()
            assert np.max(np.abs(whole)) <= limit


def test_rotation_in_place_agrees() -> None:
    rng = np.random.default_rng(29)
    for size, block in ((64, 64), (96, 32), (52, 4), (1536, 512), (128, 128)):
        x = rng.standard_normal(size).astype(np.float32)
        wanted = reference.hadamard(x, block)
        fast_rows.hadamard(x, block)
        assert np.array_equal(x, wanted)


@pytest.mark.parametrize("rows", [1, 2, 5, 6, 7, 13])
def test_products_are_exact(rows: int) -> None:
    rng = np.random.default_rng(rows)
    for inputs, outputs in ((4, 5), (36, 64), (100, 130), (1536, 96)):
        weights = rng.integers(-127, 128, (outputs, inputs)).astype(np.int8)
        left = rng.integers(0, 256, (rows, inputs)).astype(np.uint8)
        right = aligned((padded(outputs) * inputs,), np.int8)
        pack(weights, right)
        for threads in (1, 2, 5):
            acc = np.zeros((rows, padded(outputs)), np.int32)
            for thread in range(threads):
                multiply(left, rows, right, acc, thread, threads)
            assert np.array_equal(acc[:, :outputs], left.astype(np.int64) @ weights.T)


def test_the_longest_product_does_not_overflow() -> None:
    inputs = 1 << 15
    weights = np.full((64, inputs), 127, np.int8)
    right = aligned((64 * inputs,), np.int8)
    pack(weights, right)
    acc = np.zeros((1, 64), np.int32)
    multiply(np.full((1, inputs), 255, np.uint8), 1, right, acc, 0, 1)
    assert np.all(acc == 255 * 127 * inputs)


def test_the_probe_passes_here() -> None:
    assert dot_form() in ("vnni512", "vnni256", "portable")
    assert probe()


def test_import_is_deterministic_and_dequantises_to_the_source() -> None:
    source = source_of("llama")
    header, tensors = quantize(source)
    again = quantize(source)
    assert again[0] == header
    assert all(np.array_equal(tensors[name], again[1][name]) for name in tensors)
    rotation = hadamard_matrix(64).astype(np.float64)
    embed = tensors["embed"].astype(np.float64) * tensors["embed.scale"][:, None]
    back = embed @ rotation.T / 64
    assert np.max(np.abs(back - source.tensor("embed"))) < 0.02


def test_weights_too_large_are_refused() -> None:
    source = source_of("llama")
    big = source.tensor("layers.0.o") * np.float32(1e6)
    plain = source.loader
    source = type(source)(
        source.config,
        source.tokenizer,
        lambda name: big if name == "layers.0.o" else plain(name),
        source.metadata,
    )
    with pytest.raises(ArtifactError, match="too large"):
        quantize(source)
