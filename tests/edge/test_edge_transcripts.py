"""Transcripts: only what was released, bounded, private, redactable, whole after a kill."""

from __future__ import annotations

import json
import stat
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.harness import Hang, Rig, chat, native, wait_until
from narrows.cli.main import main
from narrows.coding.events import Coding, Failed, Failure, Opened, Tokens
from narrows.edge.books.keys import create_key
from narrows.edge.books.store import open_database
from narrows.edge.books.transcripts import (
    TranscriptLog,
    files,
    locked,
    prompt_fields,
    reading,
    redact,
    transcripts_dir,
)
from narrows.edge.config import TranscriptConfig

KEEP = TranscriptConfig(keep=True)


def rows(folder):
    with reading(folder) as found:
        return [json.loads(line) for path in found for line in path.read_bytes().splitlines()]


def settled(rig, count):
    folder = transcripts_dir(rig.state)
    wait_until(lambda: folder.exists() and len(rows(folder)) >= count)
    return rows(folder)


def test_nothing_is_kept_unless_asked(tmp_path):
    with Rig(tmp_path) as rig:
        rig.ask()
    assert not transcripts_dir(tmp_path).exists()


@pytest.mark.parametrize("stream", [False, True])
def test_complete_answers_are_kept_with_their_prompts(tmp_path, stream):
    with Rig(tmp_path, transcripts=KEEP) as rig:
        rig.enclave.script = lambda request: native("żółw " * 20)
        answer = rig.post(chat(stream=stream, n=2))
        name = answer.text.split('"id":"')[1].split('"')[0]
        kept = settled(rig, 2)
    assert [(row["id"], row["choice"], row["key"]) for row in kept] == [(name, 0, 0), (name, 1, 0)]
    assert {row["response"] for row in kept} == {"żółw " * 20}
    assert {row["prompt"] for row in kept} == {"hi"}
    assert all("messages" not in row and row["finish"] == "stop" for row in kept)
    folder = transcripts_dir(tmp_path)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in files(folder))


def test_what_did_not_arrive_whole_is_not_kept(tmp_path):
    cut = [Opened(Coding.PLAIN), Tokens((97,)), Failed(Failure.INTERNAL)]
    with Rig(tmp_path, transcripts=KEEP) as rig:
        rig.enclave.script = lambda request: cut
        assert rig.post(chat(stream=True)).status_code in (200, 502)
        rig.enclave.script = lambda request: [*cut[:2], Hang()]
        with rig.client(timeout=0.5) as client, pytest.raises(Exception, match="timed out"):
            client.chat.completions.create(**chat())
        rig.enclave.script = lambda request: native("")
        rig.post(chat())
        rig.enclave.script = lambda request: native("forget me")
        rig.post(chat(store=False))
        rig.enclave.script = lambda request: native("whole")
        rig.post(chat())
        settled(rig, 1)
    assert [row["response"] for row in rows(transcripts_dir(tmp_path))] == ["whole"]


def test_keys_are_excluded_and_redacted_by_number(tmp_path):
    database = open_database(tmp_path)
    keys = [create_key(database, name, 1)[1] for name in ("a", "b", "c")]
    database.close()
    config = TranscriptConfig(keep=True, exclude_keys=(3,))
    with Rig(tmp_path, transcripts=config) as rig:
        for key in (*keys, keys[0]):
            rig.post(chat(), headers={"authorization": f"Bearer {key}"})
        settled(rig, 3)
        folder = transcripts_dir(tmp_path)
        assert [row["key"] for row in rows(folder)] == [1, 2, 1]
        with pytest.raises(SystemExit) as caught:
            main(["weak", "transcripts", "redact", "--key", "1", "--state", str(tmp_path)])
        assert not caught.value.code
        assert [row["key"] for row in rows(folder)] == [2]
        rig.enclave.script = lambda request: native("after")
        rig.post(chat(), headers={"authorization": f"Bearer {keys[1]}"})
        settled(rig, 2)


def test_an_answer_under_way_is_redacted_too(tmp_path):
    go = threading.Event()
    with Rig(tmp_path, transcripts=KEEP) as rig:
        folder = transcripts_dir(tmp_path)
        wait_until(folder.exists)
        with locked(folder):  # the edge cannot write yet
            name = rig.post(chat()).json()["id"]
            go.set()
        redact(folder, ids=[name], now_s=1e9)
        rig.enclave.script = lambda request: native("another")
        rig.post(chat())
        settled(rig, 1)
    assert [row["response"] for row in rows(folder)] == ["another"]
    assert redact(folder, ids=[name], now_s=1e9) == 0


class Kept:
    """As much of an answer as a transcript needs."""

    def __init__(self, text, scope=0, messages=None):
        from narrows.coding.events import Finish
        from narrows.edge.answer import WeakName
        from narrows.wire.messages import Request

        body = {"messages": messages or [{"role": "user", "content": "p"}]}
        self.request = Request("00" * 16, body, "00" * 32, scope)
        self.record, self.finish = [text], Finish.STOP
        self.weak = WeakName("flat", "flat 00000000")


