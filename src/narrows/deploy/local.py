"""One deployment on one machine: what ``narrows up`` prepares, starts, watches and stops.

Order of start: witness, enclave, gate, edge; each is ready before the next one is told its
port. Children are configured by one file, ``STATE/run/effective.toml``, which is the user's
configuration with those ports filled in.

A state folder has at most one deployment running (a lock file), and its ledger is created once,
with a small demonstration budget: no later start changes it.
"""

from __future__ import annotations

import dataclasses
import fcntl
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w
from rich.console import Console

from narrows.deploy.audited import with_auditor, with_verdicts
from narrows.deploy.awaited import Awaited, reached
from narrows.deploy.config import Config, load_config
from narrows.deploy.state import state_dir
from narrows.deploy.supervise import Supervisor
from narrows.durable import write_whole
from narrows.edge.books.keys import any_key
from narrows.edge.books.store import open_database
from narrows.enclave.config import UpstreamFlags
from narrows.errors import InputError
from narrows.gate.config import PortConfig
from narrows.ledger.office.demo import LINEAGE, create_demo, demo_budget, demo_witness_key
from narrows.ledger.stores.place import LedgerPlace
from narrows.private import private_folder
from narrows.wire.address import parse_address

DEMO_BUDGET_BYTES = 10_000_000
CHILD_TIMEOUT_S = 300.0

# Lines that a reader copies must not be cut at the width of the terminal.
err = Console(stderr=True, highlight=False, soft_wrap=True)


@dataclass(frozen=True)
class Flags:
    """What the command says before its configuration. ``host``: where the API listens, and
    ``port``: on 127.0.0.1 where no host is given."""

    budget_bytes: int | None = None
    host: str | None = None
    port: int | None = None
    upstream: UpstreamFlags | None = None
    audit: bool = False
    metrics: bool = False


NO_FLAGS = Flags()


