"""What an operator types, as real commands: help, sizes, names, pipes, homes, full disks."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from cli.many import run_many
from narrows.config import load_sections
from narrows.edge.books.store import open_database
from narrows.edge.config import EdgeConfig
from narrows.errors import InputError
from narrows.ledger.office.demo import create_demo
from narrows.sizes import size_bytes

NARROWS = [sys.executable, "-m", "narrows.cli.main"]


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("operators") / "state"
    folder.mkdir(mode=0o700)
    create_demo(folder, 1_000_000)
    return folder


@pytest.mark.parametrize(
    ("text", "size"),
    [("5000000", 5_000_000), ("10MB", 10**7), ("5KB", 5_000), ("5 kB", 5_000), ("64KiB", 65_536),
     ("1.5GB", 15 * 10**8), ("7B", 7), ("1_000", 1_000), ("0", 0)],
)  # fmt: skip
def test_a_size_in_bytes(text: str, size: int) -> None:
    assert size_bytes(text, "--x") == size


@pytest.mark.parametrize(
    "text",
    ["", "GB", "10M", "10Mb", "10 mb", "1Gbit", "1 Gb/s", "1.5B", "-1", "9" * 20, "1e6", "１"],
)
def test_no_size(text: str) -> None:
    with pytest.raises(InputError, match="--x"):
        size_bytes(text, "--x")


def test_bits_are_never_taken_for_bytes() -> None:
    with pytest.raises(InputError, match="counts bits"):
        size_bytes("10Gb", "--x")


def test_sizes_are_alike_everywhere_and_errors_name_the_option(state: Path, tmp_path: Path) -> None:
    """Each option once with a size that has a unit, once with one that is in bits."""
    out = tmp_path / "change.json"
    propose = f"budget propose --state {state} --lineage demo --out {out}"
    checkpoint = tmp_path / "none.safetensors"
    lines = {
        "--budget": f"up --state {state} --budget SIZE",
        "--share": f"key new alice --state {state} --share SIZE",
        "--at-most": f"weak receive --gate 127.0.0.1:1 --out {tmp_path}/x --at-most SIZE",
        "--sample": f"plan weights {checkpoint} --sample SIZE",
        "--lifetime": f"{propose} --account answers --lifetime SIZE",
        "--account answers lifetime": f"{propose} --lifetime 9MB --account answers:lifetime=SIZE",
        "--account answers 1h": f"{propose} --lifetime 9MB --account answers:1h=SIZE",
        "--window 1h": f"{propose} --lifetime 9MB --account answers --window 1h=SIZE",
    }
    good = [
        line.replace("SIZE", "5KB").split()
        for name, line in lines.items()
        if name not in ("--budget", "--at-most")  # what goes on is another test's
    ]
    bad = [line.replace("SIZE", "5Kb").split() for line in lines.values()]
    done = run_many(good + bad, tmp_path)
    for words, (_, said, _) in zip(good, done[: len(good)], strict=True):
        assert "5KB" not in said, f"{words}: {said}"
    for name, (code, said, _) in zip(lines, done[len(good) :], strict=True):
        assert code == 2
        assert said.startswith(f"narrows: {name}: 'Kb'"), said
    assert "9000000" in out.read_text()


def test_a_configuration_takes_sizes_too(tmp_path: Path) -> None:
    path = tmp_path / "narrows.toml"
    path.write_text('[edge.limits]\nbody_bytes = "3MB"\n[edge.transcripts]\nmax_bytes = "2GB"\n')
    edge = load_sections(path, {"edge": EdgeConfig})["edge"]
    assert (edge.limits.body_bytes, edge.transcripts.max_bytes) == (3_000_000, 2 * 10**9)
    path.write_text('[edge.limits]\nbody_bytes = "3Mb"\n')
    with pytest.raises(InputError) as error:
        load_sections(path, {"edge": EdgeConfig})
    (problem,) = error.value.problems
    assert "edge.limits.body_bytes" in problem
    assert "10MB" in problem


def test_help_in_every_form(tmp_path: Path) -> None:
    forms = [
        "help", "-h", "help status", "status -h", "help key revoke", "key help revoke", "key -h",
        "key operator new -h", "weak help train", "help weak train", "weak train -h", "help plan",
        "key operator help", "key operator help new", "key help operator new", "plan -h",
        "plan help sweep", "bench -h",
    ]  # fmt: skip
    for form, (code, said, shown) in zip(
        forms, run_many([form.split() for form in forms], tmp_path), strict=True
    ):
        assert code == 0, f"{form}: {said}"
        command = " ".join(word for word in form.split() if word not in ("help", "-h"))
        assert f"narrows {command}".strip() in shown, form


def test_a_command_that_is_none_is_guessed(tmp_path: Path) -> None:
    ((code, said, _),) = run_many([["statsu"]], tmp_path)
    assert code == 2
    assert "did you mean 'status'?" in said


@pytest.mark.parametrize(
    ("line", "word"),
    [("sta", "status"), ("weak tra", "train"), ("plan --pre", "--preset"),
     ("key operator rot", "rotate")],
)  # fmt: skip
def test_the_shell_completes(line: str, word: str) -> None:
    words = f"narrows {line}"
    asked = {"_NARROWS_COMPLETE": "complete_bash", "COMP_WORDS": words}
    asked["COMP_CWORD"] = str(len(line.split()))
    done = subprocess.run(NARROWS, capture_output=True, text=True, env=os.environ | asked)
    assert word in done.stdout.split(), done.stderr


def test_a_key_is_revoked_by_its_name(state: Path, tmp_path: Path) -> None:
    words = ["new bob", "new twice", "new twice", "revoke bob --json", "revoke bob", "revoke twice"]
    done = run_many([["key", *line.split(), "--state", str(state)] for line in words], tmp_path)
    shown = run_many([["key", "list", "--json", "--state", str(state)]], tmp_path)[0][2]
    keys = {key["key_id"]: key for key in json.loads(shown)["keys"]}
    number = json.loads(done[3][2])["revoked"]
    assert keys[number]["name"] == "bob"
    assert keys[number]["revoked_s"]
    assert "no active key" in done[4][1]
    numbers = [str(key) for key, one in keys.items() if one["name"] == "twice"]
    assert f"any of the keys {', '.join(numbers)}" in done[5][1]
    ((code, _, _),) = run_many([["key", "revoke", numbers[0], "--state", str(state)]], tmp_path)
    assert code == 0


@contextmanager
def running(*words: object) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([*NARROWS, *map(str, words)], stdout=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_watching_prints_into_a_pipe(state: Path, form: list[str]) -> None:
    with running("status", "--watch", "--state", state, *form) as process:
        assert process.stdout is not None
        seen = b""
        while seen.count(b"granted") < 2:
            assert select.select([process.stdout], [], [], 60)[0], "nothing comes"
            data = os.read(process.stdout.fileno(), 1 << 16)
            assert data, "it ended"
            seen += data
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0


def test_a_user_without_a_home(tmp_path: Path) -> None:
    """In a container, say: no HOME, and a number that has no entry among the users."""
    ((code, said, _),) = run_many([["status", "--state", "~nobody-here/x"]], tmp_path)
    assert code == 2
    assert "~nobody-here has no home folder" in said


def test_a_full_disk_is_one_sentence(state: Path, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k,mode=0700", "narrows-test", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        with closing(open_database(disk / "full")):
            pass  # made while there was room
        with (disk / "ballast").open("wb", buffering=0) as ballast, suppress(OSError):
            while True:
                ballast.write(bytes(4096))
        propose = f"budget propose --lineage demo --lifetime 2MB --account answers --state {state}"
        lines = [
            f"{propose} --out {disk}/change.json", f"key new a --state {disk}/state",
            f"key operator new bob --out {disk}/keys", f"witness --init --state {disk}/state",
            f"up --state {disk}/state --budget 1kB --port 0", f"init {disk}/deploy",
            f"ledger backup {disk}/b.db --state {state}", f"key new a --state {disk}/full",
        ]  # fmt: skip
        done = run_many([line.split() for line in lines], tmp_path)
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)
    for line, (code, said, _) in zip(lines, done, strict=True):
        assert code in range(1, 7), f"{line}: {said}"
        assert said.startswith("narrows: "), f"{line}: {said}"
        assert len(said.splitlines()) <= 3, said
