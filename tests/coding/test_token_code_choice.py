"""The encoder's choice follows what it measured."""

from __future__ import annotations

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
    choice = CodingChoice()
    for _ in range(20):
        choice.observe(Coding.COUPLED, 5.0 * 1000, 1000)
        choice.observe(Coding.PLAIN, 2.0 * 1000, 1000)
    picks = [choice.choose(WARM, sampler_is_shared=True) for _ in range(64)]
    assert picks.count(Coding.PLAIN) == 62
    assert picks.count(Coding.COUPLED) == 2
    assert choice.bits_per_token(Coding.PLAIN) < choice.bits_per_token(Coding.COUPLED)
    choice.observe(Coding.TEXT, 9.0, 3)  # neither of the two: no effect
