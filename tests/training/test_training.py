"""Splits, shards, shared rows, the loss, and a run that is killed."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from narrows.errors import InputError
from narrows.training.batches import collate, groups, windows
from narrows.training.classes import common_classes
from narrows.training.corpus.examples import Example, is_dev, plain_example, read_shard, write_shard
from narrows.training.corpus.prompts import read_prompts
from narrows.training.corpus.sample import Sampled
from narrows.training.recipe import Recipe, StudentShape, find_recipe, read_recipe

VOCAB = 50
SHAPE = StudentShape(16, 1, 2, 1, 8, 32, 64)
RECIPE = Recipe(
    student=SHAPE, keep_tokens=20, dev_percent=30, batch_tokens=64, steps=30, eval_steps=10,
    max_prompt=8, max_tokens=24, bf16=False, text_until=1.0,
)  # fmt: skip


def _examples(count: int, seed: int, k: int = 0) -> list[Example]:
    random = np.random.default_rng(seed)
    result = []
    for n in range(count):
        prompt = random.integers(0, 12, random.integers(2, 9))
        answer = random.integers(0, VOCAB if k else 12, random.integers(3, 12))
        example = plain_example(str(n), prompt.tolist(), answer.tolist())
        if k:
            ids = np.stack([random.permutation(VOCAB)[:k] for _ in answer]).astype(np.int32)
            share = random.dirichlet(np.ones(k + 1), len(answer))[:, :k]
            example = replace(example, top_ids=ids, top_logp=np.log(share).astype(np.float16))
        result.append(example)
    return result


def _shard(path: Path) -> list[Sampled]:
    rows = [
        Sampled(
            e.name,
            tuple(e.prompt.tolist()),
            tuple(e.answer.tolist()),
            e.top_ids.astype(np.uint32),
            e.top_logp,
        )
        for e in _examples(9, 3, k=4)
    ]
    write_shard(path, rows)
    return rows


def test_shards_keep_everything_and_damage_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    rows = _shard(path)
    for row, got in zip(rows, read_shard(path, vocab=VOCAB), strict=True):
        assert got.name == row.name
        assert tuple(got.prompt.tolist()) == row.prompt
        assert tuple(got.answer.tolist()) == row.answer
        assert np.array_equal(got.top_ids, row.top_ids)
        assert np.array_equal(got.top_logp, row.top_logp)
    with pytest.raises(InputError, match="outside"):
        read_shard(path, vocab=VOCAB // 2)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError):
        read_shard(path, vocab=VOCAB)


@given(st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=20), st.floats(0, 100))
def test_a_prompt_is_always_in_the_same_split(prompt: list[int], percent: float) -> None:
    first = is_dev(prompt, percent)
    assert is_dev(np.array(prompt, np.int32), percent) == first
    assert not first or is_dev(prompt, 100.0)
    assert not is_dev(prompt, 0.0)


@settings(deadline=None)
@given(st.integers(0, 1000), st.integers(8, 200))
def test_groups_hold_every_example_once_and_repeat(seed: int, batch_tokens: int) -> None:
    examples = _examples(20, seed)
    made = groups(examples, batch_tokens=batch_tokens, seed=seed, epoch=1)
    assert sorted(e.name for g in made for e in g) == sorted(e.name for e in examples)
    assert all(len(g) == 1 or len(g) * max(e.tokens for e in g) <= batch_tokens for g in made)
    again = groups(examples, batch_tokens=batch_tokens, seed=seed, epoch=1)
    assert [[e.name for e in g] for g in made] == [[e.name for e in g] for g in again]


@settings(deadline=None)
@given(
    st.integers(0, 30), st.integers(0, 200), st.integers(1, 9), st.integers(1, 20), st.booleans()
)
def test_windows_hold_every_answer_token_once_after_what_stood_before(
    prompt: int, answer: int, max_prompt: int, room: int, teacher: bool
) -> None:
    k, max_tokens = 2 * teacher, max_prompt + room
    ids = np.arange(prompt + answer, dtype=np.int32)
    top = np.arange(answer * k).reshape(answer, k)
    example = Example("x", ids[:prompt], ids[prompt:], top.astype(np.int32), top.astype(np.float16))
    parts = windows(example, max_prompt=max_prompt, max_tokens=max_tokens)
    assert np.array_equal(np.concatenate([p.answer for p in parts]), example.answer)
    assert np.array_equal(np.concatenate([p.top_ids for p in parts]), example.top_ids)
    assert np.array_equal(np.concatenate([p.top_logp for p in parts]), example.top_logp)
    assert np.array_equal(parts[0].prompt, example.prompt[-max_prompt:])
    start = prompt
    for part in parts:
        assert len(part.answer) or not answer
        assert part.tokens <= max_tokens
        assert np.array_equal(part.prompt, ids[max(0, start - max_prompt) : start])
        start += len(part.answer)


def test_windows_need_room_for_an_answer() -> None:
    with pytest.raises(InputError, match="leaves no room"):
        windows(_examples(1, 1)[0], max_prompt=8, max_tokens=8)


def test_shared_rows_give_the_loss_of_the_full_vocabulary() -> None:
    torch = pytest.importorskip("torch")
    from narrows.models.checkpoint.source import TokenizerData
    from narrows.training.student import new_student, to_source

    torch.manual_seed(5)
    classes = common_classes(np.arange(VOCAB, dtype=np.float64), 20)
    student = new_student(SHAPE, classes).eval()
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
    batch = collate(_examples(5, 11, k=4), classes, prompt_weight=0.5, distil=True)
    with torch.no_grad():
        small = student(*(torch.from_numpy(x) for x in batch.arrays)).numpy()
        # The same weights with a row for each token, through transformers alone.
        full_classes = common_classes(np.ones(VOCAB), VOCAB)
        full = new_student(SHAPE, full_classes).eval()
        source = to_source(
            student.state_dict(), SHAPE, classes, TokenizerData("{}", (0,), "", "", "")
        )
        state = dict(student.state_dict())
        state["inner.model.embed_tokens.weight"] = torch.from_numpy(source.loader("embed"))
        state["inner.lm_head.weight"] = torch.from_numpy(source.loader("head"))
        full.load_state_dict(state)
        wide = collate(_examples(5, 11, k=4), full_classes, prompt_weight=0.5, distil=True)
        logits = full.inner(torch.from_numpy(wide.inputs)).logits.reshape(-1, VOCAB)
        logp = torch.log_softmax(logits[torch.from_numpy(wide.places)], -1)
        picked = logp.gather(1, torch.from_numpy(wide.targets)).numpy()
    assert np.allclose(small, -(picked * wide.shares).sum(-1), atol=1e-4)


def test_distilled_targets_are_unbiased() -> None:
    """Mean over the teacher's draws of the targets' shares is the teacher's distribution."""
    random = np.random.default_rng(0)
    p = random.dirichlet(np.ones(VOCAB))
    top = np.argsort(-p)[:4].astype(np.int32)
    draws = random.choice(VOCAB, 4000, p=p).astype(np.int32)
    logp = np.log(p[top]).astype(np.float16)
    e = plain_example("x", [1], draws.tolist())
    e = replace(e, top_ids=np.tile(top, (4000, 1)), top_logp=np.tile(logp, (4000, 1)))
    batch = collate([e], common_classes(np.ones(VOCAB), VOCAB), prompt_weight=0.0, distil=True)
    seen = np.zeros(VOCAB)
    np.add.at(seen, batch.targets.ravel(), batch.shares.ravel() / 4000)
    assert np.allclose(seen[top], p[top], rtol=2e-3)
    assert np.abs(seen - p).max() < 0.02


