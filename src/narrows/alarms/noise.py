"""The noise test: does the shared noise explain the tokens of coupled answers?

The null, for each rate t of ``NoiseNull``: whatever came before, a segment of an honest answer
has luck L where there is room R, in bits (``coding/tokens/gain.py``), and

    E[2^(t (share(t) R - L))] <= 1

that is, the luck is at least ``share`` times the room, in that mean. ``calibrate_noise`` finds
the shares on held-out honest answers. Three tests, at most
``alpha`` false alarms an answer together:

- *answer*: the mean over t of the product over an answer's segments is a
  supermartingale (Ville): alarm in mid-answer where it reaches 4 / (3 alpha).
- *key* and *edge*: the whole answer's factors, as ``Evidence`` of its key and of all keys, each
  with alpha / 8: for thieves in many short answers.

Not seen: what was not coupled (``uncoupled.py`` counts that), and tokens that are nearly certain
under the weak model. False where the null is: a strong model that is certain where the weak one
is not needs no luck, so top_p below ``LEAST_TOP_P``, low temperatures and constrained formats are
not tested.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from narrows.alarms.detector import EVERYONE, Firing
from narrows.alarms.evidence import Evidence, SummedTest, mean_bits
from narrows.alarms.sequential import upper
from narrows.errors import InputError

NOISE_RATES = (0.75, 1.0)
DEFAULT_ALPHA = 1e-6
LEAST_TOP_P = 0.9
LEAST_TEMPERATURE, MOST_TEMPERATURE = 0.5, 1.5
FORMAT = "narrows noise null 1"
LEAST_ANSWERS = 20
_MOST_SHARE = 4.0

Sums = tuple[float, float]
"""Luck and room of a segment or an answer, bits."""


@dataclass(frozen=True, slots=True)
class NoiseNull:
    """``shares``: of the room, what an honest answer has in luck at least, by rate."""

    rates: tuple[float, ...] = NOISE_RATES
    shares: tuple[float, ...] = (0.59, 0.52)

    def factors_bits(self, sums: Sums) -> list[float]:
        """log2 of each rate's factor."""
        luck_bits, room_bits = sums
        pairs = zip(self.rates, self.shares, strict=True)
        return [rate * (share * room_bits - luck_bits) for rate, share in pairs]


@dataclass(slots=True)
class AnswerNoise:
    """What is known of one answer under way. ``fired``: its alarm was raised."""

    logs: list[float] = field(default_factory=lambda: [0.0] * len(NOISE_RATES))
    fired: bool = False


class NoiseTest(SummedTest):
    """``alpha``: false alarms an answer, at most, all three tests together."""

    name = "noise"

    def __init__(self, null: NoiseNull | None = None, alpha: float = DEFAULT_ALPHA) -> None:
        self.null = null or NoiseNull()
        self._answer_bits = -math.log2(0.75 * alpha)
        super().__init__(Evidence(len(NOISE_RATES), alpha / 8))

    def observe(self, answer: AnswerNoise, key_id: int, segments: Sequence[Sums]) -> Firing | None:
        """Whole segments of an answer, as they come."""
        for sums in segments:
            factors = self.null.factors_bits(sums)
            answer.logs = [a + b for a, b in zip(answer.logs, factors, strict=True)]
            bits = mean_bits(answer.logs)
            if bits >= self._answer_bits and not answer.fired:
                answer.fired = True
                note = "one answer's tokens do not follow the shared noise"
                return Firing("noise", "noise-answer", key_id, bits, note)
        return None

    def end(self, answer: AnswerNoise, key_id: int) -> list[Firing]:
        """The answer is over, however it ended. What one answer's alarm has told is not told
        again of its key."""
        if answer.fired:
            return []
        found = []
        for subject, name, whose in (
            (key_id, "noise-key", "this key's answers"),
            (EVERYONE, "noise-edge", "the edge's answers"),
        ):
            if self._sums.observe(subject, answer.logs):
                note = f"{whose} together do not follow the shared noise"
                found.append(Firing("noise", name, subject, self._sums.limit_bits, note))
        return found


def calibrate_noise(
    answers: Sequence[Sequence[Sums]], margin: float = 1.1, confidence: float = 1e-6
) -> NoiseNull:
    """The null of held-out honest answers, each the sums of its segments. For each rate the
    highest share at which the null holds with ``confidence`` to spare (empirical Bernstein, as
    in ``sequential.py``), for segments and for whole answers, divided by ``margin``: for models
    that are a little further apart than on that day. InputError: too few for any share."""
    segments = [segment for answer in answers for segment in answer]
    whole = [(sum(luck for luck, _ in one), sum(room for _, room in one)) for one in answers if one]
    if len(whole) < LEAST_ANSWERS:
        raise InputError(f"{len(whole)} honest answers say nothing about a rate", "give more")
    shares = tuple(_highest(segments, whole, rate, confidence) / margin for rate in NOISE_RATES)
    if max(shares) <= 0:
        raise InputError(
            "these answers are no luckier than a thief's, or are too few to tell",
            "give more answers, or a weak model that is nearer to the strong one",
        )
    return NoiseNull(NOISE_RATES, shares)


def _highest(
    segments: Sequence[Sums], whole: Sequence[Sums], rate: float, confidence: float
) -> float:
    low, high = -_MOST_SHARE, _MOST_SHARE
    for _ in range(40):
        middle = (low + high) / 2
        fits = all(_holds(rows, rate, middle, confidence) for rows in (segments, whole))
        low, high = (middle, high) if fits else (low, middle)
    return low


def _holds(rows: Sequence[Sums], rate: float, share: float, confidence: float) -> bool:
    powers = [rate * (share * room - luck) for luck, room in rows]
    if max(powers) > 500:
        return False
    values = [2.0**power for power in powers]
    return upper(values, confidence / (2 * len(NOISE_RATES))) <= 1


def null_to_json(null: NoiseNull, answers: int) -> str:
    """``answers``: how many it was calibrated on, for people."""
    found = {"format": FORMAT, "rates": null.rates, "shares": null.shares, "answers": answers}
    return json.dumps(found)


def null_from_json(text: str | bytes) -> NoiseNull:
    """InputError where it is no such file."""
    try:
        found = json.loads(text)
        rates, shares = tuple(found["rates"]), tuple(found["shares"])
        fits = found["format"] == FORMAT and rates == NOISE_RATES
        fits = fits and len(shares) == len(rates)
        fits = fits and all(type(one) is float and abs(one) <= _MOST_SHARE for one in shares)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError("this is no null of narrows alarms calibrate") from error
    if not fits or max(shares) <= 0:
        raise InputError("this null is of another version, or out of range")
    return NoiseNull(rates, shares)
