"""The configuration of all roles: which sections the one TOML file has."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from narrows.config import load_sections
from narrows.deploy.gate_section import files_in, tls_in
from narrows.edge.config import EdgeConfig
from narrows.enclave.config import EnclaveConfig
from narrows.gate.config import GateConfig

_Holder = TypeVar("_Holder", EnclaveConfig, EdgeConfig)


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
        config,
        gate=files_in(config.gate, folder),
        edge=_weak_in(tls_in(config.edge, folder), folder),
        enclave=_weak_in(config.enclave, folder),
    )


def _weak_in(section: _Holder, folder: Path) -> _Holder:
    if section.weak_folder is None:
        return section
    return dataclasses.replace(section, weak_folder=folder / section.weak_folder.expanduser())
