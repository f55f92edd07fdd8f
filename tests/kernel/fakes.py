"""A ledger that grants everything, and a kernel that is a few dictionaries."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace

from narrows.errors import PeerError
from narrows.gate.backstop.allowance import CLASSES, Flow, Reading, Tcp
from narrows.ledger.api import Denied, Lease


class Leases:
    """A ``LeaseSource``. ``asked``: what happened, in order."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.refuse: Denied | None = None

    def acquire(self, account: str, want_bytes: int) -> Lease | Denied:
        self.asked.append("acquire")
        return self.refuse or Lease(os.urandom(16), account, want_bytes)

    def would_refuse(self, account: str, need_bytes: int) -> Denied | None:
        self.asked.append("would_refuse")
        return self.refuse

    def settle(self, lease: Lease, used_bytes: int) -> None:
        self.asked.append("settle")


class FakeKernel:
    """A ``Kernel``: ``pass_frames`` plays the network, ``fail`` makes the next calls fail."""

    def __init__(self) -> None:
        self.reading = Reading({name: Flow() for name in CLASSES})
        self.over = dict.fromkeys(CLASSES, 0)
        self.sealed: list[tuple[str, ...]] = []
        self.fail = ""
        self.reads = 0
        self.later: list[Reading] = []  # what the next readings will be

    def install(self) -> Reading:
        self._check()
        return self.reading

    def read(self) -> Reading:
        self._check()
        self.reads += 1
        if self.later:
            self.reading = self.later.pop(0)
        return self.reading

    def set_over(self, over: Mapping[str, int]) -> None:
        self._check()
        self.over |= over

    def seal(self, names: tuple[str, ...]) -> None:
        self._check()
        self.sealed.append(names)

    def close(self) -> None:
        pass

    def _check(self) -> None:
        if self.fail:
            raise PeerError(self.fail)


def send(
    reading: Reading, name: str, payload: int, packets: int = 1, *, by_socket: bool = True
) -> Reading:
    """``packets`` more of ``name`` left, over IPv4; by a socket of the gate, or by no one's."""
    flow, tcp = reading.flows[name], reading.tcp.get(name, Tcp())
    flow = replace(
        flow,
        packets=flow.packets + packets,
        size_bytes=flow.size_bytes + payload + 66 * packets,
    )
    if by_socket:
        tcp = Tcp(
            max(1, tcp.connections),
            tcp.segments + packets,
            tcp.sent_bytes + payload,
            tcp.retransmitted_bytes,
            tcp.header_bytes + 66 * packets,
        )
    return replace(
        reading,
        flows={**reading.flows, name: flow},
        tcp={**reading.tcp, name: tcp},
        device_packets=reading.device_packets + packets,
    )
