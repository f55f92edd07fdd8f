"""Evidence: the stated rate holds under the null, a late theft is heard, and memory is bounded."""

from __future__ import annotations

import math
import random

import pytest

from narrows.alarms.evidence import Evidence, mean_bits


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("subjects", [1, 50])
def test_false_alarms_are_as_rare_as_stated_however_many_subjects(seed: int, subjects: int) -> None:
    """Fair bets, the null with equality: at most n * alpha alarms are expected."""
    print(f"seed {seed}")
    rng = random.Random(seed)
    alpha, count = 0.01, 20_000
    evidence = Evidence(2, alpha)
    alarms = 0
    for _ in range(count):
        heads = rng.random() < 0.25
        factors = [math.log2(1 + bet * ((4 if heads else 0) - 1)) for bet in (0.2, 0.6)]
        alarms += evidence.observe(rng.randrange(subjects), factors)
    assert alarms <= count * alpha + 4 * math.sqrt(count * alpha)


@pytest.mark.parametrize("seed", [4, 5])
def test_it_is_a_supermartingale_less_the_number_of_observations(seed: int) -> None:
    print(f"seed {seed}")
    rng = random.Random(seed)
    ends = []
    for _ in range(3000):
        evidence = Evidence(1, 1e-9)
        for _ in range(8):
            evidence.observe(0, [math.log2(1.4 if rng.random() < 0.5 else 0.6)])
        ends.append(2 ** evidence.bits(0))
    mean = sum(ends) / len(ends)
    spread = math.sqrt(sum((one - mean) ** 2 for one in ends) / len(ends) / len(ends))
    assert mean <= 8 + 4 * spread


def test_years_of_honesty_do_not_delay_an_alarm() -> None:
    fresh, old = Evidence(1, 1e-6), Evidence(1, 1e-6)
    for _ in range(10_000):
        old.observe(0, [-2.0])
    needs = [next(n for n in range(100) if one.observe(0, [1.0])) for one in (fresh, old)]
    assert abs(needs[0] - needs[1]) <= 1


def test_an_alarm_begins_anew_and_the_book_hears_of_it() -> None:
    evidence = Evidence(1, 0.5)
    assert evidence.observe(7, [5.0])
    assert list(evidence.take_changed()) == [(7, None)]
    assert evidence.bits(7) < 0


def test_a_hundred_thousand_keys_take_bounded_room_and_the_suspect_stays() -> None:
    evidence = Evidence(1, 1e-6, max_subjects=1000)
    evidence.observe(-5, [10.0])
    for key in range(100_000):
        evidence.observe(key, [-1.0])
        assert len(evidence) <= 1000
    assert evidence.bits(-5) > 9


def test_what_comes_from_the_book_is_not_believed() -> None:
    evidence = Evidence(2, 1e-6)
    for unfit in ([], [1.0], [1.0, float("nan")], [1.0, float("inf")], [1.0, 1e9]):
        evidence.restore(1, unfit)
    assert len(evidence) == 0
    evidence.restore(1, [1.0, 2.0])
    assert evidence.bits(1) == pytest.approx(mean_bits([1.0, 2.0]))


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="bets"):
        Evidence(0, 0.1)
    with pytest.raises(ValueError, match="factors"):
        Evidence(1, 0.1).observe(0, [float("nan")])
