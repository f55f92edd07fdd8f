"""One spelling for a document, whatever is thrown at the parser."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from narrows.ledger.log.canonical import Fields, MalformedError, decode, encode, is_name, unhex

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4)
    ),
    max_leaves=10,
)


@given(st.dictionaries(st.text(max_size=6), json_values, max_size=5))
def test_round_trip(document: dict) -> None:  # type: ignore[type-arg]
    assert decode(encode(document)) == document


@given(st.binary(max_size=100) | st.text(max_size=60).map(str.encode))
def test_what_parses_is_its_own_spelling(data: bytes) -> None:
    try:
        document = decode(data)
    except MalformedError:
        return
    assert encode(document) == data


@pytest.mark.parametrize(
    "data",
    [
        b'{"a":1,"a":1}',
        b'{"b":1,"a":1}',
        b'{"a": 1}',
        b'{"a":1}\n',
        b'{"a":01}',
        b'{"a":-0}',
        b'{"a":1.0}',
        b'{"a":1e3}',
        b'{"a":NaN}',
        b'{"a":"\\u0061"}',
        b'{"a":"\xc3\xa9"}',
        b"[1]",
        b"1",
        b"",
        b"[" * 60_000,
        b'{"a":' + b"1" * 5000 + b"}",
    ],
)
def test_other_spellings_are_refused(data: bytes) -> None:
    with pytest.raises(MalformedError):
        decode(data)


def test_length_is_bounded_before_parsing() -> None:
    with pytest.raises(MalformedError, match="at most 10"):
        decode(b"{" * 11, 10)


@given(json_values)
def test_fields_take_only_what_fits(value: object) -> None:
    for method, arguments, kind in (
        ("integer", (0, 5), int),
        ("name", (), str),
        ("text", (4,), str),
        ("hex", (2,), bytes),
        ("items", (2,), list),
        ("table", (2,), dict),
    ):
        fields = Fields({"x": value}, "test")
        try:
            got = getattr(fields, method)("x", *arguments)
        except MalformedError:
            continue
        assert type(got) is kind
        fields.done()


def test_unknown_and_missing_fields() -> None:
    with pytest.raises(MalformedError):
        Fields({"x": 1}, "test").done()
    with pytest.raises(MalformedError):
        Fields({}, "test").integer("x")
    with pytest.raises(MalformedError):
        Fields([], "test")


@given(st.text(max_size=8))
def test_names_and_hex(text: str) -> None:
    assert is_name(text) == (
        0 < len(text) < 64
        and text[0] in "abcdefghijklmnopqrstuvwxyz0123456789"
        and set(text) <= set("abcdefghijklmnopqrstuvwxyz0123456789._-")
    )
    raw = unhex(text, 4)
    assert raw is None or raw.hex() == text
