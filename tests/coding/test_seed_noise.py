"""Noise of servers that draw with a seed: held to what their own kernels have said."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from narrows.coding.events import Noise, NoiseFamily
from narrows.coding.tokens import noise, sampler, seeds
from narrows.errors import InputError

VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).parent / "data" / "seed_vectors.json").read_text()
)
FAMILIES = {"vllm": NoiseFamily.SEED_VLLM, "sglang": NoiseFamily.SEED_SGLANG}
KEY = bytes(range(32))


def row_of(family: NoiseFamily, seed: int, position: int) -> noise.Row:
    return np.array([seeds.hash_state(seed, position), 0, 0, 0, family], np.uint32)


def all_words(row: noise.Row, size: int) -> noise.Row:
    words = np.empty(noise.padded(size), np.uint32)
    noise.words(row, words)
    return words


@pytest.mark.parametrize("name", FAMILIES)
def test_words_and_noise_are_their_kernels(name: str) -> None:
    flip = 0xFFFFFFFF if name == "vllm" else 0
    for case in VECTORS["rows"]:
        row = row_of(FAMILIES[name], case["seed"], case["position"])
        words = all_words(row, max(VECTORS["tokens"]) + 1)
        for token, word, theirs in zip(VECTORS["tokens"], case["words"], case[name], strict=True):
            assert int(words[token]) ^ flip == word
            ours = int(noise.token_noise(row, token, words[token])) / 2**24 * math.log(2)
            assert abs(ours - theirs) < 2e-5, (case["seed"], case["position"], token)


@pytest.mark.parametrize("name", FAMILIES)
def test_our_sampler_draws_the_tokens_that_theirs_draw(name: str) -> None:
    i = np.arange(3000, dtype=np.uint64)
    for k, (seed, position, *tokens) in enumerate(VECTORS["draws"]):
        hashed = (i * np.uint64(2654435761) + np.uint64(k * 40503)) % np.uint64(2**32)
        logits = (hashed >> np.uint64(20)).astype(np.float64) / 512 / math.log(2) * 65536
        row = row_of(FAMILIES[name], seed, position)
        scratch = np.empty(noise.padded(3000), np.uint32)
        drawn = sampler._argmax(
            np.rint(logits).astype(np.int32), 1 << 16, -(2**31), 3000, row, scratch
        )
        assert drawn == tokens[list(FAMILIES).index(name)], k


def test_the_ends_of_both_scales() -> None:
    """vLLM's half steps and SGLang's last word, which it sets beside its neighbour."""
    vllm, sglang = (np.array([0, 0, 0, 0, family], np.uint32) for family in FAMILIES.values())

    def g(row: noise.Row, h: int) -> float:
        flip = 0xFFFFFFFF if row is vllm else 0
        return int(noise.token_noise(row, 7, np.uint32(h ^ flip))) / 2**24 * math.log(2)

    for h in (0, 1, 2**31, 2**32 - 2, 2**32 - 1):
        exact = -math.log(-math.log1p(-(h + 0.5) / 2**32))
        assert abs(g(vllm, h) - exact) < 1e-6
    for h in (1, 2**31, 2**32 - 3, 2**32 - 2):
        assert abs(g(sglang, h) + math.log(-math.log1p(-(2**32 - 1 - h) / (2**32 - 1)))) < 1e-6
    assert abs(g(sglang, 2**32 - 1) - 32 * math.log(2)) < 1e-6
    assert g(sglang, 0) < -3.7


def test_rows_count_from_where_the_answer_starts() -> None:
    seed = seeds.seed_of(KEY)
    assert 0 <= seed < 2**63
    assert seed == 2378660322375115235
    for family in FAMILIES.values():
        drawn = Noise(family, 900)
        assert noise.row_of(drawn, KEY, 5).tolist() == row_of(family, seed, 905).tolist()
    assert noise.row_of(Noise(), KEY, 5).tolist() == noise.noise_row(KEY, 5).tolist()


def test_refuses_what_no_seed_reaches() -> None:
    vllm = NoiseFamily.SEED_VLLM
    for drawn, key, position in (
        (Noise(vllm), bytes(31), 0),
        (Noise(vllm, -1), KEY, 5),
        (Noise(vllm), KEY, -1),
        (Noise(vllm, 2**32 - 5), KEY, 5),
    ):
        with pytest.raises(InputError):
            noise.row_of(drawn, key, position)


@pytest.mark.parametrize("family", FAMILIES.values())
def test_a_tokens_uniform_is_the_noises_and_even(family: NoiseFamily) -> None:
    row = noise.row_of(Noise(family, 12), KEY, 3)
    words = all_words(row, 20_000)
    us = [int(noise.token_uniform(row, token)) for token in range(20_000)]
    for token in range(0, 20_000, 97):
        assert int(noise.gumbel(np.uint64(us[token]))) == noise.token_noise(
            row, token, words[token]
        )
    surprise = -np.log1p(-np.array(us) / 2.0**64)
    assert abs(surprise.mean() - 1) < 5 / 20_000**0.5