@dataclass(frozen=True)
class LocalDeployment:
    """A prepared deployment: its folder, its configuration, whether the ledger is new."""

    state: Path
    config: Config
    created_budget_bytes: int | None
    audit: bool = False
    metrics: bool = False

    @classmethod
    def prepare(
        cls, config_path: Path | None, state: Path | None, flags: Flags = NO_FLAGS
    ) -> LocalDeployment:
        """Read the configuration, make the state folder and, where there is none, the ledger.

        Raises InputError for a wrong file and for a budget that differs from the existing
        ledger's: a flag never changes a budget."""
        config = load_config(config_path, flags.upstream)
        cls.check(config)
        if flags.audit:
            cls.check_audit(config)
        edge = config.edge
        if flags.port is not None:
            edge = dataclasses.replace(edge, listen_host="127.0.0.1", listen_port=flags.port)
        if flags.host is not None:
            edge = dataclasses.replace(edge, listen_host=flags.host)
        config = dataclasses.replace(config, edge=edge)
        folder = state_dir(state)
        private_folder(folder)
        # The isolated enclave reads it as another user.
        config = _with_weak_folder(config, private_folder(folder, "weak", shown=True))
        with _only_one(folder):
            created_bytes = ensure_ledger(folder, flags.budget_bytes)
        return cls(folder, config, created_bytes, flags.audit, flags.metrics)

    @classmethod
    def check_audit(cls, config: Config) -> None:
        """``InputError`` where ``up`` cannot run an auditor of ``config``."""
        if config.enclave.upstream is not None:
            raise InputError(
                "--audit recomputes the built-in model, and an upstream server answers here",
                "run narrows audit serve with its weights (docs/audit.md), or leave --audit out",
            )

    @classmethod
    def check(cls, config: Config) -> None:
        """``InputError``, before anything is made, where this host cannot run ``config``."""
        if config.edge.models:
            raise InputError(
                "'narrows up' starts one enclave, and [[edge.models]] names several models",
                "start each role by itself: narrows enclave, narrows gate, narrows edge",
            )
        if config.gate.etcd is not None:
            raise InputError(
                "'narrows up' keeps its ledger in its state folder", "leave [gate.etcd] out"
            )

    def run(self) -> None:
        """Serve until Ctrl-C or until a role dies, which is an error that names it."""
        with _only_one(self.state), _stop_signals() as stopped:
            prepare_models(self.config)
            supervisor = Supervisor(private_folder(self.state, "log"))
            try:
                port = self.start(supervisor)
                answers = Awaited(self.config, port, self.state, err)
                dead = supervisor.watch(lambda: bool(stopped) or answers.look())
                if dead is None and not stopped:
                    self._greet(port)
                    dead = supervisor.watch(lambda: bool(stopped))
                if dead is not None:
                    err.print(f"narrows: the {dead.name} {dead.death()}; stopping the others")
                    err.print(dead.log_tail(), markup=False)
                    raise SystemExit(1)
                err.print("stopping ...")
            finally:
                supervisor.stop()

    def start(self, supervisor: Supervisor) -> int:
        """Start all roles; the port of the API."""
        config = self.config
        if self.audit:
            config = with_auditor(self.state, config)
        witness = supervisor.start(
            "witness", ["witness", "--state", str(self.state), "--listen", "127.0.0.1:0"]
        )
        config = with_witness(config, witness.facts["port"], demo_witness_key(self.state).hex())
        config = dataclasses.replace(
            config,
            enclave=dataclasses.replace(
                config.enclave, listen="127.0.0.1:0", telemetry="127.0.0.1:0"
            ),
        )
        enclave = supervisor.start(
            "enclave", self._arguments("enclave", config), timeout_s=CHILD_TIMEOUT_S
        )
        config = _with_enclave(config, enclave.facts["port"], enclave.facts["telemetry_port"])
        if self.audit:
            words = self._arguments("audit", config)
            auditor = supervisor.start("audit", words, timeout_s=CHILD_TIMEOUT_S, spared=True)
            config = with_verdicts(config, auditor.facts["port"])
        gate = supervisor.start("gate", self._arguments("gate", config))
        config = _with_gate(config, gate.facts["port"], gate.facts.get("state_port", 0))
        edge = supervisor.start("edge", self._arguments("edge", config), timeout_s=CHILD_TIMEOUT_S)
        if self.audit:
            at = f"127.0.0.1:{gate.facts['ports']['verdicts']}"
            words = [*self._arguments("poster", config), "--gate", at]
            supervisor.start("poster", [*words, "--witness", config.gate.witness], spared=True)
        self.start_metrics(supervisor, config, f"127.0.0.1:{gate.facts['ports']['telemetry']}")
        return int(edge.facts["port"])

    def start_metrics(self, supervisor: Supervisor, config: Config, telemetry: str) -> None:
        """The exporter, where it is wanted; the others go on without it. ``telemetry``: the gate's
        port for it."""
        if self.metrics:
            section = dataclasses.replace(config.metrics, telemetry=telemetry)
            config = dataclasses.replace(config, metrics=section)
            exporter = supervisor.start("metrics", self._arguments("metrics", config), spared=True)
            host = parse_address(section.listen)[0]
            at = f"http://{host}:{exporter.facts['port']}/metrics"
            err.print(f"Metrics for Prometheus: {at}", markup=False)

    def _arguments(self, role: str, config: Config) -> list[str]:
        path = private_folder(self.state, "run") / "effective.toml"
        # 0600: it holds the upstream's key, where the user's file does
        write_whole(path, to_toml(config).encode(), 0o600)
        if role == "audit":
            return ["audit", "serve", "--config", str(path)]
        if role == "poster":
            words = ["audit", "post", "--config", str(path), "--state", str(self.state)]
            return [*words, "--lineage", LINEAGE, "--operator", "demo"]
        arguments = [role, "--config", str(path)]
        return arguments if role == "enclave" else [*arguments, "--state", str(self.state)]

    def _greet(self, port: int) -> None:
        model = self.config.edge.model_name
        scheme = "https" if self.config.edge.https else "http"
        url = f"{scheme}://{reached(self.config.edge.listen_host)}:{port}/v1"
        if self.created_budget_bytes is not None:
            err.print(
                f"[bold]New ledger[/bold] with a demonstration budget of "
                f"{self.created_budget_bytes:,} bytes for its lifetime: when they have left,\n"
                "nothing more does. 'narrows budget --help' says how operators raise it."
            )
        err.print(f"\n[bold green]Serving[/bold green] {model} at {url}\n")
        with closing(open_database(self.state)) as database:
            needs_key = any_key(database)
        key = "nk-..." if needs_key else "none"
        header = f"-H 'authorization: Bearer {key}' " if needs_key else ""
        err.print(
            f"  curl -N {url}/chat/completions {header}"
            "-H 'content-type: application/json' \\\n"
            f'    -d \'{{"model": "{model}", "stream": true, "max_tokens": 200,\n'
            '         "messages": [{"role": "user", "content": "Why is the sky blue?"}]}\'\n\n'
            f"  OpenAI(base_url='{url}', api_key='{key}')    # Python\n"
            f"  narrows status --state {self.state}\n\n"
            f"State and logs: {self.state}   Ctrl-C stops everything.",
            markup=False,
        )


