"""Several models behind one edge: each has its links, its enclave and its figures, and no other's
trouble."""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path

import pytest
from rich.console import Console

from edge.harness import MODEL, FakeEnclave, Rig, chat, native, wait_until
from edge.standin import FlatModel
from narrows.alarms.settings import AlarmSettings
from narrows.cli.status import collect, table
from narrows.deploy.config import load_config
from narrows.deploy.local import LocalDeployment, to_toml
from narrows.edge.books.drift import read_drift
from narrows.edge.books.standing import standing_path
from narrows.edge.books.stats import read_costs
from narrows.edge.config import EdgeConfig, LocalConfig
from narrows.edge.model_table import ModelEntry
from narrows.edge.watch import EdgeAlarms
from narrows.errors import InputError
from narrows.ledger.office.demo import create_demo
from narrows.models.shelf.shelf import Shelf
from ports import free_port

BIG, SMALL = "big", "small/model"


class TwoModels(Rig):
    """``enclave`` is of BIG, ``other`` of SMALL."""

    def __init__(self, state: Path, **settings: object) -> None:
        ports = free_port(), free_port()
        entries = (
            ModelEntry(BIG, ports[0], "answers", aliases=("gpt-big",), context_tokens=8192),
            ModelEntry(SMALL, ports[1], "small"),
        )
        shelves = {name: Shelf.of([FlatModel()]) for name in (BIG, SMALL)}
        default = EdgeConfig()
        usual = {"model_name": default.model_name, "link_wait_s": 0.3}
        usual["gate_port"] = default.gate_port
        super().__init__(state, False, models=shelves, **usual | settings)
        self._settings["models"] = entries
        self.other = FakeEnclave()
        self.ports = ports
        self.enclave.script = lambda request: native("from big")
        self.other.script = lambda request: native("from small")

    def _start(self) -> None:
        self.begin(self.enclave, 0)
        self.begin(self.other, 1)
        super()._start()

    def begin(self, enclave: FakeEnclave, which: int) -> None:
        self.call(enclave.start(self.ports[which]))

    async def _settle(self) -> None:
        await self.other.stop()
        await super()._settle()

    def says(self, model: str, **fields: object) -> str:
        reply = self.post(chat(model=model, **fields)).json()
        return reply["choices"][0]["message"]["content"] if "choices" in reply else reply["error"]

    def standing(self) -> dict[str, str]:
        models = self.get("/healthz").json()["models"]
        return {name: one["status"] for name, one in models.items()}


@pytest.fixture
def rig(tmp_path):
    with TwoModels(tmp_path) as rig:
        wait_until(lambda: set(rig.standing().values()) == {"ok"})
        yield rig


