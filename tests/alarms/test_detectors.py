"""The detectors: quiet where their null holds, loud where it does not."""

from __future__ import annotations

import random

import pytest

from narrows.alarms.cost import CostReference, CostTest
from narrows.alarms.detector import EVERYONE
from narrows.alarms.noise import (
    AnswerNoise,
    NoiseNull,
    NoiseTest,
    calibrate_noise,
    null_from_json,
    null_to_json,
)
from narrows.alarms.share import HOUR_S, ShareTest
from narrows.alarms.uncoupled import UncoupledTest
from narrows.errors import InputError


def segments(rng: random.Random, gain: float, count: int = 20) -> list[tuple[float, float]]:
    """Of 16 tokens with a room of 1.5 bits each."""
    return [(rng.gauss(16 * gain, 3), 24.0) for _ in range(count)]


def test_a_calibrated_null_is_quiet_for_honest_and_hears_a_thief() -> None:
    rng = random.Random(1)
    null = calibrate_noise([segments(rng, 2.0) for _ in range(200)])
    assert max(null.shares) > 0.2
    test = NoiseTest(null)
    for number in range(2000):
        watch = AnswerNoise()
        assert test.observe(watch, number % 7, segments(rng, 2.0)) is None
        assert test.end(watch, number % 7) == []
    watch = AnswerNoise()
    firing = test.observe(watch, 3, segments(rng, 0.0))
    assert firing is not None
    assert (firing.kind, firing.detector, firing.subject) == ("noise", "noise-answer", 3)
    assert test.observe(watch, 3, segments(rng, 0.0)) is None  # once an answer
    assert test.end(watch, 3) == []


def test_short_answers_add_up_for_their_key_and_spread_over_keys_for_the_edge() -> None:
    for keys, detector in ((1, "noise-key"), (10_000, "noise-edge")):
        rng, test = random.Random(2), NoiseTest(NoiseNull())
        found = set()
        for number in range(200):
            watch = AnswerNoise()
            test.observe(watch, number % keys, segments(rng, -0.3, 1))
            found |= {one.detector for one in test.end(watch, number % keys)}
        assert detector in found


def test_too_few_answers_or_answers_that_gain_nothing_make_no_null() -> None:
    rng = random.Random(3)
    with pytest.raises(InputError, match="nothing about a rate"):
        calibrate_noise([segments(rng, 2.0)] * 5)
    with pytest.raises(InputError, match="no luckier"):
        calibrate_noise([segments(rng, -1.0) for _ in range(100)])


def test_a_null_is_read_back_and_others_are_refused() -> None:
    null = NoiseNull()
    assert null_from_json(null_to_json(null, 9)) == null
    for wrong in ("", "[]", "{}", "[" * 5000, null_to_json(null, 9).replace("0.", "9.")):
        with pytest.raises(InputError):
            null_from_json(wrong)


def test_every_32nd_answer_may_be_plain_and_no_more() -> None:
    test = UncoupledTest("always")
    for number in range(20_000):
        assert test.observe(1, number % 32 != 0) == []
    found = [one for _ in range(12) for one in test.observe(1, False)]
    assert {one.subject for one in found} == {1, EVERYONE}


def test_whether_an_upstream_couples_is_learned_and_kept() -> None:
    test = UncoupledTest("auto")
    for _ in range(200):
        assert test.observe(1, False) == []  # never coupled: not seen, as stated
    for _ in range(200):
        test.observe(1, True)
    again = UncoupledTest("auto")
    for subject, values in test.take_changed():
        again.restore(subject, values or [])
    assert any(again.observe(1, False) for _ in range(12))
    silent = UncoupledTest("never")
    assert not any(silent.observe(1, False) for _ in range(100))


def costs(rng: random.Random, factor: float = 1.0) -> float:
    return factor * 200 * 2.5 * rng.lognormvariate(0, 0.4) + 64


def test_cost_follows_topics_and_hears_what_is_dear() -> None:
    for seed in range(3):
        print(f"seed {seed}")
        rng = random.Random(seed)
        test = CostTest(CostReference())
        for number in range(3000):  # topics drift by a third, slowly, up and down
            factor = 1.3 if (number // 500) % 2 else 1.0
            bits = costs(rng, factor)
            assert test.observe(number % 5, 5, number % 24, bits, 200, True) is None
        heard = next(n for n in range(100) if test.observe(1, 5, 3, costs(rng, 5.0), 200, True))
        assert heard < 40


def test_an_answer_without_a_token_has_its_fixed_bits_alone() -> None:
    reference = CostReference()
    test = CostTest(reference)
    for _ in range(200):
        assert test.observe(1, 0, 3, 64 + 5 * 100, 100, True) is None
    assert [test.observe(1, 0, 3, 60.0, 0, True) for _ in range(100)] == [None] * 100
    assert any(test.observe(1, 0, 3, 5000.0, 0, True) for _ in range(20))


def test_an_edge_without_a_past_says_nothing_and_an_alarm_teaches_nothing() -> None:
    reference = CostReference()
    test = CostTest(reference)
    assert test.observe(1, 5, 0, 1e6, 100, True) is None
    for _ in range(100):
        reference.learn(1, 5, 0, 500.0, 200)
    before = reference.predicted(1, 5, 0)
    fired = 0
    for _ in range(20):
        fired += test.observe(1, 5, 0, 1e6, 200, True) is not None
    assert fired
    assert reference.predicted(1, 5, 0) < 3 * before


def test_references_are_bounded() -> None:
    reference = CostReference(max_rows=500)
    for key in range(100_000):
        reference.learn(key, 5, 0, 100.0, 10)
    assert len([row for row, values in reference.take_changed() if values]) <= 500


def test_a_new_key_that_takes_everything_is_heard_within_a_day() -> None:
    test = ShareTest()
    rng = random.Random(6)
    for hour in range(500):
        for key in (1, 2, 3):
            assert test.observe(key, 1e6 * rng.uniform(0.5, 1.5), hour * HOUR_S) == []
    heard = None
    for hour in range(500, 530):
        found = [*test.observe(1, 1e6, hour * HOUR_S), *test.observe(9, 1e8, hour * HOUR_S)]
        if found:
            heard = hour
            assert [one.subject for one in found] == [9]
            break
    assert heard is not None
    assert heard < 524


def test_one_key_alone_has_no_share_to_grow() -> None:
    test = ShareTest()
    assert not any(test.observe(1, 10.0 ** (hour % 7 + 5), hour * HOUR_S) for hour in range(500))


def test_a_clock_that_goes_back_ends_no_hour() -> None:
    test = ShareTest()
    test.observe(1, 1e6, 100 * HOUR_S)
    assert test.observe(1, 1e6, 0) == []
    assert test.shares() == {1: 1.0}
