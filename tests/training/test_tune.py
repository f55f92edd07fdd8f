"""Fine-tuning an existing model: the same base as the link's, rounding, merging, kills."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "models"))

from tiny import LLAMA3_SCALING, tiny_source

from narrows.errors import InputError
from narrows.training.recipe import find_recipe

TEXT = "the gate counts every byte and a ledger writes it down before an answer leaves"
WORDS = TEXT.split()
RECIPE = replace(
    find_recipe("lora"), rank=4, dev_percent=20.0, batch_tokens=256, max_prompt=64, max_tokens=128,
    steps=24, epochs=0.0, warmup_steps=2, eval_steps=8, bf16=False, rounded_from=0.5,
    embed_rate=0.01,
)  # fmt: skip


def answers_file(path: Path) -> Path:
    random = np.random.default_rng(2)
    rows = [
        {"prompt": " ".join(random.choice(WORDS, 3)), "response": " ".join(WORDS[n % 9 :])}
        for n in range(40)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def torch_logits(student: object, ids: list[int]) -> np.ndarray:
    import torch

    with torch.no_grad():
        logits = student.causal(torch.tensor([ids])).logits[0]  # type: ignore[attr-defined]
    return np.asarray(torch.log_softmax(logits, -1).numpy())


def runtime_logits(path: Path, ids: list[int]) -> np.ndarray:
    """Natural log-probabilities after each id, from the exact runtime."""
    from narrows.models.registry import load_model

    model = load_model(path, threads=1)
    stream = model.open(ids[:1])
    rows = [model.logits(stream).astype(np.float64)]
    rows += [row.astype(np.float64) for row in model.extend(stream, ids[1:])]
    nats = np.stack(rows) * (np.log(2) / 65536)
    nats -= nats.max(-1, keepdims=True)
    return np.asarray(nats - np.log(np.exp(nats).sum(-1, keepdims=True)))


@pytest.mark.parametrize("arch", ["llama", "qwen2", "qwen3", "llama3"])
def test_the_module_is_the_checkpoint_and_rounds_as_the_runtime(arch: str, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from narrows.models.checkpoint.pack import pack
    from narrows.training.tune import tuned_student

    stretched = {"rope_scaling": LLAMA3_SCALING} if arch == "llama3" else {}
    source = tiny_source(arch.rstrip("3") if stretched else arch, **stretched)
    pack(source, tmp_path / "x.narrows", name="x", threads=1)
    student = tuned_student(RECIPE, source).eval()
    ids = np.random.default_rng(7).integers(3, 400, 48).tolist()
    exact = runtime_logits(tmp_path / "x.narrows", ids)
    floating = torch_logits(student, ids)
    student.rounding.enabled = True
    student.rounding.refresh()
    rounded = torch_logits(student, ids)
    far, near = np.abs(floating - exact).mean(), np.abs(rounded - exact).mean()
    print(arch, far, near)
    assert far < 0.05
    assert near < 0.6 * far  # what is left: roundings that fall to the other side


_RUNS = """
import os, pathlib, signal, sys, torch
sys.path.insert(0, {here!r})
import test_tune as t
from narrows.training.tune import tune_job
torch.set_num_threads(1)
answers = pathlib.Path(sys.argv[1])
for name, stop in (("whole", -1), ("killed", 9), ("killed", 17), ("killed", -1)):
    child = os.fork()  # torch is imported once; nothing has started a thread yet
    if child:
        print(name, os.waitpid(child, 0)[1], flush=True)
        continue
    def each(p):
        if p.step == stop:
            os.kill(os.getpid(), signal.SIGKILL)
        if p.step == t.RECIPE.steps:
            print("loss", p.loss, p.dev_bits, flush=True)
    folder, source = answers.with_name(name), t.tiny_source()
    tune_job(t.RECIPE, folder, source, answers=[answers], on_progress=each, checkpoint_s=-1.0)
    os._exit(0)
