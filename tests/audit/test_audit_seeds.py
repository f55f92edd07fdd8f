"""Answers that a server drew with a seed: explained by that noise, from where it must start."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from narrows.audit.code import Experience
from narrows.audit.scoring import score
from narrows.audit.segments import Segment
from narrows.coding.events import OWN_NOISE, AnswerSpec, Noise, NoiseFamily
from narrows.coding.tokens.sampler import sample
from narrows.errors import InputError
from narrows.wire.messages import Request

KEY = b"s" * 32
PROMPT = [4, 5, 6, 7]
VLLM, SGLANG = Noise(NoiseFamily.SEED_VLLM, 3), Noise(NoiseFamily.SEED_SGLANG, 3)
TOKENS, SIZE = 60, 500


class Rows:
    """A strong model that says the same rows whatever it read."""

    vocab_size, max_context, vocabulary = SIZE, 4096, b"v"

    def __init__(self) -> None:
        rng = np.random.default_rng(4)
        self.logits = (rng.standard_normal((TOKENS, SIZE)) * 3 * 65536).astype(np.int32)

    def prompt(self, body: dict[str, Any]) -> list[int]:
        return PROMPT

    def rows(self, context: Sequence[int], tokens: Sequence[int]) -> Iterator[Any]:
        return iter(self.logits[: len(tokens)])


def segment(rows: Rows, drawn: Noise, said: Noise) -> Segment:
    spec = AnswerSpec((1, 2), 1000, noise_key=KEY, noise=said)
    tokens = [sample(row, 65536, 65536, KEY, k, drawn) for k, row in enumerate(rows.logits)]
    request = Request("00" * 16, {"messages": []}, KEY.hex())
    costs = (5 << 16,) * TOKENS
    return Segment(0, 0, 0, request, spec, b"v", [], 0, tuple(tokens), costs, b"", 0, None)


@pytest.mark.parametrize("noise", [VLLM, SGLANG])
def test_a_seeds_noise_explains_what_was_drawn_with_it(noise: Noise) -> None:
    rows = Rows()
    found = score(segment(rows, noise, noise), rows, Experience())  # type: ignore[arg-type]
    assert found.off == 0
    assert found.audit_q16 / 65536 < 0.2 * TOKENS
    other = score(segment(rows, noise, OWN_NOISE), rows, Experience())  # type: ignore[arg-type]
    assert other.off > TOKENS // 2
    assert other.audit_q16 / 65536 > 2 * TOKENS


@pytest.mark.parametrize("start", [0, 2, 4, 1 << 20])
def test_noise_from_elsewhere_is_not_credited(start: int) -> None:
    """Else whoever writes the answer would choose among as many of them as there are starts."""
    rows, noise = Rows(), Noise(NoiseFamily.SEED_VLLM, start)
    with pytest.raises(InputError, match="starts elsewhere"):
        score(segment(rows, noise, noise), rows, Experience())  # type: ignore[arg-type]
