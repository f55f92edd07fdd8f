"""Transcripts: nothing twice, no prompt on both sides, damage named by line."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from narrows.cli.main import main
from narrows.errors import InputError
from narrows.models.shelf.origin import named_digests, sha256_of
from narrows.rows import read_rows
from narrows.training.corpus.transcripts import import_transcripts

ROWS = st.lists(st.tuples(st.sampled_from(["a", "a ", "b", "ç", "\ud800"]), st.text(max_size=4)))


def _write(path: Path, rows: list[tuple[str, str]]) -> Path:
    lines = [json.dumps({"prompt": p, "response": r}) + "\n" for p, r in rows]
    path.write_text("".join(lines))
    return path


@given(ROWS, ROWS, st.floats(0, 100))
def test_every_answer_once_and_no_prompt_on_both_sides(
    tmp_path_factory: pytest.TempPathFactory,
    first: list[tuple[str, str]],
    second: list[tuple[str, str]],
    percent: float,
) -> None:
    folder = tmp_path_factory.mktemp("t")
    files = [_write(folder / "1.jsonl", first), _write(folder / "2.jsonl", second)]
    report = import_transcripts(files, folder / "out", dev_percent=percent)
    sides = [list(read_rows(folder / "out" / f"{name}.jsonl")) for name in ("train", "dev")]
    pairs = [[(r["prompt"].strip(), r["response"]) for r in side] for side in sides]
    wanted = {(p.strip(), r) for p, r in first + second if r}
    assert sorted(pairs[0] + pairs[1]) == sorted(wanted)
    assert not {p for p, _ in pairs[0]} & {p for p, _ in pairs[1]}
    assert (report.train, report.dev) == (len(pairs[0]), len(pairs[1]))
    assert report.rows == len([1 for _, r in first + second if r])
    with pytest.raises(InputError, match="exists"):
        import_transcripts(files, folder / "out", dev_percent=percent)


def test_a_bad_row_is_named(tmp_path: Path) -> None:
    path = _write(tmp_path / "x.jsonl", [("p", "r")])
    path.write_text(path.read_text() + '\n{"prompt": 1, "response": "r"}\n')
    with pytest.raises(InputError, match=r"x\.jsonl:3"):
        list(read_rows(path))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=60))
def test_any_bytes_are_rows_or_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "fuzz.jsonl"
    path.write_bytes(data)
    with contextlib.suppress(InputError):
        list(read_rows(path))


def test_a_conversation_is_learned_as_one(tmp_path: Path) -> None:
    """Rows of the edge may hold several messages; the prompt is then the model's own rendering."""
    from models.models import artifact_path
    from narrows.models.registry import load_model
    from narrows.training.corpus.examples import read_answers

    model = load_model(artifact_path("llama"), threads=1, kv_bytes=16 << 20)
    turns = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]
    rows = [
        {"prompt": "x", "messages": turns, "response": "yes"},
        {"prompt": "hi", "response": "no"},
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    first, second = read_answers(path, model, model.tokenizer, 2)
    assert first.prompt.tolist() == model.render_chat(turns)
    assert second.prompt.tolist() == model.render_chat(turns[1:])


def test_a_folder_of_ones_own_is_read_whole_and_left_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Any names, no line's end at the end: only an edge's own folder has torn lines to cut."""
    folder = tmp_path / "mine"
    folder.mkdir()
    rows = [json.dumps({"prompt": p, "response": "r"}) for p in "abc"]
    (folder / "2026.jsonl").write_text(f"{rows[0]}\n{rows[1]}")
    (folder / "monday.jsonl").write_text(rows[2])
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(SystemExit) as caught:
        main(["weak", "data", str(folder), "--out", str(tmp_path / "out"), "--json"])
    assert not caught.value.code
    assert json.loads(capsys.readouterr().out)["rows"] == 3
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_two_files_of_one_name_are_both_on_record(tmp_path: Path) -> None:
    files = []
    for day in ("monday", "tuesday"):
        (tmp_path / day).mkdir()
        files.append(_write(tmp_path / day / "train.jsonl", [(day, "r")]))
    digests = named_digests(files)
    assert list(digests) == ["train.jsonl", "train.jsonl (2)"]
    assert list(digests.values()) == [sha256_of(path) for path in files]
