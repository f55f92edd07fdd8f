"""One model's folder and one vLLM for all tests that need nothing special of it.

``NARROWS_VLLM_URL``: one that runs already and serves that folder as ``m``, in float32, with at
most 1,024 tokens; else it is started.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from engines.make_folder import make_folder
from engines.vllm_server import Vllm, serving


@pytest.fixture(scope="session")
def folder() -> Path:
    return make_folder(Path("build/engines/smollm2-135m"))


@pytest.fixture(scope="session")
def vllm(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vllm]:
    if url := os.environ.get("NARROWS_VLLM_URL"):
        yield Vllm(url, folder, Path(os.devnull))
        return
    with serving(folder, tmp_path_factory.mktemp("vllm") / "log") as running:
        yield running
