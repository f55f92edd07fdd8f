"""What a host without a key does to a gate behind its backstop: nothing that lasts.

Each attack comes from the edge's own address, while an honest link lives. Afterwards there is
no alarm, the link has its bytes, and a new link can be opened.
"""

from __future__ import annotations

import ssl
import struct
import time
from collections.abc import Callable

import pytest

from kernel.netns import DEVICE, GATE, needs_kernel, wait_until
from kernel.site import LINK_PORT, STATE_PORT, Edge, site
from kernel.stranger import ACK, FIN, PSH, RST, Half, Stranger

pytestmark = needs_kernel

RECORD_ROUTE = bytes([7, 39, 4]) + bytes(36) + b"\0"


def hello() -> bytes:
    """An honest first flight of TLS, by someone who cannot go on."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    tls = context.wrap_bio(incoming, outgoing, server_hostname="gate")
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


def old_segments(stranger: Stranger, half: Half, count: int) -> None:
    """One byte from before the window: each is acknowledged, at no rate."""
    for _ in range(count):
        stranger.tcp(half, ACK | PSH, b"x", seq=half.seq - 1000)


def half_open(stranger: Stranger) -> None:
    for half in [stranger.open(finish=False) for _ in range(8)]:
        old_segments(stranger, half, 60)


def established(stranger: Stranger) -> None:
    for half in [stranger.open() for _ in range(8)]:
        old_segments(stranger, half, 60)


def closed_by_the_gate(stranger: Stranger) -> None:
    """TIME_WAIT is the gate's: it ended the connection, over bytes that are no TLS."""
    for half in [stranger.open() for _ in range(8)]:
        stranger.tcp(half, ACK | PSH, b"\x16\x03\x01\xff\xff" + b"x" * 40)
        half.seq += 45
        found = stranger.hear(half, FIN)
        if found is not None:
            half.ack = found[0] + len(found[1]) + 1
            stranger.tcp(half, ACK | FIN)
            half.seq += 1
        old_segments(stranger, half, 60)


def ip_options(stranger: Stranger) -> None:
    """Options of a SYN come back in every segment: 40 bytes that TCP_INFO knows nothing of."""
    for half in [stranger.open(ip_options=RECORD_ROUTE) for _ in range(4)]:
        old_segments(stranger, half, 200)


def syn_flood(stranger: Stranger) -> None:
    for sport in range(55_000, 58_000):
        stranger.tcp(Half(sport, 1), 2)


def reset_storm(stranger: Stranger) -> None:
    for _ in range(100):
        half = stranger.open()
        stranger.tcp(half, RST | ACK)
        stranger.tcp(half, ACK)  # answered by a RST of the gate
    for sport in range(58_000, 59_000):
        stranger.tcp(Half(sport, 1, 1), ACK)


def icmp(stranger: Stranger) -> None:
    """Echo requests, and "fragmentation needed" for a link that is not the stranger's."""
    half = stranger.open()
    inner = struct.pack("!BBHHHBBH", 0x45, 0, 1500, 1, 0x4000, 64, 6, 0)
    inner += bytes([10, 77, 0, 1, 10, 77, 0, 2])
    inner += struct.pack("!HHI", LINK_PORT, half.sport, half.ack)
    for mtu in (68, 552, 0):
        body = struct.pack("!BBHHH", 3, 4, 0, 0, mtu) + inner
        total = sum(struct.unpack(f"!{len(body) // 2}H", body))
        total = (total & 0xFFFF) + (total >> 16)
        check = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
        stranger.ip(1, body[:2] + struct.pack("!H", check) + body[4:])
    stranger.tcp(half, ACK | PSH, hello())
    for _ in range(500):
        stranger.ip(1, b"\x08\x00\xf7\xff" + bytes(4))


def fragments(stranger: Stranger) -> None:
    for _ in range(8):
        half = stranger.open()
        body = stranger.segment(half, ACK | PSH, b"x" * 20, seq=half.seq - 1000)
        for _ in range(40):
            stranger.ip(6, body[:24], fragment=0x2000)
            stranger.ip(6, body[24:], fragment=3)


