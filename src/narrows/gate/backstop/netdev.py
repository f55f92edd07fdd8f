"""The outbound devices: no segmentation below the quota, and what they say they sent.

With segmentation offload a quota sees one frame where the wire carries forty, each with
headers of its own: bytes leave uncounted. Since Linux 4.17 TCP builds such frames even for a
device whose offloads are off, and they are cut below the egress hook; ``gso_max_segs`` 1 is
what makes TCP send one segment a frame. Both are set, and read back.
"""

from __future__ import annotations

import fcntl
import re
import socket
import struct
from array import array
from collections.abc import Iterable
from pathlib import Path

from narrows.errors import PeerError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,14}")
_SIOCETHTOOL, _SIOCGIFMTU, _SIOCGIFHWADDR = 0x8946, 0x8921, 0x8927
_ETHERNET = 1
_OFFLOADS = {"tso": (0x1E, 0x1F), "gso": (0x23, 0x24), "gro": (0x2B, 0x2C)}  # (get, set)
_NEWLINK, _GETLINK, _REQUEST_ACK, _REQUEST, _ERROR = 16, 18, 5, 1, 2
_GSO_MAX_SEGS = 40
_HEADER, _LINK = struct.Struct("=IHHII"), struct.Struct("=BxHiII")
_TRANSMITTED_PACKETS = 9  # column of /proc/net/dev


def is_device_name(name: str) -> bool:
    return _NAME.fullmatch(name) is not None


def prepare(device: str) -> int:
    """Turn segmentation off on ``device``; its longest frame in bytes. ``PeerError`` where it
    is missing, no Ethernet device, or does not obey."""
    try:
        index = socket.if_nametoindex(device)
        hardware = struct.unpack_from("=H", _interface_ioctl(device, _SIOCGIFHWADDR), 16)[0]
        if hardware != _ETHERNET:
            raise PeerError(f"{device} is no Ethernet device")
        for _, setting in _OFFLOADS.values():
            _ethtool(device, setting, 0)
        _set_gso_max_segs(index)
        mtu = int(struct.unpack_from("=i", _interface_ioctl(device, _SIOCGIFMTU), 16)[0])
    except OSError as error:
        raise PeerError(f"cannot turn segmentation off on {device}: {error}") from error
    if fault := segmentation(device):
        raise PeerError(fault)
    return mtu + 14


def segmentation(device: str) -> str:
    """What on ``device`` would let frames out that the quota did not see whole; or empty."""
    try:
        on = [name for name, (getting, _) in _OFFLOADS.items() if _ethtool(device, getting, 0)]
        segments = _gso_max_segs(socket.if_nametoindex(device))
    except OSError as error:
        return f"the device {device} cannot be read: {error}"
    if segments != 1:
        on.append(f"gso_max_segs {segments}")
    return f"segmentation is on at {device}: {', '.join(on)}" if on else ""


def sent_packets(devices: Iterable[str]) -> dict[str, int]:
    """Frames that each of ``devices`` sent; ``OSError`` where one is gone."""
    rows = {}
    for line in Path("/proc/thread-self/net/dev").read_text().splitlines()[2:]:
        name, _, columns = line.partition(":")
        rows[name.strip()] = int(columns.split()[_TRANSMITTED_PACKETS])
    try:
        return {device: rows[device] for device in devices}
    except KeyError as error:
        raise OSError(f"the device {error} is gone") from error


def other_devices(devices: Iterable[str]) -> list[str]:
    """Devices of this machine, loopback aside, that carry no quota."""
    names = {name for _, name in socket.if_nameindex()}
    return sorted(names - set(devices) - {"lo"})


def _interface_ioctl(device: str, request: int) -> bytes:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        return fcntl.ioctl(sock, request, struct.pack("=16s24x", device.encode()))


def _ethtool(device: str, command: int, value: int) -> int:
    setting = array("I", [command, value])
    request = struct.pack("@16sP16x", device.encode(), setting.buffer_info()[0])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, _SIOCETHTOOL, request)
    return setting[1]


def _route(kind: int, flags: int, index: int, attributes: bytes = b"") -> bytes:
    body = _LINK.pack(socket.AF_UNSPEC, 0, index, 0, 0) + attributes
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as sock:
        sock.settimeout(5.0)
        sock.send(_HEADER.pack(_HEADER.size + len(body), kind, flags, 1, 0) + body)
        answer = sock.recv(1 << 16)
    if _HEADER.unpack_from(answer)[1] == _ERROR:
        [code] = struct.unpack_from("=i", answer, _HEADER.size)
        if code:
            raise OSError(-code, "rtnetlink refused")
    return answer


def _set_gso_max_segs(index: int) -> None:
    _route(_NEWLINK, _REQUEST_ACK, index, struct.pack("=HHI", 8, _GSO_MAX_SEGS, 1))


def _gso_max_segs(index: int) -> int:
    answer = _route(_GETLINK, _REQUEST, index)
    at = _HEADER.size + _LINK.size
    while at + 4 <= len(answer):
        length, kind = struct.unpack_from("=HH", answer, at)
        if kind == _GSO_MAX_SEGS:
            return int(struct.unpack_from("=I", answer, at + 4)[0])
        at += (max(length, 4) + 3) & ~3
    raise OSError("the kernel does not tell gso_max_segs")
