"""``narrows up --isolated``: the same deployment, with the enclave locked up on this machine.

    witness, gate    in the gate's network namespace (see narrows.isolate.network)
    enclave          in a sandbox and a network namespace of its own (narrows.isolate.sandbox)
    upstream server  in another sandbox, in the enclave's network namespace
    auditor          with --audit, in a sandbox and a namespace of its own (deploy/audit_box.py)
    edge             on the host, as ever

Order: remove what a killed predecessor left; namespaces, cables and rules; witness; enclave;
auditor; gate; edge; poster. What was made is undone in reverse when a start fails half-way, at
Ctrl-C, and, since the kernel keeps namespaces for processes and descriptors only, after kill -9:
what then still runs under the enclave's user is found by that user at the next start.

Gate and edge speak TLS with pinned keys, made once in STATE/isolated, since the cable between
them is not loopback.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from narrows.deploy.audit_box import audit_box, with_isolated_verdicts
from narrows.deploy.audited import with_auditor
from narrows.deploy.config import Config
from narrows.deploy.inside_role import InsideRole, await_listening
from narrows.deploy.local import (
    CHILD_TIMEOUT_S,
    LocalDeployment,
    err,
    to_toml_section,
    with_witness,
)
from narrows.deploy.supervise import Supervisor, die_with
from narrows.enclave.config import EnclaveConfig
from narrows.errors import InputError
from narrows.gate.backstop.kernel import unavailable
from narrows.isolate import network as net
from narrows.isolate.namespaces import TOOL_PATH, NetNamespace
from narrows.isolate.sandbox import Sandbox, compiled_kernels
from narrows.isolate.user import auditor_tag, deployment_tag, enclave_uid, end_processes
from narrows.ledger.office.demo import demo_witness_key
from narrows.logs import LOG_FORMAT
from narrows.private import private_folder
from narrows.wire.address import is_loopback
from narrows.wire.pins import TlsFiles, make_identity

TOOLS = ("bwrap", "ip", "nft")
ENCLAVE_FILE, WEAK_FOLDER = "/run/narrows/enclave.toml", "/run/narrows/weak"
_PASSED_ON = ("NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES", "NUMBA_CACHE_DIR", LOG_FORMAT)


@dataclass(frozen=True)
class IsolatedDeployment(LocalDeployment):
    @classmethod
    def check(cls, config: Config) -> None:
        super().check(config)
        _check_host()
        _check_upstream(config.enclave)

    @property
    def weak_folder(self) -> Path:
        """Weak models flow inward: the one folder of the state that the enclave reads."""
        return self.state / "weak"

    def start(self, supervisor: Supervisor) -> int:
        tag = deployment_tag(self.state)
        uid = enclave_uid(tag)
        config = _inside(self.config)
        boxes = self._sandboxes(config.enclave, uid)
        end_processes(uid)
        supervisor.leftovers.callback(end_processes, uid)
        auditor = None
        if self.audit:
            config = with_auditor(self.state, config, apart=True)
            auditor = self._audit_sandbox(config, supervisor)
        network = supervisor.leftovers.enter_context(net.wired(tag, self.audit))
        witness = supervisor.start(
            "witness",
            ["witness", "--state", str(self.state), "--listen", "127.0.0.1:0"],
            enter=network.gate.enter,
        )
        for name, (box, words) in boxes.items():
            role = self._start_inside(supervisor, name, box, words, network.enclave)
            if name == "enclave":
                for port in net.ENCLAVE_PORTS:
                    await_listening(role, network, (net.ENCLAVE, port), CHILD_TIMEOUT_S)
        if auditor is not None and network.auditor is not None:
            role = self._start_inside(supervisor, "audit", *auditor, network.auditor, spared=True)
            place = (net.AUDITOR, net.AUDITOR_PORT)
            await_listening(role, network, place, CHILD_TIMEOUT_S)
        config = with_witness(config, witness.facts["port"], demo_witness_key(self.state).hex())
        config = outside(config, network, identities(self.state))
        if self.audit:
            config = with_isolated_verdicts(config, network.gate_outer)
        supervisor.start("gate", self._arguments("gate", config), enter=network.enter_gate)
        edge = supervisor.start("edge", self._arguments("edge", config), timeout_s=CHILD_TIMEOUT_S)
        if self.audit:
            at = f"{network.gate_outer}:{net.VERDICTS_PORT}"
            words = [*self._arguments("poster", config), "--gate", at]
            words += ["--witness", config.gate.witness]
            supervisor.start("poster", words, enter=network.enter_gate, spared=True)
        telemetry = f"{network.gate_outer}:{net.GATE_PORTS[2]}"
        self.start_metrics(supervisor, config, telemetry)
        err.print(
            "\nThe enclave is isolated: its own user, processes, mounts, IPC and network; its "
            "only neighbour is the gate.\nWhat it logs leaves through the gate, counted:\n\n"
            f"  narrows telemetry --gate {telemetry} "
            f"--config {self.state}/run/effective.toml",
            markup=False,
            soft_wrap=True,
        )
        return int(edge.facts["port"])

    def _sandboxes(self, enclave: EnclaveConfig, uid: int) -> dict[str, tuple[Sandbox, list[str]]]:
        """What runs inside, in the order of starting."""
        environment = _passed_on()
        key = os.environ.get("NARROWS_UPSTREAM_KEY")
        if enclave.upstream is not None and key:
            environment["NARROWS_UPSTREAM_KEY"] = key
        boxes: dict[str, tuple[Sandbox, list[str]]] = {}
        if enclave.upstream is not None:
            extras = enclave.isolated
            box = Sandbox(uid, extras.files, devices=extras.devices, environment=environment)
            boxes["upstream"] = (box, list(extras.command))
        files, variables = _models(enclave)
        folder = enclave.weak_folder or self.weak_folder
        inside = dataclasses.replace(enclave, weak_folder=Path(WEAK_FOLDER))
        box = Sandbox(
            uid,
            files,
            placed={WEAK_FOLDER: folder},
            private=compiled_kernels(),
            data={ENCLAVE_FILE: to_toml_section("enclave", inside).encode()},
            environment=environment | variables,
        )
        words = [sys.executable, "-m", "narrows.cli.main", "enclave", "--config", ENCLAVE_FILE]
        boxes["enclave"] = (box, words)
        for box, _ in boxes.values():
            box.check(self.state, shown=(self.weak_folder,))
        return boxes

    def _audit_sandbox(self, config: Config, supervisor: Supervisor) -> tuple[Sandbox, list[str]]:
        uid = enclave_uid(auditor_tag(self.state))
        end_processes(uid)
        supervisor.leftovers.callback(end_processes, uid)
        files, variables = _artifacts([config.audit.model, *config.audit.weak])
        return audit_box(self.state, config, uid, files, _passed_on() | variables)

    def _start_inside(
        self,
        supervisor: Supervisor,
        name: str,
        box: Sandbox,
        words: list[str],
        namespace: NetNamespace,
        spared: bool = False,
    ) -> InsideRole:
        """``spared``: as of ``Supervisor.start``."""
        log_path = self.state / "log" / f"{name}.log"

        def run() -> subprocess.Popen[bytes]:
            with log_path.open("wb") as log:
                enter = die_with(os.getpid(), namespace.enter)
                return box.prepare(words).start(enter, log)

        role = InsideRole(name, run(), log_path, again=run if spared else None)
        supervisor.add(role)
        return role


def identities(state: Path) -> Path:
    """The folder with the TLS keys of gate and edge, made where there is none."""
    folder = private_folder(state, "isolated", make=False)
    if not folder.exists():
        new = folder.with_suffix(".new")
        shutil.rmtree(new, ignore_errors=True)  # of a start that was killed
        new.mkdir(mode=0o700)
        for name in ("gate", "edge"):
            make_identity(new, name)
        new.rename(folder)
    return folder


def _check_host() -> None:
    if os.geteuid() != 0:
        raise InputError(
            "--isolated makes namespaces and network devices, which only root may",
            "run it as root (sudo narrows up --isolated), or leave --isolated out",
        )
    missing = [tool for tool in TOOLS if shutil.which(tool, path=TOOL_PATH) is None]
    if missing:
        raise InputError(
            f"--isolated needs {', '.join(missing)}",
            "apt-get install bubblewrap iproute2 nftables",
        )


def _check_upstream(enclave: EnclaveConfig) -> None:
    upstream, extras = enclave.upstream, enclave.isolated
    if upstream is None:
        if extras.command or extras.files or extras.devices:
            raise InputError("[enclave.isolated] is for an upstream server, and there is none")
        return
    host = urlsplit(upstream.url).hostname or ""
    if not is_loopback(host):
        raise InputError(
            f"an isolated enclave cannot reach {upstream.url}: its only neighbour is the gate",
            "run the server inside (url http://127.0.0.1:PORT/v1 and [enclave.isolated] command), "
            "or give the enclave machines of its own (docs/deploy.md)",
        )
    if not extras.command:
        raise InputError(
            f"{upstream.url} would be in the isolated enclave, not on this host",
            "say in [enclave.isolated] command how to start the server in there",
        )


def _models(enclave: EnclaveConfig) -> tuple[tuple[Path, ...], dict[str, str]]:
    """What an enclave needs of this host's, and how it is found inside."""
    from narrows.models.checkpoint.hf_tokenizer import text_files

    files, variables = _artifacts([*enclave.weak, *enclave.strong_models])
    if enclave.upstream is not None and enclave.upstream.folder is not None:
        files = (*files, *text_files(enclave.upstream.folder))
    return files, variables