"""


@pytest.mark.slow
def test_a_killed_fine_tuning_resumes_to_the_same_loss(tmp_path: Path) -> None:
    """Killed before and after rounding sets in (step 12 of 24)."""
    pytest.importorskip("torch")
    run = subprocess.run(
        [
            sys.executable,
            "-c",
            _RUNS.format(here=str(Path(__file__).parent)),
            str(answers_file(tmp_path / "a.jsonl")),
        ],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert run.returncode == 0, run.stderr
    lines = [line.split() for line in run.stdout.splitlines()]
    ends = [int(status) for name, status in (x for x in lines if x[0] != "loss")]
    assert ends == [0, signal.SIGKILL, signal.SIGKILL, 0], run.stderr
    whole, resumed = ([float(x) for x in line[1:]] for line in lines if line[0] == "loss")
    assert resumed == pytest.approx(whole, abs=1e-3)


def hf_folder(folder: Path) -> Path:
    """The tiny model as Hugging Face writes it."""
    from safetensors.numpy import save_file

    from narrows.models.checkpoint.hf import hf_name

    source, config = tiny_source(), tiny_source().config
    folder.mkdir()
    save_file(
        {hf_name(n): source.tensor(n) for n in source.tensors() if n != "head"},
        folder / "model.safetensors",
    )
    facts = {
        "model_type": "llama",
        "num_hidden_layers": config.n_layers,
        "hidden_size": config.d_model,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.d_ff,
        "vocab_size": config.vocab_size,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "tie_word_embeddings": True,
        "max_position_embeddings": config.context_length,
        "eos_token_id": list(source.tokenizer.eos_ids),
    }
    (folder / "config.json").write_text(json.dumps(facts))
    (folder / "tokenizer.json").write_text(source.tokenizer.json_text)
    template = {"chat_template": source.tokenizer.chat_template}
    (folder / "tokenizer_config.json").write_text(json.dumps(template))
    return folder


def recipe_file(path: Path, **changes: object) -> Path:
    values = {name: getattr(RECIPE, name) for name in RECIPE.__dataclass_fields__}
    del values["student"], values["method"]
    lines = [f"{key} = {json.dumps(value)}\n" for key, value in (values | changes).items()]
    path.write_text("".join(lines))
    return path


def arguments(tmp_path: Path, *more: str) -> list[str]:
    words = ["weak", "train", "--base", str(hf_folder(tmp_path / "base"))]
    words += [
        "--answers",
        str(answers_file(tmp_path / "a.jsonl")),
        "--run-folder",
        str(tmp_path / "run"),
    ]
    words += ["--out", str(tmp_path / "o.narrows"), "--licence", "none", "--json", *more]
    return words


@pytest.mark.parametrize("method", ["lora", "full"])
def test_by_command_from_a_folder_to_an_artifact_that_knows_its_making(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    method: str,
) -> None:
    pytest.importorskip("torch")
    from narrows.cli.main import main
    from narrows.models.artifact import Artifact

    recipe = recipe_file(tmp_path / "r.toml", embed_rate=0.01 if method == "lora" else 0.003)
    words = arguments(tmp_path, "--method", method, "--recipe", str(recipe), "--threads", "1")
    monkeypatch.setattr(sys, "argv", ["narrows", *words])
    with pytest.raises(SystemExit) as caught:
        main()
    assert not caught.value.code
    printed = capsys.readouterr()
    report = json.loads(printed.out.splitlines()[-1])
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert log[0]["step"] == 0
    assert report["packed_bits_per_token"] < log[0]["dev_bits"] - 2
    assert abs(report["packed_over_float"]) < 0.02  # a tiny model, a hundred tokens
    # Dev figures were taken with rounding, so they foretell the packed model's.
    assert report["packed_bits_per_token"] == pytest.approx(report["dev_bits_per_token"], rel=0.01)
    assert "bits/byte" in printed.err
    facts = Artifact.open(tmp_path / "o.narrows").header["provenance"]
    assert isinstance(facts, dict)
    assert set(facts["data_sha256"]) == {"a.jsonl"}
    assert facts["recipe"]["method"] == method
    assert facts["base"]["source"] == "base"
    assert facts["command"].startswith("narrows weak train --base base --answers a.jsonl")
    assert facts["license"] == "none"
    assert facts["dev_bits_a_token"]["packed"] == report["packed_bits_per_token"]
    assert facts["figures"]["dev_bits_per_byte"] > 0
    # The same folder does not go on from another base.
    from narrows.training.tune import tune_job

    with pytest.raises(InputError, match="another base"):
        tune_job(RECIPE, tmp_path / "run", tiny_source(seed=9), answers=[tmp_path / "a.jsonl"])


def test_the_mean_of_two_runs_is_packed_signed_for_and_measured_on_what_neither_saw(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One run is low-rank, one full, with other shares held out; the mean is of their merged
    weights, tensor by tensor."""
    pytest.importorskip("torch")
    from narrows.cli.main import main
    from narrows.models.artifact import Artifact
    from narrows.models.shelf.origin import same_model
    from narrows.training.base import load_base
    from narrows.training.merge import merged
    from narrows.training.rebuild import rebuild_job
    from narrows.training.tune import tune_job

    answers, base = answers_file(tmp_path / "a.jsonl"), str(hf_folder(tmp_path / "base"))
    runs, source = [tmp_path / "low", tmp_path / "full"], load_base(base)
    full = replace(RECIPE, method="full", embed_rate=0.003, dev_percent=30.0, steps=8)
    tune_job(replace(RECIPE, steps=8), runs[0], source, answers=[answers])
    tune_job(full, runs[1], source, answers=[answers])
    one, two, mean = (merged(source, x) for x in (runs[:1], runs[1:], runs))
    for name in source.tensors():
        assert np.array_equal(mean.tensor(name), (one.tensor(name) + two.tensor(name)) / 2)
        learned = (one.tensor(name) != source.tensor(name)).any()
        assert learned == (name not in ("embed", "head")), name

    out = tmp_path / "m.narrows"
    words = ["weak", "average", str(runs[0]), str(runs[1]), "--base", base, "--answers"]
    with pytest.raises(SystemExit) as caught:
        main([*words, str(answers), "--out", str(out), "--threads", "1", "--json"])
    assert not caught.value.code
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    facts = Artifact.open(out).header["provenance"]
    assert isinstance(facts, dict)
    assert [part["recipe"]["method"] for part in facts["mean_of"]] == ["lora", "full"]
    assert facts["dev_bits_a_token"]["packed"] == report["packed_bits_per_token"]
    # The first run's own figure is of the same held-out prompts: its share is the smaller one.
    own = float(facts["mean_of"][0]["figures"]["dev_bits"])
    assert report["run_bits_per_token"][0] == pytest.approx(own, rel=0.01)
    rebuild_job(runs, tmp_path / "again.narrows", teacher="none", base=base)
    same_model(Artifact.open(out), Artifact.open(tmp_path / "again.narrows"))

    for wrong, reason in (
        (runs[:1], "two runs or more"),
        ([runs[0], runs[0]], "named twice"),
        ([runs[0], tmp_path / "none"], "no finished run"),
    ):
        words = ["weak", "average", *map(str, wrong), "--base", base, "--answers", str(answers)]
        with pytest.raises(SystemExit) as caught:
            main([*words, "--out", str(out)])
        assert caught.value.code
        assert reason in capsys.readouterr().err
    with pytest.raises(InputError, match="another base"):
        merged(tiny_source(seed=9), runs)