_RUN = """
import sys, torch, pathlib
sys.path.insert(0, {here!r})
import test_training as t
from narrows.training.data import TrainingData
from narrows.training.loop import Training
from narrows.training.student import new_student
from narrows.training.classes import common_classes
torch.set_num_threads(1)
folder = pathlib.Path(sys.argv[1]); stop = int(sys.argv[2])
data = TrainingData(t.RECIPE, shards=None, text=t._examples(60, 4), vocab=t.VOCAB,
                    byte_length=lambda ids: 4 * len(ids))
classes = common_classes(data.mass(), t.RECIPE.keep_tokens)
torch.manual_seed(1)
run = Training(new_student(t.SHAPE, classes), data, t.RECIPE, folder)
def each(p):
    if p.step == stop:
        import os, signal
        os.kill(os.getpid(), signal.SIGKILL)
# A checkpoint after each step, where it is to be killed after any; else at the end alone.
run.run(each, checkpoint_s=-1.0 if stop >= 0 else 1e9)
print(run.dev_bits()[0])
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_run_resumes_to_the_same_loss(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    script = _RUN.format(here=str(Path(__file__).parent))

    def go(folder: str, stop: int) -> subprocess.CompletedProcess[str]:
        (tmp_path / folder).mkdir(exist_ok=True)
        return subprocess.run(
            [sys.executable, "-c", script, str(tmp_path / folder), str(stop)],
            capture_output=True,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            check=False,
        )

    whole = go("whole", -1)
    assert whole.returncode == 0, whole.stderr
    assert go("killed", 17).returncode == -signal.SIGKILL
    resumed = go("killed", -1)
    assert resumed.returncode == 0, resumed.stderr
    assert math.isclose(float(whole.stdout), float(resumed.stdout), abs_tol=1e-3)


def test_epochs_are_times_through_the_examples_interrupted_or_not(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from narrows.training.data import TrainingData
    from narrows.training.loop import Progress, Training
    from narrows.training.student import new_student

    recipe = replace(RECIPE, epochs=1.5, steps=1, minutes=1e-9)  # both are ignored
    data = TrainingData(
        recipe, shards=None, text=_examples(60, 4), vocab=VOCAB, byte_length=lambda ids: len(ids)
    )
    classes = common_classes(data.mass(), recipe.keep_tokens)
    seen: list[float] = []

    def each(progress: Progress) -> None:
        seen.append(progress.share)
        if progress.step == 7 and len(seen) == 7:
            raise KeyboardInterrupt

    def run() -> int:
        torch.manual_seed(1)
        training = Training(new_student(SHAPE, classes), data, recipe, tmp_path)
        training.run(each, checkpoint_s=-1.0)
        return training.step

    with pytest.raises(KeyboardInterrupt):
        run()
    examples, _ = data.epoch(None, True)
    todo = groups(examples, batch_tokens=recipe.batch_tokens, seed=recipe.seed, epoch=0)
    assert run() == math.ceil(1.5 * len(todo)) == len(seen)
    assert seen == sorted(seen)
    assert seen[-1] == 1.0


def test_recipes_are_read_whole_or_every_mistake_is_named(tmp_path: Path) -> None:
    assert find_recipe("default").student.d_model == 128
    path = tmp_path / "r.toml"
    path.write_text("steps = 5.5\nsede = 1\n[student]\nlayers = -1\n")
    with pytest.raises(InputError) as caught:
        read_recipe(path)
    assert len(caught.value.problems) == 3
    path.write_text("steps = 7\nlearning_rate = 1\n[student]\nlayers = 2\n")
    recipe = read_recipe(path)
    assert (recipe.steps, recipe.learning_rate, recipe.student.layers) == (7, 1.0, 2)


def test_prompts_come_once_each_in_an_order_of_the_seed(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text("".join(f'{{"id": "{n}", "prompt": "p{n % 7}"}}\n' for n in range(20)))
    rows = read_prompts(path, 3)
    assert sorted(r["prompt"] for r in rows) == [f"p{n}" for n in range(7)]
    assert rows == read_prompts(path, 3)
    path.write_text('{"id": "1"}\n')
    with pytest.raises(InputError, match=r"p\.jsonl:1"):
        read_prompts(path, 3)
