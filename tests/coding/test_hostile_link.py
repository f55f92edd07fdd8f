"""What an attacker may write: every byte string decodes to something or ends the link."""

from __future__ import annotations

import random
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coding.link_fakes import Pair, TinyModel
from narrows.coding.events import (
    AnswerSpec,
    Coding,
    Event,
    Failed,
    Finish,
    Finished,
    Opened,
    Text,
    Tokens,
)
from narrows.coding.link.decoder import LinkDecoder
from narrows.coding.link.options import LinkLimits, LinkOptions
from narrows.coding.range.kernels import DIGEST
from narrows.errors import InputError, LinkError

CORPUS = Path(__file__).parent / "data" / "link_corpus"
LIMITS = LinkLimits(
    max_open=3,
    max_run=16,
    max_switches=8,
    text_base_bytes=40,
    text_bytes_per_token=1,
    steps_per_byte=64,
    steps_saved=1024,
    check_bytes=64,
)
MAX_TOKENS = 50


def hostile(data: bytes, pieces: int = 7) -> tuple[list[tuple[int, Event]], LinkError | None]:
    """Decode ``data`` with four answers requested; check every bound on the way."""
    model = TinyModel()
    decoder = LinkDecoder(model, LinkOptions(limits=LIMITS))
    for _ in range(4):
        decoder.request(AnswerSpec((1, 2), MAX_TOKENS))
    events: list[tuple[int, Event]] = []
    error = None
    try:
        for start in range(0, len(data), pieces):
            events += decoder.feed(data[start : start + pieces])
            assert len(decoder.open_answers()) <= LIMITS.max_open
    except LinkError as raised:
        error = raised
        with pytest.raises(LinkError):
            decoder.feed(b"")
        assert model.open_streams == 0
    assert model.steps <= LIMITS.steps_saved + LIMITS.steps_per_byte * (len(data) + 8)
    ended: set[int] = set()
    opened: dict[int, Coding] = {}
    sizes: dict[int, int] = {}
    for number, event in events:
        assert 0 <= number < 4
        assert number not in ended
        assert (number in opened) != isinstance(event, Opened)
        if isinstance(event, Opened):
            opened[number] = event.coding
        elif isinstance(event, Tokens | Text):
            size = len(event.ids) if isinstance(event, Tokens) else len(event.data)
            sizes[number] = sizes.get(number, 0) + size
        elif isinstance(event, Finished | Failed):
            ended.add(number)
    for number, size in sizes.items():
        assert size <= (40 + MAX_TOKENS if opened[number] is Coding.TEXT else MAX_TOKENS)
    return events, error


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=400), st.integers(1, 50))
def test_any_bytes(data: bytes, pieces: int) -> None:
    hostile(data, pieces)


def honest_stream(seed: int, max_tokens: int = MAX_TOKENS) -> bytes:
    rnd = random.Random(seed)
    pair = Pair(LinkOptions(limits=LIMITS), piece=64)
    for _ in range(4):
        pair.request(AnswerSpec((1, 2), max_tokens))
    for number in range(3):
        text = number == 1
        pair.encoder.open(number, Coding.TEXT if text else Coding.PLAIN)
        for _ in range(rnd.randrange(max_tokens - 10)):
            event: Event = Text(b"ab") if text else Tokens((rnd.randrange(256),))
            pair.encoder.put(number, event)
        pair.encoder.put(number, Finished(Finish.STOP))
    pair.settle(0.0)
    return bytes(pair.sent)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 5), st.data())
def test_a_changed_stream(seed: int, data: st.DataObject) -> None:
    """Flipped, cut, doubled: never more than was asked for, and no exception but LinkError."""
    stream = bytearray(honest_stream(seed))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(stream) - 1))
        action = data.draw(st.sampled_from(["flip", "cut", "double"]))
        if action == "flip":
            stream[at] ^= 1 << data.draw(st.integers(0, 7))
        elif action == "cut":
            del stream[at : at + 1]
        else:
            stream[at:at] = stream[at : at + 9]
        if not stream:
            return
    hostile(bytes(stream))


def kind_of(error: LinkError | None) -> str:
    """A name for the file of a refusal: its words, without the figures."""
    words = re.findall("[a-z]+", str(error).lower()) if error else ["accepted"]
    return "-".join(words)[:40].rstrip("-")


@pytest.mark.parametrize("path", sorted(CORPUS.glob("*.bin")), ids=lambda path: path.stem)
def test_the_corpus(path: Path) -> None:
    """Streams that reach deep: kept from fuzzing, one per kind of refusal (the file's name).
    ``grow_link_corpus.py`` finds new ones where the coded probabilities have changed."""
    _, error = hostile(path.read_bytes(), 1)
    assert kind_of(error) == re.sub("-honest-[0-9]$", "", path.stem)


def test_the_corpus_is_there() -> None:
    assert len(list(CORPUS.glob("*.bin"))) >= 8


def test_other_probabilities_never_complete_an_answer_unseen() -> None:
    """Two ends whose models differ in one integer: an error, nearly always before any end."""
    completed = 0
    for seed in range(60):
        pair = Pair()
        model = TinyModel()
        model._table[:, seed] += 1 << 12
        pair.decoder = LinkDecoder(model)
        pair.request(AnswerSpec((seed,), 100))
        pair.encoder.open(0, Coding.PLAIN)
        rnd = random.Random(seed)
        ids = tuple(rnd.randrange(256) for _ in range(30))
        pair.encoder.put(0, Tokens(ids))
        pair.encoder.put(0, Finished(Finish.STOP))
        try:
            pair.settle(0.0)
        except LinkError:
            continue
        completed += any(isinstance(event, Finished) for _, event in pair.events)
    assert completed <= 3  # 60 * 2**-8 expected


def test_a_mismatch_names_this_ends_model_and_numerics() -> None:
    """The same shares, another digest: what differs is only seen by the check."""
    pair = Pair()
    number = pair.request(AnswerSpec((1,), 100))
    pair.encoder.open(number, Coding.PLAIN)
    pair.encoder.put(number, Tokens((3, 4, 5)))
    pair.settle(0.0)
    pair.decoder._port.coder.state[DIGEST] ^= np.uint64(1 << 63)
    pair.encoder.put(number, Finished(Finish.STOP))
    with pytest.raises(LinkError, match="different probabilities") as caught:
        pair.settle(1000.0)
    model = pair.decoder._model
    assert f"{model.name} {model.digest.hex()[:16]}" in caught.value.message
    assert f"numerics {model.numerics.hex()[:16]}" in caught.value.message
    assert not any(isinstance(one, Finished) for _, one in pair.events)


def test_options_on_the_wire_are_checked() -> None:
    options = LinkOptions(max_hold_ms=70, limits=LIMITS)
    assert LinkOptions.from_wire(options.to_wire()) == options
    for bad in ({"nonsense": 1}, {"max_open": 0}, {"max_hold_ms": -1}, {"check_bytes": True}):
        with pytest.raises(InputError, match="link options"):
            LinkOptions.from_wire(bad)
