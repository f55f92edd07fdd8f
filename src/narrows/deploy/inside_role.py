"""A role in a sandbox, as its supervisor sees it: whether it listens, and that it has ended."""

from __future__ import annotations

import socket
import time

from narrows.deploy.supervise import Role
from narrows.errors import PeerError
from narrows.isolate.network import Network

_PROBE_S = 0.1


class InsideRole(Role):
    """A role of which nothing is told but that it has ended: its exit code and its words are
    the attacker's, and not counted."""

    def log_tail(self) -> str:
        if not self.log_path.stat().st_size:
            return "what it says stays inside; run without --isolated to see why"
        return super().log_tail()  # bubblewrap's words, and inside.py's, if it came no further

    def death(self) -> str | None:
        return None if self.process.poll() is None else "has ended"


def await_listening(role: Role, network: Network, place: tuple[str, int], timeout_s: float) -> None:
    """Until ``role`` takes a connection at ``place`` from the gate's side. PeerError when it ends
    first."""

    def listens() -> bool:
        with socket.socket() as probe:
            probe.settimeout(1.0)
            return probe.connect_ex(place) == 0

    deadline = time.monotonic() + timeout_s
    while not network.gate.run(listens):
        if (how := role.death()) is not None:
            raise PeerError(f"the {role.name} {how}; {role.log_tail()}")
        if time.monotonic() > deadline:
            raise PeerError(f"the {role.name} was not ready within {timeout_s:.0f} s")
        time.sleep(_PROBE_S)
