"""What ``narrows bench engines`` makes of its figures, and the whole of it on a small server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from enclave.strong_folder import serving, write_folder
from models.models import artifact_path
from narrows.bench.engines.link import Crossed, report
from narrows.bench.engines.speed import processor_s, summary
from narrows.cli.bench.engines import app
from narrows.errors import InputError, PeerError


def test_a_ratio_is_of_pairs_so_that_load_cancels_out() -> None:
    rng = np.random.default_rng(3)
    load = rng.uniform(0.1, 1.0, 40)  # of the machine, alike for both windows of a pair
    speeds = [
        (0.97 * 50 * x * n, 50 * x) for x, n in zip(load, rng.normal(1, 0.01, 40), strict=True)
    ]
    got = summary(speeds)
    assert got["ratio"] == pytest.approx(0.97, abs=0.01)
    low, high = got["interval"]
    assert low < 0.97 < high
    assert high - low < 0.02
    assert got["pairs"] == 40


def test_a_servers_processor_time_holds_its_childrens() -> None:
    busy = "import time\nwhile time.process_time() < 0.3: pass\ninput()"
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {busy!r}])"
    with subprocess.Popen([sys.executable, "-c", outer], stdin=subprocess.PIPE) as process:
        deadline = time.monotonic() + 120
        while processor_s(process.pid) < 0.3:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.communicate(b"\n")
    with pytest.raises(InputError, match="no process"):
        processor_s(process.pid)


def test_an_answers_bits_hold_its_share_of_the_link() -> None:
    one = Crossed([100.0, 300.0], [50, 50], [200, 220], [[1], [2]], 60)
    assert one.ratio(np.arange(2)) == pytest.approx(480 / 100)
    assert one.ratio(np.array([0, 0])) == pytest.approx(480 / 400 * 2)
    twice = Crossed([200.0, 600.0], [50, 50], [200, 220], [[1], [2]], 120)
    rows = report({"coupled": one, "ids": one, "text": twice})
    assert rows["coupled"]["bits_per_token"] == 4.8
    assert rows["coupled_over_text"] == {"ratio": 0.5, "interval": [0.5, 0.5]}


def test_the_command_on_a_server_that_couples(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "strong")
    with serving(folder) as url:
        options = ["--folder", str(folder), "--model", "coupled", "--json"]
        bits = ["--part", "bits", "--weak", str(artifact_path("llama"))]
        small = ["--prompts", "2", "--tokens", "8"]
        result = CliRunner().invoke(app, [url, *options, *bits, *small])
        assert result.exit_code == 0, result.output
        got = json.loads(result.stdout)
        assert got["coupled"]["tokens"] > 0
        assert got["ids"]["bits_per_token"] > got["coupled"]["bits_per_token"]
        assert got["text"]["link_bytes"] > 0
        small = ["--pairs", "2", "--batch", "1,2", "--window", "4", "--pid", str(os.getpid())]
        result = CliRunner().invoke(app, [url, *options, "--part", "speed", *small])
        assert result.exit_code == 0, result.output
        speeds = json.loads(result.stdout)["speed"]
        assert set(speeds) == {"1", "2"}
        assert speeds["1"]["processor"]["ratio"] > 0
    result = CliRunner().invoke(app, [url, *options, "--part", "all"])
    assert result.exit_code != 0
    result = CliRunner().invoke(app, [url, *options, "--part", "speed"])
    assert isinstance(result.exception, PeerError)  # the server is gone: one sentence


def test_a_server_that_couples_by_a_seed_is_measured(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "strong")
    with serving(folder, "seed_servers.py") as url:
        options = ["--folder", str(folder), "--model", "vllm", "--json", "--part", "bits"]
        small = ["--weak", str(artifact_path("llama")), "--prompts", "2", "--tokens", "8"]
        result = CliRunner().invoke(app, [url, *options, *small])
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout)["coupled"]["tokens"] > 0
