"""The configuration of all roles: which sections the one TOML file has."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

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
    """All sections; defaults where ``path`` is None. InputError names every mistake."""
    kinds = {"enclave": EnclaveConfig, "gate": GateConfig, "edge": EdgeConfig}
    return Config(**load_sections(path, kinds))
