"""Paths as clients write them, request ids in and out, and the request log."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import socket
import time
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import openai
import pytest

from edge.harness import MODEL, Hang, Rig, chat, native, wait_until
from narrows import __version__
from narrows.coding.events import Coding, Opened
from narrows.edge.api.front import Front, plain_path
from narrows.edge.books.keys import create_key
from narrows.edge.books.store import open_database
from narrows.edge.config import EdgeConfig
from narrows.errors import InputError

OWN = re.compile(r"req_[0-9a-f]{32}")
MESSAGES = {"model": MODEL, "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with Rig(tmp_path_factory.mktemp("state"), request_log=True) as rig:
        rig.enclave.script = lambda request: native("hello")
        assert rig.post(chat()).status_code == 200
        yield rig


def test_paths_of_other_servers(rig: Rig) -> None:
    for path in ("/healthz", "/health", "/v1/health", "/ping", "/health/", "/v1/models/"):
        assert rig.get(path).status_code == 200, path
    assert rig.get("/ping").json()["status"] == "ok"
    assert rig.get("/version").json() == {"version": __version__}
    for path in ("/chat/completions", "/v1/chat/completions/", "/chat/completions///"):
        assert rig.post(chat(), path).json()["choices"], path
    assert rig.post(MESSAGES, "/messages").json()["content"]
    assert rig.post(MESSAGES, "/messages/count_tokens/").json()["input_tokens"] > 0
    kept = rig.post({"model": MODEL, "input": "hi"}, "/responses").json()
    assert rig.get(f"/responses/{kept['id']}").json()["id"] == kept["id"]
    assert rig.get(f"/models/{MODEL}").json()["id"] == MODEL
    assert rig.post({"input": "x"}, "/embeddings").json()["error"]["code"] == "egress_policy"
    for path in ("/v1", "/v1/", "/", "//", "/chatter", "/v1/chat", "/v1/v1/models"):
        answer = rig.get(path)  # and never a redirect
        assert answer.status_code == 404, path
        assert answer.json()["error"]["code"] == "unknown_url"


def test_the_version_and_the_models_need_a_key_and_health_does_not(tmp_path: Path) -> None:
    database = open_database(tmp_path)
    create_key(database, "a", 1)
    database.close()
    with Rig(tmp_path, connect=False) as rig:
        for path in ("/version", "/models", "/v1/models/", "/chat/completions"):
            assert rig.get(path).status_code in (401, 405), path
        for path in ("/health", "/v1/health", "/ping"):
            assert rig.get(path).status_code == 503


def test_a_request_id_goes_out_with_every_reply(rig: Rig) -> None:
    mine = {"x-request-id": "trace-1/2:3"}
    for answer in (
        rig.post(chat(), headers=mine),
        rig.post(chat(stream=True), headers=mine),
        rig.post(chat(model="x"), headers=mine),
        rig.post(b"{", headers=mine),
        rig.post(MESSAGES, "/v1/messages", headers=mine),
        rig.get("/nothing", headers=mine),
        rig.get("/health", headers=mine),
        httpx2.delete(rig.url + "/v1/models", headers=mine),
    ):
        assert answer.headers["x-request-id"] == "trace-1/2:3"
    assert rig.post({}, "/messages", headers=mine).headers["request-id"] == "trace-1/2:3"
    seen = {rig.get("/health").headers["x-request-id"] for _ in range(3)}
    assert len(seen) == 3
    for wrong in (b"x" * 129, b"a b", b"", b"\xff", b"a\tb", "é".encode()):
        answer = rig.get("/health", headers=[(b"x-request-id", wrong)])
        assert OWN.fullmatch(answer.headers["x-request-id"]), wrong
    twice = rig.get("/health", headers=[("x-request-id", "a"), ("x-request-id", "b")])
    assert OWN.fullmatch(twice.headers["x-request-id"])


def test_clients_find_the_id(rig: Rig) -> None:
    with rig.client() as client:
        messages = [{"role": "user", "content": "x"}]
        answer = client.chat.completions.create(model=MODEL, messages=messages)
        assert OWN.fullmatch(str(answer._request_id))
        with pytest.raises(openai.NotFoundError) as caught:
            client.models.retrieve("x")
        assert OWN.fullmatch(str(caught.value.request_id))
    with anthropic.Anthropic(base_url=rig.url, api_key="none", max_retries=0) as other:
        message = other.messages.create(
            model=MODEL, max_tokens=5, messages=[{"role": "user", "content": "x"}]
        )
        assert OWN.fullmatch(str(message._request_id))


def test_the_log_has_ids_and_no_content(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "narrows.edge.requests")

    def line(**headers: str) -> str:
        identity = headers["x-request-id"]
        wait_until(lambda: any(f" {identity} " in text for text in caplog.messages))
        return next(text for text in caplog.messages if f" {identity} " in text)

    rig.enclave.script = lambda request: native("SECRET ANSWER")
    own = {"x-request-id": "one"}
    rig.post(chat(messages=[{"role": "user", "content": "SECRET"}]), headers=own)
    found = line(**own)
    assert re.fullmatch(r"POST /v1/chat/completions 200 one key=0 link_bytes=\d+ ms=\d+", found), (
        found
    )
    own = {"x-request-id": "two"}
    rig.get("/v1/models/a%0Ab%20key=7?q=SECRET", headers=own)
    assert re.fullmatch(
        r"GET /v1/models/a%0Ab%20key%3D7 404 two key=- link_bytes=- ms=\d+", line(**own)
    )
    own = {"x-request-id": "three"}
    rig.get("/x" * 3000, headers=own)
    assert len(line(**own)) < 400
    own = {"x-request-id": "four"}
    rig.enclave.script = lambda request: [Opened(Coding.PLAIN), Hang()]
    asked = len(rig.enclave.requests)
    with socket.create_connection(("127.0.0.1", rig.port), timeout=20) as gone:
        body = json.dumps(chat()).encode()
        gone.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nx-request-id: four\r\n"
            b"content-length: %d\r\n\r\n" % len(body) + body
        )
        wait_until(lambda: len(rig.enclave.requests) > asked)
    assert " 499 four key=0 " in line(**own)
    assert not any("SECRET" in text for text in caplog.messages)
    rig.enclave.script = lambda request: native("hello")


def test_the_log_is_off_unless_it_is_asked_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "narrows.edge.requests")
    with Rig(tmp_path, connect=False) as rig:
        rig.get("/health")
    assert not [one for one in caplog.records if one.name == "narrows.edge.requests"]


def test_a_bug_is_logged_with_its_id(caplog: pytest.LogCaptureFixture) -> None:
    async def broken(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError

    times = iter((1.0, 1.25))
    front = Front(broken, True, lambda: next(times), lambda count: b"\x01" * count)
    caplog.set_level(logging.INFO, "narrows.edge.requests")
    scope = {"type": "http", "method": "GET", "path": "/models", "headers": []}
    with pytest.raises(RuntimeError):
        asyncio.run(front(scope, None, None))  # type: ignore[arg-type]
    identity = "req_" + "01" * 16
    assert caplog.messages == [f"GET /v1/models 499 {identity} key=- link_bytes=- ms=250"]


@pytest.mark.parametrize(
    ("written", "plain"),
    [("", "/"), ("/v1/x//", "/v1/x"), ("/chat", "/v1/chat"), ("/chats", "/chats"), ("//x", "//x")],
)
def test_plain_paths(written: str, plain: str) -> None:
    assert plain_path(written) == plain


def test_the_model_says_its_context_where_it_is_known(tmp_path: Path) -> None:
    before_s = int(time.time())
    with Rig(tmp_path, connect=False, context_tokens=8192) as rig:
        (model,) = rig.get("/v1/models").json()["data"]
        assert model == rig.get(f"/v1/models/{MODEL}").json()
        assert before_s <= model.pop("created") <= time.time()
        size = {"max_model_len": 8192, "context_length": 8192}
        assert model == {"id": MODEL, "object": "model", "owned_by": "narrows"} | size
        with rig.client() as client:
            assert client.models.retrieve(MODEL).id == MODEL
    with Rig(tmp_path, connect=False) as rig:
        assert "max_model_len" not in rig.get(f"/v1/models/{MODEL}").json()
    with pytest.raises(InputError, match="is wrong"):
        EdgeConfig(context_tokens=-1).check()
