"""The kernel backstop: the same ledger, a second time, below the gate's own code.

Order (paid before sent, in the kernel too)
1. ``acquire`` of the ledger returned a lease; the quota of ``links`` is raised by it, in place.
2. Only then the lease is handed on, and the meter's credit grows.
3. Every second the counters, TCP_INFO and what the meters charged are compared. What they do
   not explain stops the gate for good: ``links`` is sealed, all leases are refused with
   reason ``kernel``, and ``STATE/gate/alarm.json`` keeps the next gate from starting.
4. The quota is never lowered but to 0, and the rules stay when the process ends, however it
   ends: a dead gate's machine can send what was granted, and no more.

A lease that returns lowers nothing: the next one raises the quota by so much less. At a start
the quota is what had passed: what a dead gate was granted is spent in the ledger, and here.
Called from three threads: the ledger's, the loop's (``note_call``), the backstop's.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

from narrows.durable import sync_folder, write_whole
from narrows.errors import InputError, PeerError
from narrows.gate.backstop.allowance import (
    ANNOUNCED_AHEAD_BYTES,
    ANNOUNCED_HEADERS_BYTES,
    BARE_BURST_BYTES,
    BARE_BYTES_PER_CONNECTION,
    BARE_BYTES_PER_S,
    CLASSES,
    CONTROL_BURST_BYTES,
    Granted,
    Reading,
    Tcp,
    acks_bytes,
    broken_law,
    bucket_limit,
    difference,
    overhead_bytes,
    unexplained,
)
from narrows.gate.backstop.config import BackstopConfig
from narrows.gate.backstop.kernel import Kernel
from narrows.ledger.api import Denied, Lease, LeaseSource

REASON = "kernel"
RECONCILE_S, BUSY_RECONCILE_S = 1.0, 0.25
_READINGS, _BETWEEN_S = 8, 0.1


class Backstop:
    """A ``LeaseSource`` in front of the ledger's. ``paid_bytes`` is set by the gate: all bytes
    that its meters charged for links, from any thread."""

    def __init__(
        self,
        kernel: Kernel,
        config: BackstopConfig,
        state_dir: Path,
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        self.alarm = ""
        self.pause_s = RECONCILE_S  # until the next comparison
        self.paid_bytes: Callable[[], int] = lambda: 0
        self._kernel, self._config, self._say = kernel, config, say
        self._clock, self._wait = clock, wait
        self._alarm_file = state_dir / "gate" / "alarm.json"
        self._lock = threading.Lock()
        self._source: LeaseSource | None = None
        self._granted = Granted()
        self._calls = self._calls_refilled = self._connections = 0
        self._refilled_at = 0.0
        self._acks_refilled = 0
        self._limits = dict.fromkeys(CLASSES, 0)
        self._over = dict.fromkeys(CLASSES, 0)
        self._start = self._last = Reading({})
        self._worst_bytes = self._worst_packets = 0
        self._stats: dict[str, object] = {"state": "off"}

    # start and end -------------------------------------------------------------------

    def open(self) -> None:
        """Install the rules and open what needs no lease. ``InputError``: it cannot work here,
        or an alarm was not looked into."""
        if self._alarm_file.exists():
            raise InputError(
                f"the kernel backstop stopped this gate before: {self._alarm_file}",
                "find out what sent those bytes, then remove that file",
            )
        try:
            self._start = self._last = reading = self._kernel.install()
            for name in CLASSES:
                self._limits[name] = reading.flows[name].size_bytes
            self._limits["control"] += CONTROL_BURST_BYTES
            self._limits["acks"] += self._config.headroom_bytes
            self._limits["bare"] += BARE_BURST_BYTES
            self._limits["neighbour"] += BARE_BURST_BYTES
            self._refilled_at = self._clock()
            self._raise()
            self._describe()
        except PeerError as error:
            raise InputError(
                f"the kernel backstop cannot work: {error.message}",
                error.remedy or 'see docs/gate.md, or set [gate] kernel = "off"',
            ) from error

    def guard(self, source: LeaseSource) -> LeaseSource:
        """This, in front of ``source``."""
        self._source = source
        return self

    def close(self) -> None:
        """One last look, then everything is sealed: no lease is out any more."""
        self.reconcile()
        with self._lock:
            try:
                self._kernel.seal(("links", "control", "acks"))
            except PeerError as error:
                self._say(f"kernel backstop: not sealed: {error.message}")
            self._kernel.close()

    # leases --------------------------------------------------------------------------

    def acquire(self, account: str, want_bytes: int) -> Lease | Denied:
        if self._source is None or self.alarm:
            return self.denial()
        self._calls += 1
        answer = self._source.acquire(account, want_bytes)
        if isinstance(answer, Denied):
            return answer
        with self._lock:
            self._granted.lease(answer.size_bytes)
            try:
                if not self.alarm:
                    self._raise()
            except PeerError as error:
                self._stop(f"the quota could not be raised: {error.message}")
        return self.denial() if self.alarm else answer  # not handed out: it counts as spent

    def would_refuse(self, account: str, need_bytes: int) -> Denied | None:
        if self._source is None or self.alarm:
            return self.denial()
        self._calls += 1
        return self._source.would_refuse(account, need_bytes)

    def settle(self, lease: Lease, used_bytes: int) -> None:
        if self._source is None:
            raise PeerError("the backstop guards no ledger")
        self._calls += 1
        self._source.settle(lease, used_bytes)
        with self._lock:
            self._granted.settle(lease.size_bytes, used_bytes)

    def note_call(self) -> None:
        """The gate is about to answer on its state port."""
        self._calls += 1

    def announce(self, size_bytes: int) -> None:
        """The ledger is about to send so much to its store: a write of a snapshot is larger
        than what calls alone bring. Headers are an eighth at most, in segments of 536 bytes."""
        size_bytes += size_bytes // 8 + ANNOUNCED_HEADERS_BYTES
        with self._lock:
            if self.alarm:
                return
            self._limits["control"] = bucket_limit(
                self._limits["control"],
                self._last.flows["control"].size_bytes,
                size_bytes,
                CONTROL_BURST_BYTES + ANNOUNCED_AHEAD_BYTES,
            )
            try:
                self._raise()
            except PeerError as error:
                self._stop(f"the quota could not be raised: {error.message}")

    def denial(self) -> Denied:
        return Denied(REASON, f"the kernel backstop stopped this gate: {self.alarm}")

    def _raise(self) -> None:
        """Let the kernel allow what is granted now; its limits only ever grow."""
        tcp = self._last.tcp.get("links", Tcp())
        base = self._start.flows["links"].size_bytes
        long_packets = self._long_packets("links")
        self._limits["links"] = max(
            self._limits["links"],
            base
            + self._granted.size_bytes
            + overhead_bytes(tcp, long_packets)
            + self._config.headroom_bytes,
        )
        over = {n: self._limits[n] + self._last.flows[n].dropped_bytes for n in CLASSES}
        higher = {name: size for name, size in over.items() if size > self._over[name]}
        if higher:
            self._kernel.set_over(higher)
            self._over |= higher

    def _long_packets(self, name: str) -> int:
        return self._last.long_packets.get(name, 0) - self._start.long_packets.get(name, 0)

    # every second --------------------------------------------------------------------

    def reconcile(self) -> bool:
        """Compare, then let the allowances follow. Whether the gate must stop."""
        for attempt in range(_READINGS):
            if attempt:
                self._wait(_BETWEEN_S)
            with self._lock:
                fault = self._compare()
                if not fault:
                    return bool(self.alarm)
        with self._lock:
            self._stop(fault)
        return True

    def _compare(self) -> str:
        """What is not explained so far; what never can be stops the gate at once."""
        if self.alarm:
            return ""
        try:
            last, self._last = self._last, self._kernel.read()
            reading = self._last
            law = broken_law(reading, last, self._limits, self.paid_bytes())
            if law:
                self._stop(law)
                return ""
            fault = unexplained(reading, self._start)
            if not fault:
                self._refill()
                self._raise()
                found = difference(reading, self._start, "links")
                self._worst_bytes = max(self._worst_bytes, found.size_bytes)
                self._worst_packets = max(self._worst_packets, found.packets)
                self._describe()
        except PeerError as error:
            self._stop(error.message)
            return ""
        return fault

    def _refill(self) -> None:
        now, calls = self._clock(), self._calls
        connections = sum(tcp.connections for tcp in self._last.tcp.values())
        acks = acks_bytes(self._last.tcp.values(), self._long_packets("acks"))
        control = (calls - self._calls_refilled) * self._config.control_bytes
        timed = int((now - self._refilled_at) * BARE_BYTES_PER_S)
        fresh = (connections - self._connections) * BARE_BYTES_PER_CONNECTION
        ahead = self._config.headroom_bytes
        left = self._limits["acks"] - self._last.flows["acks"].size_bytes
        self.pause_s = RECONCILE_S if left > ahead // 2 else BUSY_RECONCILE_S
        for name, refill, burst in (
            ("control", control, CONTROL_BURST_BYTES),
            ("acks", acks - self._acks_refilled, ahead),
            ("bare", timed + fresh, BARE_BURST_BYTES),
            ("neighbour", timed, BARE_BURST_BYTES),
        ):
            passed = self._last.flows[name].size_bytes
            self._limits[name] = bucket_limit(self._limits[name], passed, refill, burst)
        self._calls_refilled, self._connections = calls, connections
        self._acks_refilled = acks
        if timed:
            self._refilled_at = now

    def _stop(self, why: str) -> None:
        """For good. The rest of ``control`` lets the state port say why."""
        self.alarm = why
        self._describe()
        self._say(f"ALARM: kernel backstop: {why}; nothing more is sent")
        try:
            self._kernel.seal(("links",))
        except PeerError as error:
            self._say(f"kernel backstop: not sealed: {error.message}")
        try:
            _write_alarm(self._alarm_file, why)
        except (InputError, OSError) as error:
            self._say(f"kernel backstop: {self._alarm_file} cannot be written: {error}")

    def stats(self) -> dict[str, object]:
        """For the stats file, as of the last comparison; never waits."""
        return self._stats

    def _describe(self) -> None:
        flows = self._last.flows
        found = difference(self._last, self._start, "links")
        tcp = self._last.tcp.get("links", Tcp())
        self._stats = {
            "state": "stopped" if self.alarm else "on",
            "alarm": self.alarm,
            "passed_bytes": {name: flows[name].size_bytes for name in CLASSES},
            "dropped_bytes": {name: flows[name].dropped_bytes for name in CLASSES},
            "limit_bytes": dict(self._limits),
            "overhead_bytes": overhead_bytes(tcp, self._long_packets("links")),
            "difference_bytes": found.size_bytes,
            "worst_difference_bytes": self._worst_bytes,
            "worst_difference_packets": self._worst_packets,
            "bound_bytes": found.bound_bytes,
        }


def _write_alarm(path: Path, why: str) -> None:
    """Durable before anything else happens: the next start must see it. The name first: it stops
    that start by itself, where a full disk takes no words."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.touch()
    sync_folder(path.parent)
    words = json.dumps({"v": 1, "alarm": why, "unix_time_s": int(time.time())})
    write_whole(path, words.encode())
