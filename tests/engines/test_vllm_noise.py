"""narrows-vllm draws with narrows' noise: the same vectors, and the same tokens."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from narrows.coding.tokens import sampler
from narrows_vllm import noise, pick

VECTORS = json.loads(
    (Path(__file__).parents[1] / "coding" / "data" / "noise_vectors.json").read_text()
)
KEY = bytes(range(32))


def test_words_are_the_vectors_and_luck_is_within_its_bound() -> None:
    assert VECTORS["format"].encode() == noise._LABEL
    for case in VECTORS["gumbel"]:
        assert abs(noise.gumbel(int(case["u"])) - case["noise_q24"] / 2**24) < 2**-20
    for case in VECTORS["rows"]:
        row = noise.row_of(bytes.fromhex(case["key"]), case["position"])
        assert list(row) == case["row"]
        words = noise.all_words(row, 151_936)
        ids = np.array([token["id"] for token in case["tokens"]])
        want = [token["word"] for token in case["tokens"]]
        assert words[ids].tolist() == want
        assert noise.words(ids, row).tolist() == want
        for got, token in zip(noise.luck(ids, words[ids], row), case["tokens"], strict=True):
            assert abs(got - token["noise_q24"] / 2**24) < 2**-20, token


def rows() -> list[np.ndarray]:
    rng = np.random.default_rng(5)
    sizes = ((2, 1.0), (1500, 4.0), (5000, 2.0), (49_152, 6.0))
    return [(rng.standard_normal(size) * spread).astype(np.float32) for size, spread in sizes]


def integers(row: np.ndarray) -> np.ndarray:
    """The same distribution as narrows' own sampler takes it."""
    scaled = (row.astype(np.float64) - float(row.max())) / math.log(2) * 65536
    return np.maximum(np.rint(scaled), -(2**29)).astype(np.int32)


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("temperature", [1.0, 0.5, 1.7])
def test_the_tokens_are_those_of_narrows_own_sampler(
    monkeypatch: pytest.MonkeyPatch, compiled: bool, temperature: float
) -> None:
    if not compiled:
        monkeypatch.setattr(pick, "fast", None)
    for row in rows():
        want = [
            sampler.sample(integers(row), round(temperature * 65536), 65536, KEY, position)
            for position in range(40)
        ]
        shape = pick.Shape(temperature)
        assert [pick.pick(row, KEY, position, shape) for position in range(40)] == want


def test_top_p_keeps_what_narrows_keeps() -> None:
    for row in rows()[1:]:
        for top_p in (0.3, 0.9, 0.999):
            want = [
                sampler.sample(integers(row), 65536, round(top_p * 65536), KEY, position)
                for position in range(20)
            ]
            got = [pick.pick(row, KEY, position, pick.Shape(top_p=top_p)) for position in range(20)]
            assert sum(a != b for a, b in zip(got, want, strict=True)) <= 1  # Q16 at the border


def test_top_k_and_min_p_keep_what_they_say() -> None:
    row = rows()[2]
    order = np.argsort(-row, kind="stable")
    for shape, kept in (
        (pick.Shape(top_k=3), set(order[:3].tolist())),
        (pick.Shape(top_k=1), {int(order[0])}),
        (pick.Shape(min_p=0.5), set(np.flatnonzero(row >= row.max() - math.log(2)).tolist())),
        (pick.Shape(top_p=1e-9), {int(order[0])}),
    ):
        got = {pick.pick(row, KEY, position, shape) for position in range(200)}
        assert got <= kept
        assert len(got) > 1 or len(kept) == 1
    level = np.array([1.0, 5.0, 5.0, 5.0, 0.0], np.float32)
    got = {pick.pick(level, KEY, position, pick.Shape(top_k=2)) for position in range(100)}
    assert got == {1, 2, 3}  # all that equal the last one, as vLLM does


def test_chi_square() -> None:
    """20,000 positions of one row, at T = 1: exact probabilities, 5.5 deviations."""
    row = np.log(np.array([0.5, 0.2, 0.1, 0.1, 0.05, 0.03, 0.02], np.float64)).astype(np.float32)
    draws = 20_000
    counts = np.zeros(len(row))
    for position in range(draws):
        counts[pick.pick(row, KEY, position, pick.Shape())] += 1
    want = np.exp(row.astype(np.float64))
    want *= draws / want.sum()
    assert ((counts - want) ** 2 / want).sum() < 6 + 5.5 * 12**0.5


def test_a_row_that_is_no_distribution_is_nobodys() -> None:
    for values in ([], [math.nan, 1.0], [-math.inf, -math.inf], [math.inf, 0.0]):
        assert pick.pick(np.array(values, np.float32), KEY, 0, pick.Shape()) is None
    only = np.array([-math.inf, 3.0, -math.inf], np.float32)
    assert pick.pick(only, KEY, 0, pick.Shape()) == 1
    assert pick.pick(only, KEY, 0, pick.Shape(top_p=0.5, top_k=2, min_p=0.1)) == 1
