"""The gate's stats file as others read it: ``STATE/gate/stats.json``, counts since its start.

A gate that runs replaces it once a second."""

from __future__ import annotations

import json
from math import inf
from pathlib import Path
from typing import Any

from narrows.errors import InputError

MAX_FILE_BYTES = 1 << 20
RUNNING_S = 10.0  # a gate that runs is not silent for longer, whatever its disk does
_COUNTS = ("sent_bytes", "timing_bytes")
_SPOOL = ("spool_bytes", "max_bytes", "oldest_ms")
_REMEDY = "delete it: a gate makes it anew"


def read_gate_ports(state_dir: Path) -> dict[str, dict[str, Any]]:
    """By port, what the gate wrote; empty where none has run here. Errors: ``InputError``."""
    stats = _read(state_dir)
    if stats is None:
        return {}
    ports = stats.get("ports")
    if not isinstance(ports, dict) or not all(_is_port(port) for port in ports.values()):
        raise InputError(f"{_path(state_dir)} holds no ports", _REMEDY)
    return ports


def read_gate_kernel(state_dir: Path) -> dict[str, Any]:
    """State of the kernel backstop; empty where no gate has run here. Errors: ``InputError``."""
    kernel = (_read(state_dir) or {}).get("kernel", {})
    if not isinstance(kernel, dict) or not (kernel == {} or _is_kernel(kernel)):
        raise InputError(f"{_path(state_dir)} says nothing of the kernel", _REMEDY)
    return kernel


def read_gate_unwritten(state_dir: Path) -> tuple[int, str]:
    """How often the gate could not write its figures since its start, and the last reason.
    Errors: ``InputError``."""
    unwritten = (_read(state_dir) or {}).get("unwritten", {})
    known = unwritten if isinstance(unwritten, dict) else {"count": None}
    count, last = known.get("count", 0), known.get("last", "")
    if type(count) is not int or count < 0 or not isinstance(last, str):
        raise InputError(f"{_path(state_dir)} says nothing of its writes", _REMEDY)
    return count, last


def read_gate_tape(state_dir: Path) -> dict[str, Any]:
    """How the copy for an auditor stands; empty where no gate has run here. Errors:
    ``InputError``."""
    tape = (_read(state_dir) or {}).get("tape", {})
    if not isinstance(tape, dict) or not (tape == {} or _is_tape(tape)):
        raise InputError(f"{_path(state_dir)} says nothing of the tape", _REMEDY)
    return tape


def read_gate_latency(state_dir: Path, of: str) -> tuple[int, float] | None:
    """Calls ``of`` the gate since its start, ``acquire`` or ``witness``, and their seconds; None
    where no gate has run here, or one that does not count them. Errors: ``InputError``."""
    found = (_read(state_dir) or {}).get(of)
    if found is None:
        return None
    fields = found if isinstance(found, dict) else {}
    calls, seconds = fields.get("calls"), fields.get("seconds")
    if type(calls) is not int or type(seconds) is not float or not 0 <= seconds < inf or calls < 0:
        raise InputError(f"{_path(state_dir)} says nothing of {of}", _REMEDY)
    return calls, seconds


def read_gate_machine(state_dir: Path) -> str:
    """``ok``, ``refused`` or ``unknown``; empty where no gate has run here. Errors:
    ``InputError``."""
    machine = (_read(state_dir) or {}).get("machine", {"state": ""})
    state = machine.get("state") if isinstance(machine, dict) else None
    if not isinstance(state, str):
        raise InputError(f"{_path(state_dir)} says nothing of the machine", _REMEDY)
    return state


def gate_silent_s(state_dir: Path, now_s: float) -> float | None:
    """For how long no gate has written here; None where none ever has. ``now_s``: Unix time.
    Errors: ``InputError``."""
    try:
        return max(0.0, now_s - _path(state_dir).stat().st_mtime)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"cannot read {_path(state_dir)}: {error}", _REMEDY) from error


def _path(state_dir: Path) -> Path:
    return state_dir / "gate" / "stats.json"


def _read(state_dir: Path) -> dict[str, Any] | None:
    """None where no gate has run here."""
    path = _path(state_dir)
    try:
        with path.open("rb") as file:
            stats = json.loads(file.read(MAX_FILE_BYTES))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"cannot read {path}: {error}", _REMEDY) from error
    if not isinstance(stats, dict):
        raise InputError(f"{path} holds no ports", _REMEDY)
    return stats


def _is_port(port: object) -> bool:
    return isinstance(port, dict) and all(
        type(port.get(name, 0)) is int and port.get(name, 0) >= 0 for name in _COUNTS
    )


def _is_tape(tape: dict[str, Any]) -> bool:
    known = all(type(tape.get(name, 0)) is int for name in ("chapters", *_SPOOL))
    return known and isinstance(tape.get("state"), str) and isinstance(tape.get("why", ""), str)


def _is_kernel(kernel: dict[str, Any]) -> bool:
    passed = kernel.get("passed_bytes")
    links = passed.get("links") if isinstance(passed, dict) else None
    alarm = kernel.get("alarm", "")
    known = kernel.get("state") != "on" or (type(links) is int and links >= 0)
    return isinstance(kernel.get("state"), str) and isinstance(alarm, str | None) and known
