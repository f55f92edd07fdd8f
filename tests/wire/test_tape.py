"""The tape: one encoding, bounded, and nothing of it is believed."""

from __future__ import annotations

import random

import pytest

from narrows.errors import InputError
from narrows.wire.tape import (
    HEADER_BYTES,
    MAX_DATA_BYTES,
    MAX_OPEN_LINKS,
    MAX_RECORD_BYTES,
    Begin,
    Inward,
    LinkEnd,
    Outward,
    Record,
    TapeReader,
    TapeWriter,
    encode,
)

NONCE = bytes(range(32))
LEASE = b"l" * 16


def story() -> list[Record]:
    return [
        Begin(0, 5, "answers"),
        Inward(0, 6, b"hello"),
        Outward(0, 6, LEASE, 0, 24, b"N\0"),
        Begin(7, 8, "t-1_x"),
        Outward(7, 8, LEASE, 0, 3, b""),
        Outward(0, 9, LEASE, 2, MAX_DATA_BYTES, b"x" * MAX_DATA_BYTES),
        LinkEnd(0, 9),
        Inward(7, 10, b"y" * MAX_DATA_BYTES),
        LinkEnd(7, 2**64 - 1),
    ]


def tape(records: list[Record]) -> bytes:
    writer = TapeWriter(NONCE)
    return writer.header + b"".join(writer.put(record) for record in records)


def read(data: bytes, piece: int) -> tuple[TapeReader, list[Record]]:
    reader, records = TapeReader(), []
    for start in range(0, len(data), piece):
        records += reader.feed(data[start : start + piece])
    return reader, records


@pytest.mark.parametrize("piece", [1009, 1 << 20])
def test_what_was_written_is_read(piece: int) -> None:
    data = tape(story())
    reader, records = read(data, piece)
    assert records == story()
    assert reader.boot_nonce == NONCE
    assert reader.position == len(data)
    assert reader.pending_bytes == 0


def test_byte_by_byte_and_the_end_in_the_middle_shows() -> None:
    short = [record for record in story() if not getattr(record, "data", b"")[3000:]]
    short = [r for r in short if r != LinkEnd(0, 9)] + [LinkEnd(0, 2**64 - 1)]
    data = tape(short)
    for cut in range(len(data)):
        reader, records = read(data[:cut], 1)
        whole = HEADER_BYTES if reader.boot_nonce else 0
        whole += sum(len(encode(record)) for record in records)
        assert (reader.position, reader.pending_bytes) == (whole, cut - whole)


@pytest.mark.parametrize(
    ("records", "reason"),
    [
        ([Inward(0, 0, b"x")], "not open"),
        ([Begin(0, 0, "a"), LinkEnd(0, 0), Inward(0, 0, b"x")], "not open"),
        ([Begin(1, 0, "a"), Begin(0, 0, "a")], "out of order"),
        ([Begin(1, 0, "a"), LinkEnd(1, 0), Begin(1, 0, "a")], "out of order"),
        ([Begin(0, 5, "a"), Inward(0, 4, b"x")], "time goes back"),
        ([Begin(0, 0, "a"), Outward(0, 0, LEASE, 1, 1, b"x")], "another position"),
        ([Begin(n, 0, "a") for n in range(MAX_OPEN_LINKS + 1)], "links are open"),
    ],
)
def test_records_out_of_order_are_refused_by_both(records: list[Record], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        tape(records)
    data = TapeWriter(NONCE).header + b"".join(encode(record) for record in records)
    reader = TapeReader()
    if len(records) > 1:
        assert reader.feed(data) == records[:-1]
        data = b""
    for _ in range(2):
        with pytest.raises(InputError, match=reason):
            reader.feed(data)


@pytest.mark.parametrize(
    "record",
    [
        Begin(0, 0, ""),
        Begin(0, 0, "A"),
        Begin(0, 0, "a" * 65),
        Begin(2**64, 0, "a"),
        Begin(0, -1, "a"),
        Inward(0, 0, b""),
        Inward(0, 0, bytes(MAX_DATA_BYTES + 1)),
        Outward(0, 0, LEASE, 0, 0, b""),
        Outward(0, 0, LEASE, 0, 1, b"xy"),
        Outward(0, 0, b"short", 0, 1, b"x"),
        Outward(0, 0, LEASE, 0, 2**32, b"x"),
    ],
)
def test_values_outside_the_format_are_not_written(record: Record) -> None:
    with pytest.raises(ValueError):
        encode(record)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"narrows tape 2\n", "version"),
        (b"x", "version"),
        (TapeWriter(NONCE).header + b"\0", "kind 0"),
        (TapeWriter(NONCE).header + b"\5", "kind 5"),
        (tape([Begin(0, 0, "a")]) + b"\2" + bytes(16) + bytes(4), "0 bytes"),
        (tape([Begin(0, 0, "a")]) + b"\2" + bytes(16) + b"\0\1\0\1", "65537 bytes"),
        (tape([Begin(0, 0, "a")]) + b"\3" + bytes(16) + bytes(32), "0 were paid"),
        (TapeWriter(NONCE).header + b"\1" + bytes(16) + b"\x00", "0 bytes"),
        (TapeWriter(NONCE).header + b"\1" + bytes(16) + b"\x01A", "other letters"),
    ],
)
def test_hostile_bytes_are_refused_before_they_are_held(data: bytes, reason: str) -> None:
    def feed_all() -> None:
        reader = TapeReader()
        for byte in data:
            reader.feed(bytes([byte]))
        reader.feed(b"")

    with pytest.raises(InputError, match=reason):
        feed_all()


def test_any_bytes_are_an_encoding_or_are_refused() -> None:
    """Changed, cut and spliced tapes: what is read encodes to the very bytes that were read,
    and no more than one record is ever held."""
    rng = random.Random(24)
    small = [
        Begin(0, 1, "answers"), Inward(0, 2, b"abc"), Outward(0, 3, LEASE, 0, 9, b"defg"),
        Begin(1, 3, "b"), Outward(1, 4, LEASE, 0, 2, b""), LinkEnd(0, 5), Inward(1, 6, b"q"),
        LinkEnd(1, 7),
    ]  # fmt: skip
    good = tape(small)
    refused = 0
    for _ in range(4000):
        data = bytearray(good)
        for _ in range(rng.choice((1, 1, 2, 5))):
            at = rng.randrange(len(data))
            act = rng.randrange(4)
            if act == 0:
                data[at] ^= 1 << rng.randrange(8)
            elif act == 1:
                del data[at : at + rng.randrange(1, 40)]
            elif act == 2:
                data[at:at] = rng.randbytes(rng.randrange(1, 40))
            else:
                data[at:at] = data[rng.randrange(len(data)) :]
            data = data or bytearray(b"x")
        reader = TapeReader()
        records: list[Record] = []
        try:
            for start in range(0, len(data), 50):
                records += reader.feed(bytes(data[start : start + 50]))
                assert reader.pending_bytes <= MAX_RECORD_BYTES
        except InputError:
            refused += 1
        again = (reader.boot_nonce and TapeWriter(reader.boot_nonce).header) or b""
        again += b"".join(encode(record) for record in records)
        assert bytes(data[: reader.position]) == again
    assert refused > 1000
