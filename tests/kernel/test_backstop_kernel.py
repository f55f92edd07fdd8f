"""The backstop on the real kernel, in this process: what it notices, and what it then does."""

from __future__ import annotations

import contextlib
import ipaddress
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from kernel.fakes import Leases
from kernel.frames import send_frames
from kernel.netns import DEVICE, GATE, OUTSIDE, Machine, needs_kernel, two_machines
from narrows.errors import InputError, PeerError
from narrows.gate.backstop.config import BackstopConfig
from narrows.gate.backstop.guard import Backstop
from narrows.gate.backstop.kernel import NftKernel
from narrows.gate.backstop.nft import PeerPlan, Served
from narrows.ledger.api import Denied, Lease

pytestmark = needs_kernel

PLAN = PeerPlan((DEVICE,), (Served(GATE, 8402, (ipaddress.ip_network(OUTSIDE),)),), None, ())
FRAME = 1014
HEADROOM = 1 << 16


@dataclass
class Guarded:
    gate: Machine
    backstop: Backstop
    said: list[str] = field(default_factory=list)

    def reconcile(self) -> bool:
        return bool(self.gate.within(self.backstop.reconcile))

    def acquire(self, size: int) -> Lease | Denied:
        answer = self.gate.within(lambda: self.backstop.acquire("answers", size))
        assert isinstance(answer, Lease | Denied)
        return answer


@contextlib.contextmanager
def guarded(folder: Path) -> Iterator[Guarded]:
    """A backstop in a namespace of its own; readings come at once, without waiting between."""
    with two_machines() as (gate, _):
        config, said = BackstopConfig(headroom_bytes=HEADROOM), list[str]()
        kernel = NftKernel(PLAN)
        backstop = Backstop(kernel, config, folder, said.append, wait=lambda _: None)
        backstop.guard(Leases())
        try:
            gate.within(lambda: backstop.open() or True)
            yield Guarded(gate, backstop, said)
        finally:
            kernel.close()


def undo_offload(gate: Machine) -> None:
    gate.run("ethtool", "-K", DEVICE, "tso", "on")


def undo_segments(gate: Machine) -> None:
    gate.run("ip", "link", "set", DEVICE, "gso_max_segs", "40")


def flush_rules(gate: Machine) -> None:
    gate.nft("flush chain netdev narrows links")


def delete_table(gate: Machine) -> None:
    gate.nft("delete table netdev narrows")


def raise_quota(gate: Machine) -> None:
    gate.nft("add quota netdev narrows links { over 1000000000000 bytes }")


def reset_counter(gate: Machine) -> None:
    gate.run("nft", "reset", "counter", "netdev", "narrows", "links_passed")


def accept_all(gate: Machine) -> None:
    gate.nft(
        f'add chain netdev narrows egress_{DEVICE} {{ type filter hook egress device "{DEVICE}" '
        "priority -300; policy accept; }"
    )


@pytest.mark.parametrize(
    ("tamper", "word"),
    [
        (undo_offload, "segmentation is on"),
        (undo_segments, "gso_max_segs 40"),
        (flush_rules, "changed the gate's rules"),
        (delete_table, "nftables refused"),
        (raise_quota, "changed the gate's quotas"),
        (reset_counter, "went back"),
        (accept_all, "changed the gate's rules"),
    ],
)
def test_a_changed_kernel_is_an_alarm(
    tmp_path: Path, tamper: Callable[[Machine], None], word: str
) -> None:
    with guarded(tmp_path) as box:
        send_frames(box.gate, 5)
        assert not box.reconcile()
        tamper(box.gate)
        assert box.reconcile()
        assert word in box.backstop.alarm
        before = box.gate.device()["tx_bytes"]
        send_frames(box.gate, 300)
        assert box.gate.device()["tx_bytes"] - before < 100 * FRAME, "no link's frame leaves"
        assert json.loads((tmp_path / "gate" / "alarm.json").read_text())["alarm"] == (
            box.backstop.alarm
        )


