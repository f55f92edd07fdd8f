"""End-to-end tests run real processes; each chain lives in a folder of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from e2e.chain import Chain
from e2e.fakes import ScriptedModel


@pytest.fixture
def chains(tmp_path: Path) -> Iterator[Callable[..., Chain]]:
    """Makes chains that are stopped when the test ends."""
    made: list[Chain] = []

    def make(**options: Any) -> Chain:
        state = tmp_path / f"chain{len(made)}"
        state.mkdir()
        made.append(Chain(state, **options))
        return made[-1]

    yield make
    for chain in made:
        chain.stop()


@pytest.fixture
def model() -> Iterator[ScriptedModel]:
    """A strong model whose script a test sets."""
    server = ScriptedModel(lambda body: ["hello"])
    yield server
    server.stop()
