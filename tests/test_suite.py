"""What a person reads who runs the suite on a bare machine."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import skip_line


def test_a_skip_names_what_is_missing_and_the_one_command() -> None:
    reasons = ["no etcd here: apt-get install etcd-server"] * 3 + ["isolation needs root, nftables"]
    line = skip_line(reasons, is_root=False)
    assert line.startswith("4 skipped: 3 × no etcd here")
    assert line.endswith("apt-get install etcd-server nftables, and run as root")
    assert "\n" not in line
    assert skip_line([], is_root=True) == ""


def test_a_green_run_leaves_nothing_and_a_red_one_says_where(tmp_path: Path) -> None:
    conftest = (Path(__file__).parent / "conftest.py").read_text(encoding="utf-8")
    (tmp_path / "conftest.py").write_text(conftest)
    for body, kept in (("assert tmp_path", 0), ("raise OSError", 1)):
        (tmp_path / "test_it.py").write_text(
            f"import tempfile\ndef test_it(tmp_path):\n    tempfile.mkdtemp()\n    {body}\n"
        )
        place = tmp_path / f"temporary-{kept}"
        place.mkdir()
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", tmp_path / "test_it.py"],
            capture_output=True, text=True, cwd=tmp_path,
            env={"PATH": "/usr/bin:/bin", "TMPDIR": str(place)},
        )  # fmt: skip
        assert done.returncode == kept, done.stdout
        assert len(list(place.iterdir())) == kept, done.stdout
        assert ("is kept in" in done.stdout) == bool(kept)


@pytest.mark.skipif(shutil.which("make") is None, reason="no make here: apt-get install make")
def test_compiled_kernels_are_thrown_away_with_all_that_went_into_them() -> None:
    """numba looks at the kernel's own file alone, not at constants and functions of others."""
    root = Path(__file__).parent.parent
    told = subprocess.run(["make", "-pn", "help"], capture_output=True, text=True, cwd=root).stdout
    rule = re.search(r"^\.venv/\.kernels-fresh: (.*)$", told, re.MULTILINE)
    assert rule is not None
    wanted = set()
    for path in (root / "src" / "narrows").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if re.search(r"^@(numba\.)?njit", text, re.MULTILINE):
            wanted.add(path)
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.ImportFrom) and str(node.module).startswith("narrows"):
                    names = [str(node.module)]
                    names += [f"{node.module}.{alias.name}" for alias in node.names]
                    files = [root / "src" / f"{name.replace('.', '/')}.py" for name in names]
                    wanted.update(file for file in files if file.is_file())
    assert len(wanted) > 10
    assert wanted <= {root / name for name in rule[1].split()}
