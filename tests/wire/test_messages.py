"""Inward frames: any cut of the bytes gives the same messages, any garbage a LinkError."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from narrows.errors import LinkError
from narrows.wire.messages import (
    MAX_FRAME_BYTES,
    Cancel,
    FrameReader,
    Hello,
    Request,
    WeakOffer,
    encode_frame,
)

SENT = [
    Hello(1, [WeakOffer("ab" * 32, "cd" * 32)], {"max_hold_ms": 200}),
    Request("00" * 16, {"messages": [{"role": "user", "content": "żółć \ud83d lone"}]}, "11" * 32),
    Cancel(0),
]


@given(st.lists(st.integers(1, 500), max_size=8))
def test_any_cut_gives_the_same_messages(cuts: list[int]) -> None:
    data = b"".join(encode_frame(message) for message in SENT)
    edges = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    reader = FrameReader()
    got = [m for a, b in itertools.pairwise(edges) for m in reader.feed(data[a:b])]
    assert got == SENT


@given(st.binary(max_size=200))
def test_garbage_is_a_link_error_or_waits(data: bytes) -> None:
    reader = FrameReader()
    try:
        messages = reader.feed(data)
    except LinkError:
        return
    assert all(isinstance(message, Hello | Request | Cancel) for message in messages)


def test_a_frame_that_claims_too_much_is_refused_before_it_is_read() -> None:
    with pytest.raises(LinkError, match="exceeds"):
        FrameReader().feed((MAX_FRAME_BYTES + 1).to_bytes(4, "big"))
