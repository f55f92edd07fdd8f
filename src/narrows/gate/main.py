"""A gate as a process: one event loop, one thread that talks to the ledger."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from narrows.errors import BudgetError, InputError, PeerError
from narrows.gate.backstop.config import make_plan
from narrows.gate.backstop.guard import Backstop
from narrows.gate.backstop.kernel import NftKernel, unavailable
from narrows.gate.backstop.netdev import other_devices
from narrows.gate.config import GateConfig, PortConfig
from narrows.gate.machine.surroundings import Surroundings
from narrows.gate.server import Gate
from narrows.gate.stats_file import Latency
from narrows.gate.tape.tap import Tap
from narrows.ledger.ledger import Ledger
from narrows.ledger.stores.place import LedgerPlace
from narrows.ledger.witness.server import HttpWitness
from narrows.ledger.witness.witness import witness_verifier
from narrows.private import private_folder
from narrows.wire.address import parse_address

Facts = dict[str, object]
Say = Callable[[str], None]
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
        "kernel": gate.config.kernel,
    }


def open_ledger(
    config: GateConfig,
    state_dir: Path,
    announce: Callable[[int], None] = lambda size_bytes: None,
    heard: Callable[[float], None] = lambda seconds: None,
) -> Ledger:
    """The ledger of ``state_dir``, after counting as spent what a gate that died had leased.
    ``announce`` hears what is about to be sent to its store, ``heard`` how long a witness took.
    ``BudgetError`` where it cannot be trusted to be the newest one."""
    witness = None
    if config.witness:
        verifier = witness_verifier(bytes.fromhex(config.witness_key))
        witness = HttpWitness(*parse_address(config.witness), verifier, heard=heard)
    place = LedgerPlace(state_dir, config.etcd)
    ledger = Ledger.open(place, witness=witness, gate=config.name, announce=announce)
    try:
        ledger.recover_dead_leases()
    except BudgetError:
        ledger.close()
        raise
    return ledger


def _log(text: str) -> None:
    with contextlib.suppress(OSError, ValueError):  # a full disk, a closed pipe: no reason to end
        print(f"narrows gate: {text}", file=sys.stderr, flush=True)


def open_backstop(config: GateConfig, state_dir: Path, log: Say = _log) -> Backstop | None:
    """The backstop, installed; None, and said so, where the configuration leaves it off.
    ``InputError`` where it was asked for and cannot be had."""
    why = unavailable()
    if config.kernel == "off":
        log(f"kernel backstop: off{'; here it could not be on: ' + why if why else ''}")
        return None
    if why:
        raise InputError(
            f"the kernel backstop cannot work here: {why}",
            'run the gate as root with nftables installed, or set [gate] kernel = "off"',
        )
    backstop = Backstop(NftKernel(make_plan(config)), config.backstop, state_dir, log)
    backstop.open()
    unguarded = other_devices(config.backstop.devices)
    if unguarded:
        log(f"kernel backstop: without a quota: {', '.join(unguarded)}")
    return backstop


def audited_accounts(config: GateConfig) -> frozenset[str]:
    """Of the ports that are copied onto the tape."""
    if config.tape is None:
        return frozenset()
    named = config.tape.ports
    return frozenset(port.account for port in config.ports if not named or port.name in named)


def serve(
    config: GateConfig, state_dir: Path, say: Callable[[Facts], None], log: Say = _log
) -> None:
    """Run a gate until a signal ends it. ``say`` hears once what it listens on, ``log``
    what is to be told."""
    config.check()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    private_folder(state_dir, "gate")  # the alarm and the figures
    with contextlib.ExitStack() as stack:
        backstop = open_backstop(config, state_dir, log)  # first: the witness is asked through it
        if backstop is not None:
            stack.callback(backstop.close)
        surroundings = Surroundings(config, log)
        stack.callback(surroundings.close)
        surroundings.start()
        executor = stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="ledger"))
        announce = backstop.announce if backstop is not None else lambda size_bytes: None
        took = Latency()
        opened = executor.submit(open_ledger, config, state_dir, announce, took.add)
        ledger = opened.result()
        stack.callback(lambda: executor.submit(ledger.close).result())
        source = backstop.guard(ledger) if backstop is not None else ledger
        accounts = audited_accounts(config)
        tap = None
        if config.tape is not None:
            _, newest = executor.submit(ledger.credited, accounts).result()
            tap = Tap(config.tape, log, newest)
        gate = Gate(
            config,
            source,
            executor,
            state_dir,
            backstop,
            surroundings,
            log,
            tap,
            lambda: ledger.credited(accounts)[0],
            took,
        )
        try:
            asyncio.run(gate.run(lambda ready: say(facts(ready))))
        except OSError as error:
            raise PeerError(f"the gate cannot go on: {error}") from error
