"""Real answers' texts with tokens drawn anew, honestly and by a thief: what detectors are tried on.

At each position of an answer the strong model says what may follow the answer's own words. An
honest token is the sampler's, by the shared noise; a thief's is drawn from the same
distribution with noise of his own: a payload that is coded at full entropy, so its bits are
-log2 p of the token. Both are scored as the edge's decoder scores them. Contexts, lengths and
code lengths are real; no answer has to be written for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from narrows.bench.coupled import SampledAnswer, log2_p, render, rows_of
from narrows.coding.events import AnswerSpec, Coding
from narrows.coding.tokens.calibrate import Calibration
from narrows.coding.tokens.gain import SEGMENT_TOKENS, GainCode, GainSegment
from narrows.coding.tokens.sampler import sample
from narrows.errors import InputError
from narrows.models.api import TokenModel

MAX_PROMPT_TOKENS = 100
_ONE = 65536


@dataclass(frozen=True, slots=True)
class DrawnAnswer:
    """Segments of one answer's tokens: ``honest``; ``stolen``: a thief's on a link of honest
    answers. ``payload_bits``: of the thief's segments. ``plain_bits``, ``tokens``: of the answer
    as it is written, under the weak model."""

    honest: tuple[GainSegment, ...]
    stolen: tuple[GainSegment, ...]
    payload_bits: tuple[float, ...]
    plain_bits: float
    tokens: int


def draw(
    rows: Iterable[Mapping[str, Any]],
    strong: TokenModel,
    weak: TokenModel,
    rng: np.random.Generator,
    temperature: float = 1.0,
    top_p: float = 1.0,
    answer_tokens: int = 200,
) -> Iterator[DrawnAnswer]:
    """Each answer's first ``answer_tokens`` tokens, in order; ``rows`` have a prompt and a
    response. Raises InputError."""
    if weak.tokenizer.digest != strong.tokenizer.digest:
        raise InputError(f"{weak.name} has another vocabulary than {strong.name}")
    link = Calibration()
    for row in rows:
        ids = strong.tokenizer.encode(row["response"].encode("utf-8", "replace"))[:answer_tokens]
        context = render(strong, row["prompt"])[-MAX_PROMPT_TOKENS:]
        if ids:
            yield _drawn(context, ids, strong, weak, rng, temperature, top_p, link)


def _drawn(
    context: list[int],
    ids: list[int],
    strong: TokenModel,
    weak: TokenModel,
    rng: np.random.Generator,
    temperature: float,
    top_p: float,
    link: Calibration,
) -> DrawnAnswer:
    key = rng.bytes(32)
    heat, kept = round(temperature * _ONE), round(top_p * _ONE)
    spec = AnswerSpec(tuple(context), len(ids), heat, kept, noise_key=key)
    size = weak.vocab_size
    codes = [GainCode(spec, Coding.COUPLED, size, link) for _ in range(2)]
    answer = SampledAnswer(context, key, ids, [])
    strong_rows = [row.copy() for row in rows_of(strong, answer)]
    payload, plain = [], 0.0
    for position, row in zip(range(len(ids)), rows_of(weak, answer), strict=False):
        logits = strong_rows[position]
        log_p = _cut(log2_p(logits), temperature, top_p)
        cumulated = np.cumsum(np.exp2(log_p))
        stolen = int(np.searchsorted(cumulated, rng.random() * cumulated[-1], "right"))
        stolen = min(stolen, len(log_p) - 1)
        payload.append(-float(log_p[stolen]))
        plain -= float(log2_p(row)[ids[position]])
        honest = sample(logits, heat, kept, key, position)
        for code, token in zip(codes, (honest, stolen), strict=True):
            code.prepare(row)
            code.update(token)
    found = [tuple(code.take(over=True)) for code in codes]
    codes[0].close()
    steps = range(0, len(payload), SEGMENT_TOKENS)
    bits = tuple(sum(payload[start : start + SEGMENT_TOKENS]) for start in steps)
    return DrawnAnswer(found[0], found[1], bits, plain, len(ids))


def _cut(log_p: NDArray[np.float64], temperature: float, top_p: float) -> NDArray[np.float64]:
    """At a temperature, and the shortest prefix that reaches ``top_p``; log2, normalised."""
    warm = log_p / temperature
    warm -= np.log2(np.exp2(warm - warm.max()).sum()) + warm.max()
    if top_p >= 1:
        return warm
    order = np.argsort(-warm, kind="stable")
    count = int(np.searchsorted(np.cumsum(np.exp2(warm[order])), top_p)) + 1
    cut = np.full_like(warm, -np.inf)
    cut[order[:count]] = warm[order[:count]]
    return np.asarray(cut - np.log2(np.exp2(cut).sum()))
