"""The model check of the lease protocol, short form; ``make check-model`` runs the long one.

A check that cannot fail proves nothing: each mutant breaks one rule of the model, and Spin must
find a run in which too much is sent, or a lease is spent that no cosigned head contains.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


def _load() -> ModuleType:
    path = Path(__file__).resolve().parents[2] / "spin" / "check.py"
    spec = importlib.util.spec_from_file_location("narrows_model_check", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


model = _load()
pytestmark = [
    pytest.mark.skipif(bool(model.missing()), reason=f"{model.missing()} is not installed"),
    pytest.mark.slow,
]


@pytest.fixture(scope="module")
def checker(tmp_path_factory: pytest.TempPathFactory) -> object:
    return model.Checker(tmp_path_factory.mktemp("model"))


@pytest.mark.timeout(600)
def test_no_run_of_the_model_breaks_a_property(checker: object) -> None:
    for check in model.SHORT:
        got = checker.run(check)  # type: ignore[attr-defined]
        assert not got.error, f"{check.name}: {got.error}"
        assert got.complete, f"{check.name}: the space was not searched to its end"
        assert got.states > 10_000, f"{check.name}: the model does nothing"


@pytest.mark.timeout(600)
def test_every_mutant_of_the_model_is_caught(checker: object) -> None:
    results = {check.name: checker.run(check).error for check in model.MUTANTS}  # type: ignore[attr-defined]
    assert [name for name, error in results.items() if not error] == []
    assert all("assertion violated" in error for error in results.values()), results


def test_what_pan_says_is_read() -> None:
    text = "State-vector 220 byte, depth reached 7, errors: 0\n 1.2e+06 states, stored\n"
    assert model.parse(text, 1.0).states == 1_200_000
    assert model.parse(text, 1.0).complete
    assert not model.parse(text + "Warning: Search not completed\n", 1.0).complete
    assert model.parse("pan:1: assertion violated x (at depth 3)\n" + text.replace(
        "errors: 0", "errors: 1"), 1.0).error == "assertion violated x"  # fmt: skip
    with pytest.raises(ValueError):
        model.parse("killed", 1.0)
