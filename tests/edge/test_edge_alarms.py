"""Alarms at the edge: a thief with noise of his own rings, is refused, and service comes back."""

from __future__ import annotations

import json
import random
import sqlite3
import sys
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import numpy as np
import openai
import pytest
from typer.testing import CliRunner

from edge.harness import Rig, Until, bearer, chat, wait_until
from edge.real_enclave import RealEnclave
from edge.standin import FlatModel
from narrows.alarms.settings import AlarmSettings
from narrows.alarms.store import read_alarms
from narrows.cli.main import app
from narrows.coding.events import Coding, Failed, Failure, Finish, Finished, Opened, Tokens
from narrows.coding.tokens.sampler import sample
from narrows.edge.books.keys import create_key
from narrows.edge.books.store import open_database

LENGTH = 120
SLOPE = -(np.arange(257, dtype=np.int32) << 11)  # a bit in 32 tokens


class SlopedModel(FlatModel):
    """As likely a byte, as low: tokens that a weak model prefers, and 7 bits of entropy."""

    def logits(self, stream):
        return SLOPE

    def advance(self, streams, tokens):
        super().advance(streams, tokens)
        return np.tile(SLOPE, (len(streams), 1))

    def extend(self, stream, tokens):
        super().extend(stream, tokens)
        return np.tile(SLOPE, (len(tokens), 1))


class SlopedEnclave(RealEnclave):
    model = SlopedModel()


def honest(request):
    """The built-in sampler's draws, from a model that is the weak one."""
    logits = SLOPE.copy()
    logits[256] = -(100 << 16)  # no end
    key = bytes.fromhex(request.noise_key)
    tokens = tuple(sample(logits, 65536, 65536, key, at) for at in range(LENGTH))
    return [Opened(Coding.COUPLED), Tokens(tokens), Finished(Finish.LENGTH)]


def thief(request):
    """Weights, say: bytes that follow no noise. It ends when it is cut."""
    secret = random.Random(request.uid).randbytes(2 * LENGTH)
    cut = Until(lambda: False)
    return [Opened(Coding.COUPLED), Tokens(tuple(secret)), cut, Finished(Finish.LENGTH)]


def whole_thief(request):
    *said, _, end = thief(request)
    return [*said, end]


def plain(request):
    return [Opened(Coding.PLAIN), *honest(request)[1:]]


def rig_with(path, script, **alarms):
    rig = Rig(path, real=True, models=[SlopedModel()], alarms=AlarmSettings(**alarms))
    rig.enclave = SlopedEnclave()
    rig.enclave.script = script
    return rig


def ask(rig, key="none"):
    with rig.client(api_key=key) as client:
        messages = [{"role": "user", "content": "hi"}]
        return client.chat.completions.create(model="test-model", messages=messages)


def open_alarms(rig):
    return [one.detector for one in read_alarms(rig.state, open_only=True)]


def narrows(*words):
    return CliRunner(env={"COLUMNS": "200"}).invoke(app.tree(), list(map(str, words)))


def key_of(state, name):
    with closing(open_database(state)) as database:
        return create_key(database, name, 0)


def test_honest_answers_ring_nothing(tmp_path):
    with rig_with(tmp_path, honest, noise="close", uncoupled="close", cost="close") as rig:
        for _ in range(30):
            ask(rig)
    assert read_alarms(tmp_path) == []


def test_a_thief_rings_in_one_answer_his_key_is_refused_and_served_again(tmp_path):
    name = "[red]mallory'); DROP TABLE alarms;--"
    number, bad = key_of(tmp_path, name)
    _, good = key_of(tmp_path, "bob")
    with rig_with(tmp_path, honest, noise="refuse-key") as rig:
        rig.enclave.script = thief
        with pytest.raises(openai.APIStatusError):  # under way, it ends
            ask(rig, bad)
        rig.enclave.script = honest
        with pytest.raises(openai.APIStatusError) as refused:
            ask(rig, bad)
        assert refused.value.status_code == 503
        assert refused.value.code == "alarm_open"
        assert "noise-answer" in refused.value.message
        assert refused.value.response.headers["x-should-retry"] == "false"
        assert ask(rig, good).choices[0].finish_reason == "length"
        wait_until(lambda: "noise-answer" in open_alarms(rig))
        listed = narrows("alarms", "list", "--state", tmp_path, "--json")
        (one, *_) = json.loads(listed.stdout)["alarms"]
        assert (one["key"], one["key_name"], one["policy"]) == (number, name, "refuse-key")
        assert "[red]mallory" in "".join(narrows("alarms", "list", "--state", tmp_path).stdout)
        assert narrows("alarms", "ack", "--all", "--state", tmp_path).exit_code == 0
        assert open_alarms(rig) == []
        wait_until(lambda: rig.post(chat(), headers=bearer(bad)).status_code == 200)


