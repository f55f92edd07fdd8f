"""The noise: Philox's published answers, the Gumbel function against high precision, a pin."""

from __future__ import annotations

import hashlib
import json
from decimal import Decimal, localcontext
from pathlib import Path

import numpy as np
import pytest

from narrows.coding.tokens import noise
from narrows.errors import InputError


def block(counter: list[int], key: list[int]) -> list[int]:
    return [int(w) for w in noise.philox(np.array(counter, np.uint32), np.array(key, np.uint32))]


def test_philox_known_answers() -> None:
    """Known answers of the Random123 distribution for philox4x32-10."""
    assert block([0] * 4, [0] * 2) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    ones = 0xFFFFFFFF
    assert block([ones] * 4, [ones] * 2) == [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]
    assert block([0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344], [0xA4093822, 0x299F31D0]) == [
        0xD16CFE09,
        0x94FDCCEB,
        0x5001E420,
        0x24126EA1,
    ]


def test_words_are_philox_by_the_stated_counter() -> None:
    row = noise.noise_row(b"a" * 32, 5)
    words = np.empty(noise.padded(3000), np.uint32)
    noise.words(row, words)
    for token in (0, 1, 255, 256, 1023, 1024, 2999):
        counter = [((token >> 10) << 8) | (token & 255), 0, int(row[2]), int(row[3])]
        want = block(counter, [int(row[0]), int(row[1])])[(token >> 8) & 3]
        assert int(words[token]) == want
    shorter = np.empty(noise.padded(100), np.uint32)
    noise.words(row, shorter)
    assert (shorter == words[: len(shorter)]).all()


def test_a_tokens_uniform_is_both_of_its_words() -> None:
    row = noise.noise_row(b"u" * 32, 3)
    key = [int(row[0]), int(row[1])]
    for token in (*range(2100), 50_000, 131_071, 2**18 - 1):
        high, low = (
            block([((token >> 10) << 8) | (token & 255), n, int(row[2]), int(row[3])], key)
            for n in (0, 1)
        )
        lane = (token >> 8) & 3
        assert int(noise.token_uniform(row, token)) == max(1, high[lane] << 32 | low[lane])


def exact_gumbel(u: int) -> Decimal:
    with localcontext() as context:
        context.prec = 60
        ln2 = Decimal(2).ln()
        return -((-(Decimal(u) / 2**64).ln()).ln() / ln2)


def test_gumbel_is_within_its_stated_error() -> None:
    raw = [int(w) | 1 for w in np.random.PCG64(2).random_raw(3000)]
    edges = [1, 2, 3, 2**32, 2**63, 2**64 - 1, 2**64 - 2]
    for k in range(1, 63):
        edges += [2**64 - 2**k, 2**64 - 2**k - 2 ** (k - 1), 2**64 - 2**k - 1, 2**k]
    for u in raw + edges:
        got = Decimal(int(noise.gumbel(np.uint64(u)))) / 2**noise.NOISE_FRACTION_BITS
        assert abs(got - exact_gumbel(u)) < Decimal(2) ** -21, u
        assert Decimal("-6.5") < got < 64


def test_the_tail_takes_more_bits() -> None:
    row = noise.noise_row(b"t" * 32, 0)
    top = np.uint32(2**32 - 1)
    values = {int(noise.token_noise(row, i, top)) for i in range(50)}
    assert len(values) == 50
    assert min(values) >= 31 << 24
    below = np.uint32(2**32 - 2**20 - 1)
    assert len({int(noise.token_noise(row, i, below)) for i in range(50)}) == 1


def test_moments() -> None:
    """Mean and variance of 200,000 values: gamma / ln 2 and pi^2 / (6 ln^2 2)."""
    row = noise.noise_row(b"m" * 32, 1)
    words = np.empty(noise.padded(200_000), np.uint32)
    noise.words(row, words)
    g = np.array([noise.token_noise(row, i, words[i]) for i in range(200_000)]) / 2**24
    g *= np.log(2)
    assert abs(g.mean() - 0.5772157) < 5 * 1.2825 / 200_000**0.5
    assert abs(g.var() - 1.6449341) < 0.05
    assert abs(np.corrcoef(g[:-1], g[1:])[0, 1]) < 0.012


def test_pinned() -> None:
    """Another digest is another noise: old links would not decode."""
    digest = hashlib.sha256()
    for position in (0, 1, 10**9):
        row = noise.noise_row(bytes(range(32)), position)
        words = np.empty(noise.padded(4096), np.uint32)
        noise.words(row, words)
        values = [int(noise.token_noise(row, i, words[i])) for i in range(4096)]
        digest.update(np.array(values, "<i8").tobytes())
    assert digest.hexdigest() == "08d0c621ae863443142709907a6e1167ad162521b64db3d9112604f171cda62e"


def test_refuses_short_keys_and_negative_positions() -> None:
    for key, position in ((bytes(31), 0), (bytes(32), -1), (bytes(32), 2**63)):
        with pytest.raises(InputError):
            noise.noise_row(key, position)


def test_the_vectors_that_other_implementations_are_held_to() -> None:
    """``tests/engines`` holds ``narrows-vllm`` to the same file."""
    vectors = json.loads((Path(__file__).parent / "data" / "noise_vectors.json").read_text())
    for case in vectors["gumbel"]:
        assert int(noise.gumbel(np.uint64(int(case["u"])))) == case["noise_q24"]
    for case in vectors["rows"]:
        row = noise.noise_row(bytes.fromhex(case["key"]), case["position"])
        assert row.tolist() == [*case["row"], 1]
        words = np.empty(noise.padded(151_936), np.uint32)
        noise.words(row, words)
        for token in case["tokens"]:
            number = token["id"]
            assert int(words[number]) == token["word"]
            assert int(noise.token_noise(row, number, words[number])) == token["noise_q24"]
