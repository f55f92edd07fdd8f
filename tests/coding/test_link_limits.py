"""One answer that passes a limit of the link is ended; the link and all other answers go on."""

from __future__ import annotations

import pytest

from coding.link_fakes import Pair, TinyTokenizer
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
from narrows.coding.link import source as link_source
from narrows.coding.link.options import LinkLimits, LinkOptions
from narrows.errors import InputError

UNKNOWN = bytes([TinyTokenizer.unknown])
EOS = TinyTokenizer().eos
DONE: list[Event] = [Finished(Finish.STOP)]


def calls(count: int) -> list[Event]:
    names = (Switch(Channel.TOOL_NAME), Text(b"f"), Switch(Channel.TOOL_ARGUMENTS), Text(b"{}"))
    return [event for _ in range(count) for event in names]


def alternations(count: int) -> list[Event]:
    both = (Switch(Channel.REASONING), Text(b"a"), Switch(Channel.CONTENT), Text(b"b"))
    return [event for _ in range(count) for event in both]


@pytest.mark.parametrize(
    ("coding", "events", "fits"),
    [
        (Coding.TEXT, [Text(UNKNOWN * 1024)], True),
        (Coding.TEXT, [Text(UNKNOWN * 1025)], False),
        (Coding.TEXT, calls(512), True),
        (Coding.TEXT, calls(513), False),
        (Coding.TEXT, alternations(512), True),
        (Coding.TEXT, alternations(700), False),
        (Coding.TEXT, [*alternations(511), Text(UNKNOWN), Text(UNKNOWN)], True),
        (Coding.TEXT, [*alternations(511), Text(UNKNOWN), *[Text(b"x"), Text(UNKNOWN)] * 2], False),
        (Coding.PLAIN, [Tokens((EOS,) * 1024)], True),
        (Coding.PLAIN, [Tokens((EOS,) * 1025)], False),
        (Coding.PLAIN, [Switch(Channel.TOOL_NAME)] * 1025, False),
        (Coding.TEXT, [Text(b"y" * 3000)], True),
        (Coding.TEXT, [Text(b"y" * 3001)], False),
        (Coding.PLAIN, [Tokens((5,) * 2001)], False),
    ],
)
def test_what_passes_a_limit_ends_there_and_harms_no_other(
    coding: Coding, events: list[Event], fits: bool
) -> None:
    limits = LinkLimits(text_base_bytes=1000, text_bytes_per_token=1)
    pair = Pair(LinkOptions(limits=limits), piece=64)
    for number in range(3):
        pair.request(AnswerSpec((1, 2), max_tokens=2000))
        pair.encoder.open(number, coding if number == 1 else Coding.TEXT)
    for number in (0, 2):
        pair.encoder.put(number, Text(b"before "))
    pair.poll(0.0)
    for event in events:
        pair.encoder.put(1, event)
    pair.encoder.put(1, Usage(2, 9))
    pair.encoder.put(1, Finished(Finish.STOP))
    pair.poll(30.0)
    for number in (0, 2):
        pair.encoder.put(number, Text(b"and behind"))
        pair.encoder.put(number, Finished(Finish.STOP))
    pair.settle(60.0)
    for number in (0, 2):
        text = Text(b"before and behind")
        assert pair.merged(number) == [Opened(Coding.TEXT), text, Finished(Finish.STOP)]
    ended = pair.merged(1)[-1]
    assert ended == Finished(Finish.STOP if fits else Finish.CANCELLED)
    said = b"".join(event.data for event in pair.merged(1) if isinstance(event, Text))
    whole = b"".join(event.data for event in events if isinstance(event, Text))
    assert whole == said if fits else whole.startswith(said)
    assert pair.encoder.is_over(1)


def test_an_answer_that_was_full_before_it_could_open_is_ended_too() -> None:
    pair = Pair(LinkOptions(limits=LinkLimits(max_open=1)))
    for number in range(2):
        pair.request(AnswerSpec((1,), max_tokens=3))
        pair.encoder.open(number, Coding.PLAIN)
    pair.encoder.put(0, Tokens((1,)))
    pair.encoder.put(1, Tokens((1, 2, 3, 4)))
    pair.settle(0.0)
    pair.encoder.put(1, Tokens((5,)))
    pair.encoder.put(0, Finished(Finish.STOP))
    pair.settle(50.0)
    assert pair.merged(0)[1:] == [Tokens((1,)), Finished(Finish.STOP)]
    assert pair.merged(1)[1:] == [Tokens((1, 2, 3)), Finished(Finish.CANCELLED)]


