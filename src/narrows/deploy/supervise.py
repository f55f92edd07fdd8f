"""Start the roles of one machine as child processes, wait until each is ready, stop all.

A role says one line of JSON with ``"ready": true`` on standard output when it serves; what it
logs goes to ``STATE/log/ROLE.log``. A role that dies is named, with the end of its log, and
all others are stopped: a half-running chain would only hang its clients.

Children die with their parent (PR_SET_PDEATHSIG), so that a killed ``narrows up`` leaves no
gate behind.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import logging
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from narrows.errors import NarrowsError, PeerError

log = logging.getLogger("narrows.supervise")

LOG_TAIL_LINES = 12
MAX_TAIL_BYTES = 1 << 16
MAX_READY_LINE_BYTES = 1 << 16
REVIVE_S = 5.0
_PR_SET_PDEATHSIG = 1


@dataclass
class Role:
    """One running child. ``facts``: what it said when it was ready (its port, above all)."""

    name: str
    process: subprocess.Popen[bytes]
    log_path: Path
    log_start: int = 0  # what is before it is of earlier runs
    again: Callable[[], subprocess.Popen[bytes]] | None = None
    """How to start it anew: without it the others go on."""
    ended_s: float | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    def log_tail(self) -> str:
        """Where its log lies, and the end of it that it wrote in this run."""
        with self.log_path.open("rb") as log:
            log.seek(max(self.log_start, self.log_path.stat().st_size - MAX_TAIL_BYTES))
            lines = log.read().decode(errors="replace").splitlines()
        if not lines:
            return f"it wrote nothing to {self.log_path}"
        told = "\n".join(f"    {line}" for line in lines[-LOG_TAIL_LINES:])
        return f"the end of its log, {self.log_path}:\n{told}"

    def death(self) -> str | None:
        """How it ended, in words; None while it runs."""
        code = self.process.poll()
        if code is None:
            return None
        return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with {code}"


class Supervisor:
    """Starts roles in order and stops them in the reverse order."""

    def __init__(self, log_dir: Path) -> None:
        self._log_dir = log_dir
        self._roles: list[Role] = []
        self.leftovers = ExitStack()  # undone when every role has ended
        log_dir.mkdir(parents=True, exist_ok=True)

    def start(
        self,
        name: str,
        arguments: Sequence[str],
        *,
        timeout_s: float = 120.0,
        enter: Callable[[], None] | None = None,
        spared: bool = False,
    ) -> Role:
        """Run ``narrows ARGUMENTS`` and wait until it is ready. Raises PeerError when it dies
        or says nothing for ``timeout_s``. ``enter``: called in the child before it starts.
        ``spared``: the others go on without it, and ``watch`` starts it anew."""
        log_path = self._log_dir / f"{name}.log"

        def run() -> subprocess.Popen[bytes]:
            with log_path.open("ab") as log:
                return subprocess.Popen(
                    [sys.executable, "-m", "narrows.cli.main", *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    # Its own session: a Ctrl-C reaches this parent alone, which stops all in order.
                    start_new_session=True,
                    preexec_fn=die_with(os.getpid(), enter),  # no thread runs here yet
                )

        log_start = log_path.stat().st_size if log_path.exists() else 0
        role = Role(name, run(), log_path, log_start, run if spared else None)
        self.add(role)
        role.facts = self._wait_ready(role, timeout_s)
        return role

    def add(self, role: Role) -> None:
        """Watch and stop ``role`` too."""
        self._roles.append(role)

    def _wait_ready(self, role: Role, timeout_s: float) -> dict[str, Any]:
        stdout = role.process.stdout
        if stdout is None:
            raise PeerError(f"the {role.name} has no standard output")
        deadline = time.monotonic() + timeout_s
        buffer = b""
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ)
            while (left_s := deadline - time.monotonic()) > 0:
                if not selector.select(min(left_s, 0.5)):
                    continue
                data = os.read(stdout.fileno(), 4096)
                if not data or len(buffer) > MAX_READY_LINE_BYTES:
                    break
                *lines, buffer = (buffer + data).split(b"\n")
                for line in lines:
                    if (facts := _ready_facts(line)) is not None:
                        return facts
        if left_s > 0:  # it closed its output: it is ending, or will never be ready
            with contextlib.suppress(subprocess.TimeoutExpired):
                role.process.wait(5)
        how = role.death() or f"was not ready within {timeout_s:.0f} s"
        raise PeerError(f"the {role.name} {how}; {role.log_tail()}")

    def dead(self) -> Role | None:
        """A role that has ended by itself and is not spared, if any."""
        ended = (role for role in self._roles if role.again is None and role.death() is not None)
        return next(ended, None)

    def revive(self, now_s: float) -> None:
        """Start spared roles anew that have been dead for ``REVIVE_S``. What cannot be started is
        told, and tried again as late."""
        for role in self._roles:
            if role.again is None or role.death() is None:
                continue
            role.ended_s = now_s if role.ended_s is None else role.ended_s
            if now_s - role.ended_s >= REVIVE_S:
                if role.process.stdout is not None:
                    role.process.stdout.close()
                try:
                    role.process, role.ended_s = role.again(), None
                except (OSError, subprocess.SubprocessError, NarrowsError) as error:
                    log.warning("the %s cannot be started anew: %s", role.name, error)
                    role.ended_s = now_s

    def watch(self, stopping: Callable[[], bool], interval_s: float = 0.2) -> Role | None:
        """Wait until ``stopping()`` or a role ends; that role."""
        while not stopping():
            if (role := self.dead()) is not None:
                return role
            self.revive(time.monotonic())
            time.sleep(interval_s)
        return None

    def stop(self, timeout_s: float = 10.0) -> None:
        """End every role: asked first, killed after ``timeout_s``. Edge first, so that clients
        hear of it while the rest still stands."""
        for role in reversed(self._roles):
            if role.process.poll() is None:
                role.process.terminate()
            try:
                role.process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                role.process.kill()
                role.process.wait()
            if role.process.stdout is not None:
                role.process.stdout.close()
        self._roles.clear()
        self.leftovers.close()


def _ready_facts(line: bytes) -> dict[str, Any] | None:
    try:
        facts = json.loads(line)
    except ValueError:
        return None
    return facts if isinstance(facts, dict) and facts.get("ready") is True else None


def die_with(parent: int, enter: Callable[[], None] | None = None) -> Callable[[], None]:
    """For ``preexec_fn``: ask to be ended with ``parent``, then ``enter``."""
    libc = ctypes.CDLL(None, use_errno=True)

    def in_child() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # the parent died before the call above took effect
            os._exit(1)
        if enter is not None:
            enter()

    return in_child
