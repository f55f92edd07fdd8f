"""A scenario: what is protected, from whom, and with what; read from TOML, preset and flags.

Layers lie over each other: preset, file, ``--set`` flags; a later one wins, and one that
describes the demand (or the weights) in another way removes the earlier description. Reading
collects *every* mistake with its line and what would be right, and raises them together.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path

from narrows.errors import InputError
from narrows.plan.distribution import Distribution
from narrows.plan.fields import (
    CHOICE_OF,
    DEMAND_KEYS,
    DEMANDS,
    FIELDS,
    SECTIONS,
    SWITCHES,
    WINDOWS_DAYS,
)
from narrows.plan.rules import check
from narrows.plan.units import BYTES, UnitError, parse
from narrows.plan.values import read_value
from narrows.tomlfile import TomlFile, parse_toml, read_toml

MAX_PROBLEMS = 50
_PLACE = re.compile(r"(.+?)(?::([0-9]+))?: ")
_TOP_TEXTS = ("name", "description", "preset")
_KNOWN = (*FIELDS, *CHOICE_OF, *SWITCHES)


@dataclass(frozen=True, slots=True)
class Scenario:
    """``numbers``: every field that has a value, by path; ``given``: the paths somebody wrote,
    the rest are defaults. ``windows``: caps by window, bytes, when the cap is a table."""

    name: str
    description: str
    sources: tuple[str, ...]
    numbers: dict[str, Distribution]
    choices: dict[str, str]
    verification: bool
    windows: dict[str, float] = field(default_factory=dict)
    given: frozenset[str] = frozenset()
    audit: bool = False

    def has(self, path: str) -> bool:
        return path in self.numbers

    @property
    def deployed(self) -> str:
        """The coding that it runs; of the measures on top of it, the last."""
        if self.audit:
            return "audited"
        return "verified" if self.verification else self.choices["defender.coding"]


@dataclass(slots=True)
class _Layer:
    """Raw values by path, and the file that can say on which line each stands."""

    file: TomlFile
    raw: dict[str, object]

    def where(self, path: str) -> str:
        parts = tuple(path.split("."))
        return self.file.where(parts)


def preset_names() -> list[str]:
    folder = resources.files("narrows.plan") / "presets"
    return sorted(
        p.name.removesuffix(".toml") for p in folder.iterdir() if p.name.endswith(".toml")
    )


def _preset(name: str) -> TomlFile:
    if name not in preset_names():
        near = difflib.get_close_matches(name, preset_names(), 1)
        hint = f"perhaps {near[0]!r}; " if near else ""
        raise InputError(f"no preset {name!r}", f"{hint}presets are: {', '.join(preset_names())}")
    text = (resources.files("narrows.plan") / "presets" / f"{name}.toml").read_text("utf-8")
    return parse_toml(text, f"preset {name}")


def _flatten(file: TomlFile, problems: list[str]) -> _Layer:
    raw: dict[str, object] = {}
    for section, body in file.data.items():
        if section in _TOP_TEXTS or section == "sources":
            continue
        if section not in SECTIONS or not isinstance(body, dict):
            known = ", ".join((*_TOP_TEXTS, "sources", *SECTIONS))
            problems.append(f"{file.where((section,))}: {section!r} is not one of {known}")
            continue
        for key, value in body.items():
            path = f"{section}.{key}"
            if path not in _KNOWN:
                near = difflib.get_close_matches(path, _KNOWN, 1)
                hint = f"; perhaps {near[0]!r}" if near else ""
                problems.append(f"{file.where((section, key))}: unknown key {path!r}{hint}")
            else:
                raw[path] = value
    return _Layer(file, raw)


def _flags(overrides: Mapping[str, str], problems: list[str]) -> _Layer:
    raw: dict[str, object] = {}
    for key, value in overrides.items():
        matches = [path for path in _KNOWN if path == key or path.split(".")[1] == key]
        if len(matches) == 1:
            raw[matches[0]] = value
        else:
            near = difflib.get_close_matches(key, [p.split(".")[1] for p in _KNOWN], 1)
            hint = f"; perhaps {near[0]!r}" if near else "; keys are listed in docs/forecast.md"
            problems.append(f"flags: unknown key {key!r}{hint}")
    return _Layer(TomlFile("flags", {}), raw)


def _replaced(later: set[str]) -> set[str]:
    """Keys of earlier layers that a layer with the keys ``later`` makes meaningless."""
    gone: set[str] = set()
    demand = later & DEMAND_KEYS
    if demand:
        kept = {key for group in DEMANDS if demand & set(group) for key in group}
        gone |= DEMAND_KEYS - kept
    if "model.weights" in later:
        gone.add("model.bytes_per_parameter")
    if later & {"model.parameters", "model.bytes_per_parameter"}:
        gone.add("model.weights")
    if "model.training_tokens" in later:
        gone.add("model.tokens_per_parameter")
    if "model.tokens_per_parameter" in later:
        gone.add("model.training_tokens")
    return gone - later


def _stacked(layers: list[_Layer]) -> dict[str, tuple[object, _Layer]]:
    merged: dict[str, tuple[object, _Layer]] = {}
    for layer in layers:
        for path in _replaced(set(layer.raw)):
            merged.pop(path, None)
        merged.update({path: (value, layer) for path, value in layer.raw.items()})
    return merged


def _switch(value: object) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value in ("true", "false"):
        return value == "true"
    raise UnitError("must be true or false")


def _windows(raw: Mapping[str, object], where: str, problems: list[str]) -> dict[str, float]:
    """Caps by window, bytes; each mistake in them is a problem of its own."""
    caps: dict[str, float] = {}
    for name, value in raw.items():
        try:
            if name not in WINDOWS_DAYS or not isinstance(value, str):
                raise UnitError(f"a cap by window has {', '.join(WINDOWS_DAYS)}, each as '5 GB'")
            size = parse(value, BYTES)
            if size <= 0.0:
                raise UnitError(f"the cap of the {name} must be above 0, as in '5 GB'")
            caps[name] = size
        except UnitError as error:
            problems.append(f"{where}: defender.cap.{name}: {error}")
    return caps


def _is_windows(path: str, value: object) -> bool:
    return path == "defender.cap" and isinstance(value, dict) and "p5" not in value


def _read(merged: dict[str, tuple[object, _Layer]], problems: list[str]) -> Scenario:
    numbers: dict[str, Distribution] = {}
    windows: dict[str, float] = {}
    choices = {choice.path: choice.default for choice in CHOICE_OF.values()}
    switches = dict.fromkeys(SWITCHES, False)
    for path, (value, layer) in merged.items():
        try:
            if _is_windows(path, value):
                table = dict(value)  # type: ignore[call-overload]  # a dict, as tested
                windows = _windows(table, layer.where(path), problems)
            elif path in FIELDS:
                numbers[path] = read_value(value, FIELDS[path])
            elif path in CHOICE_OF:
                if value not in CHOICE_OF[path].options:
                    raise UnitError(f"must be one of {', '.join(CHOICE_OF[path].options)}")
                choices[path] = str(value)
            else:
                switches[path] = _switch(value)
        except UnitError as error:
            problems.append(f"{layer.where(path)}: {path}: {error}")
    given = frozenset(merged)
    for name, spec in FIELDS.items():
        if spec.default is not None and name not in numbers:
            numbers[name] = read_value(spec.default, spec)
    if windows:
        cap = min(size / WINDOWS_DAYS[name] for name, size in windows.items())
        numbers["defender.cap"] = Distribution(cap, cap)
    verification, audit = (switches[name] for name in SWITCHES)
    return Scenario("", "", (), numbers, choices, verification, windows, given, audit)


def _texts(files: list[TomlFile], problems: list[str]) -> tuple[str, str, tuple[str, ...]]:
    name = description = ""
    sources: tuple[str, ...] = ()
    for file in files:
        for key in _TOP_TEXTS:
            value = file.data.get(key, "")
            if not isinstance(value, str) or len(value) > 400 or not value.isprintable():
                problems.append(f"{file.where((key,))}: {key} must be one line of text")
            elif key == "name":
                name = value or name
            elif key == "description":
                description = value or description
        listed = file.data.get("sources", [])
        if not isinstance(listed, list) or not all(isinstance(s, str) for s in listed):
            problems.append(f"{file.where(('sources',))}: sources must be a list of texts")
        elif listed:
            sources = tuple(listed[:40])
    return name, description, sources


def _by_line(problems: list[str]) -> list[str]:
    """In the order of a reader: file by file, from the top; what has no line comes first."""
    files: dict[str, int] = {}

    def key(problem: str) -> tuple[int, int]:
        found = _PLACE.match(problem)
        name, line = (found.group(1), int(found.group(2) or 0)) if found else ("", 0)
        return files.setdefault(name, len(files)), line

    return sorted(problems, key=key)


def build(
    file: TomlFile | None = None,
    preset: str | None = None,
    overrides: Mapping[str, str] | None = None,
) -> Scenario:
    """Read and check a scenario. Raises InputError with every problem at once."""
    problems: list[str] = []
    base = file.data.get("preset") if file else None
    if isinstance(base, str) and preset is None:
        preset = base
    files = [_preset(preset)] if preset else []
    files += [file] if file else []
    layers = [_flatten(one, problems) for one in files]
    layers.append(_flags(overrides or {}, problems))
    merged = _stacked(layers)
    scenario = _read(merged, problems)
    name, description, sources = _texts(files, problems)

    def where(path: str) -> str:
        if path in merged:
            return merged[path][1].where(path)
        section = (path.split(".")[0],)
        return file.where(section) if file else (f"preset {preset}" if preset else "flags")

    broken = {path for path in merged if path in FIELDS and not scenario.has(path)}
    problems += check(
        scenario.numbers, scenario.choices, scenario.given, broken, where, scenario.audit
    )
    if problems:
        shown = tuple(_by_line(problems)[:MAX_PROBLEMS])
        count = f"{len(problems)} problem" + ("s" if len(problems) > 1 else "")
        raise InputError(
            f"the scenario has {count}", "docs/forecast.md describes every field", shown
        )
    default = preset or (Path(file.name).stem if file else "scenario")
    return replace(scenario, name=name or default, description=description, sources=sources)


def load(
    source: str | None, preset: str | None = None, overrides: Mapping[str, str] | None = None
) -> Scenario:
    """A scenario from a file path or, where no such file exists, a preset's name."""
    if source is None:
        return build(None, preset, overrides)
    path = Path(source)
    if not path.exists() and preset is None and source in preset_names():
        return build(None, source, overrides)
    return build(read_toml(path), preset, overrides)
