"""Coins and the bound on what was not audited: five attackers, every moment."""

from __future__ import annotations

import numpy as np
import pytest

from narrows.audit.share.attackers import ATTACKERS, failures, most_failures, over_truth
from narrows.audit.share.bound import Bound
from narrows.audit.share.coins import coin

KEY = b"k" * 32
NONCE = b"n" * 32


def check(name: str, share: float, delta: float, runs: int, steps: int) -> None:
    failed = failures(ATTACKERS[name], share, delta, runs, steps, seed=24)
    print(f"{name}: f {share:g}, delta {delta:g}: {failed} of {runs}")
    assert failed <= most_failures(runs, delta)


@pytest.mark.parametrize("name", ATTACKERS)
@pytest.mark.parametrize("delta", [0.05, 1e-3])
def test_the_bound_fails_no_more_often_than_it_says(name: str, delta: float) -> None:
    check(name, 0.2, delta, runs=2000, steps=60)


@pytest.mark.torture
@pytest.mark.parametrize("name", ATTACKERS)
@pytest.mark.parametrize("delta", [0.05, 1e-3])
@pytest.mark.parametrize("share", [0.05, 0.2])
def test_a_hundred_thousand_runs(name: str, delta: float, share: float) -> None:
    check(name, share, delta, runs=100_000, steps=400)


def test_an_attacker_without_a_bound_would_be_seen() -> None:
    """The simulation tells: at a bound for delta = 0.5 the attackers fail more often than 0.05."""
    worst = max(failures(one, 0.2, 0.5, 2000, 60, 1) for one in ATTACKERS.values())
    assert most_failures(2000, 0.05) < worst <= most_failures(2000, 0.5)


def test_the_limit_of_the_test_is_a_binomial_one() -> None:
    assert most_failures(100_000, 0.05) == pytest.approx(5370, abs=30)
    assert most_failures(1000, 1e-9) <= 3


def test_the_bound_is_near_the_truth_for_light_tails() -> None:
    """200,000 segments of 20 bits at B = 2,000, delta = 1e-9."""
    rng = np.random.default_rng(3)
    light = np.minimum(1, rng.exponential(20, 200_000) / 2000)
    for seed in range(3):
        assert 1 <= over_truth(light, 0.05, 1e-9, seed) <= 1.3
        assert 1 <= over_truth(light, 0.2, 1e-9, seed) <= 1.1


def test_all_audited_is_the_sum() -> None:
    bound = Bound(1.0, 1e-9)
    for w in (0.5, 1.0, 0.25):
        bound.audited(w)
    assert bound.total() == 1.75


def test_one_filled_segment_does_not_make_it_infinite() -> None:
    bound = Bound(0.05, 1e-9)
    nothing = bound.total()
    assert 300 < nothing < 1000  # ln(1 / delta) / f, and the price of the grid
    bound.audited(1.0)
    assert nothing < bound.total() < 1500
    for bad in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="outside"):
            bound.audited(bad)
    for share, delta in ((0, 0.5), (1.1, 0.5), (0.5, 0), (0.5, 1)):
        with pytest.raises(ValueError, match="between"):
            Bound(share, delta)


def test_coins_fall_as_often_as_they_should_and_depend_on_everything() -> None:
    draws = [coin(KEY, NONCE, 0, n, 0, b"d" * 32, 0.05) for n in range(20_000)]
    assert 850 < sum(draws) < 1150
    assert draws == [coin(KEY, NONCE, 0, n, 0, b"d" * 32, 0.05) for n in range(20_000)]
    for other in (
        [coin(b"l" * 32, NONCE, 0, n, 0, b"d" * 32, 0.05) for n in range(2000)],
        [coin(KEY, b"m" * 32, 0, n, 0, b"d" * 32, 0.05) for n in range(2000)],
        [coin(KEY, NONCE, 1, n, 0, b"d" * 32, 0.05) for n in range(2000)],
        [coin(KEY, NONCE, 0, n, 1, b"d" * 32, 0.05) for n in range(2000)],
        [coin(KEY, NONCE, 0, n, 0, b"e" * 32, 0.05) for n in range(2000)],
    ):
        assert other != draws[:2000]
    assert all(coin(KEY, NONCE, 0, n, 0, b"d" * 32, 1.0) for n in range(500))
    with pytest.raises(ValueError, match="32 bytes"):
        coin(b"short", NONCE, 0, 0, 0, b"", 0.5)
