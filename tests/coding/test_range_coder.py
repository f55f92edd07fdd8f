"""The coder alone: exact over small alphabets, as small as constriction, decided early."""

from __future__ import annotations

import bisect
import hashlib
import itertools
import random

import constriction
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from narrows.coding.range.coder import RangeDecoder, RangeEncoder
from narrows.coding.range.kernels import (
    LOW,
    PAST,
    POSITION,
    RANGE,
    TAIL,
    decode_symbols,
    encode_symbols,
    new_state,
    push,
)
from narrows.errors import LinkError

TOTAL = 1 << 32


def decode(data: bytes, steps: list[tuple[int, int] | None], coder: RangeDecoder, done: int) -> int:
    """Follow ``steps`` (None: a push) as far as the bytes decide; how many are done then."""
    coder.feed(data)
    while done < len(steps):
        step = steps[done]
        if step is None:
            if not coder.push():
                break
        else:
            cum, freq = step
            first, last = coder.targets()
            if not (cum <= first and last < cum + freq):
                assert last >= cum, "the decoder decided another symbol"
                assert first < cum + freq, "the decoder decided another symbol"
                break
            coder.consume(cum, freq)
        done += 1
    return done


TABLES = [
    [1 << 31, 1 << 31],
    [1, TOTAL - 1],
    [TOTAL - 1, 1],
    [1, TOTAL - 2, 1],
    [3, 5, TOTAL - 8],
    [1 << 30, 1 << 30, 1 << 31],
]


@pytest.mark.parametrize("freqs", TABLES)
def test_every_short_message_decodes_after_a_push(freqs: list[int]) -> None:
    cums = [sum(freqs[:index]) for index in range(len(freqs))]
    for length in range(7):
        for message in itertools.product(range(len(freqs)), repeat=length):
            encoder = RangeEncoder()
            steps: list[tuple[int, int] | None] = [(cums[s], freqs[s]) for s in message]
            for symbol in message:
                encoder.encode(cums[symbol], freqs[symbol])
            encoder.push()
            decoder = RangeDecoder()
            assert decode(encoder.take(), [*steps, None], decoder, 0) == length + 1
            assert decoder.digest == encoder.digest


INTERVALS = st.one_of(
    st.tuples(st.integers(0, TOTAL - 1), st.integers(1, TOTAL)).map(
        lambda pair: (pair[0], min(pair[1], TOTAL - pair[0]))
    ),
    st.sampled_from([(0, 1), (TOTAL - 1, 1), (0, TOTAL), (0, TOTAL - 1), (1, TOTAL - 1)]),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.none() | INTERVALS, max_size=80), st.lists(st.integers(1, 9), min_size=1))
def test_any_intervals_and_pushes_round_trip(
    steps: list[tuple[int, int] | None], sizes: list[int]
) -> None:
    """What is pushed is decided at once; ``Sent.decides`` says before what the decoder does."""
    encoder, decoder = RangeEncoder(), RangeDecoder()
    done = 0
    marks = []
    for number, step in enumerate(steps):
        if step is None:
            encoder.push()
        else:
            encoder.encode(*step)
        marks.append(encoder.mark())
        if number % sizes[number % len(sizes)] == 0:
            done = decode(encoder.take(), steps[: number + 1], decoder, done)
            sent = encoder.now()
            for index, mark in enumerate(marks):
                if sent.position - mark[0] <= 5 and sent.decides(mark):
                    assert done > index
            assert step is not None or done == number + 1
    encoder.push()
    assert decode(encoder.take(), [*steps, None], decoder, done) == len(steps) + 1
    assert (decoder.digest, decoder.position) == (encoder.digest, encoder.position)
    assert decoder.now().position == encoder.now().position


def test_carries_run_through_many_bytes() -> None:
    """Just below a boundary, then over it: every pending 255 turns to 0."""
    encoder = RangeEncoder()
    third = TOTAL // 3
    steps: list[tuple[int, int] | None] = []
    for _ in range(2000):  # 1/3 = 0.0101..., the top of it borders on a run of carries
        steps += [(third, third), (2 * third, TOTAL - 2 * third)]
    steps += [(0, 1), (TOTAL - 1, 1)] * 50
    for step in steps:
        assert step is not None
        encoder.encode(*step)
    encoder.push()
    assert decode(encoder.take(), [*steps, None], RangeDecoder(), 0) == len(steps) + 1


@pytest.mark.parametrize("bad", [(-1, 5), (0, 0), (0, TOTAL + 1), (TOTAL, 1)])
def test_intervals_outside_the_total_are_refused(bad: tuple[int, int]) -> None:
    with pytest.raises(ValueError):
        RangeEncoder().encode(*bad)


