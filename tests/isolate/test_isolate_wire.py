"""The gate's side of the cable, against an enclave that has taken over its whole namespace:
every frame is forged with root's rights outside of the sandbox.

Each frame is sent twice: into a namespace with its rules, where it must be dropped before the
gate's kernel looks at it, and into one whose rule is taken away, where it must come in: else the
first would prove nothing."""

from __future__ import annotations

import contextlib
import json
import secrets
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from isolate.frames import ACK, SYN, TCP, arp, echo, ethernet, forged, ipv4, mac, tcp
from isolate.ground import Listener, Sniffer, needs_isolation, new_tag, wait_for
from isolate.test_isolate_sandbox import counters
from narrows.errors import PeerError
from narrows.isolate.namespaces import run_tool
from narrows.isolate.network import (
    AUDIT_MAC,
    AUDITOR,
    AUDITOR_MAC,
    AUDITOR_PORT,
    ENCLAVE,
    ENCLAVE_MAC,
    ENCLAVE_PORTS,
    FRAMES_BURST,
    FRAMES_PER_S,
    GATE_AUDIT,
    GATE_INNER,
    GATE_MAC,
    Network,
    wired,
)

pytestmark = needs_isolation
TOKEN = secrets.token_bytes(12)
NAMES = sorted(forged(TOKEN, "169.254.1.2", "169.254.1.3"))


@dataclass
class Cable:
    """One wired network, with listeners in the gate's namespace, and an attacker's socket."""

    network: Network
    frames: dict[str, bytes]
    sender: socket.socket
    inner: Sniffer
    outside: Sniffer
    listener: Listener

    def send(self, frame: bytes) -> None:
        self.sender.send(frame)

    def moved(self, frame: bytes) -> dict[str, int]:
        """How the gate's counters move by it."""
        before = counters(self.network)
        self.send(frame)

        def change() -> dict[str, int] | None:
            after = counters(self.network)
            return {name: after[name] - before[name] for name in after} if after != before else None

        found: dict[str, int] = wait_for(change, "a counter's move")
        return found


