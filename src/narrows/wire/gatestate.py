"""Why a gate stopped, told to the edge by the gate alone.

One connection to the gate's state port, one line back, no request:

    {"v":1,"ports":{"answers":{"state":"depleted","retry_after_s":0}}}\\n

Every field is one of a closed set or an integer that follows from the ledger: nothing in it
is chosen by the enclave beyond what it was charged for. Reader: bounded, canonical.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from dataclasses import dataclass

from narrows.errors import PeerError
from narrows.wire.pins import check_peer

REASONS = (
    "depleted",  # a lifetime cap: only people help
    "window",  # a rolling window is full: time helps
    "witness",  # no cosignature
    "behind",  # the ledger is older than its witness
    "store",  # disk or database failed
    "clock",  # time cannot be trusted, or is ahead of the witness's
    "unknown_account",  # no budget names it
    "kernel",  # the backstop stopped the gate
    "machine",  # the gate's machine is not as it must be
)
STATES = ("ok", *REASONS)
MAX_STATE_BYTES = 4096
MAX_RETRY_AFTER_S = 10**7
_MAX_PORTS = 16


@dataclass(frozen=True, slots=True)
class PortState:
    """``state``: one of ``STATES``. ``retry_after_s``: 0 where time alone does not help."""

    state: str
    retry_after_s: int = 0


@dataclass(frozen=True, slots=True)
class GateState:
    ports: dict[str, PortState]


def told(reason: str) -> str:
    """What others hear of ``reason``: one of ``REASONS``, ``store`` for anything else."""
    return reason if reason in REASONS else "store"


def encode_state(state: GateState) -> bytes:
    """The line, with its newline: the only bytes that ``decode_state`` accepts for it."""
    ports = {
        name: {"state": port.state, "retry_after_s": port.retry_after_s}
        for name, port in state.ports.items()
    }
    return json.dumps({"v": 1, "ports": ports}, separators=(",", ":")).encode() + b"\n"


def decode_state(line: bytes) -> GateState:
    """Raises ``PeerError`` on anything that ``encode_state`` would not have written."""
    if len(line) > MAX_STATE_BYTES:
        raise PeerError("the gate's state line is too long")
    try:
        data = json.loads(line)
        entries = dict(data["ports"])
        ports = {name: PortState(**fields) for name, fields in entries.items()}
        state = GateState(ports)
        canonical = encode_state(state) == line
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise PeerError("the gate's state line cannot be read") from error
    if not canonical or len(ports) > _MAX_PORTS or not all(map(_is_sane, ports.values())):
        raise PeerError("the gate's state line breaks its format")
    return state


def _is_sane(port: PortState) -> bool:
    retry = port.retry_after_s
    return port.state in STATES and type(retry) is int and 0 <= retry <= MAX_RETRY_AFTER_S


async def fetch_state(
    host: str,
    port: int,
    tls: ssl.SSLContext | None = None,
    pins: frozenset[bytes] = frozenset(),
    timeout_s: float = 2.0,
) -> GateState:
    """Ask a gate. ``tls`` and ``pins`` come from ``narrows.wire.pins``; ``PeerError`` where
    the gate is away, silent, another one, or makes no sense."""
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_connection(
                host, port, ssl=tls, server_hostname="gate" if tls else None
            )
            try:
                if tls is not None:
                    check_peer(writer.get_extra_info("ssl_object"), pins)
                line = await reader.read(MAX_STATE_BYTES + 1)
                while line and not line.endswith(b"\n") and len(line) <= MAX_STATE_BYTES:
                    more = await reader.read(MAX_STATE_BYTES + 1)
                    if not more:
                        break
                    line += more
            finally:
                writer.transport.abort()
    except (OSError, TimeoutError) as error:
        raise PeerError(f"the gate's state port at {host}:{port} does not answer") from error
    return decode_state(line)
