"""The backstop's arithmetic and its order, without a kernel."""

from __future__ import annotations

import resource
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel.fakes import FakeKernel, Leases, send
from narrows.errors import InputError
from narrows.gate.backstop import kernel as kernel_module
from narrows.gate.backstop.allowance import (
    ANNOUNCED_AHEAD_BYTES,
    BARE_BURST_BYTES,
    BOUND_PACKETS,
    CLASSES,
    CONTROL_BURST_BYTES,
    SMALL_FRAME_BYTES,
    Flow,
    Granted,
    Reading,
    Tcp,
    bucket_limit,
    difference,
    overhead_bytes,
)
from narrows.gate.backstop.config import BackstopConfig, make_plan
from narrows.gate.backstop.guard import BUSY_RECONCILE_S, RECONCILE_S, Backstop
from narrows.gate.backstop.tcpinfo import _unwrapped
from narrows.gate.config import GateConfig, PortConfig
from narrows.gate.main import open_backstop
from narrows.ledger.api import Denied, Lease
from narrows.ledger.stores.etcd_http import EtcdConfig
from narrows.wire.pins import TlsFiles

EMPTY = Reading({name: Flow() for name in CLASSES})
HEADROOM = 1 << 16


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Box:
    def __init__(self, folder: Path, kernel: FakeKernel | None = None) -> None:
        self.kernel = kernel or FakeKernel()
        self.leases, self.said, self.clock = Leases(), list[str](), Clock()
        self.waits: list[float] = []
        self.backstop = Backstop(
            self.kernel,
            BackstopConfig(headroom_bytes=HEADROOM),
            folder,
            self.said.append,
            self.clock,
            self.waits.append,
        )
        self.backstop.open()
        self.source = self.backstop.guard(self.leases)

    def lease(self, size: int) -> Lease:
        answer = self.source.acquire("answers", size)
        assert isinstance(answer, Lease)
        return answer


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path)


def test_overhead_is_headers_repetitions_and_long_options() -> None:
    tcp = Tcp(1, 10, 5000, 1448, 660)
    assert overhead_bytes(tcp, 3) == 1448 + 660 + 3 * 28
    assert overhead_bytes(tcp, 99) == 1448 + 660 + 10 * 28, "never more than there are segments"


def test_what_the_gates_sockets_sent_is_no_difference() -> None:
    found = difference(send(EMPTY, "links", 10_000, 20), EMPTY, "links")
    assert (found.size_bytes, found.packets) == (0, 0)
    assert found.bound_packets == BOUND_PACKETS, "not more where there are more connections"
    assert found.bound_bytes == BOUND_PACKETS * SMALL_FRAME_BYTES


def test_drops_do_not_hide_what_someone_else_sent() -> None:
    """What the sockets sent and the quota dropped must not stand for foreign frames."""
    reading = send(EMPTY, "links", 10_000, 100)
    flow = replace(reading.flows["links"], dropped_packets=200, dropped_bytes=200_000)
    found = difference(replace(reading, flows={**reading.flows, "links": flow}), EMPTY, "links")
    assert (found.packets, found.size_bytes) == (200, 200_000)


@given(
    st.lists(st.tuples(st.integers(1, 10_000), st.floats(0, 1)), max_size=30), st.integers(0, 29)
)
def test_granted_is_what_is_out_and_what_was_used(
    leases: list[tuple[int, float]], ended: int
) -> None:
    granted, expected = Granted(), 0
    for number, (size, share) in enumerate(leases):
        granted.lease(size)
        used = int(size * share)
        if number < ended:
            granted.settle(size, used)
        expected += used if number < ended else size
    assert granted.size_bytes == expected


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6))
def test_a_bucket_never_falls_and_never_fills_over(
    limit: int, passed: int, refill: int, burst: int
) -> None:
    new = bucket_limit(limit, passed, refill, burst)
    assert limit <= new <= max(limit, passed + burst)
    assert new <= limit + refill


def test_a_lease_is_in_the_kernel_before_it_is_handed_out(box: Box) -> None:
    assert box.kernel.over["links"] == HEADROOM
    box.lease(5000)
    assert box.kernel.over["links"] == HEADROOM + 5000


