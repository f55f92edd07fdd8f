"""A real gate process that refused says ``ok`` again when the cause has ended.

Nobody dials it meanwhile: like the edge, the tests only read the state line until it says ``ok``.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gate.test_gate_etcd import _move, _start
from gate.test_gate_process import state_of, stop
from ledger.etcd_cluster import cluster, needs_etcd, wait_until
from narrows.bench.gate_peers import (
    Child,
    Counter,
    Deployment,
    StoppableWitness,
    deployment,
    enclave_process,
)
from narrows.ledger.changes import sign_change
from narrows.ledger.keys import load_private
from narrows.ledger.limits import Limits
from narrows.ledger.office.admin import apply_change, find_gap, recover
from narrows.ledger.office.propose import budget_document, recovery_document
from narrows.wire.gatestate import fetch_state

PATIENCE_S = 60.0


def change(site: Deployment, limits: Limits, *accounts: str) -> None:
    """A signed change of the budget while the gate runs, by an operator's process."""
    with site.ledger("operator") as ledger:
        operator = load_private(site.state / "ledger" / "operators" / "demo.key")
        capped = dict.fromkeys(accounts or ("answers",), Limits(None))
        document = budget_document(ledger.state(), "demo", limits, capped, ledger.now_ms())
        apply_change(ledger, document, [sign_change(document, operator)])


def spend_until(gate: Child, reason: str, port: int | None = None) -> None:
    """Links that take all there is, until the gate refuses because of ``reason``."""
    wait_until(
        lambda: Counter(port or gate.port).join(PATIENCE_S) >= 0 and state_of(gate).state == reason,
        f"the gate says {reason}",
    )


def comes_back(gate: Child, what: str, since_s: float | None = None) -> float:
    """Seconds until the state line says ``ok``; then a link is served."""
    since_s = time.monotonic() if since_s is None else since_s
    deadline = time.monotonic() + PATIENCE_S
    while (state := state_of(gate)).state != "ok":
        assert time.monotonic() < deadline, f"{what}: still {state} after {PATIENCE_S} s"
        time.sleep(0.1)
    took_s = time.monotonic() - since_s
    counter = Counter(gate.port)
    wait_until(lambda: counter.arrived_bytes > 0, "bytes arrive", PATIENCE_S)
    counter.close()
    print(f"{what}: ok again after {took_s:.1f} s")
    return took_s


def test_a_window_counts_down_and_opens() -> None:
    with deployment(1 << 30) as site, enclave_process("flood") as inside:
        change(site, Limits(1 << 30, ((8_000, 20_000),)))
        gate = site.start_gate(inside, tick_ms=5)
        spend_until(gate, "window")
        first = state_of(gate).retry_after_s
        assert 1 <= first <= 9
        began_s = time.monotonic()
        wait_until(
            lambda: state_of(gate).retry_after_s < first, "the seconds count down", PATIENCE_S
        )
        comes_back(gate, f"window of {first} s", began_s)
        stop(gate)


def test_a_raised_budget_serves_again() -> None:
    with deployment(2_000) as site, enclave_process("flood") as inside:
        gate = site.start_gate(inside, tick_ms=5)
        spend_until(gate, "depleted")
        time.sleep(6)  # nothing that was asked early helps
        assert state_of(gate).state == "depleted"
        change(site, Limits(1 << 30))
        comes_back(gate, "depleted")
        stop(gate)


def _only(gate: Child) -> str:
    (port,) = asyncio.run(fetch_state("127.0.0.1", gate.facts["state_port"])).ports.values()
    return port.state


def test_an_account_that_is_made_later_serves() -> None:
    with deployment(1 << 30) as site, enclave_process("flood") as inside:
        gate = site.start_gate(inside, tick_ms=5, accounts=("later",))
        Counter(gate.port).join(PATIENCE_S)
        assert _only(gate) == "unknown_account"
        change(site, Limits(1 << 30), "answers", "later")
        began_s = time.monotonic()
        wait_until(lambda: _only(gate) == "ok", "the account is known", PATIENCE_S)
        print(f"unknown_account: ok again after {time.monotonic() - began_s:.1f} s")
        stop(gate)


def test_a_witness_that_returns_serves_again() -> None:
    with deployment(1 << 40) as site, enclave_process("flood") as inside:
        gate = site.start_gate(inside)
        counter = Counter(gate.port)
        wait_until(lambda: counter.arrived_bytes > 100_000, "bytes arrive")
        address = ("127.0.0.1", site.witness_port)
        site.server.vanish()
        counter.join(PATIENCE_S)
        assert state_of(gate).state == "witness"
        time.sleep(4)
        assert state_of(gate).state == "witness"
        again = StoppableWitness(address, site.witness)
        thread = threading.Thread(target=again.serve_forever, daemon=True)
        thread.start()
        try:
            comes_back(gate, "witness")
            stop(gate)
        finally:
            again.vanish()
            thread.join()


