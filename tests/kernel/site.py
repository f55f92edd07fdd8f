"""A real ``narrows gate`` in one namespace, its witness and its edges in the other one."""

from __future__ import annotations

import contextlib
import json
import select
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kernel.netns import DEVICE, GATE, OUTSIDE, OUTSIDE6, Machine, two_machines, wait_until
from narrows.bench.gate_peers import Child, StoppableWitness
from narrows.ledger.ledger import Ledger
from narrows.ledger.office.demo import create_demo, demo_witness_key
from narrows.ledger.office.setup import open_witness
from narrows.ledger.stores.place import LedgerPlace
from narrows.wire.gatestate import PortState, decode_state
from narrows.wire.pins import client_context, make_identity

LINK_PORT, STATE_PORT, WITNESS_PORT = 8402, 8403, 9100
READY_S = 60.0

# an enclave on the gate's loopback that says so many bytes to every link, again and again
_ENCLAVE = """
import socket, sys, threading, time
size, every_s = int(sys.argv[1]), float(sys.argv[2])
def speak(connection):
    try:
        while True:
            connection.sendall(bytes(size))
            time.sleep(every_s)
    except OSError:
        pass
listener = socket.create_server(("127.0.0.1", 0), backlog=256)
print(listener.getsockname()[1], flush=True)
def swallow(connection):
    try:
        while connection.recv(1 << 16):
            pass
    except OSError:
        pass
def serve():
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=speak, args=(connection,), daemon=True).start()
        threading.Thread(target=swallow, args=(connection,), daemon=True).start()
threading.Thread(target=serve, daemon=True).start()
sys.stdin.read()
"""


class Edge:
    """One TLS link from outside; counts plaintext, and reads until the end."""

    def __init__(self, site: Site, host: str = GATE, patience_s: float = 30.0) -> None:
        raw = site.outside.connect(host, LINK_PORT)
        raw.settimeout(patience_s)
        self._socket = site.context.wrap_socket(raw, server_hostname="gate")
        self._socket.settimeout(None)
        self.arrived_bytes = 0
        self.ended = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            while part := self._socket.recv(1 << 16):
                self.arrived_bytes += len(part)
        self.ended.set()

    def say(self, count_bytes: int) -> None:
        self._socket.sendall(bytes(count_bytes))

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        # A descriptor that is closed under a read may be another file's before the read begins.
        self._reader.join()
        self._socket.close()


class Site:
    """Namespaces, ledger, witness and TLS identities; gates are started and ended by the test."""

    def __init__(self, gate: Machine, outside: Machine, folder: Path, budget_bytes: int) -> None:
        self.gate, self.outside, self.folder = gate, outside, folder
        self.state = folder / "state"
        self.state.mkdir()
        create_demo(self.state, budget_bytes)
        self._gate_files = make_identity(folder, "gate")
        self._edge_files = make_identity(folder, "edge")
        self.context: ssl.SSLContext = client_context(*self._edge_files, self._gate_files[0])
        self.witness = open_witness(self.state)
        self.server: StoppableWitness = outside.within(
            lambda: StoppableWitness((OUTSIDE, WITNESS_PORT), self.witness)
        )
        self._thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self._thread.start()
        self._children: list[subprocess.Popen[Any]] = []
        self.enclave_port = 0

    def close(self) -> None:
        for process in self._children:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):
                    if stream is not None:
                        stream.close()
        self.server.vanish()
        self._thread.join()
        self.witness.close()

    def enclave(self, size: int, every_s: float) -> None:
        process = self.gate.python(_ENCLAVE, str(size), str(every_s))
        self._children.append(process)
        assert process.stdout is not None
        self.enclave_port = int(process.stdout.readline())

    def config(self, **backstop: object) -> Path:
        path = self.folder / "gate.toml"
        lines = "".join(f"{key} = {json.dumps(value)}\n" for key, value in backstop.items())
        devices = "" if "devices" in backstop else f'devices = ["{DEVICE}"]\n'
        path.write_text(f"""
[gate]
tick_ms = 20
kernel = "nftables"
handshakes_per_s = 50.0
state_host = "{GATE}"
state_port = {STATE_PORT}
witness = "{OUTSIDE}:{WITNESS_PORT}"
witness_key = "{demo_witness_key(self.state).hex()}"
[gate.tls]
cert_file = "{self._gate_files[0]}"
key_file = "{self._gate_files[1]}"
peer_file = "{self._edge_files[0]}"
[gate.backstop]
{devices}{lines}
{self._port("answers", GATE, OUTSIDE)}
{self._port("answers6", "::", OUTSIDE6)}
""")
        return path

    def _port(self, name: str, host: str, edge: str) -> str:
        """Both families on one TCP port: a port of the gate listens on one."""
        return f"""
[[gate.ports]]
name = "{name}"
account = "answers"
listen_host = "{host}"
listen_port = {LINK_PORT}
enclave_port = {self.enclave_port or 1}
allow = ["{edge}"]
"""

    def command(self, config: Path) -> list[str]:
        flags = ["--state", str(self.state), "--config", str(config)]
        enter = ["ip", "netns", "exec", self.gate.name]
        return [*enter, sys.executable, "-m", "narrows.cli.main", "gate", *flags]

    def start_gate(self, **backstop: object) -> Child:
        """Wait until it serves. ``ip netns exec`` replaces itself: the process is the gate."""
        log = (self.folder / "gate.log").open("ab")
        with log:
            process = subprocess.Popen(
                self.command(self.config(**backstop)),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        self._children.append(process)
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], READY_S)
        line = process.stdout.readline() if ready else b""
        assert line, self.log()
        return Child(process, json.loads(line))

    def refused(self, **backstop: object) -> tuple[int, str]:
        """Exit code and words of a gate that must not start."""
        command = self.command(self.config(**backstop))
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        return done.returncode, done.stderr

    def stop_gate(self, gate: Child) -> None:
        gate.process.terminate()
        assert gate.process.wait(30) == 0, self.log()
        gate.kill()

    def log(self) -> str:
        return (self.folder / "gate.log").read_text()

    def kernel(self) -> dict[str, Any]:
        """The backstop's part of the stats file."""
        stats = json.loads((self.state / "gate" / "stats.json").read_text())
        return dict(stats["kernel"])

    def sent_bytes(self) -> int:
        stats = json.loads((self.state / "gate" / "stats.json").read_text())
        return sum(int(port["sent_bytes"]) for port in stats["ports"].values())

    def port_state(self) -> PortState:
        raw = self.outside.connect(GATE, STATE_PORT)
        raw.settimeout(20)
        with self.context.wrap_socket(raw, server_hostname="gate") as sock:
            line = b""
            while part := sock.recv(4096):
                line += part
        return decode_state(line).ports["answers"]

    def committed_bytes(self) -> int:
        """What the ledger says can have left, replayed."""
        ledger = Ledger.open(LedgerPlace(self.state), witness=self.witness)
        try:
            ledger.recover_dead_leases()
            return sum(ledger.state().committed().values())
        finally:
            ledger.close()

    def wait_alarm(self) -> str:
        wait_until(lambda: self.kernel()["state"] == "stopped")
        return str(self.kernel()["alarm"])


@contextlib.contextmanager
def site(budget_bytes: int = 1 << 40) -> Iterator[Site]:
    with tempfile.TemporaryDirectory() as folder, two_machines() as (gate, outside):
        made = Site(gate, outside, Path(folder), budget_bytes)
        try:
            yield made
        finally:
            made.close()
