"""What goes into the encoder comes out of the decoder, in order, whatever the timing."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coding.link_fakes import Pair, TinyModel, merge
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
from narrows.coding.link import encoder as link_encoder
from narrows.coding.link.answer import Rows
from narrows.coding.link.options import LinkLimits, LinkOptions
from narrows.errors import InputError, LinkError


def spec(length: int = 4, max_tokens: int = 1000, resume: tuple[int, ...] = ()) -> AnswerSpec:
    return AnswerSpec(prompt=tuple(range(length)), max_tokens=max_tokens, resume=resume)


@st.composite
def scripts(draw: st.DrawFn) -> tuple[Coding, list[Event]]:
    coding = draw(st.sampled_from(list(Coding)))
    piece: st.SearchStrategy[Event] = (
        st.binary(max_size=40).map(Text)
        if coding is Coding.TEXT
        else st.lists(st.integers(0, TinyModel().vocab_size - 1), max_size=20).map(
            lambda ids: Tokens(tuple(ids))
        )
    )
    switch = st.sampled_from(list(Channel)).map(Switch)
    body = draw(st.lists(st.one_of(piece, piece, piece, switch), max_size=12))
    usage = draw(st.none() | st.builds(Usage, st.integers(0, 9000), st.integers(0, 9000)))
    end = draw(
        st.sampled_from([r for r in Finish if r is not Finish.CANCELLED]).map(Finished)
        | st.sampled_from(list(Failure)).map(Failed)
    )
    return coding, [*body, *([usage] if usage else []), end]


@settings(max_examples=120, deadline=None)
@given(st.lists(scripts(), min_size=1, max_size=5), st.randoms(use_true_random=False), st.data())
def test_every_interleaving_round_trips(
    answers: list[tuple[Coding, list[Event]]], rnd: random.Random, data: st.DataObject
) -> None:
    options = LinkOptions(
        max_hold_ms=data.draw(st.sampled_from([0, 30, 500])),
        round_hold_ms=data.draw(st.sampled_from([0, 20, 60])),
        text_hold_ms=data.draw(st.sampled_from([0, 25])),
    )
    pair = Pair(options, piece=data.draw(st.sampled_from([1, 3, 64])))
    for _ in answers:
        pair.request(spec())
    order = list(range(len(answers)))
    rnd.shuffle(order)
    waiting = {number: list(answers[number][1]) for number in order}
    opened: list[int] = []
    now_ms = 0.0
    while order or opened:
        if order and (not opened or rnd.random() < 0.3):
            number = order.pop()
            pair.encoder.open(number, answers[number][0])
            opened.append(number)
        number = rnd.choice(opened)
        pair.encoder.put(number, waiting[number].pop(0))
        if not waiting[number]:
            opened.remove(number)
        if rnd.random() < 0.5:
            now_ms += rnd.choice([0, 1, 20, 300])
            pair.poll(now_ms)
    pair.settle(now_ms)
    for number, (coding, events) in enumerate(answers):
        assert pair.merged(number) == [Opened(coding), *merge(events)]
    assert pair.decoder.open_answers() == []
    assert pair.encoder._model.open_streams == pair.decoder._model.open_streams == 0  # type: ignore[attr-defined]


def test_a_long_complete_answer_and_live_ones() -> None:
    pair = Pair(piece=7)
    rnd = random.Random(3)
    model = TinyModel()
    for _ in range(3):
        pair.request(spec())
    ids = tuple(rnd.randrange(256) for _ in range(900))
    pair.encoder.open(1, Coding.PLAIN)
    pair.encoder.put(1, Tokens(ids))
    pair.encoder.put(1, Usage(4, 901))
    pair.encoder.put(1, Finished(Finish.STOP))
    pair.encoder.open(0, Coding.TEXT)
    pair.encoder.put(0, Text(b"live and held"))
    pair.settle(0.0)
    assert pair.merged(1) == [
        Opened(Coding.PLAIN),
        Tokens(ids),
        Usage(4, 901),
        Finished(Finish.STOP),
    ]
    assert pair.merged(0) == [Opened(Coding.TEXT), Text(b"live and held")]
    assert [answer.number for answer in pair.decoder.open_answers()] == [0]
    assert pair.decoder.open_answers()[0].verified == tuple(
        model.tokenizer.encode(b"live and held")[: len(pair.decoder.open_answers()[0].verified)]
    )


def test_a_cancelled_answer_drops_what_is_not_coded() -> None:
    pair = Pair()
    pair.request(spec())
    pair.encoder.open(0, Coding.PLAIN)
    pair.encoder.put(0, Tokens((1, 2, 3)))
    pair.encoder.put(0, Finished(Finish.CANCELLED))
    pair.settle(0.0)
    assert pair.merged(0) == [Opened(Coding.PLAIN), Finished(Finish.CANCELLED)]


def test_an_answer_stops_at_its_token_limit() -> None:
    pair = Pair()
    pair.request(spec(max_tokens=5, resume=(9, 8)))
    pair.encoder.open(0, Coding.PLAIN)
    pair.encoder.put(0, Tokens((1, 2, 3)))
    pair.encoder.put(0, Finished(Finish.STOP))
    pair.settle(0.0)
    assert pair.merged(0)[1:] == [Tokens((1, 2, 3)), Finished(Finish.STOP)]


def test_an_answer_over_its_token_limit_is_ended_there() -> None:
    pair = Pair()
    pair.request(spec(max_tokens=2))
    pair.encoder.open(0, Coding.PLAIN)
    pair.encoder.put(0, Tokens((1, 2, 3)))
    pair.settle(0.0)
    assert pair.merged(0)[1:] == [Tokens((1, 2)), Finished(Finish.CANCELLED)]
    assert pair.encoder.is_over(0)


def test_more_answers_than_may_be_open_wait_their_turn() -> None:
    pair = Pair(LinkOptions(limits=LinkLimits(max_open=2)))
    for number in range(6):
        pair.request(spec())
        pair.encoder.open(number, Coding.PLAIN)
        pair.encoder.put(number, Tokens((number, 5)))
        pair.encoder.put(number, Finished(Finish.STOP))
    pair.settle(0.0)
    for number in range(6):
        assert pair.merged(number)[1:] == [Tokens((number, 5)), Finished(Finish.STOP)]


def test_certain_tokens_are_paid_for_in_steps() -> None:
    """A stream cheaper than the step budget is padded, never refused."""
    options = LinkOptions(limits=LinkLimits(steps_per_byte=16, steps_saved=1024))
    pair = Pair(options, piece=64)
    pair.request(spec(max_tokens=20_000))
    pair.encoder.open(0, Coding.PLAIN)
    token, ids = 1, []
    for _ in range(6000):
        token = (token * 5 + 1) % TinyModel().vocab_size
        ids.append(token if token < 256 else 0)
    pair.encoder.put(0, Tokens(tuple(ids)))
    pair.encoder.put(0, Finished(Finish.LENGTH))
    pair.settle(0.0)
    assert pair.merged(0)[1:] == [Tokens(tuple(ids)), Finished(Finish.LENGTH)]


def test_the_stream_is_determined_by_calls_and_times() -> None:
    def run() -> bytes:
        pair = Pair()
        rnd = random.Random(11)
        for number in range(4):
            pair.request(spec())
            pair.encoder.open(number, Coding.TEXT)
        for step in range(200):
            pair.encoder.put(rnd.randrange(4), Text(rnd.randbytes(3)))
            pair.poll(step * 7.0)
        pair.settle(2000.0)
        return bytes(pair.sent)

    assert run() == run()


@pytest.mark.parametrize("event", [Text(b"x"), Opened(Coding.PLAIN), Tokens((10_000,))])
def test_events_that_do_not_fit_the_coding_are_refused(event: Event) -> None:
    pair = Pair()
    pair.request(spec())
    pair.encoder.open(0, Coding.PLAIN)
    with pytest.raises(InputError):
        pair.encoder.put(0, event)


def test_calls_out_of_order_are_refused() -> None:
    pair = Pair()
    with pytest.raises(InputError):
        pair.encoder.open(0, Coding.PLAIN)
    pair.request(spec())
    with pytest.raises(InputError):
        pair.encoder.put(0, Text(b""))
    pair.encoder.open(0, Coding.PLAIN)
    with pytest.raises(InputError):
        pair.encoder.open(0, Coding.PLAIN)
    pair.encoder.put(0, Finished(Finish.STOP))
    with pytest.raises(InputError):
        pair.encoder.put(0, Tokens((1,)))


def test_closing_a_link_gives_the_models_streams_back() -> None:
    pair = Pair()
    pair.request(spec())
    pair.encoder.open(0, Coding.PLAIN)
    pair.encoder.put(0, Tokens((1, 2)))
    pair.settle(0.0)
    for _ in range(2):
        pair.encoder.close()
        pair.decoder.close()
    models = (pair.encoder._model, pair.decoder._model)
    assert all(isinstance(model, TinyModel) and model.open_streams == 0 for model in models)
    assert [answer.tokens for answer in pair.decoder.open_answers()] == [2]
    with pytest.raises(LinkError):
        pair.decoder.feed(b"x")


def test_the_same_bytes_however_the_model_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read-ahead, batches and single steps give the same stream: the model is exact."""

    def run(rows: int) -> bytes:
        monkeypatch.setattr(link_encoder, "MAX_ROWS", rows)
        pair = Pair(piece=64)
        for number in range(9):
            pair.request(spec())
            pair.encoder.open(number, Coding.PLAIN)
            rnd = random.Random(number)
            pair.encoder.put(number, Tokens(tuple(rnd.randrange(256) for _ in range(120))))
            pair.encoder.put(number, Finished(Finish.STOP))
        pair.settle(0.0)
        assert sum(isinstance(event, Finished) for _, event in pair.events) == 9
        return bytes(pair.sent)

    assert run(0) == run(256) == run(1 << 20)


def test_rows_that_are_read_ahead_are_not_gone_through_at_each_token(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What a token costs does not grow with the rows that are held for the tokens behind it."""
    kept = 0
    real = Rows.keep

    def keep(rows: Rows) -> None:
        nonlocal kept
        kept += 1
        real(rows)

    monkeypatch.setattr(Rows, "keep", keep)
    pair = Pair(piece=64)
    pair.request(spec(max_tokens=100_000))
    pair.encoder.open(0, Coding.TEXT)
    text = random.Random(1).randbytes(300).hex().encode()
    pair.encoder.put(0, Text(text))
    pair.encoder.put(0, Finished(Finish.STOP))
    pair.settle(0.0)
    assert pair.merged(0)[1] == Text(text)
    assert kept < 20 * len(text)
