"""Where a deployment keeps its state on this machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from narrows.errors import InputError

if TYPE_CHECKING:
    from narrows.ledger.stores.place import LedgerPlace


def state_dir(given: Path | None) -> Path:
    """The folder given, else NARROWS_STATE, else the user's state directory; not created."""
    if given is not None:
        return given.expanduser().resolve()
    if named := os.environ.get("NARROWS_STATE"):
        return Path(named).expanduser().resolve()
    import platformdirs

    return Path(platformdirs.user_state_dir("narrows", appauthor=False))


def existing_state_dir(given: Path | None) -> Path:
    """The same, which must be there."""
    path = state_dir(given)
    if not path.is_dir():
        raise InputError(
            f"there is no state folder {path}",
            "start narrows once with 'narrows up', or name the folder with --state",
        )
    return path


def config_file(folder: Path) -> Path | None:
    """The configuration that a state folder holds itself, ``narrows.toml``; None without one."""
    path = folder / "narrows.toml"
    return path if path.is_file() else None


def ledger_place(folder: Path) -> LedgerPlace:
    """Where the ledger of a state folder lies: its own configuration, read once, may name a place
    elsewhere."""
    from narrows.ledger.stores.place import LedgerPlace

    path = config_file(folder)
    if path is None:
        return LedgerPlace(folder)
    from narrows.deploy.gate_section import load_gate
    from narrows.gate.config import store_problems

    gate = load_gate(path)
    if problems := store_problems(gate):
        raise InputError(f"{path}: its store is wrong", problems=tuple(problems))
    return LedgerPlace(folder, gate.etcd)


def existing_place(given: Path | None) -> LedgerPlace:
    """``ledger_place`` of a state folder that must be there."""
    return ledger_place(existing_state_dir(given))