def _artifacts(names: Sequence[str]) -> tuple[tuple[Path, ...], dict[str, str]]:
    """The models' files, and how they are found inside."""
    from narrows.models.checkpoint.fetch import cache_dir
    from narrows.models.registry import DEFAULT_ARTIFACT, resolve
    from narrows.models.shelf.signed import signed_path

    files = [resolve(name).absolute() for name in names if name != "bytes"]
    inside = [path for path in files if path != DEFAULT_ARTIFACT]
    inside += [path for one in inside if (path := signed_path(one)).exists()]
    return tuple(inside), {"NARROWS_CACHE": str(cache_dir().absolute())}


def _passed_on() -> dict[str, str]:
    return {name: os.environ[name] for name in _PASSED_ON if name in os.environ}


def _inside(config: Config) -> Config:
    listen, telemetry = (f"{net.ENCLAVE}:{port}" for port in net.ENCLAVE_PORTS)
    enclave = dataclasses.replace(config.enclave, listen=listen, telemetry=telemetry)
    return dataclasses.replace(config, enclave=enclave)


def outside(config: Config, network: net.Network, keys: Path) -> Config:
    """Gate and edge at the two ends of the outer cable."""
    answers_port, state_port, telemetry_port = net.GATE_PORTS
    answers = dataclasses.replace(
        config.gate.ports[0],
        listen_host=network.gate_outer,
        listen_port=answers_port,
        enclave_host=net.ENCLAVE,
        enclave_port=net.ENCLAVE_PORTS[0],
        allow=(f"{network.host}/32",),
    )
    telemetry = dataclasses.replace(
        answers,
        name="telemetry",
        account="telemetry",
        listen_port=telemetry_port,
        enclave_port=net.ENCLAVE_PORTS[1],
        max_links=1,
    )
    gate = dataclasses.replace(
        config.gate,
        ports=(answers, telemetry),
        state_host=network.gate_outer,
        state_port=state_port,
        # Its preconditions are this arrangement: fixed ports and peers, one outbound device.
        kernel="off" if unavailable() else "nftables",
        backstop=dataclasses.replace(config.gate.backstop, devices=(net.OUTER,)),
        cores="off",  # the enclave's own processes share them: charged as such
        tls=TlsFiles(keys / "gate.crt", keys / "gate.key", keys / "edge.crt"),
    )
    edge = dataclasses.replace(
        config.edge,
        gate_host=network.gate_outer,
        gate_port=answers_port,
        state_host=network.gate_outer,
        state_port=state_port,
        port_name=answers.name,
        tls=TlsFiles(keys / "edge.crt", keys / "edge.key", keys / "gate.crt"),
    )
    return dataclasses.replace(config, gate=gate, edge=edge)
