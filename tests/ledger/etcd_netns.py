"""A real etcd of three members, each on a machine of its own: network namespaces on a bridge.

    gates 10.78.0.9 ─┐
    m0    10.78.0.1 ─┤
    m1    10.78.0.2 ─┼─ bridge, in a namespace of its own
    m2    10.78.0.3 ─┘

What runs ``with`` the cluster is on the gates' machine; TLS, since that is beyond loopback.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from kernel.netns import Machine, command
from ledger.etcd_cluster import Cluster, Member
from ledger.etcd_tls import make_files
from narrows.ledger.stores.etcd_http import EtcdConfig

MEMBERS = 3
DEVICE, BRIDGE = "eth0", "br0"
GATES = "10.78.0.9"
_NUMBERS = itertools.count()


def address_of(number: int) -> str:
    return f"10.78.0.{1 + number}"


class SpreadCluster(Cluster):
    """``cut`` and ``heal`` take members by number."""

    def __init__(self, folder: Path, machines: list[Machine], switch: Machine) -> None:
        self._machines, self._switch, self._tls = machines, switch, folder / "tls"
        hosts = [address_of(number) for number in range(MEMBERS)]
        make_files(self._tls, *hosts)
        files = (self._tls / "ca.crt", self._tls / "server.crt", self._tls / "server.key")
        self.members = [
            Member(folder, n, files, host, ("ip", "netns", "exec", machines[n].name))
            for n, host in enumerate(hosts)
        ]
        self._prefixes = itertools.count()

    def config(self, timeout_s: float = 3.0) -> EtcdConfig:
        return replace(
            super().config(timeout_s),
            ca_file=self._tls / "ca.crt",
            cert_file=self._tls / "client.crt",
            key_file=self._tls / "client.key",
        )

    def unplug(self, number: int) -> None:
        """The link goes down: its own kernel and the switch's know it."""
        command("ip", "-n", self._switch.name, "link", "set", f"m{number}", "down")

    def cut(self, number: int, reaches: tuple[str, ...] = ()) -> None:
        """Everything from and to others than ``reaches`` is lost without a word."""
        left = "".join(
            f"add rule inet cut {chain} ip {word} {address} accept\n"
            for chain, word in (("come", "saddr"), ("go", "daddr"))
            for address in reaches
        )
        self._machines[number].nft(
            "add table inet cut\n"
            "add chain inet cut come { type filter hook input priority 0; }\n"
            "add chain inet cut go { type filter hook output priority 0; }\n"
            f'add rule inet cut come iifname "lo" accept\n'
            f'add rule inet cut go oifname "lo" accept\n{left}'
            "add rule inet cut come drop\nadd rule inet cut go drop\n"
        )

    def heal(self) -> None:
        """All reach all again."""
        for number, machine in enumerate(self._machines):
            machine.nft("add table inet cut\ndelete table inet cut\n")
            command("ip", "-n", self._switch.name, "link", "set", f"m{number}", "up")


@contextlib.contextmanager
def spread_cluster(folder: Path) -> Iterator[SpreadCluster]:
    """This thread is on the gates' machine until it ends. Everything goes with it."""
    stem = f"nw{os.getpid()}e{next(_NUMBERS)}"
    switch, gates = Machine(f"{stem}s"), Machine(f"{stem}g")
    machines = [Machine(f"{stem}m{number}") for number in range(MEMBERS)]
    ends = {"gates": (gates, GATES)}
    ends |= {f"m{n}": (machine, address_of(n)) for n, machine in enumerate(machines)}
    everybody = [switch, gates, *machines]
    try:
        for machine in everybody:
            command("ip", "netns", "add", machine.name)
            command("ip", "-n", machine.name, "link", "set", "lo", "up")
        on_switch = ("ip", "-n", switch.name, "link")
        command(*on_switch, "add", BRIDGE, "type", "bridge")
        command(*on_switch, "set", BRIDGE, "up")
        for port, (machine, address) in ends.items():
            peer = ("type", "veth", "peer", "name", DEVICE, "netns", machine.name)
            command(*on_switch, "add", port, *peer)
            command(*on_switch, "set", port, "master", BRIDGE, "up")
            command("ip", "-n", machine.name, "addr", "add", f"{address}/24", "dev", DEVICE)
            command("ip", "-n", machine.name, "link", "set", DEVICE, "up")
        with gates.inside():
            made = SpreadCluster(folder, machines, switch)
            try:
                made.start()
                made.wait()
                yield made
            finally:
                made.stop()
    finally:
        for machine in everybody:
            subprocess.run(["ip", "netns", "del", machine.name], capture_output=True, check=False)
