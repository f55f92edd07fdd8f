"""Peers of a real gate process: enclaves that flood or echo, an edge that counts.

Run as a module it is the enclave, in a process of its own: ``flood`` sends as fast as it can
to whoever connects, ``echo`` returns what it gets. It prints its port and ends with its
standard input.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from narrows.errors import BudgetError, PeerError
from narrows.ledger.ledger import Ledger
from narrows.ledger.office.demo import create_demo, demo_witness_key
from narrows.ledger.office.setup import open_witness
from narrows.ledger.office.verify import verify_path
from narrows.ledger.stores.place import LedgerPlace
from narrows.ledger.witness.server import WitnessServer
from narrows.ledger.witness.witness import Witness

CHUNK_BYTES = 1 << 20
READY_LINE_BYTES = 1 << 16


@dataclass
class Child:
    """A started process and what it said when it was ready."""

    process: subprocess.Popen[bytes]
    facts: dict[str, Any]

    @property
    def port(self) -> int:
        return int(self.facts["port"])

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()


def start(arguments: list[str], log: Path | None = None) -> Child:
    """Run ``python ARGUMENTS`` and wait for its line of JSON. ``PeerError`` if it ends first."""
    errors = log.open("ab") if log is not None else None
    try:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors if errors is not None else subprocess.DEVNULL,
        )
    finally:
        if errors is not None:
            errors.close()
    line = process.stdout.readline(READY_LINE_BYTES) if process.stdout is not None else b""
    child = Child(process, {})
    if not line:
        child.kill()
        raise PeerError(f"{' '.join(arguments[:3])} ended with {process.returncode}")
    child.facts = json.loads(line)
    return child


@contextlib.contextmanager
def enclave_process(kind: str) -> Iterator[int]:
    """An enclave of ``kind`` (flood, echo) in its own process; its port."""
    child = start(["-m", "narrows.bench.gate_peers", kind])
    try:
        yield child.port
    finally:
        child.kill()


class StoppableWitness(WitnessServer):
    """A witness that can be taken away in the middle of its connections."""

    def __init__(self, address: tuple[str, int], witness: Witness) -> None:
        self._open: list[socket.socket] = []
        super().__init__(address, witness)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.append(request)
        super().process_request(request, client_address)

    def vanish(self) -> None:
        """No more cosignatures: connections are refused, open ones end."""
        self.shutdown()
        self.server_close()
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


@dataclass(frozen=True)
class Deployment:
    """A state folder with a ledger, and its witness, served by ``server``."""

    state: Path
    witness: Witness
    server: StoppableWitness
    witness_key: bytes

    @property
    def witness_port(self) -> int:
        return int(self.server.server_address[1])

    def start_gate(
        self,
        enclave_port: int,
        *,
        tick_ms: int = 20,
        accounts: tuple[str, ...] = ("answers",),
        tables: str = "",
    ) -> Child:
        """``narrows gate`` on loopback, one port for each account and named like it. ``tables``:
        TOML of more tables of its configuration."""
        config = self.state / "gate.toml"
        config.write_text(
            f"[gate]\ntick_ms = {tick_ms}\nstate_port = 0\n"
            f'witness = "127.0.0.1:{self.witness_port}"\n'
            f'witness_key = "{self.witness_key.hex()}"\n'
            + "".join(
                f'[[gate.ports]]\nname = "{account}"\naccount = "{account}"\nlisten_port = 0\n'
                f"enclave_port = {enclave_port}\nmax_links = 1024\n"
                for account in accounts
            )
            + tables
        )
        flags = ["--config", str(config), "--state", str(self.state)]
        return start(["-m", "narrows.cli.main", "gate", *flags], self.state / "gate.log")

    def committed_bytes(self) -> int:
        """What the ledger says can have left: spent, and leased to a gate that died. The log
        is verified from its first leaf, and compared with what the witness cosigned."""
        with self.ledger() as ledger:
            ledger.recover_dead_leases()
            committed = sum(ledger.state().committed().values())
        balances = verify_path(self.state).balances
        if balances.spent_bytes + balances.outstanding_bytes != committed:
            raise BudgetError("the log's leaves give other balances than the ledger has")
        return committed

    @contextlib.contextmanager
    def ledger(self, gate: str = "gate") -> Iterator[Ledger]:
        """The ledger, while no gate of that name runs; the witness is asked directly."""
        ledger = Ledger.open(LedgerPlace(self.state), witness=self.witness, gate=gate)
        try:
            yield ledger
        finally:
            ledger.close()


@contextlib.contextmanager
def deployment(budget_bytes: int) -> Iterator[Deployment]:
    """A new ledger with that lifetime budget, and its witness in a thread."""
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder)
        create_demo(state, budget_bytes)
        witness = open_witness(state)
        server = StoppableWitness(("127.0.0.1", 0), witness)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield Deployment(state, witness, server, demo_witness_key(state))
        finally:
            server.vanish()
            thread.join()
            witness.close()


class Counter:
    """One edge connection that counts every byte its socket gets, until it ends."""

    def __init__(self, port: int) -> None:
        self.arrived_bytes = 0
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._thread = threading.Thread(target=self._count, daemon=True)
        self._thread.start()

    def _count(self) -> None:
        buffer = bytearray(CHUNK_BYTES)
        with contextlib.suppress(OSError):
            while got := self._socket.recv_into(buffer):
                self.arrived_bytes += got

    def join(self, timeout_s: float = 30.0) -> int:
        """Bytes that arrived, after the connection's end."""
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            raise PeerError("a link did not end")
        self._socket.close()
        return self.arrived_bytes

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()


def _flood(connection: socket.socket) -> None:
    chunk = bytes(CHUNK_BYTES)
    with contextlib.suppress(OSError), connection:
        while True:
            connection.sendall(chunk)


def _serve_flood(listener: socket.socket) -> None:
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=_flood, args=(connection,), daemon=True).start()


class _Echo(asyncio.Protocol):
    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.Transport):
            self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


async def _serve_echo(listener: socket.socket) -> None:
    server = await asyncio.get_running_loop().create_server(_Echo, sock=listener)
    await server.serve_forever()


def main(kind: str) -> None:
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    print(json.dumps({"ready": True, "port": listener.getsockname()[1]}), flush=True)
    if kind == "flood":
        serving = threading.Thread(target=_serve_flood, args=(listener,), daemon=True)
    else:
        serving = threading.Thread(target=lambda: asyncio.run(_serve_echo(listener)), daemon=True)
    serving.start()
    sys.stdin.buffer.read()


if __name__ == "__main__":
    main(sys.argv[1])
