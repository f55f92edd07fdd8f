"""What the tests of isolation stand on: who listens on the host and in the gate's namespace,
who sniffs on a cable, and how the enclave's sandbox is started with a program of the test's.

Nothing here is fixed: tags, ports, folders and keys are drawn anew, so that two runs may share
a machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pytest

from narrows.deploy.supervise import die_with
from narrows.isolate.namespaces import CLONE_NEWNET, TOOL_PATH, NetNamespace, setns
from narrows.isolate.network import ENCLAVE, Network
from narrows.isolate.sandbox import Sandbox

_missing = [tool for tool in ("bwrap", "ip", "nft") if shutil.which(tool, path=TOOL_PATH) is None]
T = TypeVar("T")
needs_isolation = pytest.mark.skipif(
    os.geteuid() != 0 or bool(_missing),
    reason="isolation needs root, bubblewrap, iproute2 and nftables"
    + (f"; missing: {', '.join(_missing)}" if _missing else ""),
)


def new_tag() -> int:
    return secrets.randbits(28)


def wait_for(condition: Callable[[], Any], what: str, timeout_s: float = 60.0) -> Any:
    """The first true value of ``condition``."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what} did not happen in {timeout_s} s"
        time.sleep(0.02)
    return value


class NetworkOf:
    """The network namespace of a process, as far as these tests need one."""

    def __init__(self, pid: int) -> None:
        self._path = f"/proc/{pid}/ns/net"

    def run(self, function: Callable[[], T]) -> T:
        def inside() -> T:
            with open(self._path) as file:
                setns(file.fileno(), CLONE_NEWNET)
            return function()

        with ThreadPoolExecutor(1) as thread:  # which ends in there
            return thread.submit(inside).result()


class Listener:
    """Takes TCP connections and UDP datagrams at ``host``:``port`` (0: any) and keeps what
    they said; for ``namespace`` from within it."""

    def __init__(
        self, host: str = "0.0.0.0", port: int = 0, namespace: NetNamespace | None = None
    ) -> None:
        self.heard: list[bytes] = []

        def make() -> tuple[socket.socket, socket.socket]:
            tcp = socket.create_server((host, port))
            udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            udp.bind((host, tcp.getsockname()[1]))
            return tcp, udp

        self._tcp, self._udp = namespace.run(make) if namespace else make()
        self.port: int = self._tcp.getsockname()[1]
        self._closed = False
        targets = (self._accept, self._receive)
        self._threads = [threading.Thread(target=target, daemon=True) for target in targets]
        for thread in self._threads:
            thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._tcp.accept()
                self.heard.append(b"connected")
                connection.settimeout(2)
                with connection, contextlib.suppress(OSError):
                    self.heard.append(connection.recv(100))

    def _receive(self) -> None:
        self._udp.settimeout(0.2)
        while not self._closed:
            with contextlib.suppress(TimeoutError):
                self.heard.append(self._udp.recv(100))

    def close(self) -> None:
        self._closed = True
        self._tcp.shutdown(socket.SHUT_RDWR)  # wakes the thread in it
        for thread in self._threads:
            thread.join(10)
        self._tcp.close()
        self._udp.close()


class Sniffer:
    """Every frame on ``device``, in both directions."""

    def __init__(self, device: str, namespace: NetNamespace | NetworkOf | None = None) -> None:
        def make() -> socket.socket:
            sniffing = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
            sniffing.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE
            sniffing.bind((device, 3))
            # A device that is not up yet leaves ENETDOWN here; frames come once it is up. Asked
            # for now, it is forgotten: a device that goes down later still ends the reading.
            sniffing.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            return sniffing

        self._socket = namespace.run(make) if namespace else make()
        self._socket.setblocking(False)
        self.frames: list[bytes] = []

    def read(self) -> list[bytes]:
        """All frames up to now."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self.frames.append(self._socket.recv(1 << 17))
        return self.frames

    def lost(self) -> int:
        """Frames that were not kept, since the last time this was asked."""
        return struct.unpack("II", self._socket.getsockopt(263, 6, 8))[1]  # PACKET_STATISTICS

    def close(self) -> None:
        self._socket.close()


@contextlib.contextmanager
def imprisoned(
    network: Network, uid: int, words: list[str], data: dict[str, bytes], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """``words`` in the enclave's own sandbox and network, as ``narrows up`` would start it."""
    box = Sandbox(uid, data=data)
    with log.open("wb") as file:
        keeper = box.prepare(words).start(die_with(os.getpid(), network.enclave.enter), file)
    try:
        yield keeper
    finally:
        keeper.terminate()
        keeper.wait(30)


def report_of(network: Network, keeper: subprocess.Popen[bytes], log: Path) -> dict[str, Any]:
    """What the attack in there says, asked as the gate would."""

    def ask() -> dict[str, Any] | None:
        assert keeper.poll() is None, f"the sandbox ended: {log.read_text()}"
        with socket.socket() as asking:
            asking.settimeout(10)
            if asking.connect_ex((ENCLAVE, 8401)):
                return None
            with asking.makefile("rb") as stream:
                (size,) = struct.unpack("!I", stream.read(4))
                report: dict[str, Any] = json.loads(stream.read(size))
                return report

    found: dict[str, Any] = wait_for(lambda: network.gate.run(ask), "the attack's report", 120)
    return found
