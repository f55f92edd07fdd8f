"""The calibration: scalars only, damped, and apart for each class of answers."""

from __future__ import annotations

import numpy as np

from narrows.coding.events import AnswerSpec, Coding
from narrows.coding.tokens.calibrate import SCALARS, SLOPE, Calibration, answer_class, is_coupled
from narrows.coding.tokens.code import TokenCode


def spec(temperature: int) -> AnswerSpec:
    return AnswerSpec((1,), 10, temperature)


def test_classes() -> None:
    assert answer_class(spec(0), False) == "greedy"
    assert answer_class(spec(30000), False) == "cool"
    assert answer_class(spec(65536), False) == "plain"
    assert answer_class(spec(65536), True) == "coupled"
    assert is_coupled(spec(65536), Coding.COUPLED)
    assert not is_coupled(spec(0), Coding.COUPLED)
    assert not is_coupled(spec(65536), Coding.TEXT)


def test_absorbing_moves_towards_the_answer_and_never_past_it() -> None:
    calibration = Calibration()
    target = calibration.copy("plain") + 1000
    before = calibration.copy("plain")
    for _ in range(200):  # as many answers that were open at once, with the same end
        calibration.absorb("plain", target, 500)
    after = calibration.copy("plain")
    assert (after > before).all()
    assert (after <= target).all()
    assert len(after) == SCALARS


def test_copies_are_apart_and_classes_do_not_mix() -> None:
    calibration = Calibration()
    mine = calibration.copy("plain")
    mine[SLOPE] += 5000
    greedy = calibration.copy("greedy")
    assert calibration.copy("plain")[SLOPE] != mine[SLOPE]
    calibration.absorb("plain", mine, 10**6)
    assert (calibration.copy("greedy") == greedy).all()


def test_nothing_of_the_content_crosses() -> None:
    """Two histories alike but for a renaming of tokens leave the same calibration."""
    size = 400
    rng = np.random.default_rng(3)
    rename = rng.permutation(size)
    rows = (rng.standard_normal((80, size)) * 150_000).astype(np.int32)
    tokens = rng.integers(0, size, 80)
    ends = []
    for names in (np.arange(size), rename):
        calibration = Calibration()
        code = TokenCode(spec(65536), Coding.PLAIN, size, calibration)
        for row, token in zip(rows, tokens, strict=True):
            moved = np.empty_like(row)
            moved[names] = row
            code.prepare(moved)
            code.update(int(names[token]))
        code.close()
        ends.append(calibration.copy("plain"))
    assert np.abs(ends[0] - ends[1]).max() < 500  # hash collisions and the prompt's one token


def test_closing_twice_counts_once() -> None:
    calibration = Calibration()
    code = TokenCode(spec(65536), Coding.PLAIN, 300, calibration)
    code.prepare(np.zeros(300, np.int32))
    code.update(3)
    code.close()
    once = calibration.copy("plain")
    code.close()
    assert (calibration.copy("plain") == once).all()