@contextlib.contextmanager
def cable() -> Iterator[Cable]:
    with wired(new_tag()) as network, contextlib.ExitStack() as stack:
        frames = forged(TOKEN, network.host, network.gate_outer)
        sender = network.enclave.run(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
        stack.enter_context(sender)
        sender.bind(("gate0", 0))
        inner, outside = Sniffer("gate0", network.enclave), Sniffer(network.device)
        listener = Listener(port=8402, namespace=network.gate)
        for one in (inner, outside, listener):
            stack.callback(one.close)
        yield Cable(network, frames, sender, inner, outside, listener)


@pytest.fixture(scope="module")
def closed() -> Iterator[Cable]:
    with cable() as made:
        yield made


@pytest.fixture(scope="module")
def opened() -> Iterator[Cable]:
    """The same without the rule against the enclave; what comes in is counted as relayed."""
    with cable() as made:
        made.network.gate.tool(
            ["nft", "-f", "-"],
            "flush chain netdev cable from_enclave\n"
            "add chain netdev cable from_enclave { policy accept; }\n"
            "add rule netdev cable from_enclave counter name relayed accept\n"
            "flush chain inet cable input\nadd chain inet cable input { policy accept; }\n"
            "flush chain inet cable output\nadd chain inet cable output { policy accept; }\n",
        )
        yield made


@pytest.mark.parametrize("name", NAMES)
def test_a_forged_frame_is_dropped(closed: Cable, opened: Cable, name: str) -> None:
    assert closed.moved(closed.frames[name]) == {"relayed": 0, "dropped": 1}
    control = opened.moved(opened.frames[name])
    assert control["dropped"] == 0
    assert control["relayed"] >= 1  # a SYN is answered there, and its answer reset


def test_none_of_them_had_an_effect(closed: Cable) -> None:
    """After all of them: nobody heard one, none was answered, none crossed to the host."""
    for frame in closed.frames.values():
        closed.send(frame)
    closed.moved(closed.frames["UDP"])
    assert closed.listener.heard == []
    from_gate = [f for f in closed.inner.read() if f[6:12] == bytes.fromhex("020000000201")]
    assert from_gate == []
    assert not [frame for frame in closed.outside.read() if TOKEN in frame]
    assert closed.inner.lost() == closed.outside.lost() == 0
    leaving = Path("/sys/class/net", closed.network.device, "statistics/rx_packets")
    # At most what the gate's kernel says of itself when its device comes up: no frame a packet.
    assert int(leaving.read_text()) < 5


def test_without_the_rule_they_have_effects(opened: Cable) -> None:
    """The control of the test above, protocol by protocol."""
    opened.send(opened.frames["UDP"])
    wait_for(lambda: TOKEN in opened.listener.heard, "the datagram")
    opened.send(ethernet(ipv4(echo(TOKEN), 1)))
    gate_mac = bytes.fromhex("020000000201")

    def answers(of: bytes) -> bool:
        return any(f[6:12] == gate_mac and of in f for f in opened.inner.read())

    wait_for(lambda: answers(TOKEN), "the echo")
    opened.network.gate.tool(["ip", "link", "set", "inner", "arp", "on"])
    opened.send(ethernet(arp(1, GATE_INNER), 0x0806))
    wait_for(lambda: answers(b"\x08\x06\x00\x01\x08\x00\x06\x04\x00\x02"), "the ARP answer")
    opened.network.enclave.tool(["ip", "route", "add", "default", "via", GATE_INNER])
    reaching = opened.network.enclave.run(
        lambda: socket.create_connection((GATE_INNER, 8402), timeout=10)
    )
    reaching.close()
    wait_for(lambda: b"connected" in opened.listener.heard, "the connection")
    with open_forwarding(opened):
        listener = Listener(opened.network.host)
        try:
            target = (opened.network.host, listener.port)
            through = opened.network.enclave.run(
                lambda: socket.create_connection(target, timeout=10)
            )
            through.close()
            wait_for(lambda: listener.heard, "the forwarded connection")
        finally:
            listener.close()


@contextlib.contextmanager
def open_forwarding(cable: Cable) -> Iterator[None]:
    """A gate that forwards and translates, as a careless one could: the control for 'the host
    is out of reach'."""
    cable.network.gate.tool(
        ["nft", "-f", "-"],
        "add chain inet cable forward { policy accept; }\n"
        "add table ip open\n"
        "add chain ip open post { type nat hook postrouting priority 100; }\n"
        "add rule ip open post oifname outer masquerade\n",
    )

    def forward() -> None:
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")

    cable.network.gate.run(forward)
    yield


def test_a_route_and_another_address_do_not_help(closed: Cable) -> None:
    """With power over its namespace, it may route through the gate, but nothing is forwarded."""
    network = closed.network
    network.enclave.tool(["ip", "route", "add", "default", "via", GATE_INNER])
    network.enclave.tool(["ip", "addr", "add", "10.9.9.9/24", "dev", "gate0"])
    listener = Listener(network.host)
    try:
        for address in ((network.host, listener.port), (network.gate_outer, 8402), ("8.8.8.8", 53)):
            with network.enclave.run(lambda: socket.socket(socket.AF_INET)) as trying:
                trying.settimeout(0.5)
                assert trying.connect_ex(address) != 0
        assert listener.heard == []
    finally:
        listener.close()
    assert network.gate.run(lambda: Path("/proc/sys/net/ipv4/ip_forward").read_text()) == "0\n"
    assert network.gate.tool(["ip", "route", "show", "default"]) == ""


def test_answers_to_the_gates_own_connection_come_in(closed: Cable) -> None:
    """The one thing that must work: the gate dials, both sides speak."""
    server = closed.network.enclave.run(lambda: socket.create_server((ENCLAVE, ENCLAVE_PORTS[0])))
    with server:
        dialled = closed.network.gate.run(
            lambda: socket.create_connection((ENCLAVE, ENCLAVE_PORTS[0]), timeout=10)
        )
        taken, _ = server.accept()
        with dialled, taken:
            taken.sendall(TOKEN * 1000)
            with dialled.makefile("rb") as stream:
                assert stream.read(len(TOKEN) * 1000) == TOKEN * 1000


def test_a_segment_out_of_nowhere_only_meets_a_closed_door(closed: Cable) -> None:
    """What the rule cannot tell from an answer, a segment to a port of the gate without a
    connection, ends at the gate's TCP: it is answered to the enclave, and heard by nobody."""
    before = len(closed.outside.read())
    for flags in (ACK, SYN | ACK):
        segment = tcp(ENCLAVE_PORTS[0], 8402, flags, TOKEN)
        closed.moved(ethernet(ipv4(segment, TCP)))
    assert closed.listener.heard == []
    assert not [frame for frame in closed.outside.read()[before:] if TOKEN in frame]


def test_the_gate_opens_no_connection_outward(closed: Cable) -> None:
    """Rule 3: not even a confused gate dials the host."""
    listener = Listener(closed.network.host)
    try:
        with closed.network.gate.run(lambda: socket.socket(socket.AF_INET)) as trying:
            trying.settimeout(0.5)
            with pytest.raises(OSError):
                trying.connect((closed.network.host, listener.port))
        assert listener.heard == []
    finally:
        listener.close()


def test_a_flood_of_good_frames_reaches_tcp_at_a_bounded_rate() -> None:
    """Segments that the filter takes cost the gate's TCP: so many a second and no more."""
    with cable() as made:
        before = counters(made.network)
        frame, began = ethernet(ipv4(tcp(ENCLAVE_PORTS[0], 9, ACK), TCP)), time.monotonic()
        for _ in range(60_000):
            made.send(frame)

        def all_counted() -> dict[str, int] | None:
            after = counters(made.network)
            moved = {name: after[name] - before[name] for name in after}
            return moved if sum(moved.values()) >= 60_000 else None

        moved: dict[str, int] = wait_for(all_counted, "the end of the flood")
        allowed = FRAMES_BURST + FRAMES_PER_S * (time.monotonic() - began)
        assert 0 < moved["relayed"] <= allowed


def test_two_deployments_do_not_meet(closed: Cable, opened: Cable) -> None:
    assert closed.network.device != opened.network.device
    assert len({*_outer(closed), *_outer(opened)}) == 4
    devices = {one["ifname"] for one in json.loads(run_tool(["ip", "-json", "link"]))}
    assert {closed.network.device, opened.network.device} <= devices


def _outer(cable: Cable) -> set[str]:
    return {cable.network.host, cable.network.gate_outer}


def test_nothing_is_left_behind() -> None:
    with wired(new_tag()) as network:
        names = run_tool(["ip", "-json", "link"])
        assert network.device in names
    assert network.device not in run_tool(["ip", "-json", "link"])


def test_nothing_is_left_of_a_start_that_fails_half_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rules are refused: no cable stays, and the enclave never had one."""
    tag = new_tag()
    monkeypatch.setattr("narrows.isolate.network.RULES", "table netdev cable { nonsense }")
    with pytest.raises(PeerError, match="nft"), wired(tag):
        pytest.fail("wired without rules")
    assert f"nw-{tag:07x}" not in run_tool(["ip", "-json", "link"])


def test_a_device_that_a_dead_one_left_is_replaced() -> None:
    tag = new_tag()
    device = f"nw-{tag:07x}"
    run_tool(["ip", "link", "add", device, "type", "veth", "peer", "name", f"old{tag:07x}"])
    with wired(tag) as network:
        assert network.device == device
        links = json.loads(run_tool(["ip", "-json", "link"]))
        assert not [one for one in links if one["ifname"] == f"old{tag:07x}"]


def test_the_auditors_cable_takes_answers_alone() -> None:
    """The same frames from an auditor that has taken over its namespace, under its addresses and
    under the enclave's; and the one kind that is let in."""
    names = {ENCLAVE_MAC: AUDITOR_MAC, GATE_MAC: AUDIT_MAC}
    with wired(new_tag(), audited=True) as network:
        assert network.auditor is not None
        sender = network.auditor.run(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
        with sender:
            sender.bind(("gate0", 0))
            sent = 0
            for frame in forged(TOKEN, network.host, network.gate_outer).values():
                mine = frame
                for old, new in names.items():
                    mine = mine.replace(mac(old), mac(new))
                for old, new in ((ENCLAVE, AUDITOR), (GATE_INNER, GATE_AUDIT)):
                    mine = mine.replace(socket.inet_aton(old), socket.inet_aton(new))
                for port in ENCLAVE_PORTS:
                    mine = mine.replace(port.to_bytes(2), AUDITOR_PORT.to_bytes(2))
                for one in (frame, mine):
                    sender.send(one)
                    sent += 1
            wait_for(lambda: counters(network)["audit_dropped"] >= sent, "the drops")
            found = counters(network)
            assert (found["audit_dropped"], found["audit_relayed"], found["relayed"]) == (
                sent,
                0,
                0,
            )
            answer = tcp(AUDITOR_PORT, 9, ACK, source=AUDITOR, to=GATE_AUDIT)
            packet = ipv4(answer, TCP, source=AUDITOR, to=GATE_AUDIT)
            sender.send(ethernet(packet, to=AUDIT_MAC, source=AUDITOR_MAC))
            wait_for(lambda: counters(network)["audit_relayed"], "the answer")
