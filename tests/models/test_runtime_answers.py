"""Answers that ``narrows bench runtime`` reads: spread, cut, counted, refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from models.models import artifact_path, runtime_of
from narrows.bench.runtime_quality import exact_bits, read_answers
from narrows.errors import InputError
from narrows.models.artifact import Artifact
from narrows.models.served import ServedModel
from narrows.models.text.chat import ChatRenderer


def served() -> ServedModel:
    runtime = runtime_of("llama")
    artifact = Artifact.open(artifact_path("llama"))
    return ServedModel(runtime, ChatRenderer.from_artifact(artifact, runtime.tokenizer))


def test_answers_are_spread_and_their_bytes_counted(tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    rows = [{"prompt": f"Question {i}", "response": f"Answer é {i}"} for i in range(10)]
    file.write_text("\n".join(json.dumps(row) for row in rows))
    answers = read_answers(file, 5, served())
    assert [answer.size_bytes for answer in answers] == [len("Answer é 0".encode())] * 5


def test_exact_bits_are_repeatable_and_plausible() -> None:
    model = served()
    answers = read_answers(None, 1, model)
    whole = exact_bits(model, answers, lambda done, total: None)
    assert whole > 8 * answers[0].size_bytes / 4  # a random model compresses nothing
    assert whole == exact_bits(model, answers, lambda done, total: None)


@pytest.mark.parametrize("line", ["{", "[]", '{"prompt": "x"}', '"x"'])
def test_malformed_lines_name_themselves(line: str, tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    file.write_text('{"prompt": "a", "response": "b"}\n' + line)
    with pytest.raises(InputError, match=r"\.jsonl:2"):
        read_answers(file, 5, served())
