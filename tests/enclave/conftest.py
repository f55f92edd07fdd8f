"""The strong model of the tests with upstream tokens."""

from __future__ import annotations

from pathlib import Path

import pytest

from enclave.strong_folder import write_folder
from narrows.enclave.tokens.strong import StrongText


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("strong") / "tiny-strong")


@pytest.fixture(scope="module")
def strong(folder: Path) -> StrongText:
    return StrongText(folder)
