"""How much leaves before an alarm: the detectors on answers drawn again and again from a pool.

Payload is a thief's own code length at the moment of the first alarm of any kind that is tried,
in bits. Runs that end without one count as ``missed``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from narrows.alarms.cost import CostReference, CostTest
from narrows.alarms.noise import AnswerNoise, NoiseNull, NoiseTest, Sums
from narrows.alarms.share import HOUR_S, ShareTest
from narrows.bench.detection.draw import DrawnAnswer
from narrows.coding.tokens.gain import GainSegment

RAW_BITS = 15.6
"""A token of 49,152 that is chosen freely: what bytes cost that look like no text."""
_KIND = 5


@dataclasses.dataclass(frozen=True, slots=True)
class Leaked:
    """``runs`` of a thief; of those that were heard the payload in bits, at the median and 90 %."""

    runs: int
    missed: int
    median_bits: float | None
    p90_bits: float | None

    @classmethod
    def of(cls, found: Sequence[float | None]) -> Leaked:
        """``found``: payload at the alarm, None where there was none."""
        heard = sorted(one for one in found if one is not None)
        if not heard:
            return cls(len(found), len(found), None, None)
        at = [heard[min(len(heard) - 1, round(q * (len(heard) - 1)))] for q in (0.5, 0.9)]
        return cls(len(found), len(found) - len(heard), round(at[0], 1), round(at[1], 1))


def in_one_answer(pool: Sequence[DrawnAnswer], null: NoiseNull) -> Leaked:
    """A thief in every token of an answer; each answer of the pool once. ``missed``: it was
    over before."""
    found: list[float | None] = []
    for answer in pool:
        test, watch, sent = NoiseTest(null), AnswerNoise(), 0.0
        heard: float | None = None
        for segment, payload in zip(answer.stolen, answer.payload_bits, strict=True):
            sent += payload
            if test.observe(watch, 1, [_sums(segment)]):
                heard = sent
                break
        found.append(heard)
    return Leaked.of(found)


def in_short_answers(
    pool: Sequence[DrawnAnswer], null: NoiseNull, rng: np.random.Generator, runs: int
) -> Leaked:
    """A key whose answers are one segment each, all a thief's."""

    def steal(test: NoiseTest) -> float | None:
        sent = 0.0
        for _ in range(1000):
            answer = _one_of(pool, rng)
            at = int(rng.integers(len(answer.stolen)))
            sent += answer.payload_bits[at]
            if _whole(test, [_sums(answer.stolen[at])]):
                return sent
        return None

    return Leaked.of([steal(NoiseTest(null)) for _ in range(runs)])


def in_some_answers(
    pool: Sequence[DrawnAnswer],
    null: NoiseNull,
    rng: np.random.Generator,
    share: float,
    runs: int,
    most_answers: int = 20_000,
) -> Leaked:
    """``share`` of the answers are a thief's from end to end."""

    def steal(test: NoiseTest) -> float | None:
        sent = 0.0
        for _ in range(most_answers):
            answer = _one_of(pool, rng)
            if rng.random() >= share:
                if _whole(test, [_sums(one) for one in answer.honest]):
                    return sent
                continue
            watch = AnswerNoise()
            for segment, payload in zip(answer.stolen, answer.payload_bits, strict=True):
                sent += payload
                if test.observe(watch, 1, [_sums(segment)]):
                    return sent
            if test.end(watch, 1):
                return sent
        return None

    return Leaked.of([steal(NoiseTest(null)) for _ in range(runs)])


def in_some_tokens(
    pool: Sequence[DrawnAnswer],
    null: NoiseNull,
    rng: np.random.Generator,
    share: float,
    runs: int,
    most_answers: int = 5_000,
) -> Leaked:
    """``share`` of the segments of every answer are a thief's: spread as thin as it gets here."""

    def steal(test: NoiseTest) -> float | None:
        sent = 0.0
        for _ in range(most_answers):
            answer = _one_of(pool, rng)
            stolen = rng.random(len(answer.honest)) < share
            payloads = zip(answer.payload_bits, stolen, strict=True)
            sent += sum(bits for bits, one in payloads if one)
            trio = zip(answer.honest, answer.stolen, stolen, strict=True)
            if _whole(test, [_sums(a if one else h) for h, a, one in trio]):
                return sent
        return None

    return Leaked.of([steal(NoiseTest(null)) for _ in range(runs)])


