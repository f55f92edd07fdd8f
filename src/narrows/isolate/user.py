"""Who an enclave is on the host: a user that nobody else is, and that owns nothing.

An enclave can keep its processes from dying with their parent, but not change its user (it has
no capability and only one user in its namespace). So that user tells what an earlier one left.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import time
from pathlib import Path

from narrows.errors import PeerError

FIRST_UID = 0x70000000  # systemd's list of UID ranges leaves these 2^28 unused


def deployment_tag(state: Path) -> int:
    """28 bits that name a state folder on this host: its enclave's user, device, addresses."""
    return int.from_bytes(hashlib.sha256(os.fsencode(state)).digest()[:4]) >> 4


def auditor_tag(state: Path) -> int:
    """The same for its auditor, who is another user than the enclave."""
    return deployment_tag(state / "audit")


def enclave_uid(tag: int) -> int:
    """The user, and the group, that an enclave is on this host, or an auditor."""
    return FIRST_UID + tag


def end_processes(uid: int, timeout_s: float = 10.0) -> None:
    """Kill whatever runs as ``uid``, which is nobody but the enclave of one state folder: it may
    have refused to die with its parent. PeerError when it does not end."""
    deadline = time.monotonic() + timeout_s
    while alive := _processes(uid):
        for pid in alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            raise PeerError(f"an earlier enclave does not end: processes {alive}")
        time.sleep(0.02)


def _processes(uid: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        # A dead process that its parent has not collected yet has no more threads to run.
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and entry.stat().st_uid == uid:
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
                if state not in "ZX":
                    found.append(int(entry.name))
    return found
