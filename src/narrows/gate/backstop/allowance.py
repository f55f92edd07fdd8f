"""What the kernel may let out, and whether what it let out is explained. Arithmetic alone.

Five classes of frames may leave the gate's outbound devices, each with a quota of its own:

    links      payload of TCP from the gate's link ports to the edges: what the ledger pays
    control    the same of the state port, to the witness and to the store: the gate's own words
    acks       TCP of all of these without payload, from sockets that a program holds
    bare       the rest without payload: SYN-ACK, RST, what the kernel sends in TIME_WAIT
    neighbour  ARP and neighbour discovery

Units: bytes of frames at the device (Ethernet header included, segmentation off).

    limit(links)   = base + granted + overhead + headroom
    overhead       = sum over sockets (bytes_retrans + data_segs_out * headers) + 28 * long
    limit(control) = grows by ``control_bytes`` a call, never more than a burst ahead
    limit(acks)    = grows by what the sockets sent without payload: sum over sockets
                     ((segs_out - data_segs_out) * headers) + 28 * long; never more than the
                     headroom ahead
    limit(bare)    = grows by 32 B/s and 564 B a connection, never more than a burst ahead
    limit(neighbour) = grows by 32 B/s, never more than a burst ahead

``base``: what had passed before this gate started. ``granted``: bytes of leases that are out,
and what was used of the ended ones. ``headers``: Ethernet, IP, TCP with timestamps. ``long``:
segments with more TCP options than that (selective acknowledgements, at most 28 bytes).

Explained, every second, of ``links`` and ``control``:
    passed + dropped <= sum (bytes_sent + data_segs_out * headers) + 28 * long + bound
    the same in packets, where one segment is one packet
    sum (bytes_sent - bytes_retrans) <= bytes paid + payload dropped     (links; no tolerance)
    frames that the device sent <= frames that passed the hook           (no tolerance)
The bound is ``BOUND_PACKETS``. Frames without payload explain nothing and are no alarm: any
host can have the kernel send them, and not all of them are counted at a socket. Beyond their
quota they are dropped.
Sockets are read after the counters, so traffic in between makes no difference seem larger.
A new segment that a quota drops never left; TCP sends it again and adds it to ``bytes_sent``
each time, to ``bytes_retrans`` never. The drop may be read later than the socket.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

CLASSES = ("links", "control", "acks", "bare", "neighbour")
IPV4_HEADERS_BYTES = 14 + 20 + 32
IPV6_HEADERS_BYTES = 14 + 40 + 32
SACK_BYTES = 28
SMALL_FRAME_BYTES = IPV6_HEADERS_BYTES + SACK_BYTES  # the longest segment without content
BOUND_PACKETS = 64

CONTROL_BURST_BYTES = 256 << 10
ANNOUNCED_AHEAD_BYTES = 8 << 20  # beyond the burst; a store's largest write is under 3 MiB
ANNOUNCED_HEADERS_BYTES = 4096  # of one request: HTTP, TLS, and a new connection's handshake
BARE_BURST_BYTES = 32 << 10
BARE_BYTES_PER_S = 32
BARE_BYTES_PER_CONNECTION = 6 * 94  # a SYN-ACK, what it sends unaccepted and orphaned, a RST


@dataclass(frozen=True, slots=True)
class Flow:
    """A class of frames since its counters were made."""

    packets: int = 0
    size_bytes: int = 0
    dropped_packets: int = 0
    dropped_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Tcp:
    """Sums of TCP_INFO over all sockets of a class since this gate started. ``segments`` and
    ``header_bytes``: of segments with payload; ``bare_*``: of those without."""

    connections: int = 0
    segments: int = 0
    sent_bytes: int = 0
    retransmitted_bytes: int = 0
    header_bytes: int = 0
    bare_segments: int = 0
    bare_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Reading:
    """Everything at one moment. ``long_packets``: by class. ``device_packets``: sent by the
    outbound devices. ``broken``: what of the installed rules or devices is no longer as it was."""

    flows: Mapping[str, Flow]
    tcp: Mapping[str, Tcp] = field(default_factory=dict)
    long_packets: Mapping[str, int] = field(default_factory=dict)
    device_packets: int = 0
    broken: str = ""


@dataclass(slots=True)
class Granted:
    """The ledger's leases as one number that never falls: what may ever have left."""

    outstanding_bytes: int = 0
    used_bytes: int = 0

    def lease(self, size_bytes: int) -> None:
        self.outstanding_bytes += size_bytes

    def settle(self, size_bytes: int, used_bytes: int) -> None:
        self.outstanding_bytes -= size_bytes
        self.used_bytes += used_bytes

    @property
    def size_bytes(self) -> int:
        return self.outstanding_bytes + self.used_bytes