def false_alarms(
    pool: Sequence[DrawnAnswer], null: NoiseNull, rng: np.random.Generator, answers: int
) -> int:
    """Alarms among so many honest answers, of one key."""
    test, count = NoiseTest(null), 0
    for _ in range(answers):
        count += _whole(test, [_sums(one) for one in _one_of(pool, rng).honest])
    return count


def dearer_answers(
    pool: Sequence[DrawnAnswer], rng: np.random.Generator, share: float, runs: int
) -> Leaked:
    """The cost test, without any noise: ``share`` of a key's tokens are free bytes. Before, the
    key was honest for 200 answers; an alarm among those counts as heard at 0 bits."""

    def steal(_: int) -> float | None:
        reference = CostReference()
        test, sent = CostTest(reference), 0.0
        for number in range(3000):
            answer = _one_of(pool, rng)
            stolen = round(share * answer.tokens) if number >= 200 else 0
            bits = answer.plain_bits * (1 - stolen / answer.tokens) + stolen * RAW_BITS + 64
            sent += stolen * RAW_BITS
            if test.observe(1, _KIND, number % 24, bits, answer.tokens, True):
                return sent
        return None

    return Leaked.of([steal(run) for run in range(runs)])


def hours_of_a_new_share(share: float, most_hours: int = 1000) -> int | None:
    """Hours until a key that took nothing, and now takes ``share`` of the outflow, is heard."""
    test = ShareTest()
    for hour in range(24 + most_hours):
        taken = share if hour >= 24 else 0.0
        rest = (1 - taken) * 1e9
        for key in (1, 2):
            if test.observe(key, rest / 2, hour * HOUR_S):
                return hour - 24
        if taken and test.observe(3, taken * 1e9, hour * HOUR_S):
            return hour - 24
    return None


def power(
    pool: Sequence[DrawnAnswer],
    null: NoiseNull,
    rng: np.random.Generator,
    runs: int,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """All of the above, for a report."""
    shares = (0.001, 0.01, 0.1)
    say("a thief in every token")
    found: dict[str, Any] = {
        "answer": in_one_answer(pool, null),
        "key_short_answers": in_short_answers(pool, null, rng, runs),
    }
    for share in shares:
        say(f"a thief in {share:.1%}")
        found[f"answers_{share:g}"] = in_some_answers(pool, null, rng, share, runs)
        found[f"tokens_{share:g}"] = in_some_tokens(pool, null, rng, share, max(1, runs // 4))
    say("cost and share")
    for share in (0.0, *shares, 0.3, 1.0):
        found[f"cost_{share:g}"] = dearer_answers(pool, rng, share, max(1, runs // 4))
    report: dict[str, Any] = {name: dataclasses.asdict(one) for name, one in found.items()}
    report["share_hours"] = {f"{s:g}": hours_of_a_new_share(s) for s in (0.1, 0.3, 0.6, 1.0)}
    say("honest answers")
    count = 500 * runs
    report["honest_answers"] = count
    report["false_alarms"] = false_alarms(pool, null, rng, count)
    return report


def _one_of(pool: Sequence[DrawnAnswer], rng: np.random.Generator) -> DrawnAnswer:
    return pool[int(rng.integers(len(pool)))]


def _whole(test: NoiseTest, segments: Sequence[Sums]) -> bool:
    watch = AnswerNoise()
    return bool(test.observe(watch, 1, segments)) or bool(test.end(watch, 1))


def _sums(segment: GainSegment) -> Sums:
    return segment.luck_bits, segment.room_bits
