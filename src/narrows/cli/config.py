"""The configuration of all roles: which sections the one TOML file has."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from narrows.config import load_sections
from narrows.edge.config import EdgeConfig
from narrows.enclave.config import EnclaveConfig
from narrows.gate.config import GateConfig

_Section = TypeVar("_Section", GateConfig, EdgeConfig)


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
    gate = _etcd_in(_tls_in(config.gate, folder), folder)
    return dataclasses.replace(config, gate=gate, edge=_tls_in(config.edge, folder))


def _etcd_in(gate: GateConfig, folder: Path) -> GateConfig:
    if gate.etcd is None:
        return gate
    names = ("ca_file", "cert_file", "key_file")
    files = {name: getattr(gate.etcd, name) for name in names}
    placed = {name: folder / file for name, file in files.items() if file is not None}
    return dataclasses.replace(gate, etcd=dataclasses.replace(gate.etcd, **placed))


def _tls_in(section: _Section, folder: Path) -> _Section:
    if section.tls is None:
        return section
    names = ("cert_file", "key_file", "peer_file")
    placed = {name: folder / getattr(section.tls, name) for name in names}
    return dataclasses.replace(section, tls=dataclasses.replace(section.tls, **placed))
