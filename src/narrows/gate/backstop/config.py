"""What the kernel backstop is told: ``[gate] kernel = "nftables"`` and ``[gate.backstop]``."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from narrows.gate.backstop.netdev import is_device_name
from narrows.gate.backstop.nft import Network, PeerPlan, Served

MAX_DEVICES, MAX_PEERS = 8, 16


@dataclass(frozen=True, slots=True)
class BackstopConfig:
    """``devices``: every network device over which the edges, the witness and the store are
    reached; not the enclave's. ``peers``: HOST:PORT of each TCP server that the gate dials over
    them, beside the witness and the store's members, which are known: only those members that
    the store's configuration names otherwise than by address. ``headroom_bytes``: what headers and
    repetitions may be ahead of TCP_INFO, 64 KiB..1 GiB. ``control_bytes``: what one call of
    the ledger, or one answer of the state port, may send in all, 1 KiB..1 MiB."""

    devices: tuple[str, ...] = ()
    peers: tuple[str, ...] = ()
    headroom_bytes: int = 1 << 20
    control_bytes: int = 16 << 10


class PortFacts(Protocol):
    """What the rules need of a port's configuration (``gate.config.PortConfig``)."""

    @property
    def name(self) -> str: ...
    @property
    def listen_host(self) -> str: ...
    @property
    def listen_port(self) -> int: ...
    @property
    def allow(self) -> tuple[str, ...]: ...


class StoreFacts(Protocol):
    """The store's members (``ledger.stores.etcd_http.EtcdConfig``)."""

    @property
    def endpoints(self) -> tuple[str, ...]: ...


class GateFacts(Protocol):
    """What the rules need of a gate's configuration (``gate.config.GateConfig``)."""

    @property
    def ports(self) -> Sequence[PortFacts]: ...
    @property
    def backstop(self) -> BackstopConfig: ...
    @property
    def state_host(self) -> str: ...
    @property
    def state_port(self) -> int: ...
    @property
    def witness(self) -> str: ...
    @property
    def etcd(self) -> StoreFacts | None: ...


def backstop_problems(config: GateFacts) -> list[str]:
    """Why ``kernel = "nftables"`` cannot mean anything with the rest of ``config``."""
    backstop = config.backstop
    problems = []
    if not 1 <= len(backstop.devices) <= MAX_DEVICES:
        problems.append(f"backstop: devices are 1..{MAX_DEVICES}, the outbound ones")
    problems += [
        f"backstop: {name!r} is no device's name"
        for name in backstop.devices
        if not is_device_name(name)
    ]
    if len(set(backstop.devices)) != len(backstop.devices):
        problems.append("backstop: a device is named twice")
    if not 1 << 16 <= backstop.headroom_bytes <= 1 << 30:
        problems.append("backstop: headroom_bytes must be 65536..1073741824")
    if not 1 << 10 <= backstop.control_bytes <= 1 << 20:
        problems.append("backstop: control_bytes must be 1024..1048576")
    if len(backstop.peers) > MAX_PEERS:
        problems.append(f"backstop: more than {MAX_PEERS} peers")
    problems += [
        f"backstop: {text!r} is no numeric address and port"
        for text in [*backstop.peers, *_witness(config)]
        if _dialled(text) is None
    ]
    problems += [
        f"backstop: {text!r} is no numeric address: name those of all such members in peers"
        for text in _members(config)
        if _dialled(text) is None and not backstop.peers
    ]
    for port in config.ports:
        problems += _port_problems(port)
    if config.state_port == 0:
        problems.append("backstop: state_port must be a fixed one, or -1")
    if config.state_port > 0 and _address(config.state_host) is None:
        problems.append(f"backstop: state_host {config.state_host!r} is no address")
    return problems


def _port_problems(port: PortFacts) -> list[str]:
    problems = []
    host = _address(port.listen_host)
    if not port.listen_port:
        problems.append(f"backstop: port {port.name!r}: listen_port must be a fixed one")
    if host is None or host.is_loopback:
        problems.append(
            f"backstop: port {port.name!r}: listen_host must be an address on the outbound device"
        )
    if not port.allow or any(_is_everyone(text) for text in port.allow):
        problems.append(f"backstop: port {port.name!r}: name the edges' addresses in allow")
    return problems


def make_plan(config: GateFacts) -> PeerPlan:
    """Of a configuration without problems."""
    links = tuple(
        Served(port.listen_host, port.listen_port, _networks(port.allow)) for port in config.ports
    )
    edges = tuple(network for served in links for network in served.edges)
    state = None
    if config.state_port > 0 and not ipaddress.ip_address(config.state_host).is_loopback:
        state = Served(config.state_host, config.state_port, edges)
    texts = dict.fromkeys([*config.backstop.peers, *_witness(config), *_members(config)])
    dialled = [peer for text in texts if (peer := _dialled(text)) is not None]
    outside = tuple(p for p in dialled if not ipaddress.ip_address(p[0]).is_loopback)
    return PeerPlan(config.backstop.devices, links, state, outside)


def _witness(config: GateFacts) -> list[str]:
    return [config.witness] if config.witness else []


def _members(config: GateFacts) -> list[str]:
    """HOST:PORT of the store's members."""
    endpoints = config.etcd.endpoints if config.etcd else ()
    return [endpoint.partition("://")[2].rstrip("/") for endpoint in endpoints]


def _networks(texts: tuple[str, ...]) -> tuple[Network, ...]:
    return tuple(ipaddress.ip_network(text) for text in texts)


def _is_everyone(text: str) -> bool:
    try:
        return ipaddress.ip_network(text).prefixlen == 0
    except ValueError:
        return False  # named by the port's own check


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _dialled(text: str) -> tuple[str, int] | None:
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if _address(host) is None or re.fullmatch(r"[0-9]{1,5}", port) is None:
        return None
    return (host, int(port)) if 0 < int(port) < 65536 else None