def no_window(stranger: Stranger) -> None:
    """The gate's half of a handshake waits for a window, and is probed and asked for again."""
    halves = [stranger.open(window=0) for _ in range(8)]
    for half in halves:
        stranger.tcp(half, ACK | PSH, hello(), window=0)
    for _ in range(60):
        for half in halves:
            stranger.tcp(half, ACK, seq=half.seq, window=0)
    time.sleep(2)


def holes(stranger: Stranger) -> None:
    """Acknowledgements that claim losses, and segments beyond a hole that make it claim some."""
    for half in [stranger.open() for _ in range(8)]:
        data = hello()
        stranger.tcp(half, ACK | PSH, data)
        stranger.hear(half, ACK)
        half.seq += len(data)
        sack = b"\x01\x01\x05\x0a" + struct.pack("!II", half.ack + 500, half.ack + 600)
        for number in range(60):
            stranger.tcp(half, ACK, options=sack)
            stranger.tcp(half, ACK | PSH, b"x", seq=half.seq + 2 * number + 2)


ATTACKS = [
    half_open,
    established,
    closed_by_the_gate,
    ip_options,
    syn_flood,
    reset_storm,
    icmp,
    fragments,
    no_window,
    holes,
]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_a_host_without_a_key_stops_nothing(attack: Callable[[Stranger], None]) -> None:
    with site() as made:
        made.enclave(200, 0.05)
        gate = made.start_gate()
        edge = Edge(made)
        wait_until(lambda: edge.arrived_bytes > 1000)
        for port in (LINK_PORT, STATE_PORT):
            stranger = Stranger(made.gate, made.outside, port)
            attack(stranger)
            stranger.close()
        time.sleep(3)  # three comparisons
        assert made.kernel()["alarm"] == ""
        before = edge.arrived_bytes
        wait_until(lambda: edge.arrived_bytes > before + 1000)
        edge.say(100_000)
        wait_until(lambda: opens(made))
        assert made.kernel()["state"] == "on", made.log()
        assert made.gate.counter("links_dropped") == (0, 0)
        made.stop_gate(gate)
        assert made.sent_bytes() <= made.committed_bytes()


@pytest.mark.torture
def test_all_of_them_again_and_again_stop_nothing() -> None:
    with site() as made:
        made.enclave(200, 0.05)
        gate = made.start_gate()
        edge = Edge(made)
        for _ in range(20):
            for attack in ATTACKS:
                before = edge.arrived_bytes
                stranger = Stranger(made.gate, made.outside, LINK_PORT)
                attack(stranger)
                stranger.close()
                wait_until(lambda before=before: edge.arrived_bytes > before + 1000)  # type: ignore[misc]
                assert made.kernel()["alarm"] == "", attack.__name__
        made.stop_gate(gate)
        assert made.sent_bytes() <= made.committed_bytes()


def opens(made: object) -> bool:
    """Whether a new link comes to life; a stranger's waiting handshakes may be before it."""
    try:
        edge = Edge(made, GATE, patience_s=5.0)  # type: ignore[arg-type]
    except OSError:
        return False
    try:
        wait_until(lambda: edge.arrived_bytes > 0 or edge.ended.is_set(), 20)
        return edge.arrived_bytes > 0
    finally:
        edge.close()


def test_a_busy_inbound_transfer_is_not_slowed_by_the_acknowledgements_quota() -> None:
    with site() as made:
        made.outside.run("ip", "link", "set", DEVICE, "gso_max_segs", "1")  # as on a wire
        made.enclave(200, 0.05)
        gate = made.start_gate()
        edge = Edge(made)
        wait_until(lambda: edge.arrived_bytes > 1000)
        start_s = time.monotonic()
        for _ in range(50):
            edge.say(1_000_000)
        took_s = time.monotonic() - start_s
        passed = made.gate.counter("acks_passed")
        print(f"50 MB in {took_s:.2f} s; {passed[0]} acknowledgements, {passed[1]} bytes")
        assert made.gate.counter("acks_dropped") == (0, 0)
        assert passed[0] > 100
        edge.close()
        made.stop_gate(gate)
        kernel = made.kernel()
        assert kernel["alarm"] == ""
