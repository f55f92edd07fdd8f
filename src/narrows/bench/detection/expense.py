"""What watching costs: the same tokens decoded with and without it, turn by turn in one run."""

from __future__ import annotations

import time

import numpy as np

from narrows.coding.events import AnswerSpec, Coding
from narrows.coding.tokens.calibrate import Calibration
from narrows.coding.tokens.code import TokenCode
from narrows.coding.tokens.gain import GainCode
from narrows.models.api import TokenModel

ANSWERS = 16
"""Streams of a batched model step: what a busy edge decodes; few make the share smaller."""


def watching_share(weak: TokenModel, rng: np.random.Generator, steps: int = 60) -> float:
    """Processor time of watching over that of decoding, model steps included. Of each the
    least of all steps: what others do on the machine only adds."""
    spec = AnswerSpec((), steps, noise_key=rng.bytes(32))
    size = weak.vocab_size
    plain: list[TokenCode] = []
    watched: list[TokenCode] = []
    for _ in range(ANSWERS):
        plain.append(TokenCode(spec, Coding.COUPLED, size, Calibration()))
        watched.append(GainCode(spec, Coding.COUPLED, size, Calibration()))
    streams = [weak.open([0]) for _ in range(ANSWERS)]
    tokens = [1] * ANSWERS
    models: list[float] = []
    spent: dict[str, list[float]] = {"plain": [], "watched": []}
    for step in range(steps):
        before = time.process_time()
        rows = weak.advance(streams, tokens).copy()
        models.append(time.process_time() - before)
        target = int(rng.integers(1 << 32))
        order = [("plain", plain), ("watched", watched)]
        for name, codes in order if step % 2 else order[::-1]:
            before = time.process_time()
            for at, code in enumerate(codes):
                code.prepare(rows[at])
                tokens[at] = code.find(target)[0]
                code.update(tokens[at])
            spent[name].append(time.process_time() - before)
    for stream in streams:
        weak.close(stream)
    more = min(spent["watched"]) - min(spent["plain"])
    return more / (min(models) + min(spent["plain"]))
