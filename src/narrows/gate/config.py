"""What a gate is told. Everything has a default but the ports; nothing here moves a budget.

A port that listens beyond loopback must have TLS: bytes of the link would otherwise be read
and forged by anyone on the way to the edge.
"""

from __future__ import annotations

import ipaddress
import math
import re
from dataclasses import dataclass, field

from narrows.config import Range, out_of_range
from narrows.errors import InputError
from narrows.gate.backstop.config import BackstopConfig, backstop_problems
from narrows.gate.tape.config import TapeConfig, tape_problems
from narrows.ledger.log.canonical import is_name
from narrows.ledger.stores.etcd_http import EtcdConfig
from narrows.ledger.stores.place import OPERATOR
from narrows.publickey import key_flaw
from narrows.wire.address import is_loopback
from narrows.wire.padding import fits_tls
from narrows.wire.pins import TlsFiles

_KEY = re.compile("[0-9a-f]{64}")
MAX_PORTS = 16
MAX_LINKS = 4096
MAX_TICK_MS = 10_000
MAX_AMBIENT_BITS_PER_S = 1_000_000
MAX_OUTBOUND_BYTES = 8 << 20  # a tick's count on one link stays below 2^24, see timing.py
MAX_INBOUND_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class PortConfig:
    """One purpose, one account. ``listen_port`` 0: any free one. ``allow``: addresses and
    networks (CIDR) from which the edge may dial; empty: any."""

    name: str = "answers"
    account: str = "answers"
    listen_host: str = "127.0.0.1"
    listen_port: int = 8402
    enclave_host: str = "127.0.0.1"
    enclave_port: int = 8401
    max_links: int = 64
    allow: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class GateConfig:
    """``pacing``: ``variable`` charges what each tick shows; ``constant`` sends
    ``constant_bytes`` (TLS included) on every link in every tick. Buffers are per link.
    ``state_port`` -1: no state port. ``witness``: HOST:PORT of the witness that the ledger
    names, ``witness_key`` its public key, 64 hex digits; both or neither. ``name``: under which
    this gate holds leases, its own among all gates of a ledger. ``store``: ``sqlite``, in the
    state folder, or ``etcd``, in the cluster that ``etcd`` names. ``kernel``: ``off``, or
    ``nftables`` for the backstop (backstop.py). ``ambient_bits_per_s``: the standing cost,
    ``auto`` or a number that is no lower (standing.py). ``cores``, ``machine``: what follows from
    a machine that is not as it must be (surroundings.py). ``tape``: the copy for an auditor."""

    ports: tuple[PortConfig, ...] = (PortConfig(),)
    tick_ms: int = 20
    pacing: str = "variable"
    constant_bytes: int = 256
    outbound_buffer_bytes: int = 1 << 20
    inbound_buffer_bytes: int = 16 << 20
    stall_timeout_s: float = 30.0
    connect_timeout_s: float = 5.0
    handshake_timeout_s: float = 5.0
    closes_per_s: float = 10.0
    handshakes_per_s: float = 1.0
    max_late_ms: float = 2.0
    lease_s: float = 1.0
    min_lease_bytes: int = 256
    max_lease_bytes: int = 64 << 20
    state_host: str = "127.0.0.1"
    state_port: int = 8403
    tls: TlsFiles | None = None
    witness: str = ""
    witness_key: str = ""
    ambient_bits_per_s: str | float = "auto"
    cores: str = "warn"
    machine: str = "refuse"
    kernel: str = "off"
    backstop: BackstopConfig = field(default_factory=BackstopConfig)
    name: str = "gate"
    store: str = "sqlite"
    etcd: EtcdConfig | None = None
    tape: TapeConfig | None = None

    def check(self) -> GateConfig:
        """Itself, or ``InputError`` with every problem."""
        problems = [*_gate_problems(self), *_port_problems(self), *store_problems(self)]
        if problems:
            raise InputError("the gate's configuration is wrong", problems=tuple(problems))
        return self


