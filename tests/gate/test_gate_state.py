"""The state line: what the gate says of itself, read by the edge."""

from __future__ import annotations

import asyncio
import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from narrows.errors import PeerError
from narrows.wire.gatestate import (
    STATES,
    GateState,
    PortState,
    decode_state,
    encode_state,
    fetch_state,
)

ports = st.dictionaries(
    st.text("abc-019", min_size=1, max_size=32),
    st.builds(PortState, st.sampled_from(STATES), st.integers(0, 10**7)),
    max_size=16,
)


@given(ports)
def test_round_trip(given_ports: dict[str, PortState]) -> None:
    state = GateState(given_ports)
    assert decode_state(encode_state(state)) == state


@given(st.binary(max_size=300))
@example(b"[" * 5000)
@example(b"[" * 4000)
@example(b'{"v":1,"ports":{"a":{"state":"ok","retry_after_s":1e400}}}\n')
@example(b'{"v":1,"ports":{"a":{"state":"ok","retry_after_s":true}}}\n')
@example(b'{"v":1,"ports":{"a":{"state":["ok"],"retry_after_s":0}}}\n')
@example(b'{"v":1,"ports":{"a":{"state":"?","retry_after_s":0}}}\n')
@example(b'{"v":1,"ports":{"a":{"state":"ok","retry_after_s":-1}}}\n')
@example(b'{"v":1,"ports":[]}\n')
@example(b'{"v":1, "ports":{}}\n')
def test_any_bytes_are_refused_cleanly(line: bytes) -> None:
    with pytest.raises(PeerError):
        decode_state(line)


@given(ports, st.integers(0, 10_000), st.integers(0, 255))
def test_a_changed_byte_is_refused_or_means_what_it_says(
    given_ports: dict[str, PortState], place: int, byte: int
) -> None:
    line = bytearray(encode_state(GateState(given_ports)))
    line[place % len(line)] = byte
    try:
        state = decode_state(bytes(line))
    except PeerError:
        return
    assert encode_state(state) == bytes(line)
    assert json.loads(line)["v"] == 1


@pytest.mark.parametrize("sent", [b"", b"x" * 10_000, b'{"v":1'])
def test_a_gate_that_says_nonsense(sent: bytes) -> None:
    async def scenario() -> None:
        async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(sent)
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        with pytest.raises(PeerError):
            await fetch_state("127.0.0.1", server.sockets[0].getsockname()[1])
        server.close()

    asyncio.run(scenario())


def test_a_silent_gate_is_given_up() -> None:
    async def scenario() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(PeerError):
            await fetch_state("127.0.0.1", port, timeout_s=0.2)
        server.close()
        with pytest.raises(PeerError):
            await fetch_state("127.0.0.1", port)

    asyncio.run(scenario())