@pytest.mark.slow
def test_two_processes_train_one_model(tmp_path: Path) -> None:
    """Ended by the clock, on which both have to agree."""
    pytest.importorskip("torch")
    recipe = recipe_file(tmp_path / "r.toml", minutes=0.05, rounded_from=1.0)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    launch += ["--nproc-per-node", "2", "-m", "narrows.cli.main"]
    run = subprocess.run(
        [*launch, *arguments(tmp_path, "--recipe", str(recipe))],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
        check=False,
        timeout=200,
    )
    assert run.returncode == 0, run.stderr
    report = json.loads(run.stdout.splitlines()[-1])
    assert report["bytes"] == (tmp_path / "o.narrows").stat().st_size
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert log[-1]["step"] > 0
    assert log[-1]["dev_bits"] < log[0]["dev_bits"]


def test_a_base_must_be_a_checkpoint(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from narrows.models.checkpoint.pack import pack
    from narrows.training.base import load_base

    pack(tiny_source(), tmp_path / "x.narrows", name="x", threads=1)
    with pytest.raises(InputError, match="rounded already"):
        load_base(str(tmp_path / "x.narrows"))
    with pytest.raises(InputError, match="no checkpoint"):
        load_base(str(tmp_path / "missing"))


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--answers", "a", "--method", "lora"], "--base"),
        (["--base", "b", "--shards", "s"], "text"),
        (["--base", "b", "--answers", "a", "--method", "magic"], "lora or full"),
        (["--answers", "a", "--recipe", "lora"], "needs a base"),
        ([], "nothing to train on"),
    ],
)
def test_what_does_not_fit_together_is_refused(
    words: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from narrows.cli.main import main

    with pytest.raises(SystemExit) as caught:
        main(["weak", "train", "--run", "r", "--out", "o", *words])
    assert caught.value.code
    assert reason in capsys.readouterr().err
