"""The gate's section of the configuration, read without importing the other roles."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from narrows.config import load_sections
from narrows.gate.config import GateConfig


def load_gate(path: Path) -> GateConfig:
    """Section ``[gate]``; what the other roles' sections hold is their affair. InputError names
    every mistake. Files that it names lie relative to ``path``."""
    others = ("enclave", "edge", "audit", "metrics")
    section = load_sections(path, {"gate": GateConfig}, others)["gate"]
    return files_in(section, path.parent.resolve())


def files_in(gate: GateConfig, folder: Path) -> GateConfig:
    """The section with the names of all its files taken relative to ``folder``."""
    placed: GateConfig = tls_in(gate, folder)
    if placed.tape is not None:
        tape = dataclasses.replace(placed.tape, folder=folder / placed.tape.folder)
        placed = dataclasses.replace(placed, tape=tape)
    if placed.etcd is None:
        return placed
    names = ("ca_file", "cert_file", "key_file")
    files = {name: getattr(placed.etcd, name) for name in names}
    etcd = {name: folder / file for name, file in files.items() if file is not None}
    return dataclasses.replace(placed, etcd=dataclasses.replace(placed.etcd, **etcd))


def tls_in(section: Any, folder: Path) -> Any:
    """The section with the names of its TLS files taken relative to ``folder``."""
    if section.tls is None:
        return section
    names = ("cert_file", "key_file", "peer_file")
    placed = {name: folder / getattr(section.tls, name) for name in names}
    return dataclasses.replace(section, tls=dataclasses.replace(section.tls, **placed))
