"""A model outside that answers what it can: nothing crosses the link, and the reply says so."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from edge.harness import MODEL, Rig, chat, native, wait_until
from narrows.edge.books.stats import read_costs
from narrows.edge.config import EdgeConfig, LocalConfig
from narrows.errors import InputError

ASKED = [{"role": "user", "content": "hi"}]
FUNCTION = {"name": "f", "parameters": {"type": "object"}}
TOOLS = [{"type": "function", "function": FUNCTION}]


class Server:
    """Says what ``reply`` makes of each request; ``seen`` has them."""

    def __init__(self):
        self.seen = []
        self.reply = said
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                outer.seen.append(body)
                data = outer.reply(body)
                self.send_response(500 if data is None else 200)
                self.end_headers()
                self.wfile.write(data or b"no")

            def log_message(self, *words):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/v1"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


def said(body, content="local words", sure=-0.1, **more):
    logprobs = {"content": [{"logprob": sure}] * 3} if body.get("logprobs") else None
    message = {"role": "assistant", "content": content} | more
    choice = {"message": message, "logprobs": logprobs, "finish_reason": "stop"}
    usage = {"prompt_tokens": 4, "completion_tokens": 3}
    return json.dumps({"choices": [choice], "usage": usage}).encode()


@pytest.fixture
def server():
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


def rig_of(state, url, **rules):
    rig = Rig(state, local=LocalConfig(url=url, model="small", **rules))
    rig.enclave.script = lambda request: native("strong words")
    return rig


def words(rig, model, **fields):
    reply = rig.post(chat(model=model, **fields)).json()
    return reply["choices"][0]["message"]["content"], reply["usage"]["narrows"]


def test_the_local_model_costs_nothing_and_says_so(tmp_path, server):
    with rig_of(tmp_path, server.url) as rig:
        text, cost = words(rig, MODEL + "-local")
        assert text == "local words"
        assert cost == {"link_bytes": 0, "coding": "none", "mode": "local", "saved_bytes": 11}
        assert not rig.enclave.requests
        assert server.seen[-1]["model"] == "small"
        assert "reasoning" not in server.seen[-1]
        assert words(rig, MODEL)[0] == "strong words"
        with rig.client() as client:
            named = [one.id for one in client.models.list()]
            assert named == [MODEL, MODEL + "-local", MODEL + "-auto"]
            stream = client.chat.completions.create(
                model=MODEL + "-local", messages=ASKED, stream=True
            )
            assert "".join(c.choices[0].delta.content or "" for c in stream) == "local words"
            made = client.responses.create(model=MODEL + "-local", input="hi")
            assert made.output_text == "local words"
            call = {"function": {"name": "f", "arguments": "{}"}}
            server.reply = lambda body: said(body, None, tool_calls=[call])
            chosen = client.chat.completions.create(
                model=MODEL + "-local", messages=ASKED, tools=TOOLS
            )
            assert chosen.choices[0].message.tool_calls[0].function.name == "f"
        wait_until(lambda: len(read_costs(tmp_path, time.time())) == 2)
        rows = {row["model"]: row for row in read_costs(tmp_path, time.time())}
        assert rows[MODEL + "-local"]["link_bytes"] == 0
        assert rows[MODEL]["link_bytes"] > 0


def test_a_request_is_routed_by_rules_and_by_confidence(tmp_path, server):
    auto = MODEL + "-auto"
    with rig_of(tmp_path, server.url, max_prompt_chars=50, system="short") as rig:
        easy = [{"role": "system", "content": "be short"}, *ASKED]
        assert words(rig, auto, messages=easy)[0] == "local words"
        assert words(rig, auto)[0] == "strong words"
        long = [*easy, {"role": "user", "content": "x" * 100}]
        assert words(rig, auto, messages=long)[0] == "strong words"
        assert words(rig, auto, messages=easy, tools=TOOLS)[0] == "strong words"
        tried = len(server.seen)
        server.reply = lambda body: said(body, sure=-3.0)
        text, cost = words(rig, auto, messages=easy)
        assert text == "strong words"
        assert cost["mode"] == "plain"
        assert len(server.seen) == tried + 1
        server.reply = lambda body: said({})  # says no probabilities
        assert words(rig, auto, messages=easy)[0] == "strong words"


@pytest.mark.parametrize("down", ["strong", "error"])
def test_a_local_server_that_is_down_or_says_nonsense(tmp_path, server, down):
    with rig_of(tmp_path, server.url, down=down, max_answer_bytes=2000) as rig:
        for reply in (
            lambda body: None,
            lambda body: b"[]",
            lambda body: b'{"choices": [5]}',
            lambda body: said(body, content=5),
            lambda body: said(body, content="x" * 3000),
            lambda body: said(body).replace(b'"stop"', b'"other"'),
        ):
            server.reply = reply
            got = rig.post(chat(model=MODEL + "-local"))
            if down == "error":
                assert got.status_code == 503
                assert got.json()["error"]["code"] == "local_down"
            else:
                assert got.json()["choices"][0]["message"]["content"] == "strong words"


def test_without_one_there_is_no_such_model(tmp_path):
    with Rig(tmp_path) as rig:
        assert rig.post(chat(model=MODEL + "-local")).status_code == 404
        assert rig.get("/v1/models/" + MODEL + "-auto").status_code == 404
    with pytest.raises(InputError):
        EdgeConfig(local=LocalConfig("ftp://x", least_logprob=1)).check()
