"""What each answer took of the budget, said to its client and counted by key, model and mode."""

from __future__ import annotations

import time

import anthropic
import pytest

from edge.harness import MODEL, Rig, chat, foreign, native, wait_until
from edge.test_edge_kept import text_answer
from narrows.edge.api.access import seconds_to_month
from narrows.edge.books.keys import KeyLimits, bits_used_in_month, create_key
from narrows.edge.books.stats import read_costs
from narrows.edge.books.store import open_database
from narrows.edge.config import ConciseConfig, EdgeConfig
from narrows.errors import InputError

TEXT = "What leaves is counted. " * 20


@pytest.fixture(scope="module")
def rig(tmp_path_factory):
    with Rig(tmp_path_factory.mktemp("state")) as rig:
        yield rig


def test_every_reply_says_what_it_cost(rig):
    rig.enclave.script = lambda request: native(TEXT)
    with rig.client() as client:
        asked = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}
        raw = client.chat.completions.with_raw_response.create(**asked)
        whole = raw.parse()
        cost = whole.usage.narrows
        assert int(raw.headers["x-narrows-link-bytes"]) == cost["link_bytes"] > 0
        assert cost["coding"] == "plain"
        assert cost["mode"] == "plain"
        assert cost["saved_bytes"] == max(0, len(TEXT) - cost["link_bytes"])
        options = {"include_usage": True}
        *_, last = client.chat.completions.create(**asked, stream=True, stream_options=options)
        assert last.usage.narrows["link_bytes"] > 0
        made = client.responses.create(model=MODEL, input="hi")
        assert made.usage.narrows["coding"] == "plain"
        *_, done = client.responses.create(model=MODEL, input="hi", stream=True)
        assert done.response.usage.narrows["link_bytes"] > 0
    with anthropic.Anthropic(base_url=rig.url, api_key="none", max_retries=0) as client:
        words = {"model": MODEL, "max_tokens": 999, "messages": asked["messages"]}
        assert client.messages.create(**words).usage.narrows["link_bytes"] > 0
        with client.messages.stream(**words) as stream:
            ends = [one for one in stream if one.type == "message_delta"]
            assert ends[-1].usage.narrows["link_bytes"] > 0
            assert stream.get_final_message().content[0].text == TEXT


def test_what_stayed_inside_is_saved(rig):
    rig.enclave.script = lambda request: text_answer("x", 10_000)
    cost = rig.ask("hi").usage.narrows
    assert cost["mode"] == "kept"
    assert cost["coding"] == "text"
    assert cost["saved_bytes"] == 40_001 - cost["link_bytes"]
    rig.enclave.script = lambda request: foreign("x")
    assert rig.ask("hi", n=2).usage.narrows["mode"] == "plain"


def test_costs_by_key_model_and_mode(tmp_path):
    with Rig(tmp_path) as rig:
        rig.enclave.script = lambda request: native(TEXT)
        first = rig.ask("hi").usage.narrows["link_bytes"]
        rig.enclave.script = lambda request: text_answer("x", 500)
        rig.ask("hi")
        wait_until(lambda: len(read_costs(tmp_path, time.time())) == 2)
        rows = {row["mode"]: row for row in read_costs(tmp_path, time.time())}
        assert set(rows) == {"plain", "kept"}
        plain = rows["plain"]
        assert (plain["key"], plain["model"], plain["answers"]) == (0, MODEL, 1)
        assert plain["link_bytes"] == first
        assert rows["kept"]["saved_bytes"] > 1500


def test_a_share_of_a_month(tmp_path):
    with open_database(tmp_path) as database:
        with pytest.raises(InputError, match="a month"):
            create_key(database, "none", 1, limits=KeyLimits(share_bytes_per_month=0))
        limits = KeyLimits(share_bytes_per_month=1000)
        number, text = create_key(database, "monthly", 1, limits=limits)
        for day, bits in (("2026-02-01", 4000), ("2026-02-28", 400), ("2026-03-01", 9)):
            values = (number, day, 1, bits)
            database.execute("INSERT INTO key_use VALUES (?, ?, ?, ?)", values)
        assert bits_used_in_month(database, number, "2026-02-11") == 4400
        assert bits_used_in_month(database, number, "2026-04-01") == 0
        assert bits_used_in_month(database, number + 1, "2026-02-11") == 0
    assert seconds_to_month(1_772_236_800.0) == 86_400  # from the last day of February 2026
    with Rig(tmp_path) as rig:
        rig.enclave.script = lambda request: native(TEXT * 10)
        headers = {"authorization": f"Bearer {text}"}
        assert rig.post(chat(), headers=headers).status_code == 200
        refused = rig.post(chat(), headers=headers)
        assert refused.status_code == 429
        assert "this month's" in refused.json()["error"]["message"]


def test_a_short_answer_is_asked_for_with_the_operators_words(tmp_path):
    with Rig(tmp_path, concise=ConciseConfig("Be brief.")) as rig:
        rig.enclave.script = lambda request: native("ok")
        assert rig.ask("hi").usage.narrows["mode"] == "plain"
        assert len(rig.enclave.requests[-1].body["messages"]) == 1
        said = rig.post(chat(concise=True)).json()
        assert said["usage"]["narrows"]["mode"] == "concise"
        first, *rest = rig.enclave.requests[-1].body["messages"]
        assert first == {"role": "system", "content": "Be brief."}
        assert [one["content"] for one in rest] == ["hi"]
        assert "concise" not in rig.enclave.requests[-1].body
        assert rig.post(chat(concise="yes")).status_code == 400
    with Rig(tmp_path / "all", concise=ConciseConfig("Be brief.", always=True)) as rig:
        rig.enclave.script = lambda request: text_answer("x", 9)
        assert rig.ask("hi").usage.narrows["mode"] == "kept+concise"
        with pytest.raises(InputError):
            EdgeConfig(concise=ConciseConfig("")).check()
