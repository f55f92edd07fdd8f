"""A real gate behind its kernel backstop: real frames, real TLS, real ledger and witness."""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator

import pytest
from rich.console import Console

from kernel.frames import flooding, send_frames
from kernel.netns import DEVICE, GATE, GATE6, OUTSIDE, Machine, needs_kernel, wait_until
from kernel.site import Child, Edge, Site, site
from narrows.cli.status import collect, table
from narrows.wire.gatestate import PortState

pytestmark = needs_kernel

CONTROL_BURST = 256 << 10


def uncounted(made: Site) -> tuple[int, int]:
    """Packets and bytes that the gate's device sent and its rules did not count, at a moment
    when all is quiet: before the gate, the kernel may have sent something of IPv6's."""
    found: list[tuple[int, int]] = []

    def quiet() -> bool:
        sent, arrived = made.gate.device(), made.outside.device()
        if [sent["tx_packets"], sent["tx_bytes"]] != [arrived["rx_packets"], arrived["rx_bytes"]]:
            return False
        packets, size = made.gate.counted()
        found.append((sent["tx_packets"] - packets, sent["tx_bytes"] - size))
        return found[-2:-1] == found[-1:]

    wait_until(quiet)
    return found[-1]


def lossy(machine: Machine, direction: str, percent: int) -> None:
    """Lose that many percent of what arrives at the machine, or of what it sends."""
    machine.nft(
        f"table netdev lossy {{\n chain {direction} {{\n type filter hook {direction} device "
        f'"{DEVICE}" priority 0; policy accept;\n numgen random mod 100 < {percent} drop\n }}\n}}\n'
    )


def traffic(made: Site, seconds: float, rest_s: float = 0.0) -> int:
    """Links that open, talk both ways and close, for about so long; plaintext that arrived."""
    arrived, deadline = 0, time.monotonic() + seconds
    while time.monotonic() < deadline:
        edges = [Edge(made, GATE6 if n % 2 else GATE) for n in range(4)]
        for edge in edges:
            edge.say(50_000)
        wait_until(lambda edges=edges: all(e.arrived_bytes > 20_000 for e in edges))  # type: ignore[misc]
        time.sleep(rest_s)
        for edge in edges:
            edge.close()
            edge.ended.wait(30)
        arrived += sum(edge.arrived_bytes for edge in edges)
    return arrived


def check_traffic(made: Site, seconds: float, rest_s: float = 0.0) -> dict[str, object]:
    """Traffic, and what the gate found in it: nothing beyond the bound, nothing hidden."""
    made.enclave(3000, 0.02)
    gate = made.start_gate()
    before = uncounted(made)
    arrived = traffic(made, seconds, rest_s)
    wait_until(lambda: made.sent_bytes() >= arrived)
    assert uncounted(made) == before, "nftables = the gate's device = the outside's device"
    made.stop_gate(gate)
    kernel = made.kernel()
    assert kernel["state"] == "on"
    assert kernel["alarm"] == ""
    passed = made.gate.counter("links_passed")[1]
    assert passed > arrived
    assert passed <= kernel["limit_bytes"]["links"]
    assert kernel["worst_difference_bytes"] <= kernel["bound_bytes"]
    assert passed - made.sent_bytes() - kernel["overhead_bytes"] <= kernel["bound_bytes"]
    assert made.sent_bytes() <= made.committed_bytes()
    return kernel


def test_counters_agree_and_tcp_info_explains_all() -> None:
    with site() as made:
        kernel = check_traffic(made, 2.0)
        assert int(str(kernel["worst_difference_packets"])) <= 8, "far below the bound"
        assert made.gate.counter("oversize") == (0, 0)


def test_losses_are_explained_too() -> None:
    """Outward losses cost repetitions, inward ones selective acknowledgements."""
    with site() as made:
        lossy(made.outside, "ingress", 5)
        lossy(made.gate, "ingress", 5)
        made.enclave(3000, 0.02)
        gate = made.start_gate()
        deadline = time.monotonic() + 200
        while time.monotonic() < deadline and not made.gate.counter("links_long")[0]:
            traffic(made, 2.0)
        made.stop_gate(gate)
        kernel = made.kernel()
        assert kernel["alarm"] == ""
        assert kernel["worst_difference_bytes"] <= kernel["bound_bytes"]
        assert made.gate.counter("links_long")[0] > 0


