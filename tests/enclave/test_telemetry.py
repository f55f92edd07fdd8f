"""Telemetry: what the enclave logs comes out compressed, bounded, and harmless to a terminal."""

from __future__ import annotations

import asyncio
import logging
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from narrows.edge.config import EdgeConfig
from narrows.edge.pull.telemetry import LineReader, printable, read_lines
from narrows.enclave.telemetry import MAX_LINES, LineRing, TelemetryServer
from narrows.errors import LinkError


def test_lines_cross_and_stop_when_nothing_is_new() -> None:
    async def go() -> None:
        ring = LineRing()
        logger = logging.getLogger("narrows.test.telemetry")
        logger.addHandler(ring)
        logger.warning("first \x1b[31mred")
        server = TelemetryServer(ring, lambda: {"links": 1}, interval_s=0.01)
        port = await server.start("127.0.0.1", 0)
        lines = read_lines(EdgeConfig(), f"127.0.0.1:{port}")
        got = [await anext(lines), await anext(lines)]
        assert got[0].endswith("first \\u001b[31mred")
        assert got[1].endswith('figures {"links": 1}')
        logger.warning("second")
        assert (await anext(lines)).endswith("second")
        await lines.aclose()
        server.stop()

    asyncio.run(go())


def test_the_ring_forgets_what_is_old() -> None:
    ring = LineRing()
    for number in range(MAX_LINES + 5):
        ring.add(f"{number}")
    assert len(ring.since(0)) == MAX_LINES
    assert ring.since(ring.count - 2) == [str(MAX_LINES + 3), str(MAX_LINES + 4)]
    assert ring.since(ring.count) == []


@given(st.lists(st.binary(max_size=60), max_size=5))
def test_any_bytes_are_lines_or_an_error(chunks: list[bytes]) -> None:
    reader = LineReader()
    try:
        lines = [line for chunk in chunks for line in reader.feed(chunk)]
    except LinkError:
        return
    assert all(line.isprintable() for line in lines)


@given(st.text())
def test_nothing_printed_can_drive_a_terminal(text: str) -> None:
    assert printable(text).isprintable()


def _packed(text: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(text) + packer.flush(zlib.Z_SYNC_FLUSH)


@pytest.mark.parametrize("text", [b"x" * (1 << 20), b"x" * (1 << 20) + b"\n", b"\n" * 5000])
def test_long_lines_and_heaps_of_them_are_refused(text: bytes) -> None:
    with pytest.raises(LinkError):
        LineReader().feed(_packed(text))


def test_a_bomb_is_refused() -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = packer.compress(b"a" * (64 << 20)) + packer.flush(zlib.Z_SYNC_FLUSH)
    with pytest.raises(LinkError, match="too much"):
        LineReader().feed(bomb)
