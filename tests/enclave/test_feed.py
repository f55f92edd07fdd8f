"""Any events of one backend leave every other answer on the link exact."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coding.link_fakes import Pair, TinyModel
from narrows.coding.events import (
    AnswerSpec,
    Channel,
    Coding,
    Event,
    Failed,
    Failure,
    Finish,
    Finished,
    Opened,
    Switch,
    Text,
    Tokens,
    Usage,
)
from narrows.coding.link.options import LinkLimits, LinkOptions
from narrows.enclave import feed
from narrows.models.bytemodel import ByteModel

VOCABULARY = TinyModel().vocab_size
UNKNOWN = b"\x07"
anything: st.SearchStrategy[Event] = st.one_of(
    st.binary(max_size=40).map(Text),
    st.integers(1, 40).map(lambda count: Text(UNKNOWN * count)),
    st.lists(st.integers(-2, VOCABULARY + 2), max_size=12).map(lambda ids: Tokens(tuple(ids))),
    st.sampled_from(list(Channel)).map(Switch),
    st.builds(Usage, st.integers(-1, 1 << 31), st.integers(-1, 1 << 31)),
    st.sampled_from(list(Coding)).map(Opened),
    st.sampled_from(list(Finish)).map(Finished),
    st.sampled_from(list(Failure)).map(Failed),
)
runs = st.tuples(anything, st.integers(1, 12)).map(lambda run: [run[0]] * run[1])
streams = st.lists(runs, max_size=10).map(lambda parts: [e for part in parts for e in part])


harm = given(
    st.sampled_from([None, *Coding]),
    streams,
    st.randoms(use_true_random=False),
    st.sampled_from([1, 2, 64]),
    st.sampled_from([1, 3, 256]),
)


@settings(max_examples=50, deadline=None)
@harm
def test_any_events_of_one_backend(
    first: Coding | None, events: list[Event], rnd: random.Random, max_open: int, max_run: int
) -> None:
    _others_stay_exact(first, events, rnd, max_open, max_run)


@pytest.mark.torture
@settings(max_examples=5000, deadline=None)
@harm
def test_very_many_events_of_one_backend(
    first: Coding | None, events: list[Event], rnd: random.Random, max_open: int, max_run: int
) -> None:
    _others_stay_exact(first, events, rnd, max_open, max_run)


def _others_stay_exact(
    first: Coding | None, events: list[Event], rnd: random.Random, max_open: int, max_run: int
) -> None:
    limits = LinkLimits(
        max_open=max_open, max_run=max_run, max_switches=8, text_base_bytes=10, max_skip=1
    )
    pair = Pair(LinkOptions(limits=limits), piece=64)
    harmful: list[Event] = [*([Opened(first)] if first is not None else []), *events]
    waiting = {1: harmful}
    for number in (0, 2, 3):
        native = [Tokens((number, 4, 5)), Switch(Channel.REASONING), Tokens((6,))]
        text = [Text(b"the text "), Switch(Channel.REASONING), Text(b"of it")]
        coding = Coding.PLAIN if number == 2 else Coding.TEXT
        said: list[Event] = list(native) if coding is Coding.PLAIN else list(text)
        waiting[number] = [Opened(coding), *said, Usage(3, 4), Finished(Finish.STOP)]
    wanted = {number: list(waiting[number]) for number in (0, 2, 3)}
    for _ in range(4):
        pair.request(AnswerSpec((1, 2), max_tokens=6))
    now_ms = 0.0
    while waiting:
        number = rnd.choice(sorted(waiting))
        if waiting[number]:
            more = feed.deliver(pair.encoder, number, waiting[number].pop(0))
            assert more or number == 1 or not waiting[number]
        else:
            feed.finish(pair.encoder, number, Failed(Failure.INTERNAL))
            del waiting[number]
        if rnd.random() < 0.4:
            now_ms += rnd.choice([0, 5, 60])
            pair.poll(now_ms)
    pair.settle(now_ms)
    for number, exact in wanted.items():
        assert pair.merged(number) == exact
    assert isinstance(pair.merged(1)[-1], Finished | Failed)
    assert pair.decoder.open_answers() == []


@pytest.mark.parametrize(
    ("events", "end"),
    [
        ([Text(b"x")], Failed(Failure.INTERNAL)),
        ([Opened(Coding.TEXT), Opened(Coding.TEXT)], Failed(Failure.INTERNAL)),
        ([Opened(Coding.TEXT), Tokens((1,))], Failed(Failure.INTERNAL)),
        ([Opened(Coding.PLAIN), Tokens((VOCABULARY,))], Failed(Failure.INTERNAL)),
        ([Opened(Coding.TEXT), Usage(1 << 30, 1)], Failed(Failure.INTERNAL)),
        ([Opened(Coding.TEXT)], Failed(Failure.INTERNAL)),
        ([Finished(Finish.STOP)], Failed(Failure.INTERNAL)),
        ([Opened(Coding.TEXT), Finished(Finish.STOP), Text(b"late")], Finished(Finish.STOP)),
    ],
)
def test_events_out_of_order_end_their_answer(events: list[Event], end: Event) -> None:
    pair = Pair()
    pair.request(AnswerSpec((1,), max_tokens=6))
    for event in events:
        feed.deliver(pair.encoder, 0, event)
    feed.finish(pair.encoder, 0, Failed(Failure.INTERNAL))
    pair.settle(0.0)
    assert pair.merged(0)[-1] == end


@pytest.mark.parametrize("size", [1, 2, 5, 100])
def test_tokens_as_text_are_cut_at_a_stop_string(size: int) -> None:
    """The edge leaves text to who wrote it, so a model of our own must not pass its stop."""
    text = ByteModel().tokenizer
    said = list(b"one <end> two")

    def through(stops: list[str]) -> bytes:
        translate = feed.ToText(text, stops)
        pieces = [Tokens(tuple(said[at : at + size])) for at in range(0, len(said), size)]
        events = [e for piece in pieces for e in translate.events(piece)]
        events += translate.events(Finished(Finish.STOP))
        assert events[-1] == Finished(Finish.STOP)
        return b"".join(e.data for e in events if isinstance(e, Text))

    assert through(["<end>"]) == b"one "
    assert through(["<end>", "e "]) == b"on"
    assert through(["<never>"]) == through([]) == b"one <end> two"