@pytest.mark.torture
@pytest.mark.timeout(900)
def test_ten_minutes_of_traffic() -> None:
    with site() as made:
        print(check_traffic(made, 600.0, rest_s=1.0))


@contextlib.contextmanager
def serving() -> Iterator[tuple[Site, Child, Edge]]:
    """A site whose edge has had some bytes."""
    with site() as made:
        made.enclave(200, 0.05)
        gate = made.start_gate()
        edge = Edge(made)
        wait_until(lambda: edge.arrived_bytes > 1000)
        yield made, gate, edge


def test_something_else_that_sends_stops_the_gate() -> None:
    """Frames to the edge in the gate's name, from a packet socket past the queue."""
    with serving() as (made, gate, edge):
        send_frames(made.gate, 300, bypass=True)
        alarm = made.wait_alarm()
        assert "that the gate's sockets did not send" in alarm
        assert made.port_state() == PortState("kernel")
        figures = collect(made.state, time.time())
        assert figures["gate_kernel"]["alarm"] == alarm
        console = Console(file=io.StringIO(), width=400)
        console.print(table(figures))
        assert alarm in console.file.getvalue()  # type: ignore[attr-defined]
        assert f"ALARM: kernel backstop: {alarm}" in made.log()
        wait_until(edge.ended.is_set)
        passed = made.gate.counter("links_passed")
        with pytest.raises(OSError):
            Edge(made, patience_s=1.0)
        send_frames(made.gate, 300)
        assert made.gate.counter("links_passed") == passed, "sealed"
        made.stop_gate(gate)
        assert made.kernel()["state"] == "stopped"
        code, words = made.refused()
        assert code == 2
        assert "alarm.json" in words
        (made.state / "gate" / "alarm.json").unlink()
        made.stop_gate(made.start_gate())


def test_nothing_leaves_but_to_the_peers() -> None:
    with serving() as (made, gate, edge):
        arrivals = made.outside.within(catch_all)
        made.gate.within(try_everything)
        seen = arrivals.run()
        assert seen == set(), "only TCP of the gate's own ports, to the witness, ARP and ND"
        assert made.kernel()["state"] == "on"
        edge.close()
        made.stop_gate(gate)


class catch_all:
    """Everything that arrives outside, but what may."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        self._socket.bind((DEVICE, 0))
        self._socket.settimeout(1.5)

    def run(self) -> set[str]:
        seen, deadline = set(), time.monotonic() + 1.5
        with self._socket:
            while time.monotonic() < deadline:
                try:
                    frame, where = self._socket.recvfrom(1 << 16)
                except TimeoutError:
                    break
                if where[2] != socket.PACKET_OUTGOING and (what := unexpected(frame)):
                    seen.add(what)
        return seen


def unexpected(frame: bytes) -> str:
    kind = frame[12:14]
    if kind == b"\x08\x06":
        return ""
    if kind == b"\x08\x00" and frame[23] == 6:
        sport, dport = (int.from_bytes(frame[n : n + 2]) for n in (34, 36))
        return "" if sport in (8402, 8403) or dport == 9100 else f"TCP {sport} {dport}"
    if kind == b"\x86\xdd" and frame[20] == 58 and frame[54] in (135, 136):
        return ""
    return frame[:64].hex()


def try_everything() -> bool:
    """What else a program on the gate's machine could send."""
    for family, host in ((socket.AF_INET, OUTSIDE), (socket.AF_INET6, "fd77::2")):
        with socket.socket(family, socket.SOCK_DGRAM) as udp:
            udp.setblocking(False)
            for port in (53, 8402, 9100):
                try:
                    udp.sendto(b"secret", (host, port))
                except OSError:
                    continue
        for port in (22, 443):
            with socket.socket(family, socket.SOCK_STREAM) as tcp:
                tcp.setblocking(False)
                tcp.connect_ex((host, port))
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as icmp:
        icmp.setblocking(False)
        with contextlib.suppress(OSError):
            icmp.sendto(b"\x08\x00\xf7\xff\x00\x00\x00\x00secret", (OUTSIDE, 0))
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as packet:
        packet.bind((DEVICE, 0))
        for frame in (
            b"\xff" * 6 + b"\x02" * 6 + b"\x88\xb5" + b"secret" * 20,
            b"\xff" * 6 + b"\x02" * 6 + b"\x08\x06" + b"secret" * 20,  # ARP's type, too long
        ):
            try:
                packet.send(frame)
            except OSError:
                continue
    return True


