"""The files of a deployment on several machines: a subfolder for each, nothing shared but
certificates."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import tomli_w

from narrows.deploy.config import load_config
from narrows.deploy.local import plain_values
from narrows.errors import InputError
from narrows.gate.config import PortConfig
from narrows.wire.address import parse_address
from narrows.wire.pins import TlsFiles, make_identity

_HEAD = "# Every value that is not here has a default; unknown keys are errors.\n\n"


def write_deployment(
    folder: Path, gate: str, state_port: int, enclave: str, edge: str
) -> list[Path]:
    """Make ``folder`` with ``enclave/``, ``gate/`` and ``edge/``; the files made. Raises
    InputError where the folder exists: keys are never overwritten."""
    gate_host, gate_port = parse_address(gate)
    enclave_host, enclave_port = parse_address(enclave)
    edge_host, edge_port = parse_address(edge)
    try:
        folder.mkdir(mode=0o700, parents=True)
    except FileExistsError as error:
        raise InputError(
            f"{folder} exists", "keys are never overwritten: name a new one"
        ) from error
    for role in ("enclave", "gate", "edge"):
        (folder / role).mkdir(mode=0o700)
    for role, peer in (("gate", "edge"), ("edge", "gate")):
        certificate, _ = make_identity(folder / role, role)
        shutil.copy(certificate, folder / peer / f"{role}.crt")
    config = load_config(None)
    port = PortConfig("answers", "answers", gate_host, gate_port, enclave_host, enclave_port)
    files: dict[str, dict[str, Any]] = {
        "enclave": {"listen": enclave, "weak": config.enclave.weak, "model": config.enclave.model},
        "gate": {
            "ports": (port,),
            "state_host": gate_host,
            "state_port": state_port,
            "tls": TlsFiles(Path("gate.crt"), Path("gate.key"), Path("edge.crt")),
        },
        "edge": {
            "listen_host": edge_host,
            "listen_port": edge_port,
            "gate_host": gate_host,
            "gate_port": gate_port,
            "state_host": gate_host,
            "state_port": state_port,
            "weak": config.edge.weak,
            "model_name": config.edge.model_name,
            "tls": TlsFiles(Path("edge.crt"), Path("edge.key"), Path("gate.crt")),
        },
    }
    for role, values in files.items():
        text = _HEAD + tomli_w.dumps({role: plain_values(values)})
        (folder / role / "narrows.toml").write_text(text)
    return sorted(path for path in folder.rglob("*") if path.is_file())
