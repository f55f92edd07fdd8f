"""Over which network devices the gate reaches the enclave, and over which the world.

The kernel's own answer: an address that a device has, a route that leads to an address. No
process is started for it; ``PeerError`` where the kernel does not tell.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from narrows.errors import PeerError

if TYPE_CHECKING:
    from narrows.gate.config import GateConfig

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_GETADDR, _GETROUTE, _DONE, _ERROR = 22, 26, 3, 2
_REQUEST, _DUMP = 1, 0x301
_IFA_ADDRESS, _IFA_LOCAL, _RTA_DST, _RTA_OIF = 1, 2, 1, 4
_HEADER, _ROUTE = struct.Struct("=IHHII"), struct.Struct("=BBBBBBBBI")
_RECEIVE_BYTES = 1 << 17
_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Cards:
    """``inner``: devices toward the enclave, ``outer``: toward edges, witness and store; neither
    holds loopback. ``beyond``: whether any side is beyond loopback at all."""

    inner: tuple[str, ...]
    outer: tuple[str, ...]
    beyond: bool

    @property
    def two(self) -> bool:
        return bool(self.inner and self.outer)


def find_cards(config: GateConfig) -> Cards:
    """Of this machine as it is now. ``PeerError``: an address leads nowhere."""
    enclaves = {port.enclave_host for port in config.ports}
    listens = {port.listen_host for port in config.ports}
    if config.state_port >= 0:
        listens.add(config.state_host)
    inner = {device_to(address) for host in enclaves for address in _addresses(host)} - {"lo"}
    outer = set(config.backstop.devices) if config.kernel != "off" else set()
    for host in listens:
        for address in _addresses(host):
            if address.is_unspecified:
                outer |= {name for _, name in socket.if_nameindex()} - inner
            else:
                outer |= devices_with(address)
    outer -= {"lo"}
    beyond = bool(inner or outer)
    return Cards(tuple(sorted(inner)), tuple(sorted(outer)), beyond)


def _addresses(host: str) -> list[Address]:
    try:
        return [ipaddress.ip_address(host)]
    except ValueError:
        pass
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise PeerError(f"the address of {host} is not known: {error}") from error
    return [ipaddress.ip_address(entry[4][0]) for entry in found]


def devices_with(address: Address) -> set[str]:
    """The devices that have ``address``; none for loopback's."""
    if address.is_loopback:
        return set()
    found = set()
    for family, index, attributes in _address_entries():
        if family != _family(address):
            continue
        own = attributes.get(_IFA_LOCAL) or attributes.get(_IFA_ADDRESS, b"")
        if own == address.packed:
            found.add(_name(index))
    if not found:
        raise PeerError(f"no device of this machine has the address {address}")
    return found


def device_to(address: Address) -> str:
    """The device over which the kernel sends to ``address``; ``lo`` for the machine's own."""
    family, size = _family(address), len(address.packed)
    destination = struct.pack("=HH", 4 + size, _RTA_DST) + address.packed
    body = _ROUTE.pack(family, 8 * size, 0, 0, 0, 0, 0, 0, 0) + destination
    for kind, message in _ask(_GETROUTE, _REQUEST, body):
        if kind == _ERROR:
            raise PeerError(f"no route leads to {address}")
        attributes = dict(_attributes(message[_ROUTE.size :]))
        if _RTA_OIF in attributes:
            return _name(struct.unpack("=I", attributes[_RTA_OIF])[0])
    raise PeerError(f"no route leads to {address}")


def _address_entries() -> Iterator[tuple[int, int, dict[int, bytes]]]:
    for kind, message in _ask(_GETADDR, _DUMP, struct.pack("=BBBBI", 0, 0, 0, 0, 0)):
        if kind == _ERROR:
            raise PeerError("the kernel does not tell this machine's addresses")
        family, _, _, _, index = struct.unpack_from("=BBBBI", message)
        yield family, index, dict(_attributes(message[8:]))


def _ask(kind: int, flags: int, body: bytes) -> Iterator[tuple[int, bytes]]:
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as sock:
            sock.settimeout(_TIMEOUT_S)
            sock.send(_HEADER.pack(_HEADER.size + len(body), kind, flags, 1, 0) + body)
            while True:
                data = sock.recv(_RECEIVE_BYTES)
                at = 0
                while at + _HEADER.size <= len(data):
                    length, answer, _, _, _ = _HEADER.unpack_from(data, at)
                    if answer == _DONE:
                        return
                    yield answer, data[at + _HEADER.size : at + length]
                    at += (max(length, _HEADER.size) + 3) & ~3
                if flags == _REQUEST:
                    return
    except OSError as error:
        raise PeerError(f"the kernel's network tables cannot be read: {error}") from error


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, at)
        yield kind, data[at + 4 : at + length]
        at += (max(length, 4) + 3) & ~3


def _family(address: Address) -> int:
    return socket.AF_INET if address.version == 4 else socket.AF_INET6


def _name(index: int) -> str:
    try:
        return socket.if_indextoname(index)
    except OSError as error:
        raise PeerError(f"the device {index} is gone") from error