def test_a_dead_gate_leaves_the_quota_in_place_and_the_next_one_goes_on() -> None:
    with site() as made:
        made.enclave(2000, 0.02)
        gate = made.start_gate()
        edge = Edge(made)
        wait_until(lambda: edge.arrived_bytes > 50_000)
        wait_until(lambda: made.kernel()["passed_bytes"]["links"] > 0)
        os.kill(gate.process.pid, signal.SIGKILL)
        gate.process.wait()
        allowed = made.gate.quota("links")["bytes"] - made.gate.counter("links_dropped")[1]
        with flooding(made.gate):
            wait_until(lambda: made.gate.counter("links_dropped")[0] > 1000)
        passed = made.gate.counter("links_passed")[1]
        assert passed <= allowed, "what a dead gate was granted, and no more"
        assert passed <= made.committed_bytes() + 2 * (1 << 20)
        gate = made.start_gate()
        again = Edge(made)
        wait_until(lambda: again.arrived_bytes > 50_000)
        wait_until(lambda: made.kernel()["passed_bytes"]["links"] > passed + 50_000)
        limit = made.kernel()["limit_bytes"]["links"]
        assert passed < limit
        made.stop_gate(gate)
        sealed = made.gate.counter("links_passed")
        send_frames(made.gate, 100)
        assert made.gate.counter("links_passed") == sealed, "an orderly end seals it"


def test_a_small_budget_is_small_in_the_kernel_too() -> None:
    budget, headroom = 60_000, 65_536
    with site(budget) as made:
        made.enclave(5000, 0.02)
        gate = made.start_gate(headroom_bytes=headroom)
        edge = Edge(made)
        wait_until(edge.ended.is_set)
        assert made.port_state().state == "depleted"
        with flooding(made.gate):
            made.wait_alarm()
        overhead = made.kernel()["overhead_bytes"]
        assert made.gate.counter("links_passed")[1] <= budget + headroom + overhead
        assert made.gate.counter("links_dropped")[0] > 0
        made.stop_gate(gate)


@pytest.mark.parametrize(
    ("backstop", "word"),
    [
        ({"devices": ["lo"]}, "no Ethernet device"),
        ({"peers": ["etcd.example:2379"]}, "no numeric address"),
    ],
)
def test_what_cannot_work_is_refused(backstop: dict[str, object], word: str) -> None:
    with site() as made:
        code, words = made.refused(**backstop)
        assert code == 2
        assert word in words
        assert "Traceback" not in words


def test_without_the_capability_it_is_refused_and_off_is_said() -> None:
    with site() as made:
        made.enclave(200, 0.05)
        command = made.command(made.config())[4:]  # in this namespace: nothing gets installed

        def give_up() -> None:
            ctypes.CDLL(None).prctl(24, 12, 0, 0, 0)  # PR_CAPBSET_DROP, CAP_NET_ADMIN

        done = subprocess.run(
            command, preexec_fn=give_up, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 2
        assert "not root (CAP_NET_ADMIN is missing)" in done.stderr
        flags = [*command[: command.index("--config")], "--listen", "127.0.0.1:0"]
        flags += ["--enclave", "127.0.0.1:1"]  # no witness is named: it ends after saying so
        off = subprocess.run(
            flags, preexec_fn=give_up, capture_output=True, text=True, timeout=60, check=False
        )
        assert "kernel backstop: off; here it could not be on: not root" in off.stderr
