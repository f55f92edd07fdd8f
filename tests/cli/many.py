"""Run many ``narrows`` commands for real, see ``run_many.py``."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

POWERLESS = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]


def run_many(
    cases: list[list[str]], folder: Path, *, powerless: bool = False
) -> list[tuple[int, str, str]]:
    """Exit code, standard error and standard output of each. ``folder``: where they run, and
    the user's home. ``powerless``: without root's powers over files."""
    words = [sys.executable, str(Path(__file__).with_name("run_many.py"))]
    if powerless:
        words.append("all")
        if os.geteuid() == 0:
            if shutil.which("setpriv") is None:
                pytest.skip("root cannot give up its powers over files without setpriv")
            words = POWERLESS + words
    environment = os.environ | {"HOME": str(folder), "NARROWS_STATE": "", "COLUMNS": "100"}
    done = subprocess.run(
        words,
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return [tuple(one) for one in json.loads(done.stdout)]
