"""nftables through libnftables (Debian: libnftables1), and the gate's one table in it.

    table netdev narrows
      counter  CLASS_passed, CLASS_dropped, CLASS_long; oversize; ip_options
      quota    CLASS
      chain    CLASS                    over the quota: counted as dropped; else passed, accepted
      chain    short, unpaid            what carries no payload goes to acks or bare
      chain    egress_DEVICE            hook egress, policy drop: which frames go where

Why it cannot leak (each measured, docs/gate.md)
1. The netdev egress hook sees packet sockets too, and counts whole Ethernet frames.
2. A frame longer than the device's is not one frame on the wire: dropped (``oversize``).
3. Rules change only while no rule is there: the chains' policy is drop, the table is flushed
   first, and quotas are at 0 until the new rules are read back.
4. What counts as without payload has no room for any: the whole frame, however its headers
   lie, is no longer than Ethernet, IP and the TCP header that it claims. IPv4 options, which a
   peer's SYN makes the kernel repeat in every segment, are dropped (``ip_options``).
5. Counters and quotas are never replaced. A quota's consumption cannot be read once it is
   reached, but it is what passed and what was dropped, and both are counted: so *over* =
   limit + dropped lets exactly ``limit`` bytes pass in all; an older, smaller ``dropped``
   only lets less pass.
"""

from __future__ import annotations

import ctypes
import ipaddress
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from narrows.errors import PeerError
from narrows.gate.backstop.allowance import CLASSES, Flow

TABLE = "netdev narrows"
LIBRARY = "libnftables.so.1"
_JSON_OUTPUT = 1 << 4
_COUNTERS = ("passed", "dropped", "long")
_LONG_DOFF = 8  # in words of 4 bytes: a TCP header with timestamps
_TCP_WORDS = range(5, 16)
_BELOW_TCP_BYTES = {"ip": 14 + 20, "ip6": 14 + 40}
_NO_OPTIONS = {"ip": "ip hdrlength 5", "ip6": "ip6 nexthdr tcp"}
_SHORT_BYTES = _BELOW_TCP_BYTES["ip6"] + 60
_UNPAID = (
    "tcp flags & (syn | ack) == syn | ack goto bare",
    "tcp flags & rst != 0 goto bare",
    "meta skuid >= 0 goto acks",  # matches where a socket that a program holds sent it
    "goto bare",
)
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Served:
    """A TCP port of the gate on the outbound devices. ``host``: where it listens."""

    host: str
    port: int
    edges: tuple[Network, ...]


@dataclass(frozen=True, slots=True)
class PeerPlan:
    """Who the gate's peers are. ``state``: the state port, if there is one; ``dialled``: the
    witness and the store."""

    devices: tuple[str, ...]
    links: tuple[Served, ...]
    state: Served | None
    dialled: tuple[tuple[str, int], ...]


class Nft:
    """One libnftables context; one thread at a time. ``PeerError``: not there, or refused."""

    def __init__(self) -> None:
        try:
            self._library = ctypes.CDLL(LIBRARY)
        except OSError as error:
            raise PeerError(f"{LIBRARY} is missing", "install nftables") from error
        library, pointer = self._library, ctypes.c_void_p
        library.nft_ctx_new.restype = pointer
        for name in ("nft_ctx_get_output_buffer", "nft_ctx_get_error_buffer"):
            getattr(library, name).restype = ctypes.c_char_p
            getattr(library, name).argtypes = [pointer]
        for name in ("nft_ctx_buffer_output", "nft_ctx_buffer_error", "nft_ctx_free"):
            getattr(library, name).argtypes = [pointer]
        library.nft_ctx_output_set_flags.argtypes = [pointer, ctypes.c_uint]
        library.nft_run_cmd_from_buffer.argtypes = [pointer, ctypes.c_char_p]
        self._context = library.nft_ctx_new(0)
        library.nft_ctx_buffer_output(self._context)
        library.nft_ctx_buffer_error(self._context)

    def close(self) -> None:
        if self._context:
            self._library.nft_ctx_free(self._context)
            self._context = None

    def run(self, commands: str, as_json: bool = True) -> str:
        """One transaction: all of ``commands``, or an error and nothing."""
        flags = _JSON_OUTPUT if as_json else 0
        self._library.nft_ctx_output_set_flags(self._context, flags)
        status = self._library.nft_run_cmd_from_buffer(self._context, commands.encode())
        output = self._library.nft_ctx_get_output_buffer(self._context)
        if status:
            text = self._library.nft_ctx_get_error_buffer(self._context)
            raise PeerError(f"nftables refused: {text.decode('utf-8', 'replace').strip()[:300]}")
        return str(output.decode())


@dataclass(frozen=True, slots=True)
class TableReading:
    """``rules``: table, chains and rules with their handles; ``over``: the quotas' limits."""

    flows: dict[str, Flow]
    long_packets: dict[str, int]
    over: dict[str, int]
    rules: str


