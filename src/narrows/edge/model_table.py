"""``[[edge.models]]``: several models behind one edge.

Each has a gate's port of its own, and so an account of its own: whose weights leave is never in
doubt. What an entry leaves out is as ``[edge]`` says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

MAX_MODELS = 32
MAX_ALIASES = 32
MAX_NAME_CHARS = 200
LOCAL, AUTO = "-local", "-auto"


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """``name``, ``aliases``: what clients call it. ``gate_port``, ``port_name``: of the gate, where
    its enclave's answers come out. ``context_tokens``: as of ``[edge]``; 0: said to no one.
    ``weak``, ``weak_folder``: an entry that has one of them takes neither from ``[edge]``.
    ``couples``, ``null``: as of ``[edge.alarms]``. None: as ``[edge]`` says."""

    name: str
    gate_port: int
    port_name: str
    aliases: tuple[str, ...] = ()
    context_tokens: int = 0
    weak: tuple[str, ...] | None = None
    weak_folder: Path | None = None
    weak_kv_mib: int | None = None
    gate_host: str | None = None
    state_host: str | None = None
    state_port: int | None = None
    constant_bytes: int | None = None
    couples: Literal["auto", "always", "never"] | None = None
    null: str | None = None

    def own(self) -> dict[str, Any]:
        """The fields of an edge's configuration that are this model's own."""
        fields: dict[str, Any] = {"model_name": self.name}
        names = ["gate_port", "port_name", "aliases", "context_tokens", "weak_kv_mib", "gate_host"]
        for name in (*names, "state_host", "state_port", "constant_bytes"):
            if getattr(self, name) is not None:
                fields[name] = getattr(self, name)
        if self.weak is not None or self.weak_folder is not None:
            fields |= {"weak": self.weak or (), "weak_folder": self.weak_folder}
        return fields


def name_problems(
    models: Iterable[tuple[str, Sequence[str]]], ends: Sequence[str] = ()
) -> list[str]:
    """Of all names and aliases together: each belongs to one model, with all ``ends`` too."""
    problems, seen = [], Counter[str]()
    for name, aliases in models:
        if len(aliases) > MAX_ALIASES:
            problems.append(f"aliases of {name!r} are more than {MAX_ALIASES}")
        for one in (name, *aliases):
            if not 1 <= len(one) <= MAX_NAME_CHARS or not one.isprintable():
                problems.append("name and aliases must have 1..200 printable characters")
            seen.update(one + end for end in ("", *ends))
    problems += [f"name {one!r} belongs to two models" for one, count in seen.items() if count > 1]
    return problems
