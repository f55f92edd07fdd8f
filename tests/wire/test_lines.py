"""Lines out of pieces: the same however they are cut, bounded, and in linear time."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from narrows.errors import LinkError
from narrows.wire.lines import LineSplitter


@given(st.lists(st.text("ab\n", max_size=9).map(str.encode), max_size=9))
def test_cuts_change_nothing(pieces: list[bytes]) -> None:
    splitter = LineSplitter(1000)
    found = [line for piece in pieces for line in splitter.feed(piece)]
    assert found == b"".join(pieces).split(b"\n")[:-1]


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_a_long_line_is_refused_whole_or_not(end: bytes) -> None:
    LineSplitter(10).feed(b"x" * 10 + end)
    with pytest.raises(LinkError, match="more than 10 bytes"):
        LineSplitter(10).feed(b"x" * 11 + end)


def test_small_pieces_of_a_long_line_cost_no_more_than_large_ones() -> None:
    """8 MB in 80,000 pieces: a copy of the rest for each would be 320 GB."""
    splitter, start_s = LineSplitter(1 << 24), time.process_time()
    for _ in range(80_000):
        assert splitter.feed(b"x" * 100) == []
    assert time.process_time() - start_s < 20
    assert len(splitter.feed(b"\n")[0]) == 8_000_000