@pytest.mark.parametrize("event", [Text(b"z" * 1000), Text(b"z"), Switch(Channel.REASONING)])
def test_an_answer_that_waits_to_open_says_so_much_and_no_more(event: Event) -> None:
    pair = Pair(LinkOptions(limits=LinkLimits(max_open=1)), piece=64)
    for number in range(3):
        pair.request(AnswerSpec((1,), max_tokens=1 << 20))
        pair.encoder.open(number, Coding.TEXT)
    pair.encoder.put(0, Text(b"first"))
    pair.encoder.put(2, Text(b"third"))
    pair.encoder.put(2, Finished(Finish.STOP))
    size = link_source.EVENT_BYTES + (len(event.data) if isinstance(event, Text) else 0)
    for count in range(2 * link_source.MAX_WAITING_BYTES // size):
        if pair.encoder.is_over(1):
            break
        pair.encoder.put(1, event)
        if count % 100 == 0:
            pair.poll(float(count))
    assert pair.encoder.is_over(1)
    pair.encoder.put(0, Finished(Finish.STOP))
    pair.settle(1e6)
    assert pair.merged(0)[1:] == [Text(b"first"), Finished(Finish.STOP)]
    assert pair.merged(1)[1:] == [Failed(Failure.OVERLOADED)]
    assert pair.merged(2)[1:] == [Text(b"third"), Finished(Finish.STOP)]


def test_only_so_many_answers_wait_to_open() -> None:
    pair = Pair(LinkOptions(limits=LinkLimits(max_open=1)), piece=64)
    count = link_encoder.MAX_WAITING + 3
    for number in range(count):
        pair.request(AnswerSpec((1,), max_tokens=9))
        pair.encoder.open(number, Coding.TEXT)
        pair.encoder.put(number, Text(b"w"))
    pair.poll(0.0)
    for number in range(count):
        if not pair.encoder.is_over(number):
            pair.encoder.put(number, Finished(Finish.STOP))
    pair.settle(50.0)
    ends = [pair.merged(number)[-1] for number in range(count)]
    assert ends == [*DONE * (count - 2), *[Failed(Failure.OVERLOADED)] * 2]


def test_a_cancelled_answer_that_waits_holds_nothing() -> None:
    pair = Pair(LinkOptions(limits=LinkLimits(max_open=1)))
    for number in range(2):
        pair.request(AnswerSpec((1,), max_tokens=1 << 20))
        pair.encoder.open(number, Coding.TEXT)
    pair.encoder.put(1, Text(b"z" * link_source.MAX_WAITING_BYTES))
    pair.encoder.put(1, Finished(Finish.CANCELLED))
    pair.poll(0.0)
    assert pair.encoder.next_poll_ms(0.0) is None  # and nothing wakes it before there is room
    pair.encoder.put(0, Finished(Finish.STOP))
    pair.settle(50.0)
    assert pair.merged(1)[1:] == [Finished(Finish.CANCELLED)]


def test_an_answer_that_may_not_overtake_does_not_hold_up_the_one_it_waits_for() -> None:
    pair = Pair(LinkOptions(limits=LinkLimits(max_skip=1)))
    for _ in range(4):
        pair.request(AnswerSpec((1,), max_tokens=9))
    for number in (3, 2, 0, 1):
        pair.encoder.open(number, Coding.PLAIN)
        pair.encoder.put(number, Tokens((number,)))
        pair.encoder.put(number, Finished(Finish.STOP))
    pair.settle(0.0)
    for number in range(4):
        assert pair.merged(number)[1:] == [Tokens((number,)), Finished(Finish.STOP)]


def test_more_open_answers_than_steps_can_be_saved() -> None:
    """Each round asks for a step of each answer: with more answers no padding would suffice."""
    limits = LinkLimits(max_open=2000, steps_saved=64, steps_per_byte=16)
    pair = Pair(LinkOptions(limits=limits), piece=64)
    for number in range(70):
        pair.request(AnswerSpec((1,), max_tokens=9))
        pair.encoder.open(number, Coding.PLAIN)
        pair.encoder.put(number, Tokens((7,)))
        if number >= 64:
            pair.encoder.put(number, Finished(Finish.STOP))
    pair.settle(0.0)
    for number in range(64):
        pair.encoder.put(number, Finished(Finish.STOP))
    pair.settle(100.0)
    assert all(
        pair.merged(number)[1:] == [Tokens((7,)), Finished(Finish.STOP)] for number in range(70)
    )


@pytest.mark.parametrize("counts", [(1 << 30, 0), (0, 1 << 30), (-1, 0)])
def test_a_usage_that_the_grammar_cannot_say_is_refused_where_it_is_put(
    counts: tuple[int, int],
) -> None:
    pair = Pair()
    pair.request(AnswerSpec((1,), max_tokens=9))
    pair.encoder.open(0, Coding.TEXT)
    with pytest.raises(InputError):
        pair.encoder.put(0, Usage(*counts))
    pair.encoder.put(0, Usage((1 << 30) - 1, 0))
    pair.encoder.put(0, Finished(Finish.STOP))
    pair.settle(0.0)
    assert pair.merged(0)[1:] == [Usage((1 << 30) - 1, 0), Finished(Finish.STOP)]


def test_tokens_of_no_text_come_as_bytes() -> None:
    """A tokenizer that finds control tokens in a text must not end the link."""

    class Finds(TinyTokenizer):
        def encode(self, data: bytes) -> list[int]:
            if data == b"<end>":
                return [self.eos]
            return [self.eos + 1] if data == b"<mark>" else super().encode(data)

    pair = Pair()
    for end in (pair.encoder, pair.decoder):
        end._model.tokenizer = Finds()  # type: ignore[attr-defined]
    for number, text in enumerate((b"<end>", b"<mark>")):
        pair.request(AnswerSpec((1,), max_tokens=9))
        pair.encoder.open(number, Coding.TEXT)
        pair.encoder.put(number, Text(text))
        pair.encoder.put(number, Finished(Finish.STOP))
        pair.settle(0.0)
        assert pair.merged(number)[1:] == [Text(text), Finished(Finish.STOP)]
