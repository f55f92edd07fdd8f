"""Few bytes may hold minutes of model steps: both ends work in batches that can be left."""

from __future__ import annotations

import numpy as np
import pytest

from coding.link_fakes import TinyModel, merge
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
from narrows.coding.pacing import BATCH_STEPS
from narrows.errors import LinkError

PROMPT = tuple(n % 250 for n in range(1000))


def likely(count: int) -> list[int]:
    """Tokens that the model expects most, so that they cost next to nothing."""
    model = TinyModel()
    history = list(PROMPT)
    for _ in range(count):
        row = model._row(history)
        row[256:] = row.min()
        history.append(int(np.argmax(row)))
    return history[len(PROMPT) :]


def cheap_link(answers: int, tokens: int) -> tuple[bytes, LinkEncoder, TinyModel]:
    model = TinyModel()
    encoder = LinkEncoder(model)
    ids = likely(tokens)
    for number in range(answers):
        encoder.request(AnswerSpec(PROMPT, tokens))
        encoder.open(number, Coding.PLAIN)
        encoder.put(number, Tokens(tuple(ids)))
        encoder.put(number, Finished(Finish.LENGTH))
    data, now_ms = b"", 0.0
    while (due := encoder.next_poll_ms(now_ms)) is not None:
        now_ms = max(now_ms, due)
        calls = len(model.steps_at_once)
        data += encoder.step(now_ms)
        assert sum(model.steps_at_once[calls:]) <= 2 * BATCH_STEPS
    return data, encoder, model


@pytest.fixture(scope="module")
def hostile() -> bytes:
    return cheap_link(answers=3, tokens=2000)[0]


def decoder(answers: int = 3, max_tokens: int = 2000) -> tuple[LinkDecoder, TinyModel]:
    model = TinyModel()
    result = LinkDecoder(model)
    for _ in range(answers):
        result.request(AnswerSpec(PROMPT, max_tokens))
    return result, model


def test_one_step_is_one_batch_whatever_the_bytes_hold(hostile: bytes) -> None:
    paced, model = decoder()
    events = paced.step(hostile)
    worked = [sum(model.steps_at_once)]
    while paced.more:
        events += paced.step(b"")
        worked.append(sum(model.steps_at_once) - sum(worked))
    assert max(worked) <= 2 * BATCH_STEPS
    assert len(worked) >= 3 * (2000 + len(PROMPT)) // (2 * BATCH_STEPS)
    whole, _ = decoder()
    assert events == whole.feed(hostile)
    assert len(hostile) < 3000  # 6,000 tokens and more


def test_prompts_are_read_in_parts(hostile: bytes) -> None:
    paced, model = decoder()
    paced.feed(hostile)
    assert max(model.steps_at_once) <= BATCH_STEPS


def test_the_model_may_be_lent_between_two_batches(hostile: bytes) -> None:
    """Arrays of the model hold until its next call: none is needed across a pause."""
    paced, model = decoder()
    other = model.open((1, 2))
    events = paced.step(hostile)
    while paced.more:
        model.advance([other], [3])  # overwrites whatever was returned before
        events += paced.step(b"")
    numbers = [[event for which, event in events if which == number] for number in range(3)]
    expected = [Opened(Coding.PLAIN), Tokens(tuple(likely(2000))), Finished(Finish.LENGTH)]
    assert [merge(own) for own in numbers] == [expected] * 3


def test_a_link_that_is_dropped_between_two_batches_gives_all_back(hostile: bytes) -> None:
    paced, model = decoder()
    paced.step(hostile)
    assert paced.more
    paced.close()
    assert not paced.more
    assert model.open_streams == 0
    with pytest.raises(LinkError):
        paced.step(b"")


def test_many_answers_are_stepped_in_several_batches() -> None:
    data, _, encoder_model = cheap_link(answers=150, tokens=4)
    assert max(encoder_model.steps_at_once) <= BATCH_STEPS
    paced, model = decoder(150, max_tokens=4)
    events = paced.feed(data)
    assert [event for _, event in events].count(Finished(Finish.LENGTH)) == 150
    assert max(model.steps_at_once) <= BATCH_STEPS


def test_an_answer_that_fails_at_once_costs_neither_end_a_step() -> None:
    ends = TinyModel(), TinyModel()
    encoder, far = LinkEncoder(ends[0]), LinkDecoder(ends[1])
    for end in (encoder, far):
        end.request(AnswerSpec(PROMPT, 100))
    encoder.open(0, Coding.PLAIN)
    encoder.put(0, Failed(Failure.OVERLOADED))
    events: list[tuple[int, Event]] = far.feed(encoder.poll(0.0))
    assert events == [(0, Opened(Coding.PLAIN)), (0, Failed(Failure.OVERLOADED))]
    assert [end.steps_at_once for end in ends] == [[], []]
