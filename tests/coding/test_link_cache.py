"""A weak model's memory that is full fails the answer that wants more, and no other."""

from __future__ import annotations

import random

import pytest

from coding.link_fakes import TinyModel, merge
from narrows.coding.cache_account import CacheAccount
from narrows.coding.events import (
    AnswerSpec,
    Coding,
    Event,
    Failed,
    Failure,
    Finish,
    Finished,
    Opened,
    Tokens,
)
from narrows.coding.link.decoder import LinkDecoder
from narrows.coding.link.encoder import LinkEncoder
from narrows.coding.link.options import LinkLimits, LinkOptions
from narrows.errors import LinkError, NarrowsError

ANSWERS = 90


def options(cache_bytes: int) -> LinkOptions:
    return LinkOptions(limits=LinkLimits(max_cache_bytes=cache_bytes))


def ids_of(number: int) -> tuple[int, ...]:
    rnd = random.Random(number)
    return tuple(rnd.randrange(250) for _ in range(rnd.randrange(20, 400)))


def crowd(
    encoder: LinkEncoder, decoder: LinkDecoder, seed: int, most: int = 30
) -> dict[int, list[Event]]:
    """Many answers at once, their tokens in parts shorter than ``most``; what came of each."""
    rnd = random.Random(seed)
    prompt = tuple(range(40))
    left: dict[int, list[int]] = {}
    events: dict[int, list[Event]] = {}
    for number in range(ANSWERS):
        for end in (encoder, decoder):
            assert end.request(AnswerSpec(prompt, 1000)) == number
        left[number], events[number] = list(ids_of(number)), []
    waiting, now_ms = list(range(ANSWERS)), 0.0
    opened: list[int] = []
    while waiting or opened:
        now_ms += 10.0
        for number in [waiting.pop(0) for _ in range(min(len(waiting), 9))]:
            encoder.open(number, Coding.PLAIN)
            opened.append(number)
        for number in list(opened):
            part = [left[number].pop(0) for _ in range(min(len(left[number]), rnd.randrange(most)))]
            if part:
                encoder.put(number, Tokens(tuple(part)))
            if not left[number]:
                encoder.put(number, Finished(Finish.LENGTH))
                opened.remove(number)
        for which, event in decoder.feed(encoder.poll(now_ms)):
            events[which].append(event)
    while (due := encoder.next_poll_ms(now_ms)) is not None:
        now_ms = max(now_ms, due)
        for which, event in decoder.feed(encoder.poll(now_ms)):
            events[which].append(event)
    return {number: merge(own) for number, own in events.items()}


@pytest.mark.parametrize("most", [30, 200])  # the longer ones are read ahead
@pytest.mark.parametrize(("near", "far"), [(120, 120), (120, 4000), (4000, 120), (4000, 4000)])
def test_every_answer_is_right_or_overloaded(near: int, far: int, most: int) -> None:
    models = TinyModel(pages=near), TinyModel(pages=far)
    encoder = LinkEncoder(models[0], options(far))
    came = crowd(encoder, LinkDecoder(models[1], options(far)), seed=near + far, most=most)
    right = overloaded = 0
    for number, events in came.items():
        opened, *tokens, end = events
        assert opened == Opened(Coding.PLAIN)
        ids = tokens[0].ids if tokens else ()  # type: ignore[union-attr]
        if end == Finished(Finish.LENGTH):
            assert ids == ids_of(number)
            right += 1
        else:
            assert end == Failed(Failure.OVERLOADED)
            assert ids == ids_of(number)[: len(ids)]
            overloaded += 1
    assert right + overloaded == ANSWERS
    assert right >= 5
    assert (overloaded == 0) == (near == far == 4000)
    assert [model.open_streams for model in models] == [0, 0]


def test_links_of_one_model_share_its_memory() -> None:
    model = TinyModel(pages=40)
    account = CacheAccount(model.cache_bytes)
    ends = [LinkEncoder(model, options(1000), account=account) for _ in range(2)]
    for end in ends:
        end.request(AnswerSpec(tuple(range(100)), 300))
        end.open(0, Coding.PLAIN)
        end.poll(0.0)
    assert [end.failed_here for end in ends] == [[], [0]]
    for end in ends:
        end.close()
    assert account.take(40)


def test_what_a_backend_still_says_of_a_failed_answer_is_dropped() -> None:
    model = TinyModel(pages=1)
    encoder = LinkEncoder(model, options(1000))
    encoder.request(AnswerSpec(tuple(range(100)), 300))
    encoder.open(0, Coding.PLAIN)
    encoder.poll(0.0)
    encoder.poll(1000.0)
    encoder.put(0, Tokens((1, 2)))
    encoder.put(0, Finished(Finish.CANCELLED))
    with pytest.raises(NarrowsError):
        encoder.put(0, Tokens((1, 2)))


def test_a_stream_that_takes_more_than_was_offered_is_refused() -> None:
    encoder = LinkEncoder(TinyModel(), options(1000))
    decoder = LinkDecoder(TinyModel(), options(5))
    for end in (encoder, decoder):
        end.request(AnswerSpec((1, 2), 300))
    encoder.open(0, Coding.PLAIN)
    encoder.put(0, Tokens(tuple(range(200))))
    encoder.put(0, Finished(Finish.STOP))
    data = encoder.poll(0.0) + encoder.poll(1000.0)
    with pytest.raises(LinkError, match="memory than was offered"):
        decoder.feed(data)
