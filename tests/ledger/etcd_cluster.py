"""Real etcd for tests: one member or three, on a loopback address of this process's own."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import ssl
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from narrows.ledger.stores.etcd_http import EtcdConfig

START_TIMEOUT_S = 60.0
_ports = itertools.count(2300, 2)

needs_etcd = pytest.mark.skipif(
    shutil.which("etcd") is None, reason="no etcd here: apt-get install etcd-server"
)


def own_address() -> str:
    """127.0.0.0/8 is all loopback, and no other process has this one: ports never collide."""
    pid = os.getpid()
    return f"127.{64 + (pid >> 16 & 63)}.{pid >> 8 & 255}.{max(1, pid & 255)}"


def wait_until(true: Callable[[], bool], what: str, timeout_s: float = START_TIMEOUT_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline, f"waited {timeout_s} s until {what}"
        time.sleep(0.05)


class Member:
    """``process`` is None while it is down; its data stay."""

    def __init__(
        self,
        folder: Path,
        number: int,
        tls: tuple[Path, Path, Path] | None,
        host: str = "",
        before: tuple[str, ...] = (),
    ) -> None:
        """``before``: words in front of the command, which move it into a namespace."""
        self.name, self.folder, self._tls = f"m{number}", folder / f"m{number}", tls
        self._before, self.context = before, None if tls is None else _context(tls)
        port, host = next(_ports), host or own_address()
        scheme = "http" if tls is None else "https"
        self.client_url = f"{scheme}://{host}:{port}"
        self.peer_url = f"http://{host}:{port + 1}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, members: list[Member]) -> None:
        words = [
            *self._before, "etcd", "--name", self.name, "--data-dir", str(self.folder),
            "--listen-client-urls", self.client_url, "--advertise-client-urls", self.client_url,
            "--listen-peer-urls", self.peer_url, "--initial-advertise-peer-urls", self.peer_url,
            "--initial-cluster", ",".join(f"{m.name}={m.peer_url}" for m in members),
            "--logger", "zap", "--log-outputs", str(self.folder) + ".log",
        ]  # fmt: skip
        if self._tls is not None:
            ca, cert, key = map(str, self._tls)
            words += ["--client-cert-auth", "--trusted-ca-file", ca]
            words += ["--cert-file", cert, "--key-file", key]
        # a session of its own: a signal to the tests does not reach it
        self.process = subprocess.Popen(
            words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def answers(self) -> bool:
        """Whether it carries out a linearizable read."""
        return self._ask("/v3/kv/range", {"key": "AA=="}) is not None

    def leads(self) -> bool:
        status = self._ask("/v3/maintenance/status", {})
        return status is not None and status["leader"] == status["header"]["member_id"]

    def _ask(self, path: str, body: object) -> dict | None:  # type: ignore[type-arg]
        request = urllib.request.Request(self.client_url + path, json.dumps(body).encode())
        try:
            with urllib.request.urlopen(request, timeout=2, context=self.context) as response:
                return json.load(response)  # type: ignore[no-any-return]
        except (OSError, ValueError):
            return None


def _context(tls: tuple[Path, Path, Path]) -> ssl.SSLContext:
    """A member's own certificate has both usages."""
    context = ssl.create_default_context(cafile=str(tls[0]))
    context.load_cert_chain(tls[1], tls[2])
    return context


class Cluster:
    def __init__(self, folder: Path, count: int, tls: tuple[Path, Path, Path] | None) -> None:
        self.members = [Member(folder, number, tls) for number in range(count)]
        self._prefixes = itertools.count()

    def start(self) -> None:
        for member in self.members:
            member.start(self.members)

    def restart(self, member: Member) -> None:
        member.start(self.members)

    def wait(self) -> None:
        wait_until(lambda: all(m.answers() for m in self.members if m.process), "etcd answers")

    def leader(self) -> Member:
        found: list[Member] = []

        def look() -> bool:
            found[:] = [m for m in self.members if m.process and m.leads()]
            return len(found) == 1

        wait_until(look, "etcd has a leader")
        return found[0]

    def config(self, timeout_s: float = 3.0) -> EtcdConfig:
        """A prefix that nothing has used."""
        urls = tuple(m.client_url for m in self.members)
        return EtcdConfig(urls, f"t{next(self._prefixes)}", timeout_s)

    def stop(self) -> None:
        for member in self.members:
            if member.process is not None:
                member.signal(signal.SIGCONT)
            member.kill()


@contextmanager
def cluster(count: int, tls: tuple[Path, Path, Path] | None = None) -> Iterator[Cluster]:
    """In memory where there is a folder for that: what a member acknowledged has to survive
    kill -9, which takes no disk."""
    parent = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=parent) as folder:
        made = Cluster(Path(folder), count, tls)
        try:
            made.start()
            if tls is None:
                made.wait()
            yield made
        finally:
            made.stop()
