"""The worked examples of docs/link-format.md, read from the page and computed again."""

from __future__ import annotations

import re
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from coding.link_fakes import TinyModel
from narrows.coding.events import AnswerSpec, Coding, Event, Finish, Finished, Tokens
from narrows.coding.link.decoder import LinkDecoder
from narrows.coding.link.encoder import LinkEncoder
from narrows.coding.link.ends import EncoderPort
from narrows.coding.link.options import LinkLimits, LinkOptions
from narrows.coding.link.symbols import Bit, Choice, Code, Count, Signed
from narrows.coding.range.coder import mark
from narrows.coding.range.kernels import LOW, RANGE
from narrows.coding.tokens.calibrate import Calibration
from narrows.errors import InputError
from narrows.measure.replay import ReplayCode, ReplayModel

PAGE = (Path(__file__).parents[2] / "docs" / "link-format.md").read_text()
ROW = re.compile(
    r"^\| (\w+)\(([\d, ]*)\) \| ([-\d, ]+) \| (.+) \| `([0-9a-f ]+)` \|$", re.MULTILINE
)
ROWS = ROW.findall(PAGE)
SHARE = re.compile(r"`([0-9a-f]{8}) \+ ([0-9a-f]{8})`")


def example(name: str) -> list[str]:
    """The lines of the page's fenced block whose first line is ``name``."""
    found = re.search(rf"^```\n{re.escape(name)}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert found, name
    return found[1].splitlines()


def run(step: Generator[None, None, Any]) -> None:
    for _ in step:
        raise AssertionError("an encoder never waits")


class RecordingPort(EncoderPort):
    def __init__(self) -> None:
        super().__init__()
        self.shares: list[tuple[int, int]] = []

    def _encode(self, cum: int, freq: int, kind: str) -> None:
        self.shares.append((cum, freq))
        super()._encode(cum, freq, kind)


def numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",") if number.strip()]


def code(port: EncoderPort, kind: str, arguments: list[int], values: list[int]) -> None:
    made: Any = None
    if kind == "Choice":
        made = Choice(arguments[0], arguments[1:])
    elif kind in ("Count", "Signed"):
        made = {"Count": Count, "Signed": Signed}[kind]()
    elif kind == "Bit":
        made = Bit(*arguments)
    for value in values:
        if kind == "Bit":
            run(port.bit(made, value))
        elif kind == "Raw":
            run(port.raw(arguments[0], value))
        elif kind == "Token":
            run(port.token(token_code(arguments[0]), value))
        else:
            run(made.code(port, value))


def token_code(cost_bits: int) -> Code:
    """The fixed shares of the test vectors: token 0 costs this much."""
    model = ReplayModel([[float(cost_bits)] * 2])
    spec = AnswerSpec(prompt=(0,), max_tokens=8)
    made = ReplayCode(spec, Coding.PLAIN, model.vocab_size, Calibration())
    made.prepare(model.logits(model.open((0,))))
    return made


def test_there_is_an_example_of_each_symbol() -> None:
    assert {kind for kind, *_ in ROWS} == {"Bit", "Choice", "Count", "Signed", "Raw", "Token"}


@pytest.mark.parametrize(("kind", "arguments", "values", "shares", "sent"), ROWS)
def test_symbols(kind: str, arguments: str, values: str, shares: str, sent: str) -> None:
    port = RecordingPort()
    code(port, kind, numbers(arguments), numbers(values))
    assert [f"{cum:08x} + {freq:08x}" for cum, freq in port.shares] == [
        f"{cum} + {freq}" for cum, freq in SHARE.findall(shares)
    ]
    run(port.push())
    assert port.coder.take() == bytes.fromhex(sent)


def power(text: str) -> int:
    base, _, exponent = text.replace(",", "").partition("^")
    return int(base) ** int(exponent or 1)


def test_the_options_of_the_page() -> None:
    """Each name with its default and its range; no option is left out."""
    limits = re.findall(r"^\| `(\w+)` \| ([\d,]+) \| ([\d^,]+) … ([\d^,]+) \|", PAGE, re.MULTILINE)
    timing = re.findall(r"^\| `(\w+_ms)` \| (\d+) \|", PAGE, re.MULTILINE)
    rows = [*limits, *((name, default, "0", "60,000") for name, default in timing)]
    known = LinkOptions(limits=LinkLimits(max_cache_bytes=1)).to_wire()
    assert {name for name, *_ in rows} == set(known)
    assert "Each option is 0 … 60,000." in PAGE
    for name, *numbers in rows:
        default, low, high = map(power, numbers)
        options = LinkOptions()
        owner = options if name.endswith("_ms") else options.limits
        assert getattr(owner, name) == default
        for value in (low, high):
            LinkOptions.from_wire({name: value})
        for value in (low - 1, high + 1):
            with pytest.raises(InputError):
                LinkOptions.from_wire({name: value})


def test_decided() -> None:
    """Each line: a Raw value of eight bits, the state behind it, whether the first is decided."""
    port, lines = EncoderPort(), []
    first = None
    for value in (int(line.split()[0], 16) for line in example("raw low range held known decided")):
        run(port.raw(8, value))
        state = port.coder.state
        low, size = int(state[LOW]), int(state[RANGE])
        first = first or mark(state)
        now = port.now()
        held = port.position - now.position
        known = now.position - first[0]
        decided = "yes" if now.decides(first) else "no"
        lines.append(f"{value:02x} {low:016x} {size:016x} {held} {known} {decided}")
    assert lines == example("raw low range held known decided")
    assert {line.split()[-1] for line in lines} == {"yes", "no"}


def test_a_link(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer of one token: every symbol that the encoder codes, then the bytes."""
    shares: list[str] = []
    encode, push = EncoderPort._encode, EncoderPort.push

    def seen_encode(self: EncoderPort, cum: int, freq: int, kind: str) -> None:
        shares.append(f"{cum:08x} + {freq:08x}")
        encode(self, cum, freq, kind)

    def seen_push(self: EncoderPort) -> Generator[None, None, None]:
        shares.append("push")
        yield from push(self)

    monkeypatch.setattr(EncoderPort, "_encode", seen_encode)
    monkeypatch.setattr(EncoderPort, "push", seen_push)
    encoder, decoder = LinkEncoder(TinyModel()), LinkDecoder(TinyModel())
    spec = AnswerSpec(prompt=tuple(b"hi"), max_tokens=8)
    assert encoder.request(spec) == decoder.request(spec) == 0
    encoder.open(0, Coding.PLAIN)
    events: list[Event] = [Tokens((104,)), Finished(Finish.STOP)]
    for event in events:
        encoder.put(0, event)
    sent, now_ms = b"", 0.0
    while True:
        sent += encoder.poll(now_ms)
        due = encoder.next_poll_ms(now_ms)
        if due is None:
            break
        now_ms = max(now_ms, due)
    *lines, last = example("an answer of one token")
    assert [line.split("  ")[0].strip() for line in lines] == shares
    assert bytes.fromhex(last.removeprefix("bytes ")) == sent
    assert [event for _, event in decoder.feed(sent) if event != Tokens(())][-2:] == events
