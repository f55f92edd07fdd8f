"""The alarm: quiet at honest charges for life, quick at dishonest ones."""

from __future__ import annotations

import numpy as np
import pytest

from narrows.alarms.sequential import RATES, Alarm, Null, calibrate


def honest(rng: np.random.Generator, segments: int, share: float = 0.02) -> list[tuple[float, int]]:
    """Charges as measured with bfloat16: a share of the tokens costs a few bits."""
    rows = []
    for _ in range(segments):
        tokens = int(rng.integers(20, 257))
        off = rng.binomial(tokens, share)
        rows.append((0.02 * tokens + float(rng.exponential(2.0, off).sum()), tokens))
    return rows


def test_ten_thousand_honest_segments_raise_nothing() -> None:
    rng = np.random.default_rng(1)
    null = calibrate(honest(rng, 400))
    for test in (Alarm(), Alarm(null)):
        for bits, tokens in honest(rng, 10_000):
            assert not test.observe(bits, tokens)


def test_a_full_entropy_thief_is_heard_within_a_thousand_bits() -> None:
    """3.6 bits of payload a token, after 10,000 honest tokens and at once."""
    null = calibrate(honest(np.random.default_rng(2), 400))
    for before in (0, 40):
        test = Alarm(null)
        for bits, tokens in honest(np.random.default_rng(3), before):
            test.observe(bits, tokens)
        heard = next(n for n in range(1, 1000) if test.observe(3.6, 1))
        assert 3.6 * heard < 1000
        assert test.observe(0.0, 256)  # it stays


@pytest.mark.parametrize("alpha", [0.1, 0.01])
def test_the_rate_of_false_alarms_is_what_is_stated(alpha: float) -> None:
    """Charges for which the null holds with equality, over 300 looks: Ville's bound."""
    rng = np.random.default_rng(4)
    rate = RATES[1]
    chance, cost = 0.05, 6.0
    slacks = tuple(float(np.log2(1 + chance * (2 ** (t * cost) - 1))) for t in RATES)
    false = 0
    runs = 400
    for _ in range(runs):
        test = Alarm(Null(RATES, slacks), alpha)
        false += any(test.observe(cost * hit, 1) for hit in rng.random(300) < chance)
    assert rate in RATES
    assert false <= runs * alpha + 3 * (runs * alpha) ** 0.5


def test_the_evidence_is_a_supermartingale_where_the_null_holds() -> None:
    rng = np.random.default_rng(5)
    slacks = tuple(float(np.log2(1 + 0.1 * (2**t - 1))) for t in RATES)
    ends = []
    for _ in range(2000):
        test = Alarm(Null(RATES, slacks))
        for hit in rng.random(20) < 0.1:
            test.observe(float(hit), 1)
        ends.append(2.0 ** test.evidence_bits())
    assert np.mean(ends) == pytest.approx(1, abs=4 * np.std(ends) / len(ends) ** 0.5)


def test_charges_beyond_the_floats_make_a_null() -> None:
    """Full segments at the code's floor: 2^(8192 / 4) is no float, and no reason to stop."""
    dear = [(8192.0, 256), (4000.0, 256), (0.0, 256)] * 3
    null = calibrate(dear)
    assert all(0 < slack <= rate * 32 for rate, slack in zip(RATES, null.slacks, strict=True))


def test_what_is_no_charge_is_refused() -> None:
    with pytest.raises(ValueError, match="bits for"):
        Alarm().observe(-1, 3)
    with pytest.raises(ValueError, match="segments"):
        calibrate([(1.0, 10)])