def _gate_problems(config: GateConfig) -> list[str]:
    least_constant_bytes = 2 if config.tls is None else 64
    ranges: list[Range] = [
        ("tick_ms", config.tick_ms, 1, MAX_TICK_MS),
        ("constant_bytes", config.constant_bytes, least_constant_bytes, 1 << 20),
        ("outbound_buffer_bytes", config.outbound_buffer_bytes, 1024, MAX_OUTBOUND_BYTES),
        ("inbound_buffer_bytes", config.inbound_buffer_bytes, 1024, MAX_INBOUND_BYTES),
        ("stall_timeout_s", config.stall_timeout_s, 0.1, 3600),
        ("connect_timeout_s", config.connect_timeout_s, 0.1, 600),
        ("handshake_timeout_s", config.handshake_timeout_s, 0.1, 600),
        ("closes_per_s", config.closes_per_s, 0.1, 1000),
        ("handshakes_per_s", config.handshakes_per_s, 0.1, 1000),
        ("max_late_ms", config.max_late_ms, 0.1, MAX_TICK_MS),
        ("lease_s", config.lease_s, 0.01, 3600),
        ("min_lease_bytes", config.min_lease_bytes, 64, 1 << 30),
        ("max_lease_bytes", config.max_lease_bytes, config.min_lease_bytes, 1 << 40),
    ]
    problems = out_of_range(ranges)
    if config.pacing not in ("variable", "constant"):
        problems.append(f"pacing is {config.pacing!r}, must be 'variable' or 'constant'")
    if config.tls is not None and not fits_tls(config.constant_bytes):
        problems.append(f"constant_bytes is {config.constant_bytes}: its last TLS record is empty")
    if bool(config.witness) != bool(config.witness_key):
        problems.append("witness and witness_key belong together")
    if config.witness_key and not _KEY.fullmatch(config.witness_key):
        problems.append("witness_key must be 64 lower-case hex digits")
    elif config.witness_key and (flaw := key_flaw(bytes.fromhex(config.witness_key))):
        problems.append(f"witness_key is refused: {flaw}")
    if config.state_port >= 0 and config.tls is None and not is_loopback(config.state_host):
        problems.append(f"the state port listens on {config.state_host} without TLS files")
    problems += _machine_problems(config)
    if config.kernel not in ("off", "nftables"):
        problems.append(f"kernel is {config.kernel!r}, must be 'off' or 'nftables'")
    if config.kernel == "nftables":
        problems += backstop_problems(config)
    if config.tape is not None:
        problems += tape_problems(config.tape, [port.name for port in config.ports])
    return problems


def _machine_problems(config: GateConfig) -> list[str]:
    problems = []
    rate = config.ambient_bits_per_s
    if rate != "auto" and (
        isinstance(rate, str) or not math.isfinite(rate) or not 0 <= rate <= MAX_AMBIENT_BITS_PER_S
    ):
        problems.append(
            f"ambient_bits_per_s is {rate!r}, must be 'auto' or 0..{MAX_AMBIENT_BITS_PER_S}"
        )
    if config.cores not in ("refuse", "warn", "off"):
        problems.append(f"cores is {config.cores!r}, must be 'refuse', 'warn' or 'off'")
    if config.machine not in ("refuse", "warn"):
        problems.append(f"machine is {config.machine!r}, must be 'refuse' or 'warn'")
    return problems


def store_problems(config: GateConfig) -> list[str]:
    """Why the ledger's place, or this gate's name in it, cannot be so."""
    problems = []
    if not is_name(config.name) or config.name == OPERATOR:
        problems.append(f"name is {config.name!r}, must be a lower-case word, not {OPERATOR!r}")
    if config.store not in ("sqlite", "etcd"):
        problems.append(f"store is {config.store!r}, must be 'sqlite' or 'etcd'")
    if (config.store == "etcd") != (config.etcd is not None):
        problems.append("store = 'etcd' and the table [gate.etcd] belong together")
    if config.etcd is not None:
        problems += config.etcd.problems()
    return problems


def _port_problems(config: GateConfig) -> list[str]:
    if not 1 <= len(config.ports) <= MAX_PORTS:
        return [f"a gate has 1..{MAX_PORTS} ports, not {len(config.ports)}"]
    problems = []
    names = [port.name for port in config.ports]
    if len(set(names)) != len(names):
        problems.append("two ports have the same name")
    for port in config.ports:
        if not _is_word(port.name) or not _is_word(port.account):
            problems.append(f"port {port.name!r}: names and accounts are words of 1..32 letters")
        if not 0 <= port.listen_port < 65536 or not 1 <= port.enclave_port < 65536:
            problems.append(f"port {port.name!r}: TCP ports are 0..65535, the enclave's not 0")
        if not 1 <= port.max_links <= MAX_LINKS:
            problems.append(f"port {port.name!r}: max_links must be 1..{MAX_LINKS}")
        problems += [
            f"port {port.name!r}: {text!r} in allow is no address and no network"
            for text in port.allow
            if not _is_network(text)
        ]
        if config.tls is None and not is_loopback(port.listen_host):
            problems.append(f"port {port.name!r} listens on {port.listen_host} without TLS files")
    return problems


def _is_word(name: str) -> bool:
    return 1 <= len(name) <= 32 and name.isascii() and name.replace("-", "").isalnum()


def _is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text)
    except ValueError:
        return False
    return True
