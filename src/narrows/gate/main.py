"""A gate as a process: one event loop, one thread that talks to the ledger."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from narrows.errors import InputError, PeerError
from narrows.gate.config import GateConfig, PortConfig
from narrows.gate.server import Gate
from narrows.ledger.api import LeaseSource
from narrows.ledger.ledger import Ledger

Facts = dict[str, object]


def single_port(listen: str, enclave: str, account: str) -> GateConfig:
    """The configuration of ``--listen``, ``--enclave``, ``--account``: one port, and a state
    port on any free one."""
    listen_host, listen_port = _address(listen)
    enclave_host, enclave_port = _address(enclave)
    port = PortConfig(account, account, listen_host, listen_port, enclave_host, enclave_port)
    return GateConfig(ports=(port,), state_port=0)


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise InputError(f"{text!r} is not HOST:PORT")
    return host.strip("[]"), int(port)


def facts(gate: Gate) -> Facts:
    """What the process says when it listens: its TCP ports, the first one as ``port``."""
    ports = {port.port.name: port.listening for port in gate.ports}
    return {
        "ready": True,
        "port": gate.ports[0].listening,
        "ports": ports,
        "state_port": gate.state_port,
    }


def open_ledger(state_dir: Path) -> Ledger:
    """The ledger of ``state_dir``, after counting as spent what a gate that died had leased.
    ``BudgetError`` where it cannot be trusted to be the newest one."""
    ledger = Ledger.open(state_dir, witness=None)
    ledger.recover_dead_leases()
    return ledger


def serve(
    config: GateConfig,
    state_dir: Path,
    open_source: Callable[[], LeaseSource],
    say: Callable[[Facts], None],
) -> None:
    """Run a gate until a signal ends it. ``open_source`` runs in the ledger's thread."""
    config.check()
    with ThreadPoolExecutor(1, thread_name_prefix="ledger") as executor:
        source = executor.submit(open_source).result()
        gate = Gate(config, source, executor, state_dir)
        try:
            asyncio.run(gate.run(lambda ready: say(facts(ready))))
        except OSError as error:
            raise PeerError(f"the gate cannot go on: {error}") from error
