"""The encoder's choice follows what it measured."""

from __future__ import annotations

import random

from narrows.coding.events import AnswerSpec, Coding
from narrows.coding.tokens.choice import CodingChoice

WARM = AnswerSpec((1,), 10)
GREEDY = AnswerSpec((1,), 10, temperature=0)


def test_without_shared_noise_it_is_plain() -> None:
    choice = CodingChoice()
    assert choice.choose(WARM, sampler_is_shared=False) == Coding.PLAIN
    assert choice.choose(GREEDY, sampler_is_shared=True) == Coding.PLAIN
    assert choice.choose(WARM, sampler_is_shared=True) == Coding.COUPLED


def test_it_changes_its_mind_and_keeps_trying() -> None:
    choice = CodingChoice(lambda: 0.0)  # tries as soon as it may
    for _ in range(20):
        choice.observe(Coding.COUPLED, 5.0 * 1000, 1000)
        choice.observe(Coding.PLAIN, 2.0 * 1000, 1000)
    picks = [choice.choose(WARM, sampler_is_shared=True) for _ in range(64)]
    assert [at for at, pick in enumerate(picks) if pick is Coding.COUPLED] == [16, 33, 50]
    assert choice.bits_per_token(Coding.PLAIN) < choice.bits_per_token(Coding.COUPLED)
    choice.observe(Coding.TEXT, 9.0, 3)  # neither of the two: no effect


def test_whoever_asks_in_whichever_rhythm_is_tried_with_a_small_chance() -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    choice = CodingChoice(random.Random(seed).random)
    picks = [choice.choose(WARM, sampler_is_shared=True) for _ in range(60_000)]
    tried = [at for at, pick in enumerate(picks) if pick is Coding.PLAIN]
    assert abs(len(tried) / 60_000 - 1 / 32) < 0.004
    for rhythm in (16, 17, 32, 33):
        assert sum(at % rhythm == 0 for at in tried) < 60_000 / rhythm / 16