def read_table(nft: Nft) -> TableReading:
    """The whole table in one call. ``PeerError`` where it is gone or is not this module's."""
    try:
        entries = json.loads(nft.run(f"list table {TABLE}"))["nftables"]
        counters = {e["counter"]["name"]: e["counter"] for e in entries if "counter" in e}
        over = {e["quota"]["name"]: int(e["quota"]["bytes"]) for e in entries if "quota" in e}
        rules = [e for e in entries if not {"counter", "quota", "metainfo"} & e.keys()]
        flows = {name: _flow(counters, name) for name in CLASSES}
        long_packets = {name: int(counters[f"{name}_long"]["packets"]) for name in CLASSES}
    except (KeyError, TypeError, ValueError) as error:
        raise PeerError("the kernel's table is not the gate's") from error
    return TableReading(flows, long_packets, over, json.dumps(rules, sort_keys=True))


def _flow(counters: Mapping[str, Any], name: str) -> Flow:
    passed, dropped = counters[f"{name}_passed"], counters[f"{name}_dropped"]
    return Flow(passed["packets"], passed["bytes"], dropped["packets"], dropped["bytes"])


def over_commands(over: Mapping[str, int]) -> str:
    """Set the quotas' limits in place: what they have counted stays."""
    return "".join(
        f"add quota {TABLE} {name} {{ over {size} bytes }}\n" for name, size in over.items()
    )


def closing_commands(devices: Iterable[str]) -> str:
    """Nothing may leave from here on; what was counted stays."""
    chains = "".join(
        f"add chain {TABLE} egress_{device} {{ type filter hook egress device "
        f'"{device}" priority -300; policy drop; }}\n'
        for device in devices
    )
    return f"add table {TABLE}\n{chains}flush table {TABLE}\n"


def object_commands() -> str:
    counters = [f"{name}_{what}" for name in CLASSES for what in _COUNTERS]
    lines = [f"add counter {TABLE} {name}\n" for name in (*counters, "oversize", "ip_options")]
    lines += [f"add chain {TABLE} {name}\n" for name in (*CLASSES, "short", "unpaid")]
    return "".join(lines) + over_commands(dict.fromkeys(CLASSES, 0))


def rule_commands(plan: PeerPlan, frame_bytes: Mapping[str, int]) -> str:
    """All rules. ``frame_bytes``: the longest frame of each device."""
    lines = [f"unpaid {rule}" for rule in _UNPAID]
    for family, below in _BELOW_TCP_BYTES.items():
        for words in _TCP_WORDS:
            match = f"{_NO_OPTIONS[family]} tcp doff {words} meta length <= {below + 4 * words}"
            lines.append(f"short {match} goto unpaid")
    for name in ("links", "control"):
        lines.append(f"{name} meta length <= {_SHORT_BYTES} jump short")
    for name in CLASSES:
        lines += [
            f'{name} quota name "{name}" counter name "{name}_dropped" drop',
            f'{name} tcp doff > {_LONG_DOFF} counter name "{name}_long"',
            f'{name} counter name "{name}_passed" accept',
        ]
    for device in plan.devices:
        chain = f"egress_{device}"
        lines.append(f'{chain} meta length > {frame_bytes[device]} counter name "oversize" drop')
        lines.append(f'{chain} ip hdrlength > 5 counter name "ip_options" drop')
        lines.append(f"{chain} ether type arp meta length <= 60 goto neighbour")
        lines.append(
            f"{chain} ip6 hoplimit 255 icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} "
            "meta length <= 86 goto neighbour"
        )
        for served in plan.links:
            lines += [f"{chain} {rule}" for rule in _served_rules(served, "links")]
        if plan.state is not None:
            lines += [f"{chain} {rule}" for rule in _served_rules(plan.state, "control")]
        lines += [f"{chain} {_dialled_rule(host, port)}" for host, port in plan.dialled]
    return "".join(f"add rule {TABLE} {line}\n" for line in lines)


def _served_rules(served: Served, target: str) -> list[str]:
    v4 = [network for network in served.edges if isinstance(network, ipaddress.IPv4Network)]
    v6 = [network for network in served.edges if isinstance(network, ipaddress.IPv6Network)]
    return [
        *_family_rules(served, target, "ip", 4, ipaddress.collapse_addresses(v4)),
        *_family_rules(served, target, "ip6", 6, ipaddress.collapse_addresses(v6)),
    ]


def _family_rules(
    served: Served, target: str, family: str, version: int, edges: Iterable[Network]
) -> list[str]:
    host = ipaddress.ip_address(served.host)
    names = ", ".join(str(network) for network in edges)
    if not names or host.version != version:  # asyncio listens on :: for IPv6 alone
        return []
    source = "" if host.is_unspecified else f"{family} saddr {host} "
    return [f"{source}{family} daddr {{ {names} }} tcp sport {served.port} goto {target}"]


def _dialled_rule(host: str, port: int) -> str:
    family = "ip" if ipaddress.ip_address(host).version == 4 else "ip6"
    return f"{family} daddr {host} tcp dport {port} goto control"
