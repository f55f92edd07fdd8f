"""Two machines for a test: network namespaces of this process's own, joined by a cable.

    gate 10.77.0.1 / fd77::1 ──out0 ═══ out0── outside 10.77.0.2 / fd77::2

Names carry the process's number, and everything goes with ``with``: a namespace that is
deleted takes its devices, rules and sockets along.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from narrows.gate.backstop.allowance import CLASSES
from narrows.gate.backstop.kernel import unavailable
from narrows.isolate.namespaces import CLONE_NEWNET, setns

GATE, OUTSIDE = "10.77.0.1", "10.77.0.2"
GATE6, OUTSIDE6 = "fd77::1", "fd77::2"
DEVICE = "out0"
_NUMBERS = itertools.count()


def why_not() -> str:
    """Why namespaces and nftables cannot be used here."""
    missing = [tool for tool in ("ip", "nft", "ethtool") if shutil.which(tool) is None]
    if missing:
        return f"{', '.join(missing)} missing"
    if unavailable():
        return unavailable()
    name = f"nwprobe{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False)
    subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
    return "" if made.returncode == 0 else "network namespaces cannot be made"


needs_kernel = pytest.mark.skipif(bool(why_not()), reason=f"kernel backstop: {why_not()}")


def command(*words: str, text: str | None = None) -> str:
    done = subprocess.run(words, input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"
    return done.stdout


@dataclass(frozen=True)
class Machine:
    """One namespace."""

    name: str

    def run(self, *words: str, text: str | None = None) -> str:
        return command("ip", "netns", "exec", self.name, *words, text=text)

    def nft(self, text: str) -> str:
        return self.run("nft", "-f", "-", text=text)

    def table(self) -> list[dict[str, Any]]:
        listed = self.run("nft", "-j", "list", "table", "netdev", "narrows")
        return list(json.loads(listed)["nftables"])

    def counter(self, name: str) -> tuple[int, int]:
        """Packets and bytes."""
        [found] = [e["counter"] for e in self.table() if e.get("counter", {}).get("name") == name]
        return found["packets"], found["bytes"]

    def counted(self) -> tuple[int, int]:
        """Packets and bytes of all classes that passed: beside links, neighbour discovery."""
        found = [self.counter(f"{name}_passed") for name in CLASSES]
        return sum(packets for packets, _ in found), sum(size for _, size in found)

    def quota(self, name: str) -> dict[str, Any]:
        [found] = [e["quota"] for e in self.table() if e.get("quota", {}).get("name") == name]
        return dict(found)

    def device(self) -> dict[str, int]:
        """rx_bytes, rx_packets, tx_bytes, tx_packets of the cable's end, as the device counts."""
        for line in self.run("cat", "/proc/net/dev").splitlines():
            name, _, rest = line.partition(":")
            if name.strip() == DEVICE:
                n = [int(word) for word in rest.split()]
                return {
                    "rx_bytes": n[0],
                    "rx_packets": n[1],
                    "tx_bytes": n[8],
                    "tx_packets": n[9],
                }
        raise AssertionError(f"no {DEVICE} in {self.name}")

    def python(self, code: str, *words: str) -> subprocess.Popen[str]:
        """A Python process in the namespace; the caller ends it."""
        return subprocess.Popen(
            ["ip", "netns", "exec", self.name, sys.executable, "-c", code, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def within(self, call: Callable[[], Any]) -> Any:
        """``call`` in a thread that is in the namespace; sockets made there stay in it."""
        result: list[Any] = []
        failed: list[BaseException] = []

        def work() -> None:
            try:
                _enter(self.name)
                result.append(call())
            except BaseException as error:  # noqa: BLE001 - handed on below
                failed.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join(60)
        if failed:
            raise failed[0]
        assert result, "the call did not end"
        return result[0]

    def connect(self, host: str, port: int) -> socket.socket:
        made = self.within(lambda: socket.create_connection((host, port), timeout=20))
        assert isinstance(made, socket.socket)
        return made

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """This thread is in the namespace, with all sockets, threads and processes it makes."""
        with Path("/proc/thread-self/ns/net").open("rb") as before:
            _enter(self.name)
            try:
                yield
            finally:
                setns(before.fileno(), CLONE_NEWNET)


def _enter(name: str) -> None:
    with Path(f"/run/netns/{name}").open("rb") as file:
        setns(file.fileno(), CLONE_NEWNET)


@contextlib.contextmanager
def two_machines() -> Iterator[tuple[Machine, Machine]]:
    """The gate's and the outside's. No duplicate address detection: no wait for IPv6."""
    stem = f"nw{os.getpid()}x{next(_NUMBERS)}"
    gate, outside = Machine(f"{stem}g"), Machine(f"{stem}o")
    try:
        for machine in (gate, outside):
            command("ip", "netns", "add", machine.name)
            command("ip", "-n", machine.name, "link", "set", "lo", "up")
            for key in ("accept_dad", "accept_ra"):  # nothing is sent by the kernel on its own
                machine.run("tee", f"/proc/sys/net/ipv6/conf/default/{key}", text="0")
        ends = ("type", "veth", "peer", "name", DEVICE, "netns", outside.name)
        command("ip", "-n", gate.name, "link", "add", DEVICE, *ends)
        for machine, v4, v6 in ((gate, GATE, GATE6), (outside, OUTSIDE, OUTSIDE6)):
            command("ip", "-n", machine.name, "addr", "add", f"{v4}/24", "dev", DEVICE)
            command("ip", "-n", machine.name, "addr", "add", f"{v6}/64", "dev", DEVICE, "nodad")
            command("ip", "-n", machine.name, "link", "set", DEVICE, "up")
        yield gate, outside
    finally:
        for machine in (gate, outside):
            subprocess.run(["ip", "netns", "del", machine.name], capture_output=True, check=False)


def wait_until(what: Callable[[], bool], timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