def test_a_closed_edge_stays_closed_over_a_restart_until_a_person_acknowledges(tmp_path):
    with rig_with(tmp_path, thief, noise="close") as rig:
        with pytest.raises(openai.APIStatusError):
            ask(rig)
        wait_until(lambda: rig.get("/healthz").json()["alarm"] == "closed")
    with rig_with(tmp_path, honest, noise="close") as rig:
        assert rig.get("/healthz").status_code == 503
        assert rig.post(chat()).json()["error"]["code"] == "alarm_open"
        assert rig.enclave.requests == []
        narrows("alarms", "ack", "--all", "--by", "eve", "--state", tmp_path)
        wait_until(lambda: rig.post(chat()).status_code == 200)
    assert {one.acked_by for one in read_alarms(tmp_path)} == {"eve"}


def test_short_answers_of_a_key_add_up(tmp_path):
    def short(request):
        secret = random.Random(request.uid).randbytes(6)
        return [Opened(Coding.COUPLED), Tokens(tuple(secret)), Finished(Finish.STOP)]

    with rig_with(tmp_path, short) as rig:
        for _ in range(60):  # 2,880 bits of payload
            ask(rig)
        wait_until(lambda: "noise-key" in open_alarms(rig))


def test_an_upstream_that_couples_and_then_opens_plain_is_heard(tmp_path):
    with rig_with(tmp_path, plain, couples="always") as rig:
        for _ in range(12):
            ask(rig)
        wait_until(lambda: "uncoupled" in open_alarms(rig))


def test_greedy_answers_are_plain_and_no_alarm(tmp_path):
    with rig_with(tmp_path, plain, couples="always") as rig:
        for _ in range(12):
            assert rig.post(chat(temperature=0)).status_code == 200
    assert read_alarms(tmp_path) == []


def test_what_cannot_be_coupled_is_no_alarm(tmp_path):
    """A parameter of the draw, and an answer that fails: it is opened plain by who ends it."""
    with rig_with(tmp_path, plain, couples="always", uncoupled="close") as rig:
        for _ in range(12):
            assert rig.post(chat(top_k=5)).status_code == 200
        rig.enclave.script = lambda request: [Opened(Coding.PLAIN), Failed(Failure.OVERLOADED)]
        for _ in range(12):
            assert rig.post(chat()).status_code == 429
    assert read_alarms(tmp_path) == []


def test_alarms_reach_a_webhook_and_a_command(tmp_path):
    heard = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self):
            heard.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Hook)
    Thread(target=server.serve_forever, daemon=True).start()
    told = tmp_path / "told.json"
    keep = "import sys,pathlib;pathlib.Path(sys.argv[1]).write_bytes(sys.stdin.buffer.read())"
    settings = {
        "webhook": f"http://127.0.0.1:{server.server_address[1]}/hook",
        "command": (sys.executable, "-c", keep, str(told)),
    }
    with rig_with(tmp_path / "state", whole_thief, **settings) as rig:
        ask(rig)
        wait_until(lambda: heard and told.exists() and told.read_bytes())
        wait_until(
            lambda: "command taken" in " ".join(a.sent for a in read_alarms(tmp_path / "state"))
        )
    server.shutdown()
    assert heard[0]["narrows"] == "alarm"
    assert heard[0]["detector"] == "noise-answer"
    assert json.loads(told.read_bytes())["kind"] == "noise"


def test_a_book_that_cannot_be_written_still_refuses(tmp_path, monkeypatch):
    def broken(self, *_):
        raise sqlite3.OperationalError("disk full")

    monkeypatch.setattr("narrows.alarms.store.AlarmStore.write", broken)
    with rig_with(tmp_path, thief, noise="close") as rig:
        with pytest.raises(openai.APIStatusError):
            ask(rig)
        assert rig.post(chat()).json()["error"]["code"] == "alarm_open"
