"""What the gate's machine must do by itself, where it has a card toward the enclave.

Without it the gate's kernel speaks for the enclave, uncounted: a segment with the edge's address
as its source is answered toward the edge, payload and all. Checked at start and every second:

    forwarding   off: ip_forward, and ``forwarding`` of every device, in both families
    rp_filter    strict on the inner device
    filter       an ingress chain of the inner device with policy drop, which accepts nothing but
                 segments from the enclave's addresses and ports that open no connection
                 (the rules of docs/deploy.md and of isolate/network.py, or narrower ones)
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from narrows.errors import PeerError
from narrows.gate.backstop.nft import Nft
from narrows.gate.machine.cores import Roots

_CHAIN = re.compile(
    r"chain (?P<name>[\w.-]+) \{\s*type filter hook ingress "
    r"device(?:s = \{(?P<many>[^}]*)\}| \"?(?P<one>[\w.-]+)\"?) priority [^;]*; policy drop;"
)
_TABLE = re.compile(r"^table netdev (?P<name>[\w.-]+) \{(?P<body>.*?)^\}", re.MULTILINE | re.DOTALL)
_HARMLESS = {"match", "counter", "limit", "drop", "accept", "comment"}
_REMEDY = 'install the rules of docs/deploy.md, or set [gate] machine = "warn"'


@dataclass(frozen=True, slots=True)
class Ruleset:
    """All netdev tables as text, and as objects: these say what a rule does, but older nftables
    leave out a chain's device and a table's flags."""

    text: str
    entries: list[dict[str, Any]]


def list_rules(nft: Nft) -> Ruleset:
    """The kernel's rules. ``PeerError``: they cannot be read, not at a second look either: a list
    is cut short where rules change while it is made."""
    fault: Exception | None = None
    for _ in range(2):
        try:
            text = nft.run("list ruleset netdev", as_json=False)
            return Ruleset(text, json.loads(nft.run("list ruleset netdev"))["nftables"])
        except (ValueError, KeyError, TypeError) as error:
            fault = error
    raise PeerError("nftables' list of rules cannot be read") from fault


def machine_fault(
    inner: Iterable[str],
    outer: Iterable[str],
    dialled: Iterable[tuple[str, int]],
    roots: Roots,
    rules: Callable[[], Ruleset],
) -> str:
    """What is not as it must be, with its remedy, in one sentence; empty: nothing.
    ``dialled``: address and port of each server of the enclave."""
    inner, outer = tuple(inner), tuple(outer)
    for name in inner:
        if name in outer:
            return (
                f"the enclave and the edges are reached over one device, {name}: give the enclave "
                "a card of its own"
            )
    try:
        fault = _forwarding(roots) or _reverse_path(inner, roots)
        if fault:
            return fault
        listed = rules()
    except OSError as error:
        return f"the kernel's settings cannot be read: {error}"
    except PeerError as error:
        return f"the filter of {', '.join(inner)} cannot be verified: {error.message}; {_REMEDY}"
    for name in inner:
        if not is_filtered(name, listed, frozenset(dialled)):
            return (
                f"no filter drops what the enclave sends to {name} beside answers to the gate: "
                f"{_REMEDY}"
            )
    return ""


def _forwarding(roots: Roots) -> str:
    net = roots.proc / "sys" / "net"
    switches = [net / "ipv4" / "ip_forward"]
    for family in ("ipv4", "ipv6"):
        switches += sorted((net / family / "conf").glob("*/forwarding"))
    for path in switches:
        if path.read_text().strip() != "0":
            name = "/".join(path.relative_to(net).parts)
            return f"this machine forwards packets: set net/{name} to 0 (sysctl)"
    return ""


def _reverse_path(inner: tuple[str, ...], roots: Roots) -> str:
    conf = roots.proc / "sys" / "net" / "ipv4" / "conf"
    everywhere = int((conf / "all" / "rp_filter").read_text())
    for name in inner:
        if max(everywhere, int((conf / name / "rp_filter").read_text())) != 1:  # the kernel's rule
            return (
                f"{name} takes packets with sources that are elsewhere: set "
                f"net/ipv4/conf/{name}/rp_filter to 1 and that of all to 0 or 1 (sysctl)"
            )
    return ""


def is_filtered(device: str, rules: Ruleset, dialled: frozenset[tuple[str, int]]) -> bool:
    """Whether one chain lets nothing in from ``device`` but answers of ``dialled``."""
    bodies = [entry["rule"] for entry in rules.entries if "rule" in entry]
    if any({"fwd", "dup"} & statement.keys() for rule in bodies for statement in rule["expr"]):
        return False  # another chain may hand frames on before this one drops them
    for table in _TABLE.finditer(rules.text):
        if re.search(r"^\s*flags\b", table["body"], re.MULTILINE):  # dormant: does nothing
            continue
        for chain in _CHAIN.finditer(table["body"]):
            names = re.findall(r"[\w.-]+", chain["many"] or chain["one"])
            place = (table["name"], chain["name"])
            own = [rule["expr"] for rule in bodies if (rule["table"], rule["chain"]) == place]
            if device in names and all(_admits_answers_only(body, dialled) for body in own):
                return True
    return False


def _admits_answers_only(body: list[dict[str, Any]], dialled: frozenset[tuple[str, int]]) -> bool:
    kinds = {kind for statement in body for kind in statement}
    if not kinds <= _HARMLESS:  # a jump, a map, a copy: not understood, so not trusted
        return False
    if "accept" not in kinds:
        return True
    matches = [statement["match"] for statement in body if "match" in statement]
    hosts = _values(matches, ("ip", "ip6"), "saddr")
    ports = _values(matches, ("tcp",), "sport")
    ends = {(host, port) for host in hosts for port in ports}
    return (
        bool(ends)
        and ends <= {(str(host), port) for host, port in dialled}
        and (any(_opens_nothing(match) for match in matches))
    )


def _values(matches: list[dict[str, Any]], protocols: tuple[str, ...], field: str) -> set[Any]:
    """What ``field`` is compared with; empty where it is not, or not plainly."""
    for match in matches:
        payload = match["left"].get("payload", {}) if isinstance(match["left"], dict) else {}
        if payload.get("protocol") in protocols and payload.get("field") == field:
            if match["op"] != "==":
                return set()
            right = match["right"]
            listed = right["set"] if isinstance(right, dict) and "set" in right else [right]
            if all(isinstance(value, str | int) for value in listed):
                return {_plain(value) for value in listed}
            return set()
    return set()


def _plain(value: str | int) -> str | int:
    try:
        return value if isinstance(value, int) else str(ipaddress.ip_address(value))
    except ValueError:
        return value


def _opens_nothing(match: dict[str, Any]) -> bool:
    """``tcp flags & (syn | ack) != syn``, however this nftables writes it."""
    if match["op"] != "!=" or match["right"] != "syn" or not isinstance(match["left"], dict):
        return False
    field, *mask = match["left"].get("&", [None])
    names = mask[0] if len(mask) == 1 else mask
    if isinstance(names, dict):
        names = names.get("|", [])
    is_flags = field == {"payload": {"protocol": "tcp", "field": "flags"}}
    return is_flags and isinstance(names, list) and set(map(str, names)) == {"syn", "ack"}