def ensure_ledger(folder: Path, budget: int | None) -> int | None:
    """The size of the demonstration budget just created, or None for an existing ledger."""
    existing = demo_budget(folder)
    if existing is None and not LedgerPlace(folder).file.exists():
        size = budget if budget is not None else DEMO_BUDGET_BYTES
        create_demo(folder, size)
        return size
    if budget is not None and budget != existing:
        granted = "another budget" if existing is None else f"{existing:,} bytes"
        raise InputError(
            f"the ledger in {folder} has {granted}, not {budget:,} bytes",
            "a flag never changes a budget: use 'narrows budget propose', another --state, "
            "or leave --budget out",
        )
    return None


def prepare_models(config: Config) -> None:
    """Import models and compile kernels now, with progress, so that no role is slow later."""
    from narrows.models.registry import load_model, resolve

    names = [*config.enclave.weak, *config.edge.weak, *config.enclave.strong_models]
    for name in dict.fromkeys(names):
        if name not in ("bytes", "default"):  # these come with the package
            resolve(name)
    with err.status("Loading models and compiling kernels (once) ..."):
        for name in dict.fromkeys(names):
            model = load_model(name)
            stream = model.open([0])
            model.advance([stream], [0])
            model.close(stream)


def to_toml(config: Config) -> str:
    """The configuration as a file that ``load_config`` reads back."""
    return tomli_w.dumps(plain_values(config))


def to_toml_section(name: str, section: Any) -> str:
    """One section of it, for who must not know of the others."""
    return tomli_w.dumps({name: plain_values(section)})


def plain_values(value: Any) -> Any:
    """Dataclasses and what they hold as TOML can hold it: no None, paths as text."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        # A field that is a word of Python has an underscore behind its name; a key keeps its own.
        return plain_values(
            {one.name.rstrip("_"): getattr(value, one.name) for one in dataclasses.fields(value)}
        )
    if isinstance(value, Mapping):
        return {key: plain_values(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [plain_values(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _with_weak_folder(config: Config, folder: Path) -> Config:
    """Both roles watch ``folder`` unless they are told to watch another."""
    enclave = dataclasses.replace(config.enclave, weak_folder=config.enclave.weak_folder or folder)
    edge = dataclasses.replace(config.edge, weak_folder=config.edge.weak_folder or folder)
    return dataclasses.replace(config, enclave=enclave, edge=edge)


def _with_enclave(config: Config, port: int, telemetry_port: int) -> Config:
    answers = dataclasses.replace(
        config.gate.ports[0], enclave_host="127.0.0.1", enclave_port=port, listen_port=0
    )
    telemetry = PortConfig(
        "telemetry", "telemetry", enclave_port=telemetry_port, listen_port=0, max_links=1
    )
    gate = dataclasses.replace(config.gate, ports=(answers, telemetry), state_port=0)
    return dataclasses.replace(config, gate=gate)


def _with_gate(config: Config, port: int, state_port: int) -> Config:
    edge = dataclasses.replace(
        config.edge,
        gate_host="127.0.0.1",
        gate_port=port,
        state_host="127.0.0.1",
        state_port=state_port,
        port_name=config.gate.ports[0].name,
    )
    return dataclasses.replace(config, edge=edge)


def with_witness(config: Config, port: int, key: str) -> Config:
    gate = dataclasses.replace(config.gate, witness=f"127.0.0.1:{port}", witness_key=key)
    return dataclasses.replace(config, gate=gate)


@contextmanager
def _only_one(state: Path) -> Iterator[None]:
    """Hold the folder's lock; the kernel drops it with the process, however it ends."""
    path = private_folder(state, "run") / "lock"
    with path.open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(
                f"another 'narrows up' runs on {state}", "stop it, or choose another --state"
            ) from error
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM instead of raising, so that stopping is one code path."""
    received: list[int] = []
    before = {
        number: signal.signal(number, lambda n, _: received.append(n))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
