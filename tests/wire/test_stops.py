"""Stop strings: the cut must not depend on how the text was split into pieces."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from narrows.wire.stops import StopFinder


def run(pieces: list[str], stops: list[str]) -> tuple[str, bool]:
    finder = StopFinder(stops)
    out = "".join(finder.feed(piece) for piece in pieces)
    return out + finder.finish(), finder.stopped


@given(
    st.text("abc", max_size=40),
    st.lists(st.text("abc", min_size=1, max_size=4), max_size=3),
    st.lists(st.integers(0, 40), max_size=6),
)
def test_result_is_independent_of_pieces(text: str, stops: list[str], cuts: list[int]) -> None:
    edges = [0, *sorted(cut for cut in cuts if cut < len(text)), len(text)]
    pieces = [text[a:b] for a, b in itertools.pairwise(edges)]
    whole = run([text], stops)
    assert run(pieces, stops) == whole == run(list(text), stops)
    shown, stopped = whole
    assert text.startswith(shown)
    assert not any(stop in shown for stop in stops)
    assert stopped == any(stop in text for stop in stops)


def test_text_is_held_only_while_a_stop_may_begin() -> None:
    finder = StopFinder(["END"])
    assert finder.feed("say E") == "say "
    assert finder.feed("N") == ""
    assert finder.feed("X") == "ENX"
    assert finder.feed("END more") == ""
    assert finder.stopped
    assert finder.finish() == ""