def test_a_lease_that_the_kernel_does_not_take_is_not_handed_out(box: Box, tmp_path: Path) -> None:
    box.kernel.fail = "nftables refused"
    answer = box.source.acquire("answers", 5000)
    assert isinstance(answer, Denied)
    assert answer.reason == "kernel"
    assert "nftables refused" in answer.detail
    assert (tmp_path / "gate" / "alarm.json").exists()
    box.kernel.fail = ""
    assert isinstance(box.source.acquire("answers", 5000), Denied), "for good"
    assert box.leases.asked == ["acquire"]


def test_an_alarm_on_a_full_disk_stops_the_next_start_all_the_same(
    box: Box, tmp_path: Path
) -> None:
    """The name alone is enough: a disk that takes no bytes still takes a name."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    box.kernel.fail = "nftables refused"
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        answer = box.source.acquire("answers", 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert isinstance(answer, Denied)
    assert any("cannot be written" in line for line in box.said)
    with pytest.raises(InputError, match="stopped this gate before"):
        Box(tmp_path)


def test_what_returns_is_not_granted_twice(box: Box) -> None:
    first = box.lease(5000)
    box.source.settle(first, 1000)
    assert box.kernel.over["links"] == HEADROOM + 5000, "never lowered"
    second = box.lease(3000)
    assert box.kernel.over["links"] == HEADROOM + 5000
    box.lease(2000)
    assert box.kernel.over["links"] == HEADROOM + 1000 + 3000 + 2000
    box.source.settle(second, 3000)


def test_the_overhead_follows_tcp_info_and_drops_are_made_up_for(box: Box) -> None:
    box.lease(5000)
    box.kernel.reading = send(box.kernel.reading, "links", 4000, 10)
    box.backstop.paid_bytes = lambda: 4000
    assert not box.backstop.reconcile()
    assert box.kernel.over["links"] == HEADROOM + 5000 + 660
    flow = replace(box.kernel.reading.flows["links"], dropped_packets=7, dropped_bytes=700)
    box.kernel.reading = replace(
        box.kernel.reading, flows={**box.kernel.reading.flows, "links": flow}
    )
    assert not box.backstop.reconcile()
    assert box.kernel.over["links"] == HEADROOM + 5000 + 660 + 700
    assert box.backstop.stats()["limit_bytes"] == {
        "links": HEADROOM + 5000 + 660,
        "control": CONTROL_BURST_BYTES,
        "acks": HEADROOM,
        "bare": BARE_BURST_BYTES,  # nothing of it was used: it is not refilled
        "neighbour": BARE_BURST_BYTES,
    }


def test_after_a_restart_only_what_is_granted_anew_may_leave(tmp_path: Path) -> None:
    kernel = FakeKernel()
    flow = Flow(100, 100_000, 10, 10_000)
    kernel.reading = Reading(dict.fromkeys(CLASSES, flow))
    box = Box(tmp_path, kernel)
    assert kernel.over["links"] == 100_000 + 10_000 + HEADROOM
    box.lease(5000)
    assert kernel.over["links"] == 100_000 + 10_000 + HEADROOM + 5000


def test_bytes_that_no_lease_paid_stop_it_at_once(box: Box) -> None:
    box.lease(5000)
    box.kernel.reading = send(box.kernel.reading, "links", 4001, 4)
    box.backstop.paid_bytes = lambda: 4000
    assert box.backstop.reconcile()
    assert box.backstop.alarm == "1 bytes were sent on links that no lease paid"
    assert box.kernel.sealed == [("links",)]
    assert box.waits == []


def test_a_socket_whose_figures_come_late_is_no_alarm(box: Box) -> None:
    box.lease(500_000)
    box.backstop.paid_bytes = lambda: 400_000
    early = send(box.kernel.reading, "links", 400_000, 400, by_socket=False)
    late = send(box.kernel.reading, "links", 400_000, 400)
    box.kernel.later = [early, early, late]
    assert not box.backstop.reconcile()
    assert box.kernel.reads == 3


def test_frames_that_no_socket_sent_stop_it(box: Box) -> None:
    box.lease(500_000)
    box.kernel.reading = send(box.kernel.reading, "links", 65_000, 65, by_socket=False)
    assert box.backstop.reconcile()
    assert "65 packets of links" in box.backstop.alarm
    assert box.backstop.stats()["state"] == "stopped"
    assert any(text.startswith("ALARM: kernel backstop: ") for text in box.said)


def test_frames_that_no_rule_saw_stop_it(box: Box) -> None:
    box.kernel.reading = replace(box.kernel.reading, device_packets=1)
    assert box.backstop.reconcile()
    assert box.backstop.alarm == "the outbound devices sent 1 frames that no rule saw"


def test_a_counter_that_goes_back_stops_it(box: Box) -> None:
    box.lease(500_000)
    box.backstop.paid_bytes = lambda: 400_000
    before = box.kernel.reading
    box.kernel.reading = send(before, "links", 4000, 4)
    assert not box.backstop.reconcile()
    box.kernel.reading = before
    assert box.backstop.reconcile()
    assert box.backstop.alarm == "the kernel's counter of links went back"


def test_more_than_the_limit_stops_it(box: Box) -> None:
    box.kernel.reading = send(box.kernel.reading, "links", HEADROOM, 1)
    box.backstop.paid_bytes = lambda: 1 << 30
    assert box.backstop.reconcile()
    assert box.backstop.alarm == "66 bytes of links passed beyond the kernel's limit"


def test_control_grows_with_calls_and_bare_with_time(box: Box) -> None:
    reading = send(send(box.kernel.reading, "control", 10_000, 20), "bare", 0, 100)
    box.kernel.reading = reading
    passed = reading.flows["control"].size_bytes
    box.clock.now = 10.0
    assert not box.backstop.reconcile()
    assert box.kernel.over["control"] == CONTROL_BURST_BYTES, "no call, no more"
    assert box.kernel.over["bare"] == BARE_BURST_BYTES + 320 + 2 * 564
    assert box.kernel.over["neighbour"] == BARE_BURST_BYTES, "none left"
    box.source.settle(box.lease(100), 0)
    box.backstop.note_call()
    assert not box.backstop.reconcile()
    assert box.kernel.over["control"] == CONTROL_BURST_BYTES + passed, "full again, not fuller"


def test_acks_grow_with_what_sockets_sent_and_never_far_ahead(box: Box) -> None:
    """Frames that nobody counted eat the headroom, and are dropped, and are no alarm."""

    def sent(reading: Reading, passed: int, counted: int) -> Reading:
        flow, tcp = reading.flows["acks"], reading.tcp.get("links", Tcp())
        flow = replace(
            flow, packets=flow.packets + passed, size_bytes=flow.size_bytes + 66 * passed
        )
        tcp = replace(
            tcp,
            bare_segments=tcp.bare_segments + counted,
            bare_bytes=tcp.bare_bytes + 66 * counted,
        )
        return replace(reading, flows={**reading.flows, "acks": flow}, tcp={"links": tcp})

    assert box.backstop.pause_s == RECONCILE_S
    box.kernel.reading = sent(box.kernel.reading, 900, 900)
    assert not box.backstop.reconcile()
    assert box.kernel.over["acks"] == HEADROOM + 900 * 66
    assert box.backstop.pause_s == BUSY_RECONCILE_S
    box.kernel.reading = sent(box.kernel.reading, 900, 0)
    assert not box.backstop.reconcile()
    assert box.kernel.over["acks"] == HEADROOM + 900 * 66, "nothing explains those"
    box.kernel.reading = sent(box.kernel.reading, 0, 5000)
    assert not box.backstop.reconcile()
    assert box.kernel.over["acks"] == HEADROOM + 1800 * 66, "never more than the headroom ahead"


def test_control_grows_with_what_the_store_is_about_to_be_sent(box: Box) -> None:
    """A snapshot is written in pieces of 700 kB: none of them may wait for the next reading, and
    what was announced and not sent leaves a bounded allowance."""
    limit = box.kernel.over["control"]
    for number in range(1, 4):
        box.backstop.announce(700_000)
        assert box.kernel.over["control"] >= limit + number * 700_000
    for _ in range(100):
        box.backstop.announce(700_000)
    assert box.kernel.over["control"] == CONTROL_BURST_BYTES + ANNOUNCED_AHEAD_BYTES
    box.kernel.reading = send(box.kernel.reading, "control", 1_000_000, 700)
    assert not box.backstop.reconcile()
    box.kernel.fail = "the rules are gone"
    box.backstop.announce(1)
    assert "the quota could not be raised" in box.backstop.alarm


def test_an_orderly_end_seals(box: Box) -> None:
    box.backstop.close()
    assert box.kernel.sealed == [("links", "control", "acks")]
    assert not box.backstop.alarm


def test_a_kernel_that_cannot_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    kernel = FakeKernel()
    kernel.fail = "no such hook"
    with pytest.raises(InputError, match="no such hook") as caught:
        Box(tmp_path, kernel)
    assert 'kernel = "off"' in caught.value.remedy


def test_without_the_library_it_is_refused_and_off_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(kernel_module, "LIBRARY", "libnftables-is-not-here.so.1")
    monkeypatch.setattr(kernel_module, "_may_administer", lambda: True)
    with pytest.raises(InputError, match=r"libnftables-is-not-here.so.1 is missing") as caught:
        open_backstop(GOOD, tmp_path)
    assert "with nftables installed" in caught.value.remedy
    assert open_backstop(replace(GOOD, kernel="off"), tmp_path) is None
    assert "kernel backstop: off; here it could not be on: lib" in capsys.readouterr().err


TLS = TlsFiles(Path("c"), Path("k"), Path("p"))
PORT = PortConfig(listen_host="192.0.2.1", allow=("192.0.2.2",))
GOOD = GateConfig(
    ports=(PORT,),
    tls=TLS,
    state_host="192.0.2.1",
    witness="192.0.2.3:8404",
    witness_key="58" + "66" * 31,
    kernel="nftables",
    backstop=BackstopConfig(devices=("eth0",), peers=("[2001:db8::1]:2379",)),
)


def test_a_good_configuration_names_all_peers() -> None:
    plan = make_plan(GOOD.check())
    assert plan.devices == ("eth0",)
    assert plan.dialled == (("2001:db8::1", 2379), ("192.0.2.3", 8404))
    assert [str(network) for network in plan.links[0].edges] == ["192.0.2.2/32"]
    assert plan.state is not None
    assert plan.state.port == 8403


def test_the_members_of_the_store_are_peers() -> None:
    """A gate that cannot reach its store starts nothing, so nobody has to name them twice."""
    by_address = replace(GOOD, store="etcd", etcd=_etcd("192.0.2.31", "[2001:db8::1]", "127.0.0.1"))
    assert make_plan(by_address.check()).dialled == (
        ("2001:db8::1", 2379),
        ("192.0.2.3", 8404),
        ("192.0.2.31", 2379),
    )
    by_name = replace(by_address, etcd=_etcd("etcd1.example"))
    assert len(make_plan(by_name.check()).dialled) == 2, "as [gate.backstop] peers says"
    with pytest.raises(InputError) as caught:
        replace(by_name, backstop=BackstopConfig(devices=("eth0",))).check()
    assert any("in peers" in problem for problem in caught.value.problems), caught.value.problems


def _etcd(*hosts: str) -> EtcdConfig:
    pem = Path("p")
    endpoints = tuple(f"https://{host}:2379" for host in hosts)
    return EtcdConfig(endpoints, ca_file=pem, cert_file=pem, key_file=pem)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"kernel": "ebpf"}, "kernel is 'ebpf'"),
        ({"backstop": BackstopConfig()}, "devices are"),
        ({"backstop": BackstopConfig(devices=("eth0; drop",))}, "no device's name"),
        ({"backstop": BackstopConfig(devices=("eth0", "eth0"))}, "named twice"),
        ({"backstop": BackstopConfig(devices=("e",), peers=("etcd:1",))}, "no numeric address"),
        ({"backstop": BackstopConfig(devices=("e",), peers=("1.2.3.4:0",))}, "no numeric"),
        ({"backstop": BackstopConfig(devices=("e",), control_bytes=1)}, "control_bytes"),
        ({"witness": "witness.example:1"}, "no numeric address"),
        ({"state_port": 0}, "state_port must be a fixed one"),
        ({"state_host": "gate.example"}, "is no address"),
        ({"ports": (replace(PORT, listen_port=0),)}, "listen_port must be a fixed one"),
        ({"ports": (replace(PORT, listen_host="127.0.0.1"),)}, "on the outbound device"),
        ({"ports": (replace(PORT, allow=()),)}, "name the edges' addresses"),
        ({"ports": (replace(PORT, allow=("0.0.0.0/0",)),)}, "name the edges' addresses"),
    ],
)
def test_a_configuration_that_cannot_work_says_why(change: dict[str, object], word: str) -> None:
    with pytest.raises(InputError) as caught:
        replace(GOOD, **change).check()  # type: ignore[arg-type]
    assert any(word in problem for problem in caught.value.problems), caught.value.problems


def test_a_count_of_32_bits_goes_on_beyond_them() -> None:
    seen = 0
    for counted in (5, (1 << 31) - 1, (1 << 32) - 10, 20, 19):
        seen = _unwrapped(seen, counted)
    assert seen == (1 << 32) + 20
