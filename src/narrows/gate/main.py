"""A gate as a process: one event loop, one thread that talks to the ledger."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from narrows.errors import BudgetError, PeerError
from narrows.gate.config import GateConfig, PortConfig, parse_address
from narrows.gate.server import Gate
from narrows.ledger.ledger import Ledger
from narrows.ledger.setup import witness_verifier
from narrows.ledger.witness_http import HttpWitness

Facts = dict[str, object]
SWITCH_INTERVAL_S = 0.0002  # the ledger's thread must not keep the loop from its ticks


def single_port(listen: str, enclave: str, account: str) -> GateConfig:
    """The configuration of ``--listen``, ``--enclave``, ``--account``: one port, and a state
    port on any free one."""
    listen_host, listen_port = parse_address(listen)
    enclave_host, enclave_port = parse_address(enclave)
    port = PortConfig(account, account, listen_host, listen_port, enclave_host, enclave_port)
    return GateConfig(ports=(port,), state_port=0)


def facts(gate: Gate) -> Facts:
    """What the process says when it listens: its TCP ports, the first one as ``port``."""
    ports = {port.port.name: port.listening for port in gate.ports}
    return {
        "ready": True,
        "port": gate.ports[0].listening,
        "ports": ports,
        "state_port": gate.state_port,
    }


def open_ledger(config: GateConfig, state_dir: Path) -> Ledger:
    """The ledger of ``state_dir``, after counting as spent what a gate that died had leased.
    ``BudgetError`` where it cannot be trusted to be the newest one."""
    witness = None
    if config.witness:
        verifier = witness_verifier(bytes.fromhex(config.witness_key))
        witness = HttpWitness(*parse_address(config.witness), verifier)
    ledger = Ledger.open(state_dir, witness=witness, gate=config.name, etcd=config.etcd)
    try:
        ledger.recover_dead_leases()
    except BudgetError:
        ledger.close()
        raise
    return ledger


def serve(config: GateConfig, state_dir: Path, say: Callable[[Facts], None]) -> None:
    """Run a gate until a signal ends it. ``say`` hears once what it listens on."""
    config.check()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    with ThreadPoolExecutor(1, thread_name_prefix="ledger") as executor:
        ledger = executor.submit(open_ledger, config, state_dir).result()
        gate = Gate(config, ledger, executor, state_dir)
        try:
            asyncio.run(gate.run(lambda ready: say(facts(ready))))
        except OSError as error:
            raise PeerError(f"the gate cannot go on: {error}") from error
        finally:
            executor.submit(ledger.close).result()
