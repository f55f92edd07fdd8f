"""One meaning has one form: what an encoder never says is refused, so that a stream that was
changed is seen, and nothing can be hidden in how a thing is said."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from coding.link_fakes import Pair, TinyModel
from narrows.coding.events import AnswerSpec, Channel, Coding, Finish, Finished, Switch, Tokens
from narrows.coding.link import items, source
from narrows.coding.link.decoder import LinkDecoder
from narrows.coding.link.ends import DecoderPort, EncoderPort
from narrows.coding.link.options import LinkLimits, LinkOptions
from narrows.coding.link.symbols import Bit, Choice, Count, Signed
from narrows.coding.tokens.calibrate import Calibration
from narrows.coding.tokens.code import TokenCode
from narrows.coding.tokens.sampler import sample
from narrows.errors import LinkError


def run(step: Generator[None, None, Any]) -> Any:
    try:
        next(step)
    except StopIteration as end:
        return end.value
    raise AssertionError("the bytes do not decide it")


def say(port: EncoderPort, signed: Signed, difference: tuple[int, int] | None) -> None:
    """(negative, magnitude) whatever they are; None: the same as last time."""
    run(port.bit(signed.same, int(difference is None)))
    if difference is not None:
        run(port.bit(signed.sign, difference[0]))
        run(signed.size.code(port, difference[1]))


@pytest.mark.parametrize(
    ("differences", "fine"),
    [
        ([(0, 3), None, (1, 3), (0, 0), (1, 1)], True),
        ([(1, 0)], False),
        ([(0, 0)], False),
        ([(0, 5), (1, 0)], False),
        ([(0, 5), (0, 5)], False),
        ([(1, 5), (1, 5)], False),
    ],
)
def test_differences(differences: list[tuple[int, int] | None], fine: bool) -> None:
    port, signed = EncoderPort(), Signed()
    for difference in differences:
        say(port, signed, difference)
    run(port.push())
    reader, model = DecoderPort(lambda: None), Signed()
    reader.coder.feed(port.coder.take())
    for _ in differences[: None if fine else -1]:
        run(model.code(reader, None))
    if not fine:
        with pytest.raises(LinkError, match="one form"):
            run(model.code(reader, None))


@pytest.mark.parametrize("padding", [0, 1, 65535])
def test_padding(padding: int) -> None:
    port, action = EncoderPort(), Choice(3, ones=(48, 48))
    run(action.code(port, 2))
    run(port.raw(16, padding))
    run(action.code(port, 1))
    run(port.push())
    decoder = LinkDecoder(TinyModel())
    if padding:
        with pytest.raises(LinkError, match="padding"):
            decoder.feed(port.coder.take())
    else:
        assert decoder.feed(port.coder.take()) == []


def test_max_run_of_one_is_one_item() -> None:
    port = EncoderPort()
    run(Choice(3, ones=(48, 48)).code(port, 0))
    run(Count().code(port, 0))
    run(Choice(3).code(port, 0))
    for model, bit in ((Bit(64, 1), 1), (Bit(60, 4), 1), (Bit(4, 28), 1), (Bit(12, 20), 0)):
        run(port.bit(model, bit))
    run(port.bit(Bit(4, 28), 1))
    port.coder.push()
    decoder = LinkDecoder(TinyModel(), LinkOptions(limits=LinkLimits(max_run=1)))
    decoder.request(AnswerSpec((1,), 5))
    with pytest.raises(LinkError, match="more than 1 items"):
        decoder.feed(port.coder.take())


def switching(channels: list[Channel]) -> bytes:
    pair = Pair()
    pair.encoder.request(AnswerSpec((1,), 50))
    pair.encoder.open(0, Coding.PLAIN)
    for channel in channels:
        pair.encoder.put(0, Switch(channel))
        pair.encoder.put(0, Tokens((5,)))
    pair.encoder.put(0, Finished(Finish.STOP))
    data = b"".join(pair.encoder.poll(now_ms) for now_ms in (0.0, 100.0, 500.0, 900.0))
    assert pair.encoder.next_poll_ms(900.0) is None
    return data


CALLS = [Channel.TOOL_NAME, Channel.TOOL_NAME, Channel.CONTENT]


@pytest.mark.parametrize("channels", [[Channel.CONTENT], [Channel.REASONING] * 2, CALLS])
def test_switches(channels: list[Channel], monkeypatch: pytest.MonkeyPatch) -> None:
    """The encoder drops those that say nothing; one that says them is refused."""
    honest = switching(channels)
    with monkeypatch.context() as patch:
        patch.setattr(items, "changes", lambda channel, to: True)
        patch.setattr(source, "changes", lambda channel, to: True)
        forged = switching(channels)
    decoders = [LinkDecoder(TinyModel()) for _ in range(2)]
    for decoder in decoders:
        decoder.request(AnswerSpec((1,), 50))
    events = [event for _, event in decoders[0].feed(honest)]
    assert events[-1] == Finished(Finish.STOP)
    seen = [event.channel for event in events if isinstance(event, Switch)]
    if channels == CALLS:
        assert (seen, forged) == (channels, honest)
    else:
        assert seen == [channel for channel in channels[:1] if channel]
        with pytest.raises(LinkError, match="the channel that it is in"):
            decoders[1].feed(forged)


def test_an_end_token_that_does_not_end_takes_the_noise_of_its_position() -> None:
    """The sampler drew it. On another link, the code would count it as one of ``resume``."""
    table = TinyModel()._table
    keys = (bytes([n]) * 32 for n in range(40))
    bits = [0.0, 0.0]
    for key in keys:
        row = table[3] // 8
        token = sample(row, 65536, 65536, key, 2)
        for which in range(2):
            code = TokenCode(
                AnswerSpec((9,), 50, noise_key=key), Coding.COUPLED, len(row), Calibration()
            )
            code.prepare(row)
            code.update(7)
            if which:
                code.skip()
            code.prepare(row)
            bits[which] += code.cost_bits(token)
    assert bits[1] < bits[0] / 2