def overhead_bytes(tcp: Tcp, long_packets: int) -> int:
    """Headers and repetitions: what TCP adds to the bytes that are paid."""
    extra = SACK_BYTES * min(max(0, long_packets), tcp.segments)
    return tcp.retransmitted_bytes + tcp.header_bytes + extra


def acks_bytes(tcps: Iterable[Tcp], long_packets: int) -> int:
    """All that sockets sent without payload."""
    found = list(tcps)
    extra = SACK_BYTES * min(max(0, long_packets), sum(tcp.bare_segments for tcp in found))
    return sum(tcp.bare_bytes for tcp in found) + extra


def bucket_limit(limit: int, passed: int, refill: int, burst: int) -> int:
    """A limit that grows by ``refill``, at most to ``burst`` above what passed; never falls."""
    return max(limit, min(limit + refill, passed + burst))


@dataclass(frozen=True, slots=True)
class Difference:
    """What left, less what TCP_INFO explains, and how much may stay unexplained."""

    size_bytes: int
    packets: int
    bound_bytes: int
    bound_packets: int

    @property
    def beyond_bytes(self) -> int:
        """What nothing explains; 0 in a sound gate."""
        return max(0, self.size_bytes - self.bound_bytes)

    @property
    def beyond_packets(self) -> int:
        return max(0, self.packets - self.bound_packets)


def difference(now: Reading, start: Reading, name: str) -> Difference:
    """Of the class ``name``, since ``start``."""
    flow, then, tcp = now.flows[name], start.flows[name], now.tcp.get(name, Tcp())
    long_packets = now.long_packets.get(name, 0) - start.long_packets.get(name, 0)
    packets = flow.packets + flow.dropped_packets - then.packets - then.dropped_packets
    size_bytes = flow.size_bytes + flow.dropped_bytes - then.size_bytes - then.dropped_bytes
    explained = tcp.sent_bytes - tcp.retransmitted_bytes + overhead_bytes(tcp, long_packets)
    bound_bytes = BOUND_PACKETS * SMALL_FRAME_BYTES
    return Difference(size_bytes - explained, packets - tcp.segments, bound_bytes, BOUND_PACKETS)


def broken_law(now: Reading, last: Reading, limits: Mapping[str, int]) -> str:
    """What no second reading could explain; empty if nothing. ``last``: the one before."""
    if now.broken:
        return now.broken
    for name in CLASSES:
        flow, then = now.flows[name], last.flows[name]
        if flow.size_bytes < then.size_bytes or flow.dropped_bytes < then.dropped_bytes:
            return f"the kernel's counter of {name} went back"
        if flow.size_bytes > limits[name]:
            over = flow.size_bytes - limits[name]
            return f"{over} bytes of {name} passed beyond the kernel's limit"
    return ""


def unpaid_bytes(now: Reading, start: Reading, paid_bytes: int) -> int:
    """What links' sockets sent for the first time, less what was paid and what the kernel
    dropped; above 0 only in a gate that sends what it has not paid."""
    tcp, flow, then = now.tcp.get("links", Tcp()), now.flows["links"], start.flows["links"]
    dropped = flow.dropped_bytes - then.dropped_bytes
    dropped -= IPV4_HEADERS_BYTES * (flow.dropped_packets - then.dropped_packets)
    return tcp.sent_bytes - tcp.retransmitted_bytes - paid_bytes - dropped


def unexplained(now: Reading, start: Reading, paid_bytes: int) -> str:
    """What a second reading may still explain: figures of a socket, or of a drop, that are on
    their way."""
    unpaid = unpaid_bytes(now, start, paid_bytes)
    if unpaid > 0:
        return f"{unpaid} bytes were sent on links that no lease paid"
    passed = sum(now.flows[name].packets - start.flows[name].packets for name in CLASSES)
    hidden = now.device_packets - start.device_packets - passed
    if hidden > 0:
        return f"the outbound devices sent {hidden} frames that no rule saw"
    for name in ("links", "control"):
        found = difference(now, start, name)
        if found.beyond_bytes or found.beyond_packets:
            return (
                f"{found.size_bytes} bytes in {found.packets} packets of {name} left that the "
                f"gate's sockets did not send (bound {found.bound_bytes}, {found.bound_packets})"
            )
    return ""
