"""The configuration of all roles: which sections the one TOML file has."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from narrows.cli.config_gate import tls_in
from narrows.config import load_sections
from narrows.edge.config import EdgeConfig
from narrows.enclave.config import EnclaveConfig
from narrows.gate.config import GateConfig


@dataclass(frozen=True)
class Config:
    enclave: EnclaveConfig
    gate: GateConfig
    edge: EdgeConfig


def load_config(path: Path | None) -> Config:
    """All sections; defaults where ``path`` is None. InputError names every mistake. Files that
    the configuration names lie relative to it."""
    kinds = {"enclave": EnclaveConfig, "gate": GateConfig, "edge": EdgeConfig}
    config = Config(**load_sections(path, kinds))
    if path is None:
        return config
    folder = path.parent.resolve()
    return dataclasses.replace(
        config, gate=tls_in(config.gate, folder), edge=tls_in(config.edge, folder)
    )
