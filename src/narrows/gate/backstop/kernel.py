"""The kernel behind the backstop: one table, the outbound devices, the sockets' TCP_INFO.

``Kernel`` is what the backstop needs of it. One thread at a time. At the end of a process,
whatever ends it, the table stays: what it forbids stays forbidden.
"""

from __future__ import annotations

import ctypes
import ipaddress
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from narrows.errors import PeerError
from narrows.gate.backstop import netdev
from narrows.gate.backstop.allowance import CLASSES, Reading
from narrows.gate.backstop.nft import (
    LIBRARY,
    Nft,
    PeerPlan,
    Served,
    closing_commands,
    object_commands,
    over_commands,
    read_table,
    rule_commands,
)
from narrows.gate.backstop.tcpinfo import Address, Ends, TcpSockets

_CAP_NET_ADMIN = 12


class Kernel(Protocol):
    """Every call raises ``PeerError`` where the kernel does not do as asked."""

    def install(self) -> Reading:
        """Closed, with nothing granted; earlier counts are kept."""

    def read(self) -> Reading:
        """All counts, the devices' first and the sockets' last."""

    def set_over(self, over: Mapping[str, int]) -> None:
        """Raise the quotas of these classes, in place."""

    def seal(self, names: tuple[str, ...]) -> None:
        """Nothing more of these classes leaves."""

    def close(self) -> None:
        """Give the handles back. The rules stay."""


def unavailable() -> str:
    """Why there can be no backstop here; empty where nothing speaks against it."""
    if not _may_administer():
        return "not root (CAP_NET_ADMIN is missing)"
    try:
        ctypes.CDLL(LIBRARY)
    except OSError:
        return f"{LIBRARY} is missing (Debian: apt install nftables)"
    return ""


def _may_administer() -> bool:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> _CAP_NET_ADMIN & 1)
    return os.geteuid() == 0


class NftKernel:
    """``Kernel`` on nftables."""

    def __init__(self, plan: PeerPlan) -> None:
        self._plan = plan
        self._nft: Nft | None = None
        self._sockets: TcpSockets | None = None
        self._only: socket.socket | None = None
        self._indexes: dict[str, int] = {}
        self._rules = ""
        self._over: dict[str, int] = {}

    def install(self) -> Reading:
        devices = self._plan.devices
        # One gate for each network namespace: that of the thread that makes the socket.
        self._only = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._only.bind("\0narrows-backstop")
        except OSError as error:
            raise PeerError("another gate holds this machine's backstop") from error
        nft = self._nft = Nft()
        frame_bytes = {device: netdev.prepare(device) for device in devices}
        self._indexes = {device: socket.if_nametoindex(device) for device in devices}
        nft.run(closing_commands(devices))
        nft.run(object_commands())
        nft.run(rule_commands(self._plan, frame_bytes))
        self._rules, self._over = read_table(nft).rules, dict.fromkeys(CLASSES, 0)
        self._sockets = TcpSockets(self._classify)
        return self.read()

    def read(self) -> Reading:
        if self._nft is None or self._sockets is None:
            raise PeerError("the backstop is not installed")
        try:
            sent = sum(netdev.sent_packets(self._plan.devices).values())
            table = read_table(self._nft)
            tcp = self._sockets.totals()
        except OSError as error:
            raise PeerError(f"the kernel's counts cannot be read: {error}") from error
        broken = self._broken_device()
        if table.rules != self._rules:
            broken = "someone changed the gate's rules in the kernel"
        elif table.over != self._over:
            broken = "someone changed the gate's quotas in the kernel"
        return Reading(table.flows, tcp, table.long_packets, sent, broken)

    def set_over(self, over: Mapping[str, int]) -> None:
        if self._nft is None:
            raise PeerError("the backstop is not installed")
        self._nft.run(over_commands(over))
        self._over |= over

    def seal(self, names: tuple[str, ...]) -> None:
        try:
            self.set_over(dict.fromkeys(names, 0))
        except PeerError:
            if self._nft is None:
                raise
            self._nft.run(closing_commands(self._plan.devices))

    def close(self) -> None:
        if self._only is not None:
            self._only.close()
        if self._nft is not None:
            self._nft.close()
        if self._sockets is not None:
            self._sockets.close()

    def _broken_device(self) -> str:
        for device, index in self._indexes.items():
            if fault := netdev.segmentation(device):
                return fault
            if socket.if_nametoindex(device) != index:
                return f"{device} is another device now"
        return ""

    def _classify(self, ends: Ends) -> str:
        if ends.remote.is_loopback:
            return ""
        if any(_serves(served, ends) for served in self._plan.links):
            return "links"
        if self._plan.state is not None and _serves(self._plan.state, ends):
            return "control"
        dialled = {(ipaddress.ip_address(host), port) for host, port in self._plan.dialled}
        return "control" if (ends.remote, ends.remote_port) in dialled else ""


def _serves(served: Served, ends: Ends) -> bool:
    host = ipaddress.ip_address(served.host)
    return (
        served.port == ends.local_port
        and host.version == ends.local.version
        and (host.is_unspecified or host == ends.local)
        and _within(ends.remote, served)
    )


def _within(address: Address, served: Served) -> bool:
    return any(address in network for network in served.edges)
