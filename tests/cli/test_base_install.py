"""The base install alone is a gate: in a fresh environment, from the hash-locked list."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
MAX_PACKAGES = 17
PAYLOAD = b"what the enclave says" * 40
_TOOLS = {"pip", "setuptools", "narrows"}


def _run(*words: object, timeout_s: float = 280) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PIP_CONSTRAINT")}
    return subprocess.run(
        [str(word) for word in words],
        capture_output=True, text=True, timeout=timeout_s, env=env, cwd="/",
    )  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of programs of an environment with nothing but the base install."""
    folder = tmp_path_factory.mktemp("base") / "venv"
    assert _run(sys.executable, "-m", "venv", folder).returncode == 0
    pip = (folder / "bin" / "pip", "--disable-pip-version-check", "--quiet", "install")
    locked = _run(*pip, "--require-hashes", "-r", ROOT / "requirements-gate.txt")
    if locked.returncode and _run(*pip, "--dry-run", "--no-deps", "typer").returncode:
        pytest.skip("no package index can be reached, so nothing can be installed")
    assert locked.returncode == 0, locked.stderr
    built = _run(*pip, "--no-deps", ROOT)
    assert built.returncode == 0, built.stderr
    return folder / "bin"


def test_it_needs_no_more_than_the_list_and_every_package_has_its_reason(base: Path) -> None:
    listed = json.loads(_run(base / "pip", "list", "--format", "json").stdout)
    names = {row["name"].lower().replace("_", "-") for row in listed} - _TOOLS
    assert len(names) <= MAX_PACKAGES, sorted(names)
    assert _run(base / "pip", "check").returncode == 0
    reasons = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    section = reasons.partition("## The gate's set\n")[2].partition("\n## ")[0]
    assert not [name for name in names if name not in section.lower()]


def test_a_command_whose_extra_is_missing_names_it_in_one_line(base: Path) -> None:
    for words, extra in (
        (("plan", "--preset", "llama-3.1-405b"), "plan"),
        (("up",), "all"),
        (("edge", "--listen", "127.0.0.1:0", "--gate", "127.0.0.1:1"), "edge"),
        (("enclave", "--listen", "127.0.0.1:0"), "enclave"),
        (("weak", "show", "default"), "models"),
        (("metrics", "--once", "--state", "/"), "metrics"),
    ):
        told = _run(base / "narrows", *words)
        assert told.returncode == 2, told.stderr
        assert f"pip install 'narrows[{extra}]'" in told.stderr
        assert len(told.stderr.splitlines()) == 2, told.stderr


@contextmanager
def _started(program: Path, *words: str) -> Iterator[dict[str, object]]:
    process = subprocess.Popen([program, *words], stdout=subprocess.PIPE, text=True, cwd="/")
    try:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())
    finally:
        process.terminate()
        process.wait(30)


def test_a_gate_starts_and_relays(base: Path, tmp_path: Path) -> None:
    made = (
        "import sys; from pathlib import Path; from narrows.ledger.office.demo import create_demo; "
    )
    state = tmp_path / "state"
    done = _run(base / "python", "-c", made + "create_demo(Path(sys.argv[1]), 100000)", state)
    assert done.returncode == 0, done.stderr
    inside = socket.create_server(("127.0.0.1", 0))

    def speak() -> None:
        with suppress(OSError):
            connection, _ = inside.accept()
            with connection:
                connection.sendall(PAYLOAD)

    threading.Thread(target=speak, daemon=True).start()
    enclave = f"127.0.0.1:{inside.getsockname()[1]}"
    program, where = base / "narrows", ("--state", str(state))
    with inside, _started(program, "witness", *where) as witness:
        told = ("--witness", f"127.0.0.1:{witness['port']}", "--witness-key", str(witness["key"]))
        ends = ("--listen", "127.0.0.1:0", "--enclave", enclave)
        with _started(program, "gate", *where, *ends, *told) as gate:
            with socket.create_connection(("127.0.0.1", int(str(gate["port"]))), 60) as edge:
                edge.settimeout(60)
                arrived = b""
                while data := edge.recv(1 << 16):
                    arrived += data
            assert arrived == PAYLOAD