@pytest.mark.parametrize("bypass", [False, True])
def test_frames_of_someone_else_are_an_alarm(tmp_path: Path, bypass: bool) -> None:
    with guarded(tmp_path) as box:
        send_frames(box.gate, 7, bypass=bypass)
        assert not box.reconcile(), "7,098 bytes are within the stated bound of 7,296"
        send_frames(box.gate, 1, bypass=bypass)
        assert box.reconcile()
        assert "8112 bytes in 8 packets of links left that the gate's sockets did not send" in (
            box.backstop.alarm
        )
        assert isinstance(box.acquire(1000), Denied)
        again = Backstop(NftKernel(PLAN), BackstopConfig(), tmp_path, box.said.append)
        with pytest.raises(InputError, match="stopped this gate before"):
            again.open()


def test_the_quota_is_what_is_leased_and_the_headroom(tmp_path: Path) -> None:
    """Also after drops, and after leases that returned unused."""
    with guarded(tmp_path) as box:
        lease = box.acquire(40_000)
        assert isinstance(lease, Lease)
        send_frames(box.gate, 1000)
        passed = box.gate.counter("links_passed")[1]
        assert HEADROOM + 40_000 - FRAME < passed <= HEADROOM + 40_000
        box.backstop.settle(lease, 10_000)
        assert isinstance(box.acquire(30_000), Lease)
        send_frames(box.gate, 100)
        assert box.gate.counter("links_passed")[1] == passed, "30,000 had returned: no raise"


_SHORT = """
import socket, struct, sys
count, doff, flags, said, tail, device = (*map(int, sys.argv[1:6]), sys.argv[6])
tcp = struct.pack("!HHIIBBHHH", 8402, 40000, 1, 1, doff << 4, flags, 512, 0, 0)
tcp = tcp.ljust(4 * doff, b"\\1")
ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, said or 20 + len(tcp), 1, 0, 64, 6, 0,
                 socket.inet_aton("10.77.0.1"), socket.inet_aton("10.77.0.2"))
sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
frame = b"\\xff" * 6 + b"\\x02" * 6 + b"\\x08\\0" + ip + tcp + b"s" * tail
for _ in range(count):
    try:
        sock.sendto(frame, (device, 0x0800))
    except OSError:
        pass
"""


def short_frames(
    gate: Machine, count: int, *, doff: int = 5, flags: int = 16, said: int = 0, tail: int = 0
) -> None:
    """TCP headers alone; ``said``: the IP length they claim, ``tail``: bytes behind them."""
    words = (count, doff, flags, said, tail, DEVICE)
    assert gate.python(_SHORT, *map(str, words)).wait(60) == 0


@pytest.mark.parametrize(("doff", "flags", "name"), [
    (5, 16, "acks"), (8, 17, "acks"), (15, 16, "acks"), (6, 2, "acks"), (10, 18, "bare"),
    (5, 4, "bare"), (5, 20, "bare"),
])  # fmt: skip
def test_frames_without_payload_are_dropped_and_no_alarm(
    tmp_path: Path, doff: int, flags: int, name: str
) -> None:
    with guarded(tmp_path) as box:
        short_frames(box.gate, 4000, doff=doff, flags=flags)
        assert not box.reconcile()
        assert box.gate.counter("links_passed") == box.gate.counter("links_dropped") == (0, 0)
        packets, size = box.gate.counter(f"{name}_passed")
        limit = {"acks": HEADROOM, "bare": 32 << 10}[name]
        assert limit - (34 + 4 * doff) < size <= limit
        assert packets + box.gate.counter(f"{name}_dropped")[0] == 4000
        send_frames(box.gate, 8)
        assert box.reconcile(), "payload is an alarm all the same"


@pytest.mark.parametrize(("said", "tail"), [(40, 900), (41, 1), (40, 1)])
def test_payload_behind_a_claimed_end_is_payload(tmp_path: Path, said: int, tail: int) -> None:
    with guarded(tmp_path) as box:
        short_frames(box.gate, 100, said=said, tail=tail)
        assert box.gate.counter("links_passed")[0] > 0
        assert box.gate.counter("acks_passed") == box.gate.counter("bare_passed") == (0, 0)
        assert box.reconcile()
        assert "of links left" in box.backstop.alarm


def test_one_gate_for_each_network_namespace_wherever_its_driver_was_made() -> None:
    """Drivers made in one namespace and installed in two: each machine has its own gate."""
    with two_machines() as (gate, outside):
        first, second, other = (NftKernel(PLAN) for _ in range(3))
        gate.within(first.install)
        with pytest.raises(PeerError, match="another gate"):
            gate.within(second.install)
        outside.within(other.install)
        for kernel in (first, second, other):
            kernel.close()
