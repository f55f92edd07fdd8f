"""What is attacked: witness, gate and edge as their own processes, on loopback or, isolated, in
the namespaces of ``narrows up --isolated``. The enclave is ours, and hostile (inside.py)."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TypeVar

from narrows.alarms.settings import AlarmSettings
from narrows.alarms.store import FiledAlarm, read_alarms
from narrows.deploy.config import Config, load_config
from narrows.deploy.isolated import identities, outside
from narrows.deploy.local import to_toml, with_witness
from narrows.deploy.supervise import Role, Supervisor
from narrows.durable import write_whole
from narrows.edge.books.keys import create_key
from narrows.edge.books.store import open_database
from narrows.errors import PeerError
from narrows.gate.config import GateConfig, PortConfig
from narrows.gate.tape.config import TapeConfig
from narrows.isolate import network as net
from narrows.isolate.user import deployment_tag
from narrows.ledger.changes import sign_change
from narrows.ledger.keys import load_private
from narrows.ledger.ledger import Ledger
from narrows.ledger.limits import Limits
from narrows.ledger.office.admin import apply_change
from narrows.ledger.office.balances import read_balances
from narrows.ledger.office.demo import ACCOUNTS, LINEAGE, create_demo, demo_witness_key
from narrows.ledger.office.propose import budget_document
from narrows.ledger.office.setup import open_witness
from narrows.ledger.stores.place import OPERATOR, LedgerPlace
from narrows.private import private_folder
from narrows.redteam.client import Client, Seen, watch
from narrows.redteam.inside import HostileInside
from narrows.wire.gatestate import fetch_state
from narrows.wire.gatestats import read_gate_ports
from narrows.wire.pins import check_peer, client_context, read_pins
from narrows.wire.spool.file import new_key

BUDGET_BYTES = 50_000_000
TICK_MS = 5
CLOSES_PER_S = 10.0
CONNECT_S = 0.4  # after which a refused link ends
ROLE_S = 300.0
FIGURES_S = 20.0
DIAL_S = 10.0

T = TypeVar("T")


class Site:
    """Made by ``local`` or ``isolated``. ``tick_ms``: of the gate."""

    def __init__(
        self,
        state: Path,
        inside: HostileInside,
        network: net.Network | None,
        windows: tuple[tuple[int, int], ...],
    ) -> None:
        self.state, self.inside = state, inside
        self.tick_ms = TICK_MS
        self._network = network
        self._supervisor = Supervisor(state / "log")
        self._roles: dict[str, Role] = {}
        self._key = ""
        self._tape_key, public = new_key()
        self._spool = private_folder(state, "spool")
        self._tape = TapeConfig(self._spool, public.hex(), ("answers",))
        create_demo(state, BUDGET_BYTES)
        if windows:
            self._narrow(windows)
        self._config = self._configured()
        self.cap_bytes = windows[0][1] if windows else BUDGET_BYTES
        self.window_s = windows[0][0] / 1000 if windows else 0.0

    # roles ----------------------------------------------------------------------------

    def start(self, name: str) -> Role:
        """PeerError where the role refuses to start."""
        arguments = [name, "--state", str(self.state)]
        if name == "witness":
            arguments += ["--listen", "127.0.0.1:0"]
        else:
            arguments += ["--config", str(self._write())]
        enter = None
        if self._network is not None:
            enter = {"witness": self._network.gate.enter, "gate": self._network.enter_gate}.get(
                name
            )
        role = self._supervisor.start(name, arguments, timeout_s=ROLE_S, enter=enter)
        self._roles[name] = role
        self._note(name, role)
        return role

    def end(self, name: str, *, kill: bool = False) -> None:
        """A role that was started; by SIGTERM, or by SIGKILL."""
        process = self._roles[name].process
        process.kill() if kill else process.terminate()
        process.wait(30)

    def close(self) -> None:
        self._supervisor.stop()
        self.inside.stop()

    # outside --------------------------------------------------------------------------

    @property
    def client(self) -> Client:
        edge = self._config.edge
        return Client(("127.0.0.1", edge.listen_port), edge.model_name, self._key)

    def dial(self) -> socket.socket:
        """A connection to the gate's raw port, as an edge has it."""
        gate = self._config.gate.ports[1]
        sock = socket.create_connection((gate.listen_host, gate.listen_port), DIAL_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        tls = self._config.edge.tls
        if tls is None:
            return sock
        files = (tls.cert_file, tls.key_file, tls.peer_file)
        wrapped = client_context(*files).wrap_socket(sock, server_hostname="gate")
        check_peer(wrapped, read_pins(tls.peer_file))
        return wrapped

    @property
    def gate_config(self) -> GateConfig:
        return self._config.gate

    def run_by_gate(self, function: Callable[[], T]) -> T:
        """From where the gate stands: its network namespace, if it has one."""
        return function() if self._network is None else self._network.gate.run(function)

    def state_line(self) -> str:
        """What the gate's state port says, as an edge asks it."""
        gate, tls = self._config.gate, self._config.edge.tls
        where = (gate.state_host, gate.state_port)
        if tls is None:
            return str(asyncio.run(fetch_state(*where)))
        context = client_context(tls.cert_file, tls.key_file, tls.peer_file)
        return str(asyncio.run(fetch_state(*where, context, read_pins(tls.peer_file))))

    def new_key(self, name: str) -> int:
        """The client gets an API key of its own; the key's number, by which alarms name it."""
        with closing(open_database(self.state)) as database:
            number, self._key = create_key(database, name, int(time.time()))
        return number

    # the books ------------------------------------------------------------------------

    def metered_bits(self) -> int:
        """What the gate that runs has charged since its start: bytes and timing, on all
        accounts. Waits for figures that are newer than the call."""
        called_s, path = time.time(), self.state / "gate" / "stats.json"
        deadline = time.monotonic() + FIGURES_S
        while not path.exists() or path.stat().st_mtime < called_s + 0.02:
            if time.monotonic() > deadline:
                raise PeerError("the gate writes no figures")
            time.sleep(0.02)
        ports = read_gate_ports(self.state).values()
        return 8 * sum(int(port["sent_bytes"]) + int(port["timing_bytes"]) for port in ports)

    def settled_bits(self) -> int:
        """What the ledger has lost for good. A lease that is out may still be used by what comes
        next, so this is from where that is counted."""
        return 8 * read_balances(LedgerPlace(self.state)).spent_bytes

    def spent_bits(self) -> int:
        """What the ledger has lost for good or to leases that are out."""
        balances = read_balances(LedgerPlace(self.state))
        return 8 * (balances.spent_bytes + balances.outstanding_bytes)

    def alarms(self) -> list[FiledAlarm]:
        """All that rang, oldest first. The edge ends, which has it write them."""
        if "edge" in self._roles:
            self.end("edge")
        return read_alarms(self.state)[::-1]

    def tape(self) -> tuple[Path, bytes]:
        """The spool's folder and the key that opens it. The gate ends, and with it its tape."""
        self.end("gate")
        return self._spool, self._tape_key

    # ----------------------------------------------------------------------------------

    def _narrow(self, windows: tuple[tuple[int, int], ...]) -> None:
        place = LedgerPlace(self.state)
        key = load_private(place.folder / "operators" / "demo.key")
        witness = open_witness(self.state)
        try:
            ledger = Ledger.open(place, witness=witness, gate=OPERATOR)
            try:
                limits = Limits(BUDGET_BYTES, windows)
                accounts = dict.fromkeys(ACCOUNTS, Limits(None))
                document = budget_document(
                    ledger.state(), LINEAGE, limits, accounts, ledger.now_ms()
                )
                apply_change(ledger, document, [sign_change(document, key)])
            finally:
                ledger.close()
        finally:
            witness.close()

    def _configured(self) -> Config:
        config = load_config(None)
        ports = tuple(
            PortConfig(name, name, listen_port=0, enclave_port=port, max_links=64)
            for name, port in zip(ACCOUNTS, self.inside.ports, strict=True)
        )
        gate = dataclasses.replace(
            config.gate,
            ports=ports,
            tick_ms=TICK_MS,
            closes_per_s=CLOSES_PER_S,
            connect_timeout_s=CONNECT_S,
            state_port=0,
            tape=self._tape,
        )
        edge = dataclasses.replace(
            config.edge,
            listen_port=0,
            weak=("bytes",),
            probe=False,
            model_name="strong",
            alarms=AlarmSettings(couples="always"),
        )
        config = dataclasses.replace(config, gate=gate, edge=edge)
        if self._network is None:
            return config
        config = outside(config, self._network, identities(self.state))
        second = dataclasses.replace(config.gate.ports[1], max_links=64)
        gate = dataclasses.replace(
            config.gate, ports=(config.gate.ports[0], second), handshakes_per_s=1000.0
        )
        return dataclasses.replace(config, gate=gate)

    def _write(self) -> Path:
        path = self.state / "narrows.toml"
        write_whole(path, to_toml(self._config).encode(), 0o600)
        return path

    def _note(self, name: str, role: Role) -> None:
        """Ports that a role has chosen stay its own, also when it comes back."""
        config, facts = self._config, role.facts
        if name == "witness":
            key = demo_witness_key(self.state).hex()
            self._config = with_witness(config, facts["port"], key)
        elif name == "gate":
            ports = tuple(
                dataclasses.replace(port, listen_port=facts["ports"][port.name])
                for port in config.gate.ports
            )
            gate = dataclasses.replace(config.gate, ports=ports, state_port=facts["state_port"])
            edge = dataclasses.replace(
                config.edge,
                gate_port=ports[0].listen_port,
                state_host=gate.state_host,
                state_port=facts["state_port"],
                port_name=ports[0].name,
            )
            self._config = dataclasses.replace(config, gate=gate, edge=edge)
        elif name == "edge":
            edge = dataclasses.replace(config.edge, listen_port=int(facts["port"]))
            self._config = dataclasses.replace(config, edge=edge)


def passed(site: Site, data: bytes, seconds: float) -> Seen:
    """What comes of ``data`` that the enclave sends on the raw port at once, in so long."""

    async def raw(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(data)
        await writer.drain()
        await reader.read()

    site.inside.raw = raw
    with site.dial() as sock:
        sock.sendall(b"\x00")
        return watch(sock, seconds, len(data))


@contextmanager
def running(
    state: Path,
    *,
    isolated: bool = False,
    edge: bool = True,
    windows: tuple[tuple[int, int], ...] = (),
) -> Iterator[Site]:
    """A site with all its roles. ``windows``: (milliseconds, bytes) of the budget. Errors:
    PeerError, InputError where this machine cannot."""
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not isolated:
        inside = HostileInside((("127.0.0.1", 0), ("127.0.0.1", 0)))
        with _started(state, inside, None, edge, windows) as site:
            yield site
        return
    with net.wired(deployment_tag(state)) as network:
        inside = HostileInside(
            ((net.ENCLAVE, net.ENCLAVE_PORTS[0]), (net.ENCLAVE, net.ENCLAVE_PORTS[1])),
            network.enclave.enter,
        )
        with _started(state, inside, network, edge, windows) as site:
            yield site


@contextmanager
def _started(
    state: Path,
    inside: HostileInside,
    network: net.Network | None,
    edge: bool,
    windows: tuple[tuple[int, int], ...],
) -> Iterator[Site]:
    inside.start()
    try:
        site = Site(state, inside, network, windows)
    except BaseException:
        inside.stop()
        raise
    try:
        for name in ("witness", "gate", *(("edge",) if edge else ())):
            site.start(name)
        yield site
    finally:
        site.close()
