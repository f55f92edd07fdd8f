"""API keys: who gets in, what is stored, and what each key has used."""

from __future__ import annotations

import json
import sqlite3

import openai
import pytest
from typer.testing import CliRunner

from edge.harness import MODEL, Hang, Rig, chat, native, wait_until
from narrows.cli.key_api import key_list, key_new, key_revoke
from narrows.edge.books.drift import read_drift
from narrows.edge.books.keys import (
    FoundKey,
    any_key,
    bits_used,
    create_key,
    find_key,
    list_keys,
    revoke_key,
)
from narrows.edge.books.stats import Counts, StatsRecorder, read_codings, read_stats, utc_day
from narrows.edge.books.store import SCHEMA_VERSION, database_path, load_secret, open_database
from narrows.errors import InputError, NarrowsError


@pytest.fixture
def database(tmp_path):
    database = open_database(tmp_path)
    yield database
    database.close()


def test_a_key_is_stored_as_a_hash_only(tmp_path, database):
    key_id, text = create_key(database, "laptop", 1000)
    assert find_key(database, text) == FoundKey(key_id)
    assert text.startswith("nk-")
    for path in database_path(tmp_path).parent.iterdir():
        assert text.encode() not in path.read_bytes()
    for wrong in ("", "nk-", text[:-1], text + "x", text.lower(), "é" * 46, text[:-1] + "\x00"):
        assert find_key(database, wrong) is None or wrong == text


def test_revoked_numbers_are_never_used_again(database):
    first, text = create_key(database, "a", 1)
    revoke_key(database, first, 2)
    assert find_key(database, text) is None
    assert any_key(database)
    with pytest.raises(InputError):
        revoke_key(database, first, 3)
    second, _ = create_key(database, "b", 4, share_bytes_per_day=10)
    assert second > first
    listed = list_keys(database, "1970-01-01")
    assert [(key.key_id, key.revoked_s, key.share_bytes_per_day) for key in listed] == [
        (first, 2, None),
        (second, None, 10),
    ]


@pytest.mark.parametrize("name", ["", "x" * 101, "a\nb", "\x1b[31m"])
def test_names_that_would_not_print(database, name):
    with pytest.raises(InputError):
        create_key(database, name, 1)


def test_without_keys_no_one_listens_beyond_loopback(tmp_path):
    with pytest.raises(InputError, match="without API keys"), Rig(tmp_path, listen_host="0.0.0.0"):
        pass
    with open_database(tmp_path) as database:
        create_key(database, "a", 1)
    with Rig(tmp_path, listen_host="0.0.0.0") as rig:
        assert rig.get("/healthz").status_code in (200, 503)
        assert rig.get("/v1/models").status_code == 401


def test_once_there_is_a_key_everyone_needs_one(tmp_path):
    with Rig(tmp_path) as rig:
        rig.enclave.script = lambda request: native("x" * 40)
        assert rig.post(chat()).status_code == 200
        database = open_database(tmp_path)
        first, text = create_key(database, "first", 1)
        answer = rig.post(chat())
        assert answer.status_code == 401
        assert answer.json()["error"]["code"] == "invalid_api_key"
        assert answer.headers["x-should-retry"] == "false"
        for path in ("/v1/models", "/v1/models/x", "/v1/embeddings"):
            assert rig.get(path).status_code == 401
        for wrong in ("Bearer nk-x", "Basic " + text, text, "Bearer"):
            headers = {"authorization": wrong}
            assert rig.post(chat(), headers=headers).status_code == 401
        with rig.client(api_key="sk-nonsense") as client, pytest.raises(openai.AuthenticationError):
            client.models.list()
        with rig.client(api_key=text) as client:
            messages = [{"role": "user", "content": "x"}]
            client.chat.completions.create(model=MODEL, messages=messages)
        assert rig.enclave.requests[-1].scope == first
        wait_until(lambda: list_keys(database, utc_day(0))[0].answers == 1)
        assert list_keys(database, utc_day(0))[0].bits_total > 0
        revoke_key(database, first, 2)
        headers = {"authorization": f"Bearer {text}"}
        assert rig.post(chat(), headers=headers).status_code == 401
        database.close()


def test_a_share_ends_a_keys_day_and_no_ones_elses(tmp_path):
    database = open_database(tmp_path)
    _, small = create_key(database, "small", 1, share_bytes_per_day=20)
    _, free = create_key(database, "free", 1)
    with Rig(tmp_path) as rig:
        rig.enclave.script = lambda request: native("x" * 40)
        headers = {"authorization": f"Bearer {small}"}
        assert rig.post(chat(), headers=headers).status_code == 200
        answer = rig.post(chat(), headers=headers)
        assert answer.status_code == 429
        assert answer.json()["error"]["code"] == "key_share_exhausted"
        assert 0 < int(answer.headers["retry-after"]) <= 86400
        assert answer.headers["x-should-retry"] == "false"
        assert rig.post(chat(), headers={"authorization": f"Bearer {free}"}).status_code == 200
    database.close()


