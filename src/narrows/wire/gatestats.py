"""The gate's stats file as others read it: ``STATE/gate/stats.json``, counts since its start."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from narrows.errors import InputError

MAX_FILE_BYTES = 1 << 20
_COUNTS = ("sent_bytes", "timing_bytes")
_REMEDY = "delete it: a gate makes it anew"


def read_gate_ports(state_dir: Path) -> dict[str, dict[str, Any]]:
    """By port, what the gate wrote; empty where none has run here. Errors: ``InputError``."""
    path = state_dir / "gate" / "stats.json"
    try:
        with path.open("rb") as file:
            ports = json.loads(file.read(MAX_FILE_BYTES)).get("ports")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise InputError(f"cannot read {path}: {error}", _REMEDY) from error
    if not isinstance(ports, dict) or not all(_is_port(port) for port in ports.values()):
        raise InputError(f"{path} holds no ports", _REMEDY)
    return ports


def _is_port(port: object) -> bool:
    return isinstance(port, dict) and all(
        type(port.get(name, 0)) is int and port.get(name, 0) >= 0 for name in _COUNTS
    )