def test_days_and_bytes_are_bounded(tmp_path):
    now = [1_700_000_000.0]
    config = TranscriptConfig(keep=True, max_bytes=1 << 20, max_days=3)
    log = TranscriptLog(tmp_path, config, lambda: now[0])
    for day in range(6):
        now[0] = 1_700_000_000 + 86_400 * day
        for part in range(8):
            log.add(Kept("x" * 60_000), f"d{day}.{part}", 0, int(now[0]))
            assert log.flush()
        assert sum(path.stat().st_size for path in files(tmp_path)) <= 1 << 20
    days = {row["id"].split(".")[0] for row in rows(tmp_path)}
    assert days == {"d4", "d5"}  # bytes end it before days do
    now[0] += 10 * 86_400
    log.flush()
    assert rows(tmp_path) == []


def test_a_torn_line_is_cut_and_the_rest_kept(tmp_path):
    log = TranscriptLog(tmp_path, KEEP, lambda: 1e9)
    log.add(Kept("one"), "a", 0, 1)
    log.flush()
    (path,) = files(tmp_path)
    with path.open("ab") as file:
        file.write(b'{"id":"torn","prompt":"')
    log.add(Kept("two"), "b", 0, 1)
    log.flush()
    assert [row["response"] for row in rows(tmp_path)] == ["one", "two"]


def test_a_write_that_fails_is_tried_again(tmp_path, monkeypatch, caplog):
    log = TranscriptLog(tmp_path, KEEP, lambda: 1e9)
    log.add(Kept("one"), "a", 0, 1)
    with monkeypatch.context() as patch:
        patch.setattr("os.fdatasync", lambda descriptor: (_ for _ in ()).throw(OSError(28, "full")))
        assert not log.flush()
    assert "kept for the next try" in caplog.text
    assert log.flush()
    assert [row["response"] for row in rows(tmp_path)] == ["one"]


def test_files_of_someone_else_stop_nothing(tmp_path):
    """A name that no edge gives, and notes that say nothing."""
    with Rig(tmp_path, transcripts=KEEP) as rig:
        rig.enclave.script = lambda request: native("words")
        rig.ask()
        folder = transcripts_dir(tmp_path)
        settled(rig, 1)
        (folder / f"{files(folder)[0].name[:10]}.z.jsonl").touch()
        (folder / f"{files(folder)[0].name[:10]}.jsonl").touch()
        (folder / "redactions").write_text('{"at_s": "x", "key": 0}\n[]\n')
        rig.ask()
        settled(rig, 2)
    assert sorted(len(path.read_bytes().splitlines()) for path in files(folder)) == [0, 0, 2]


def test_a_flood_is_dropped_not_hoarded(tmp_path, caplog):
    log = TranscriptLog(tmp_path, TranscriptConfig(keep=True, max_bytes=1 << 20), lambda: 1e9)
    for n in range(30):
        log.add(Kept("x" * 60_000), str(n), 0, 1)
    log.add(Kept("y" * (1 << 22)), "huge", 0, 1)
    log.flush()
    assert 1 <= len(rows(tmp_path)) < 10
    assert "were not kept" in caplog.text


ROLES = st.sampled_from(["system", "user", "assistant"])
TEXT = st.text(st.characters(codec="utf-8") | st.characters(categories=["Cs"]), max_size=20)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(ROLES, TEXT), min_size=1, max_size=4), TEXT.filter(bool))
def test_any_conversation_comes_back(tmp_path_factory, turns, response):
    folder = tmp_path_factory.mktemp("t")
    messages = [{"role": role, "content": content} for role, content in turns]
    log = TranscriptLog(folder, KEEP, lambda: 1e9)
    log.add(Kept(response, messages=messages), "a", 0, 1)
    log.flush()
    (row,) = rows(folder)
    assert row["response"] == response
    assert row.get("messages", [{"role": "user", "content": row["prompt"]}]) == messages
    assert prompt_fields(messages)["prompt"] == row["prompt"]


def test_import_export_and_redaction_of_copies(tmp_path, capsys):
    state = tmp_path / "state"
    log = TranscriptLog(transcripts_dir(state), KEEP, lambda: 1e9)
    for n in range(40):
        log.add(Kept(f"answer {n % 20}", 1 + n % 2), f"id{n}", 0, 5)
    log.flush()
    out, data = tmp_path / "all.jsonl", tmp_path / "data"
    narrows("weak", "transcripts", "export", "--out", str(out), "--state", str(state))
    assert len(out.read_bytes().splitlines()) == 40
    narrows("weak", "data", str(transcripts_dir(state)), "--out", str(data), "--json")
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (report["rows"], report["duplicates"]) == (40, 20)
    facts = json.loads((data / "data.json").read_text())
    assert set(facts["data_sha256"]) == {"train.jsonl", "dev.jsonl"}
    train = data / ("train.jsonl" if report["train"] else "dev.jsonl")
    before = len(train.read_bytes().splitlines())
    narrows("weak", "transcripts", "redact", "--key", "1", "--file", str(train),
            "--state", str(state), "--json")  # fmt: skip
    gone = json.loads(capsys.readouterr().out.splitlines()[-1])["redacted"]
    left = train.read_bytes().splitlines()
    assert gone == 20 + before - len(left)
    assert all(json.loads(line)["key"] == 2 for line in left)


def narrows(*arguments):
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    assert not caught.value.code