def test_size_is_constrictions_and_the_entropys() -> None:
    rng = np.random.default_rng(5)
    weights = rng.integers(1, 1 << 12, 200)
    probabilities = weights / weights.sum()
    bounds = np.floor(np.concatenate([[0], np.cumsum(probabilities)]) * TOTAL).astype(np.uint64)
    bounds[-1] = TOTAL
    symbols = rng.choice(200, 100_000, p=probabilities)
    freqs = np.diff(bounds)
    out = np.zeros(4 * len(symbols) + 8, np.uint8)
    state = new_state()
    encode_symbols(state, out, bounds[symbols], freqs[symbols])
    push(state, out)
    size = int(state[POSITION])
    ideal_bits = float(-np.log2(freqs[symbols] / TOTAL).sum())
    assert ideal_bits / 8 <= size <= ideal_bits / 8 + 3
    peer = constriction.stream.queue.RangeEncoder()
    model = constriction.stream.model.Categorical(probabilities, perfect=False)
    peer.encode(symbols.astype(np.int32), model)
    assert size <= 4 * len(peer.get_compressed()) + 4
    decoded = decode_symbols(new_state(), out, int(state[TAIL]), bounds, len(symbols))
    assert np.array_equal(decoded, symbols)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60), st.lists(INTERVALS, min_size=1, max_size=20))
def test_any_bytes_give_targets_in_range_or_a_link_error(
    data: bytes, intervals: list[tuple[int, int]]
) -> None:
    decoder = RangeDecoder()
    decoder.feed(data)
    try:
        for cum, freq in intervals:
            first, last = decoder.targets()
            assert 0 <= first <= last <= TOTAL
            if cum <= first and last < cum + freq:
                decoder.consume(cum, freq)
    except LinkError:
        return


def _reading(data: bytes, piece: int, freqs: list[int]) -> tuple[list[int], bool]:
    """Symbols of one table until the bytes decide no more, and whether they were refused."""
    cums = [sum(freqs[:index]) for index in range(len(freqs) + 1)]
    decoder, symbols = RangeDecoder(), []
    for start in range(0, len(data), piece):
        decoder.feed(data[start : start + piece])
        while True:
            try:
                first, last = decoder.targets()
            except LinkError:
                return symbols, True
            symbol = bisect.bisect_right(cums, first) - 1
            if last >= cums[symbol + 1]:
                break
            decoder.consume(cums[symbol], freqs[symbol])
            symbols.append(symbol)
    return symbols, False


def test_what_is_refused_does_not_depend_on_how_bytes_are_cut() -> None:
    """Values in the part of the interval that no symbol has, behind random symbols: read at
    once they are refused there, so read byte by byte no symbol may come of them."""
    rnd = random.Random(4)
    refused = 0
    for _ in range(3000):
        freqs = rnd.choice([[TOTAL - 1, 1], [TOTAL - 200, 199, 1], [TOTAL - 70_000, 70_000]])
        encoder = RangeEncoder()
        before = [rnd.randrange(len(freqs)) for _ in range(rnd.randrange(1, 6))]
        for symbol in before:
            encoder.encode(sum(freqs[:symbol]), freqs[symbol])
        low, size = int(encoder.state[LOW]), int(encoder.state[RANGE])
        value = low + (size >> 32 << 32) + rnd.randrange(max(size % TOTAL, 1))
        past = int(encoder.state[PAST]) << 64  # fewer than eight bytes are shifted out here
        width = encoder.position + 8
        if width > 16:
            continue
        data = (past + value).to_bytes(width, "big") + rnd.randbytes(12)
        whole = _reading(data, len(data), freqs)
        assert _reading(data, 1, freqs) == whole
        refused += whole[1]
    assert refused > 1000


def test_pinned_bytes() -> None:
    """The format itself: 2,000 symbols of growing and shrinking shares, a push in between."""
    encoder = RangeEncoder()
    for index in range(2000):
        freq = 1 + (index * 2654435761) % (TOTAL - 1) // (1 + index % 97)
        encoder.encode((index * 40503) % (TOTAL - freq + 1), freq)
        if index == 1000:
            encoder.push()
    encoder.push()
    data = encoder.take()
    assert (len(data), hashlib.sha256(data).hexdigest()[:32]) == (
        1662,
        "7ce162198ea241f3469922ebb72c4a25",
    )
    assert encoder.digest == 0xD84CCF5C3A3A75BE