def test_a_request_goes_to_its_model_whatever_its_dialect(rig):
    for name, words in ((BIG, "from big"), ("gpt-big", "from big"), (SMALL, "from small")):
        assert rig.says(name) == words
        with rig.client() as client:
            reply = client.chat.completions.create(
                model=name, messages=[{"role": "user", "content": "hi"}]
            )
            assert reply.model == (SMALL if name == SMALL else BIG)
            made = client.responses.create(model=name, input="hi")
            assert (made.output_text, made.model) == (words, reply.model)
            again = client.responses.create(model=BIG, input="more", previous_response_id=made.id)
            assert again.output_text == "from big"
            assert client.completions.create(model=name, prompt="hi").choices[0].text == words
            ids = client.completions.create(model=name, prompt=[104, 105])
            assert ids.choices[0].text == words
        message = {"model": name, "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
        said = rig.post(message, "/v1/messages").json()
        assert (said["content"][0]["text"], said["model"]) == (words, reply.model)
        del message["max_tokens"]
        counted = rig.post(message, "/v1/messages/count_tokens")
        assert counted.json()["input_tokens"] > 0
    assert {request.body["messages"][0]["content"] for request in rig.other.requests
            if "messages" in request.body} == {"hi"}  # fmt: skip


def test_the_list_has_each_by_all_its_names(rig):
    listed = {one["id"]: one for one in rig.get("/v1/models").json()["data"]}
    assert list(listed) == [BIG, "gpt-big", SMALL]
    assert listed[BIG]["context_length"] == listed["gpt-big"]["max_model_len"] == 8192
    assert listed["gpt-big"]["root"] == BIG
    assert "context_length" not in listed[SMALL]
    assert all(one["created"] > 0 for one in listed.values())
    assert rig.get(f"/v1/models/{SMALL}").json() == listed[SMALL]
    for path in ("/v1/models/none", f"/v1/models/{MODEL}"):
        assert rig.get(path).status_code == 404
    for body, path in (
        (chat(model="none"), "/v1/chat/completions"),
        ({"model": "none", "prompt": "x"}, "/v1/completions"),
        ({"model": "none", "input": "x"}, "/v1/responses"),
        (chat(model="none", max_tokens=1), "/v1/messages"),
    ):
        reply = rig.post(body, path)
        assert (reply.status_code, reply.json()["error"]["code"]) == (404, "model_not_found")
        assert f"'{BIG}', '{SMALL}'" in reply.json()["error"]["message"]
    assert rig.post(chat(model=None)).json()["error"]["code"] == "missing_required_parameter"


def test_one_that_is_down_leaves_the_other_alone_and_both_come_back(rig):
    for enclave, which, name, kept in ((rig.other, 1, SMALL, BIG), (rig.enclave, 0, BIG, SMALL)):
        rig.call(enclave.stop())
        wait_until(lambda name=name: rig.standing()[name] == "unavailable")
        assert rig.standing()[kept] == "ok"
        assert rig.get("/healthz").status_code == 200
        assert rig.get("/healthz", params={"model": name}).status_code == 503
        assert rig.post(chat(model=name)).json()["error"]["code"] == "link_down"
        assert rig.says(kept).startswith("from")
        rig.begin(enclave, which)
        wait_until(lambda: set(rig.standing().values()) == {"ok"})
        assert rig.says(name).startswith("from")


def test_noise_and_figures_are_each_models_own(rig, tmp_path):
    create_demo(tmp_path, 1000)
    for name in (BIG, SMALL):
        rig.says(name, seed=7)
    rig.says(SMALL)
    assert rig.enclave.requests[0].noise_key != rig.other.requests[0].noise_key
    wait_until(lambda: sum(row["answers"] for row in read_costs(tmp_path, time.time())) == 3)
    answers = {row["model"]: row["answers"] for row in read_costs(tmp_path, time.time())}
    assert answers == {BIG: 1, SMALL: 2}
    drift = {one.weak: one.answers for one in read_drift(tmp_path, time.time())}
    label = Shelf.of([FlatModel()]).offers[0].label
    assert drift == {f"{label} of {BIG}": 1, f"{label} of {SMALL}": 2}
    wait_until(lambda: standing_path(tmp_path).exists())
    figures = collect(tmp_path, time.time())
    models = {one["name"]: one for one in figures["models"]}
    assert (models[SMALL]["answers"], models[SMALL]["link"]) == (2, "up")
    assert models[BIG]["link_bytes"] > 0
    assert "model big 1 today serves;" in shown(figures)
    rig.call(rig.other.stop())
    wait_until(lambda: "its link is down" in shown(collect(tmp_path, time.time())))


def shown(figures: dict[str, object]) -> str:
    console = Console(width=200)
    with console.capture() as told:
        console.print(table(figures))
    return " ".join(told.get().split())


def test_a_standing_that_is_old_or_changed_is_said(tmp_path):
    create_demo(tmp_path, 1000)
    assert collect(tmp_path, 1e9)["models"] == []
    path = standing_path(tmp_path)
    path.parent.mkdir(exist_ok=True)
    words = dict.fromkeys(("link", "gate", "model", "decoder", "weak_model"), "[up]")
    path.write_text(json.dumps({"m": words}))
    os.utime(path, (1e9, 1e9))
    assert "its link is down" in shown(collect(tmp_path, 1e9 + 1))
    assert "no edge runs here: silent for 90 s" in shown(collect(tmp_path, 1e9 + 90))
    for text in ("", "[]", "[" * 100_000, '{"m": 5}', '{"m": {"link": "up"}}', "x" * (1 << 19)):
        path.write_text(text)
        with pytest.raises(InputError):
            collect(tmp_path, 1e9)


def test_the_local_model_goes_by_each_name(tmp_path):
    with TwoModels(tmp_path, local=LocalConfig(url=f"http://127.0.0.1:{free_port()}/v1")) as rig:
        ids = [one["id"] for one in rig.get("/v1/models").json()["data"]]
        ends = ("", "-local", "-auto")
        assert ids == [name + end for name in (BIG, "gpt-big", SMALL) for end in ends]
        wait_until(lambda: set(rig.standing().values()) == {"ok"})
        assert rig.says(SMALL + "-local") == "from small"  # it is down: the strong one answers
        assert rig.says("gpt-big-auto") == "from big"


def test_an_alarm_names_its_model_and_ends_every_models_answers(tmp_path):
    async def run() -> None:
        ended = []
        settings = AlarmSettings(uncoupled="close")
        watched = {name: AlarmSettings(couples="always") for name in (BIG, SMALL)}
        alarms = EdgeAlarms(
            tmp_path, settings, lambda *what: ended.append(what), time.time, watched
        )
        try:
            small = alarms.watches[SMALL]
            for _ in range(20):
                small._raise(small.uncoupled.observe(3, coupled=False))
            (alarm,) = [one for one in alarms.book._open.values() if one.subject == 3]
            assert alarm.detector == f"uncoupled@{SMALL}"
            alarms.book.collect()
            assert alarms.book.flush()
            with pytest.raises(Exception, match="alarm"):
                alarms.check(4)
            forgotten = []
            for name, watch in alarms.watches.items():
                watch.uncoupled.forget = lambda who, name=name: forgotten.append((name, who))
            alarms.book._ended.append(alarm)  # as an acknowledgement ends it
            alarms.book.collect()
            assert forgotten == [(SMALL, 3)]
            assert (f"uncoupled@{SMALL}", 3) not in alarms.book._open
        finally:
            alarms.close()
        again = EdgeAlarms(tmp_path, settings, lambda *what: None, time.time, watched)
        try:
            rows = dict(again.watches[BIG].uncoupled.take_changed())
            assert not rows
            assert again.book.closed
        finally:
            again.close()

    (tmp_path / "edge").mkdir()
    asyncio.run(run())


ENTRY = '[[edge.models]]\nname = "{}"\ngate_port = {}\nport_name = "{}"\n'


def test_the_table_in_the_file(tmp_path):
    path = tmp_path / "narrows.toml"
    text = ENTRY.format("a", 9001, "answers") + 'null = "n.json"\nweak_folder = "w"\n'
    text += ENTRY.format("b", 9002, "b") + 'gate_host = "127.0.0.2"\ncouples = "never"\n'
    path.write_text(
        '[edge]\nweak = ["bytes"]\n'
        + text
        + '[enclave.upstream]\nurl = "http://u/v1"\nmodel = "m"\n'
    )
    config = load_config(path)
    first, second = config.edge.each()
    assert (first.model_name, first.gate_port, first.weak) == ("a", 9001, ())
    assert (first.alarms.null, first.weak_folder) == (str(tmp_path / "n.json"), tmp_path / "w")
    assert (second.gate_host, second.port_name, second.weak) == ("127.0.0.2", "b", ("bytes",))
    assert second.alarms.couples == "never"
    assert second.models == ()
    again = tmp_path / "again.toml"
    again.write_text(to_toml(config))
    assert load_config(again).edge == config.edge
    with pytest.raises(InputError, match="several models"):
        LocalDeployment.check(config)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[edge]\nmodel_name = "x"\n' + ENTRY.format("a", 1, "p"), "model_name is of an edge"),
        ("[edge]\ngate_port = 5\n" + ENTRY.format("a", 1, "p"), "gate_port is of an edge"),
        (ENTRY.format("a", 1, "p") + ENTRY.format("a", 2, "q"), "belongs to two models"),
        (ENTRY.format("a", 1, "p") + 'aliases = ["a"]\n', "belongs to two models"),
        (ENTRY.format("a", 1, "p") + ENTRY.format("b", 1, "q"), "same gate_port"),
        (ENTRY.format("", 1, "p"), "1..200"),
        (ENTRY.format("a", 70000, "p"), "no port"),
        (ENTRY.format("a", 1, "p") + 'gate_host = "10.0.0.1"\n', "needs TLS"),
        (ENTRY.format("a", 1, "p") + "model = 3\n", "no such key"),
        ('[edge]\naliases = ["smollm2-135m-instruct"]\n', "belongs to two models"),
        ('[edge]\naliases = ["x-local"]\nmodel_name = "x"\n[edge.local]\nurl = "http://l/v1"\n',
         "belongs to two models"),
    ],
)  # fmt: skip
def test_a_wrong_table_is_named(tmp_path, text, said):
    path = tmp_path / "narrows.toml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        load_config(path)
    assert said in " ".join(caught.value.problems)
