"""Tokens released while text streams are the text, byte for byte, whatever its chunks."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from coding.link_fakes import TinyModel, TinyTokenizer
from narrows.coding.events import AnswerSpec, Coding, Text
from narrows.coding.link.answer import Answer
from narrows.coding.link.options import LinkLimits, LinkOptions
from narrows.coding.link.source import Source
from narrows.coding.link.text import MAX_BUFFER_BYTES, TextTokens
from narrows.coding.tokens.calibrate import Calibration
from narrows.coding.tokens.code import TokenCode

NASTY = [
    b"\0",
    "\ud800".encode("utf-8", "surrogatepass"),
    b"\xff\xfe",
    b"\xe2\x82",
    "😀é".encode(),
    b"<|im_end|><end>",
    b"\x07",
    b"  \n\n the of",
]


def stream(chunks: list[bytes], steps_ms: list[float], hold_ms: float) -> tuple[bytes, list[int]]:
    text = TextTokens(TinyTokenizer(), hold_ms)
    out = bytearray()
    held: list[int] = []
    now_ms = 0.0
    total = 0
    for index, chunk in enumerate(chunks):
        now_ms += steps_ms[index % len(steps_ms)]
        text.put(chunk, now_ms)
        total += len(chunk)
        out += b"".join(piece[1] for piece, _ in text.take(now_ms))
        held.append(total - len(out))
    out += b"".join(piece[1] for piece, _ in text.finish())
    return bytes(out), held


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.binary(max_size=12) | st.text(max_size=8).map(str.encode) | st.sampled_from(NASTY)),
    st.lists(st.sampled_from([0.0, 5.0, 20.0, 100.0]), min_size=1, max_size=4),
    st.sampled_from([0.0, 25.0, 1e9]),
)
def test_streaming_never_changes_the_text(
    chunks: list[bytes], steps_ms: list[float], hold_ms: float
) -> None:
    out, held = stream(chunks, steps_ms, hold_ms)
    assert out == b"".join(chunks)
    assert all(size <= 2 * MAX_BUFFER_BYTES for size in held)


def test_a_megabyte_in_one_piece_and_in_bytes() -> None:
    rnd = random.Random(2)
    data = rnd.randbytes(1 << 20)
    assert stream([data], [1.0], 25.0)[0] == data
    small = data[:20_000]
    assert stream([small[i : i + 1] for i in range(len(small))], [1.0], 25.0)[0] == small


def test_a_word_cut_by_chunks_is_one_token_when_the_rest_comes_in_time() -> None:
    text = TextTokens(TinyTokenizer(), 25.0)
    text.put(b"go t", 0.0)
    assert b"".join(piece[1] for piece, _ in text.take(0.0)) == b"go"  # settled by the space
    text.put(b"he x", 10.0)
    assert [piece for piece, _ in text.take(10.0)] == [(256, b" the")]


def test_held_text_is_free_when_due() -> None:
    text = TextTokens(TinyTokenizer(), 25.0)
    text.put(b"abc", 5.0)
    assert text.take(29.0) == []
    assert text.due_ms() == 30.0
    assert b"".join(piece[1] for piece, _ in text.take(30.0)) == b"abc"
    assert text.due_ms() is None
    assert not text.held


def test_half_a_character_waits_for_its_other_half() -> None:
    text = TextTokens(TinyTokenizer(), 0.0)
    text.put("ü".encode()[:1], 0.0)
    assert text.take(50.0) == []
    text.put("ü".encode()[1:], 60.0)
    assert [piece for piece, _ in text.take(60.0)] == [(261, "ü".encode())]


def test_white_space_waits_for_what_decides_its_tokens() -> None:
    """Released piece by piece, "\\n" and "  " would cost more than the token of both."""
    text = TextTokens(TinyTokenizer(), 25.0)
    text.put(b"a", 0.0)
    text.put(b" ", 20.0)
    assert [piece for piece, _ in text.take(20.0)] == [(97, b"a")]
    text.put(b" ", 40.0)
    assert text.take(40.0) == []
    assert text.due_ms() == 65.0
    text.put(b"b", 60.0)
    assert [piece for piece, _ in text.take(60.0)] == [(260, b"  ")]


def test_nothing_is_due_once_all_is_released() -> None:
    """A time in the past would have the encoder poll without end."""
    text = TextTokens(TinyTokenizer(), 25.0)
    text.put(b"a", 0.0)
    text.put(b" ", 10.0)
    text.put(b" ", 20.0)
    assert [piece for piece, _ in text.take(20.0)] == [(97, b"a")]
    assert text.due_ms() == 45.0
    assert [piece for piece, _ in text.finish()] == [(260, b"  ")]
    assert text.due_ms() is None


def test_nothing_is_due_of_an_answer_that_was_cut_at_its_limit() -> None:
    source = Source(0, Coding.TEXT, TinyModel(), LinkOptions(text_hold_ms=25))
    limits, model = LinkLimits(text_base_bytes=4, text_bytes_per_token=0), TinyModel()
    spec = AnswerSpec((1,), 1)
    code = TokenCode(spec, Coding.TEXT, model.vocab_size, Calibration())
    source.opened(Answer(0, spec, Coding.TEXT, model, code, limits))
    source.put(Text(b"too long for four bytes"))
    source.absorb(0.0)
    assert source.complete
    assert source.text_due_ms is None


def test_a_word_before_half_a_character_waits_for_it() -> None:
    text = TextTokens(TinyTokenizer(), 25.0)
    text.put(b" of th", 0.0)
    text.put(b"\xc3", 20.0)
    assert [piece for piece, _ in text.take(20.0)] == [(257, b" of")]
    assert text.due_ms() == 45.0
    text.put(b"\xbc", 30.0)
    text.put(b"x", 40.0)
    pieces = [piece for piece, _ in text.take(40.0)]
    assert pieces == [(32, b" "), (116, b"t"), (104, b"h"), (261, "ü".encode())]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([b" ", b"\n", b"  ", b"a", b"\xc3", b"\xbc\xc3", b"b c"]),
            st.integers(0, 30),
        ),
        min_size=1,
        max_size=40,
    )
)
def test_nothing_but_half_a_character_is_held_longer_than_twice_the_hold(
    chunks: list[tuple[bytes, int]],
) -> None:
    """A stream of nothing but open ends is not held for ever, and ``due_ms`` says until when."""
    text, now_ms, came, out = TextTokens(TinyTokenizer(), 25.0), 0.0, [], 0
    for chunk, gap_ms in chunks:
        until_ms = now_ms + gap_ms
        while (due_ms := text.due_ms()) is not None and due_ms <= until_ms:
            before = text.due_ms()
            out += sum(len(piece[1]) for piece, _ in text.take(due_ms))
            assert text.due_ms() != before
        now_ms = until_ms
        came += [now_ms] * len(chunk)
        text.put(chunk, now_ms)
        out += sum(len(piece[1]) for piece, _ in text.take(now_ms))
        late = [at_ms for at_ms in came[out:] if now_ms - at_ms >= 50.0]
        assert len(late) <= 1  # of the half character at most its first byte


def test_work_is_linear_in_the_text() -> None:
    """No quadratic retokenising: the tokeniser sees each byte a bounded number of times."""

    class Counting(TinyTokenizer):
        seen = 0

        def encode(self, data: bytes) -> list[int]:
            Counting.seen += len(data)
            return super().encode(data)

    text = TextTokens(Counting(), 1e9)
    for index in range(5000):
        text.put(b"x" * 4, float(index))
        text.take(float(index))
    assert Counting.seen < 20_000 * 200
