"""Law 6 by command: what was made outside is signed for nothing; what comes out is paid."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cli.here import exit_code as narrows
from e2e.chain import Chain, free_port
from models.test_hf import write_folder
from models.tiny import tiny_source
from narrows.deploy.config import load_config
from narrows.deploy.local import to_toml
from narrows.gate.config import PortConfig
from narrows.models.artifact import Artifact, write_artifact
from narrows.models.checkpoint.pack import pack
from narrows.models.registry import load_source
from narrows.models.shelf.signed import read_signed, signed_path


@pytest.fixture
def key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> bytes:
    assert narrows("key", "operator", "new", "alice", "--state", tmp_path) == 0
    return bytes.fromhex(capsys.readouterr().out.strip())


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    (tmp_path / "checkpoint").mkdir()
    write_folder(tmp_path / "checkpoint", tiny_source())
    return tmp_path / "checkpoint"


def altered(path: Path, **header: Any) -> None:
    """One weight of the artifact is another one; it says of itself what it said before."""
    old = Artifact.open(path)
    tensors = {name: old.tensor(name).copy() for name in old.tensor_names}
    name = next(name for name in tensors if tensors[name].dtype == np.int8)
    tensors[name].reshape(-1)[5] += 1
    said = {k: v for k, v in old.header.items() if k != "conformance"}
    draft = path.with_name("draft.narrows")
    write_artifact(draft, said | header, tensors)
    from narrows.models.runtime.runtime import load_runtime

    numerics = load_runtime(Artifact.open(draft), threads=1).numerics.hex()
    write_artifact(path, said | header | {"conformance": numerics}, tensors)


def test_an_import_is_signed_if_its_checkpoint_packs_to_it(
    tmp_path: Path, key: bytes, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.narrows"
    pack(load_source(str(checkpoint)), path, name="x", threads=1)
    common = ("weak", "publish", path, "--key", "alice", "--state", tmp_path)
    assert narrows(*common) == 2
    said = capsys.readouterr().err
    assert "does not count" in said
    assert f"{path.stat().st_size:,} bytes" in said
    assert narrows(*common, "--source", checkpoint, "--licence", "MIT", "--json") == 0
    manifest = read_signed(path, [key])
    assert (manifest.origin, manifest.licence) == ("outside", "MIT")
    assert json.loads(capsys.readouterr().out)["sha256"] == manifest.sha256
    assert narrows("weak", "show", path, "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["signed_by"], shown["manifest"]["licence"]) == (key.hex(), "MIT")
    signed_path(path).unlink()
    altered(path, provenance={"source": "the same checkpoint, honestly"})
    assert narrows(*common, "--source", checkpoint) == 3
    assert "tensor" in capsys.readouterr().err
    assert narrows(*common, "--paid") == 2
    assert "no receipt" in capsys.readouterr().err
    assert not signed_path(path).exists()


def test_a_trained_model_is_signed_if_run_and_data_are_here(
    tmp_path: Path, key: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    from narrows.training.job import pack_job, train_job
    from narrows.training.recipe import Recipe, StudentShape

    teacher = tmp_path / "teacher.narrows"
    pack(tiny_source(), teacher, name="teacher", threads=1)
    data, run, path = tmp_path / "data", tmp_path / "run", tmp_path / "x.narrows"
    data.mkdir()
    rows = [{"prompt": f"say {n % 30}", "response": f"the gate counts {n}"} for n in range(60)]
    answers = data / "train.jsonl"
    answers.write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = Recipe(
        student=StudentShape(32, 1, 2, 1, 16, 64, 256), keep_tokens=300, dev_percent=20,
        batch_tokens=512, steps=4, eval_steps=2, bf16=False, text_until=1.0,
    )  # fmt: skip
    train_job(recipe, run, teacher=str(teacher), shards=None, answers=[answers])
    pack_job(recipe, run, path, teacher=str(teacher), name="x", provenance={"license": "MIT"})
    common = ("weak", "publish", path, "--key", "alice", "--state", tmp_path, "--run", run,
              "--teacher", teacher)  # fmt: skip
    assert narrows(*common, "--data", data) == 0
    manifest = read_signed(path, [key])
    assert len(manifest.data) == 1
    assert "1 files" in manifest.evidence
    signed_path(path).unlink()
    assert narrows(*common) == 2  # the data is nowhere
    assert "train.jsonl" in capsys.readouterr().err
    answers.write_text(answers.read_text() + "\n")
    assert narrows(*common, "--data", data) == 2
    answers.write_text(answers.read_text()[:-1])
    altered(path)
    assert narrows(*common, "--data", data) == 3
    assert not signed_path(path).exists()


def test_a_fine_tuned_model_is_merged_and_packed_again(
    tmp_path: Path, key: bytes, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("peft")
    import torch

    torch.set_num_threads(1)
    from narrows.training.base import load_base
    from narrows.training.merge import pack_runs
    from narrows.training.recipe import find_recipe
    from narrows.training.tune import tune_job

    recipe = dataclasses.replace(
        find_recipe("lora"), rank=4, dev_percent=20.0, batch_tokens=256, max_prompt=64,
        max_tokens=128, steps=3, epochs=0.0, warmup_steps=1, eval_steps=2, bf16=False,
    )  # fmt: skip
    answers, run, path = tmp_path / "a.jsonl", tmp_path / "run", tmp_path / "x.narrows"
    rows = [{"prompt": f"say {n}", "response": f"the gate counts {n} bytes"} for n in range(40)]
    answers.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = load_base(str(checkpoint))
    tune_job(recipe, run, source, answers=[answers])
    pack_runs([run], path, source, name="x", answers=[answers], provenance={})
    common = ("weak", "publish", path, "--key", "alice", "--state", tmp_path, "--run", run,
              "--data", answers)  # fmt: skip
    assert narrows(*common) == 2
    assert "--base" in capsys.readouterr().err
    assert narrows(*common, "--base", checkpoint) == 0
    assert read_signed(path, [key]).origin == "outside"
    signed_path(path).unlink()
    altered(path)
    assert narrows(*common, "--base", checkpoint) == 3
    assert not signed_path(path).exists()

    # The mean of two runs needs both, and the data of both.
    more, other = tmp_path / "b.jsonl", tmp_path / "run2"
    more.write_text(answers.read_text() + json.dumps({"prompt": "p", "response": "r"}) + "\n")
    tune_job(recipe, other, source, answers=[more])
    pack_runs([run, other], path, source, name="x", answers=[answers], provenance={})
    assert narrows(*common, "--base", checkpoint) == 3, "one of the runs is not the mean"
    both = (*common, "--base", checkpoint, "--run", other)
    assert narrows(*both) == 2
    assert "b.jsonl" in capsys.readouterr().err
    assert narrows(*both, "--data", more) == 0
    signed = read_signed(path, [key])
    assert "the mean of 2 runs over 2 files" in signed.evidence


def test_an_export_is_paid_at_the_gate_and_then_signed(
    tmp_path: Path,
    key: bytes,
    chains: Callable[..., Chain],
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "inside.narrows"
    pack(tiny_source(), path, name="inside", threads=1)
    size = path.stat().st_size
    assert narrows("weak", "export", path) == 0
    assert f"{size + 8:,} bytes" in capsys.readouterr().out
    chain = chains(strong="http://127.0.0.1:9/v1")
    inside, outside = free_port(), free_port()
    config = load_config(chain.config_path)
    ports = (
        *config.gate.ports,
        PortConfig("exports", "telemetry", "127.0.0.1", outside, "127.0.0.1", inside),
    )
    gate = dataclasses.replace(config.gate, ports=ports)
    chain.config_path.write_text(to_toml(dataclasses.replace(config, gate=gate)))
    chain.start("witness", "gate")
    exporting = subprocess.Popen(
        [sys.executable, "-m", "narrows.cli.main", "weak", "export", str(path),
         "--listen", f"127.0.0.1:{inside}"],
        stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert exporting.stdout is not None
        assert json.loads(exporting.stdout.readline())["ready"] is True
        out, gate_at = tmp_path / "out.narrows", f"127.0.0.1:{outside}"
        common = ("weak", "receive", "--gate", gate_at, "--out", out, "--state", tmp_path)
        assert narrows(*common, "--at-most", size - 1) == 4
        assert not out.exists()
        assert narrows(*common, "--at-most", size, "--json") == 0
        assert exporting.wait(30) == 0
    finally:
        exporting.kill()
        exporting.wait()
        exporting.stdout.close()
    assert out.read_bytes() == path.read_bytes()
    receipt = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert receipt["link_bytes"] >= size
    assert chain.status()["spent_bytes"] >= receipt["link_bytes"]
    publish = ("weak", "publish", out, "--key", "alice", "--state", tmp_path, "--paid")
    assert narrows(*publish) == 0
    manifest = read_signed(out, [key])
    assert manifest.origin == "paid"
    assert str(receipt["link_bytes"]) in manifest.evidence
