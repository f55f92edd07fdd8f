"""All roles as real processes on fixed loopback ports, so that each can die and come back.

Between edge and gate sits a ``CountingWire``: what it counts is what reached the edge's socket.
"""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import openai

from e2e.fakes import CountingWire
from narrows.cli.status import collect
from narrows.deploy.config import Config, load_config
from narrows.deploy.local import to_toml
from narrows.deploy.supervise import Role, Supervisor
from narrows.enclave.config import UpstreamConfig
from narrows.gate.config import PortConfig
from narrows.ledger.office.demo import create_demo, demo_witness_key
from ports import free_port


class Chain:
    """``strong``: URL of an OpenAI-compatible server, or None for the built-in model.
    ``probe``: as the edge's; without, the model hears only what a test asks."""

    def __init__(
        self,
        state: Path,
        *,
        strong: str | None,
        budget_bytes: int = 50_000_000,
        weak: str = "bytes",
        upstream: dict[str, Any] | None = None,
        weak_folders: tuple[Path, Path] | None = None,
        weak_kv_mib: tuple[int, int] = (512, 512),
        probe: bool = False,
    ) -> None:
        self.state = state
        self.gate_port = free_port()
        self.wire = CountingWire(self.gate_port)
        self.api_port = free_port()
        self.witness_port = free_port()
        create_demo(state, budget_bytes)
        self.config_path = state / "narrows.toml"
        config = self._config(strong, weak, upstream or {})
        if weak_folders is not None:  # the enclave's, the edge's
            config = dataclasses.replace(
                config,
                enclave=dataclasses.replace(config.enclave, weak_folder=weak_folders[0]),
                edge=dataclasses.replace(config.edge, weak_folder=weak_folders[1]),
            )
        config = dataclasses.replace(  # the enclave's, the edge's
            config,
            enclave=dataclasses.replace(config.enclave, weak_kv_mib=weak_kv_mib[0]),
            edge=dataclasses.replace(config.edge, weak_kv_mib=weak_kv_mib[1], probe=probe),
        )
        self.config_path.write_text(to_toml(config))
        self.supervisor = Supervisor(state / "log")
        self.roles: dict[str, Role] = {}

    def _config(self, strong: str | None, weak: str, upstream: dict[str, Any]) -> Config:
        config = load_config(None)
        enclave_port, state_port = free_port(), free_port()
        enclave = dataclasses.replace(
            config.enclave,
            listen=f"127.0.0.1:{enclave_port}",
            weak=(weak,),
            upstream=UpstreamConfig(url=strong, model="m", **upstream) if strong else None,
        )
        port = PortConfig(
            "answers", "answers", "127.0.0.1", self.gate_port, "127.0.0.1", enclave_port
        )
        gate = dataclasses.replace(
            config.gate,
            ports=(port,),
            state_port=state_port,
            witness=f"127.0.0.1:{self.witness_port}",
            witness_key=demo_witness_key(self.state).hex(),
        )
        edge = dataclasses.replace(
            config.edge,
            listen_port=self.api_port,
            gate_port=self.wire.port,
            state_port=state_port,
            weak=(weak,),
        )
        return Config(enclave=enclave, gate=gate, edge=edge)

    def start(self, *names: str) -> Chain:
        """Start roles, all of them where none is named."""
        for name in names or ("witness", "enclave", "gate", "edge"):
            if name == "witness":
                arguments = [name, "--listen", f"127.0.0.1:{self.witness_port}"]
            else:
                arguments = [name, "--config", str(self.config_path)]
            if name != "enclave":
                arguments += ["--state", str(self.state)]
            self.roles[name] = self.supervisor.start(name, arguments)
        return self

    def kill(self, name: str) -> None:
        """kill -9, and wait until it is gone."""
        self.roles[name].process.kill()
        self.roles[name].process.wait()

    def stop(self) -> None:
        self.supervisor.stop()
        self.wire.stop()

    def client(self, **options: Any) -> openai.OpenAI:
        settings = {"api_key": "none", "max_retries": 0, "timeout": 60.0} | options
        return openai.OpenAI(base_url=f"http://127.0.0.1:{self.api_port}/v1", **settings)

    def ask(self, content: str, **options: Any) -> str:
        """One whole answer's text."""
        settings = {"model": "smollm2-135m-instruct", "temperature": 1.0} | options
        answer = self.client().chat.completions.create(
            messages=[{"role": "user", "content": content}], **settings
        )
        return answer.choices[0].message.content or ""

    def stream(self, content: str, **options: Any) -> Any:
        settings = {"model": "smollm2-135m-instruct", "temperature": 1.0} | options
        return self.client().chat.completions.create(
            messages=[{"role": "user", "content": content}], stream=True, **settings
        )

    def status(self) -> dict[str, Any]:
        """What ``narrows status --json`` says."""
        figures: dict[str, Any] = json.loads(json.dumps(collect(self.state, time.time())))
        return figures

    def assert_paid(self) -> None:
        """Law 1, as seen from outside: what arrived at the edge's socket was spent before."""
        arrived = self.wire.outward_bytes
        spent = self.status()["spent_bytes"]
        assert arrived <= spent, f"{arrived} bytes arrived, {spent} were spent"
