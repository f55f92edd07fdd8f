"""The decoder of ``second/``, written from the pages, reads what the real encoder writes."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from coding.honest import Honest, honest
from coding.link_fakes import TinyModel
from coding.second import tokens
from coding.second.link import DEFAULTS, Link
from narrows.coding.events import AnswerSpec, Event
from narrows.coding.link.decoder import LinkDecoder
from narrows.coding.link.options import LinkLimits

SHORT, LONG = range(12), range(12, 120)


class Tiny:
    def __init__(self) -> None:
        self._model = TinyModel()
        self.vocab_size = self._model.vocab_size
        self.ends = self._model.tokenizer.eos_ids
        self.specials = self._model.tokenizer.special_ids
        self.token_bytes = self._model.tokenizer.token_bytes

    def logits(self, history: Sequence[int]) -> list[int]:
        return [int(logit) for logit in self._model._row(history)]


def second(stream: Honest) -> Link:
    model, calibration = Tiny(), tokens.Calibration()

    def make_code(spec: AnswerSpec, coding: int) -> tokens.TokenCode:
        return tokens.TokenCode(spec, coding, model.vocab_size, calibration)

    limits = {name: getattr(stream.options.limits, name) for name in DEFAULTS}
    limits["noise"] = stream.options.noise
    return Link(model, limits, make_code, stream.specs)


def first(stream: Honest, pieces: list[bytes]) -> list[tuple[int, Event]]:
    decoder = LinkDecoder(TinyModel(), stream.options)
    for spec in stream.specs:
        decoder.request(spec)
    return [event for piece in pieces for event in decoder.feed(piece)]


def both_read(seed: int) -> None:
    stream, rnd = honest(seed), random.Random(seed)
    data = stream.data
    cut = rnd.randrange(len(data) + 1)
    pieces = [data[at : at + 3] for at in range(0, len(data), 3)]
    assert second(stream).decode(data) == first(stream, pieces)
    assert second(stream).decode(data[:cut]) == first(stream, [data[:cut]])


@pytest.mark.parametrize("seed", SHORT)
def test_honest_streams(seed: int) -> None:
    both_read(seed)


@pytest.mark.torture
@pytest.mark.parametrize("seed", LONG)
def test_more_honest_streams(seed: int) -> None:
    both_read(seed)


def test_the_defaults_are_those_of_the_page() -> None:
    assert {name: getattr(LinkLimits(), name) for name in DEFAULTS} == DEFAULTS