def test_web_pages_cannot_spend_the_budget_of_an_open_edge(tmp_path):
    with Rig(tmp_path) as rig:
        rig.enclave.script = lambda request: native("x")
        for headers in (
            {"origin": "https://evil.example"},
            {"origin": "null"},
            {"host": "evil.example"},
            {"host": "evil.example:8400"},
            {"host": "[::1"},
        ):
            answer = rig.post(chat(), headers=headers)
            assert answer.status_code in (400, 403), headers
        for headers in ({"origin": "http://localhost:3000"}, {"host": "localhost"}):
            assert rig.post(chat(), headers=headers).status_code == 200


def test_seeds_differ_between_keys(tmp_path):
    database = open_database(tmp_path)
    texts = [create_key(database, name, 1)[1] for name in "ab"]
    with Rig(tmp_path) as rig:
        rig.enclave.script = lambda request: native("x")
        for text in (*texts, *texts):
            headers = {"authorization": f"Bearer {text}"}
            assert rig.post(chat(seed=1), headers=headers).status_code == 200
        keys = [request.noise_key for request in rig.enclave.requests]
    database.close()
    assert keys[0] == keys[2] != keys[1] == keys[3]


def test_a_cancelled_answer_is_charged_to_its_key(tmp_path):
    database = open_database(tmp_path)
    key_id, text = create_key(database, "a", 1)
    with Rig(tmp_path) as rig:
        rig.enclave.script = lambda request: [*native("x" * 40)[:-1], Hang()]
        with rig.client(api_key=text) as client:
            messages = [{"role": "user", "content": "x"}]
            stream = client.chat.completions.create(model=MODEL, messages=messages, stream=True)
            next(stream)
            stream.close()
        wait_until(lambda: list_keys(database, utc_day(0))[0].answers == 1)
        assert list_keys(database, utc_day(0))[0].key_id == key_id
    assert read_stats(tmp_path).total.answers == 0
    database.close()


def test_command_line(tmp_path):
    import typer

    app = typer.Typer()
    for command in (key_new, key_list, key_revoke):
        app.command(command.__name__[4:])(command)
    runner = CliRunner()
    state = ["--state", str(tmp_path)]
    made = json.loads(runner.invoke(app, ["new", "laptop", *state, "--json"]).stdout)
    assert made["key"].startswith("nk-")
    text = runner.invoke(app, ["list", *state]).stdout
    assert "laptop" in text
    assert made["key"][-4:] in text
    assert made["key"] not in text
    assert runner.invoke(app, ["revoke", str(made["id"]), *state]).exit_code == 0
    listed = json.loads(runner.invoke(app, ["list", *state, "--json"]).stdout)["keys"]
    assert listed[0]["revoked_s"] is not None
    assert isinstance(runner.invoke(app, ["revoke", "99", *state]).exception, InputError)


def test_the_secret_stays_and_is_private(tmp_path):
    secret = load_secret(tmp_path)
    assert load_secret(tmp_path) == secret
    path = tmp_path / "edge" / "secret"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["secret"]
    path.write_bytes(b"short")
    with pytest.raises(NarrowsError):
        load_secret(tmp_path)


def test_a_newer_schema_is_not_touched(tmp_path, database):
    database.execute(f"PRAGMA user_version={SCHEMA_VERSION + 1}")
    with pytest.raises(NarrowsError, match="schema"):
        open_database(tmp_path)


def test_counts_survive_a_database_that_refuses(tmp_path, database):
    now = [1000.0]
    stats = StatsRecorder(database, lambda: now[0])
    stats.traffic("w").add(Counts(1, 2, 3, 4))
    stats.key_used(5, 1, 99)
    database.execute("PRAGMA query_only=1")
    assert not stats.flush()
    stats.traffic("w").add(Counts(1, 2, 3, 4))
    now[0] += 86400
    stats.traffic("w").answers += 1
    assert stats.unwritten_bits(5) == 0
    database.execute("PRAGMA query_only=0")
    assert stats.flush()
    read = read_stats(tmp_path, now[0])
    assert read.total == Counts(3, 4, 6, 8)
    assert read.today == Counts(1, 0, 0, 0)
    assert bits_used(database, 5, "1970-01-01") == 99
    assert stats.flush()
    assert read_stats(tmp_path, now[0]) == read


def test_stats_of_a_state_folder_without_an_edge(tmp_path):
    assert read_stats(tmp_path).total == Counts()
    assert not any(tmp_path.iterdir())


def test_a_broken_database_is_a_clear_error(tmp_path):
    database_path(tmp_path).parent.mkdir()
    database_path(tmp_path).write_bytes(b"nonsense" * 1000)
    with pytest.raises(NarrowsError):
        open_database(tmp_path)
    for read in (read_stats, read_codings, read_drift):
        with pytest.raises(NarrowsError, match="cannot read"):
            read(tmp_path, 1e9)
    with pytest.raises(sqlite3.DatabaseError):
        sqlite3.connect(database_path(tmp_path)).execute("SELECT * FROM api_keys")