def test_a_witness_whose_clock_was_behind_serves_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with deployment(1 << 40) as site, enclave_process("flood") as inside:
        gate = site.start_gate(inside)
        right: Callable[[], int] = site.witness._time_ms
        monkeypatch.setattr(site.witness, "_time_ms", lambda: right() - 60_000)
        spend_until(gate, "clock")
        time.sleep(4)
        assert state_of(gate).state == "clock"
        monkeypatch.setattr(site.witness, "_time_ms", right)
        comes_back(gate, "clock")
        stop(gate)


def _recover(site: Deployment) -> None:
    """What 'narrows ledger recover' does, signed by the operator: by a process of its own."""
    with site.ledger("operator") as ledger:
        gap, now = find_gap(ledger), ledger.state()
        witnessed = (gap.witnessed.size, gap.witnessed.root)
        document = recovery_document(now, gap.root, witnessed, gap.gap_bytes, gap.witnessed.time_ms)
        operator = load_private(site.state / "ledger" / "operators" / "demo.key")
        recover(ledger, document, [sign_change(document, operator)])


def test_a_ledger_that_was_behind_its_witness_serves_again() -> None:
    """It went on from an old copy; the witness has seen another head since."""
    with deployment(1 << 40) as site, enclave_process("flood") as inside:
        newer = site.state / "newer"
        shutil.copytree(site.state / "ledger", newer / "ledger")
        newer.chmod(0o700)
        gate = site.start_gate(inside)
        change(dataclasses.replace(site, state=newer), Limits(1 << 41))
        spend_until(gate, "behind")
        time.sleep(4)
        assert state_of(gate).state == "behind"
        _recover(site)
        comes_back(gate, "behind")
        stop(gate)


@contextmanager
def small_ledger_disk(site: Deployment) -> Iterator[Path]:
    """The ledger's folder, moved to a file system of 1 MiB; the witness stays. Needs root."""
    folder, kept = site.state / "ledger", site.state / "kept"
    words = ["mount", "-t", "tmpfs", "-o", "size=1m,mode=0700", "narrows-test", str(folder)]
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting a small file system needs root")
    shutil.copytree(folder, kept)
    if (done := subprocess.run(words, capture_output=True)).returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.decode()}")
    try:
        shutil.copytree(kept, folder, dirs_exist_ok=True)
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _fill(folder: Path) -> Path:
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        size = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
        os.posix_fallocate(file.fileno(), 0, size)
    return ballast


def test_a_disk_that_was_full_serves_again() -> None:
    with (
        deployment(1 << 40) as site,
        small_ledger_disk(site) as disk,
        enclave_process("flood") as inside,
    ):
        gate = site.start_gate(inside)
        counter = Counter(gate.port)
        wait_until(lambda: counter.arrived_bytes > 100_000, "bytes arrive")
        ballast = _fill(disk)
        counter.join(PATIENCE_S)
        refused_since = time.monotonic()
        while time.monotonic() < refused_since + 6:  # what can be read is no proof of a write
            if state_of(gate).state == "ok":  # the log's file had some room left
                Counter(gate.port).join(PATIENCE_S)
                refused_since = time.monotonic()
            time.sleep(0.2)
        assert state_of(gate).state == "store"
        ballast.unlink()
        comes_back(gate, "store: disk full")
        stop(gate)


@needs_etcd
def test_etcd_that_lost_its_majority_serves_again() -> None:
    with cluster(3) as made, deployment(1 << 40) as site, enclave_process("flood") as inside:
        gate = _start(site, _move(site, made), inside, site.state)
        counter = Counter(gate.port)
        wait_until(lambda: counter.arrived_bytes > 100_000, "bytes arrive")
        for member in made.members[:2]:
            member.kill()
        counter.join(PATIENCE_S)
        time.sleep(4)
        assert state_of(gate).state == "store"
        for member in made.members[:2]:
            made.restart(member)
        began_s = time.monotonic()
        made.wait()
        print(f"etcd answers after {time.monotonic() - began_s:.1f} s")
        comes_back(gate, "store: etcd majority")
        gate.kill()


def test_strangers_do_not_change_when_it_asks() -> None:
    """Connections while it refuses bring nothing: the state stays what the ledger says."""
    with deployment(2_000) as site, enclave_process("flood") as inside:
        gate = site.start_gate(inside, tick_ms=5)
        spend_until(gate, "depleted")
        for _ in range(20):
            socket.create_connection(("127.0.0.1", gate.port)).close()
        assert state_of(gate).state == "depleted"
        change(site, Limits(1 << 30))
        comes_back(gate, "depleted, with strangers")
        stop(gate)
