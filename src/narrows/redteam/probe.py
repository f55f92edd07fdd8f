"""Tries an operator's own installation: from inside, to get out around the gate; from outside, what
a stranger can reach. Only what the operator names is ever addressed.

A check finds ``held``, ``hole`` or ``unknown`` (this process could not try it). A name or a port
that answers, if only by refusing, is a hole: something came back.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from narrows import __version__
from narrows.errors import InputError
from narrows.redteam.checks import (
    Address,
    Outcome,
    ask_resolver,
    default_route,
    default_route6,
    open_raw,
    reach,
    resolve,
    send_datagram,
    stranger,
    without_key,
)
from narrows.wire.address import shown_address

METADATA = (("169.254.169.254", 80), ("fd00:ec2::254", 80))
"""Where clouds tell a machine its secrets."""
COMMON_PORTS = (22, 53, 80, 123, 443, 2379, 8400, 8401, 8402, 8403, 8404, 8405, 8406)
MAX_TARGETS = 256


@dataclass(frozen=True)
class Finding:
    """``result``: ``held``, ``hole`` or ``unknown``."""

    check: str
    target: str
    result: str
    detail: str


@dataclass(frozen=True)
class Inside:
    """What to try from the enclave's machine. ``outside``: hosts and ports that it must not
    reach. ``gate``: its neighbour, of which every port in ``ports`` must be shut toward it.
    ``names``: to be resolved. ``resolvers``: to be asked for them. ``metadata``: whether to ask
    the clouds' metadata addresses."""

    outside: tuple[Address, ...] = ()
    gate: str = ""
    ports: tuple[int, ...] = COMMON_PORTS
    names: tuple[str, ...] = ()
    resolvers: tuple[str, ...] = ()
    metadata: bool = False


@dataclass(frozen=True)
class Outside:
    """What to try from a stranger's machine. ``shut``: purpose (gate, state, witness, enclave) and
    address of what only its one peer may reach. ``apis``: edges, which must ask for a key."""

    shut: tuple[tuple[str, Address], ...] = ()
    apis: tuple[Address, ...] = ()


@dataclass
class ProbeReport:
    """What was tried, when and from where."""

    side: str
    started: str
    host: str
    findings: list[Finding] = field(default_factory=list)

    @property
    def holes(self) -> list[Finding]:
        return [one for one in self.findings if one.result == "hole"]

    def as_json(self) -> dict[str, Any]:
        return {
            "version": 1,
            "narrows": __version__,
            "from": self.side,
            "started": self.started,
            "host": self.host,
            "findings": [asdict(one) for one in self.findings],
            "holes": len(self.holes),
        }


def probe(
    what: Inside | Outside,
    timeout_s: float = 2.0,
    say: Callable[[str], None] = lambda text: None,
    proc: Path = Path("/proc/thread-self/net"),
) -> ProbeReport:
    """Try all of it. ``say`` hears what is tried. InputError where nothing or too much is named."""
    report = ProbeReport(
        "inside" if isinstance(what, Inside) else "outside",
        datetime.now(UTC).isoformat(timespec="seconds"),
        platform.node(),
    )
    checks = (
        _inside(what, timeout_s, proc) if isinstance(what, Inside) else _outside(what, timeout_s)
    )
    if len(checks) > MAX_TARGETS:
        raise InputError(f"that is {len(checks)} checks, {MAX_TARGETS} are allowed")
    if not checks:
        raise InputError("there is nothing to try", "name addresses, see --help")
    for name, target, check in checks:
        say(f"{name} {target}")
        result, detail = check()
        report.findings.append(Finding(name, target, result, detail))
    return report


Check = tuple[str, str, Callable[[], Outcome]]


def _inside(what: Inside, timeout_s: float, proc: Path) -> list[Check]:
    targets = [*what.outside, *(METADATA if what.metadata else ())]
    checks: list[Check] = []
    for address in targets:
        checks.append(("tcp", shown_address(*address), _bound(reach, address, timeout_s)))
        checks.append(("udp", shown_address(*address), _bound(send_datagram, address, timeout_s)))
    if what.gate:
        checks += [
            ("gate-port", shown_address(*place), _bound(reach, place, timeout_s))
            for place in ((what.gate, port) for port in what.ports)
        ]
    checks += [("resolve", name, _bound(resolve, name)) for name in what.names]
    checks += [
        ("dns", resolver, _bound(ask_resolver, resolver, name, timeout_s))
        for resolver in what.resolvers
        for name in what.names or (".",)
    ]
    if checks:
        checks.append(("raw-socket", "this machine", open_raw))
        checks.append(("route", "IPv4", _bound(default_route, proc / "route")))
        checks.append(("route", "IPv6", _bound(default_route6, proc / "ipv6_route")))
    return checks


def _outside(what: Outside, timeout_s: float) -> list[Check]:
    checks: list[Check] = []
    for purpose, address in what.shut:
        checks.append((purpose, shown_address(*address), _bound(stranger, address, timeout_s)))
    for address in what.apis:
        checks.append(("api", shown_address(*address), _bound(without_key, address, timeout_s)))
    return checks


def _bound(function: Callable[..., Outcome], *arguments: Any) -> Callable[[], Outcome]:
    return lambda: function(*arguments)
