"""Web pages: which origins may ask, by their headers and in a real browser."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import aiohttp
import httpx2
import pytest

from browser import CHROMIUM, WITHOUT, Page, chromium, tab
from edge.harness import Rig, chat, native
from narrows.edge.books.keys import create_key
from narrows.edge.books.store import open_database
from narrows.edge.config import EdgeConfig
from narrows.errors import InputError

PAGE = "https://chat.example"
OTHER = "https://evil.example"


@pytest.fixture
def key(tmp_path: Path) -> str:
    database = open_database(tmp_path)
    _, text = create_key(database, "page", 1)
    database.close()
    return text


def preflight(rig: Rig, origin: str, method: str = "POST") -> httpx2.Response:
    headers = {
        "origin": origin,
        "access-control-request-method": method,
        "access-control-request-headers": "authorization,content-type,x-stainless-lang",
    }
    return httpx2.options(f"{rig.url}/v1/chat/completions", headers=headers, timeout=60)


def test_a_named_origin_is_served_and_others_are_refused(tmp_path: Path, key: str) -> None:
    allowed = "access-control-allow-origin"
    with Rig(tmp_path, cors_origins=(PAGE,)) as rig:
        rig.enclave.script = lambda request: native("hello")
        asked = preflight(rig, PAGE)  # without a key
        assert (asked.status_code, asked.headers[allowed]) == (200, PAGE)
        assert "x-stainless-lang" in asked.headers["access-control-allow-headers"]
        for refused in (preflight(rig, OTHER), preflight(rig, "null"), preflight(rig, PAGE, "PUT")):
            assert refused.status_code == 400
        own = {"authorization": f"Bearer {key}", "origin": PAGE}
        for stream in (False, True):
            answer = rig.post(chat(stream=stream), headers=own)
            assert (answer.status_code, answer.headers[allowed]) == (200, PAGE)
            assert "Origin" in answer.headers["vary"]
        wrong = rig.post(chat(model="x"), headers=own)
        assert (wrong.status_code, wrong.headers[allowed]) == (404, PAGE)
        assert "x-should-retry" in wrong.headers["access-control-expose-headers"]
        asked_before = len(rig.enclave.requests)
        for origin in (OTHER, "null", PAGE + ":8443", "http://chat.example", PAGE + "/"):
            for path in ("/v1/chat/completions", "/v1/messages"):
                foreign = rig.post(chat(), path, headers=own | {"origin": origin})
                assert foreign.status_code == 403
                assert foreign.json()["error"]["code"] == "foreign_origin"
                assert allowed not in foreign.headers
        assert len(rig.enclave.requests) == asked_before
        assert rig.post(chat(), headers={"authorization": f"Bearer {key}"}).status_code == 200


def test_an_open_edge_serves_pages_that_are_named_alone(tmp_path: Path) -> None:
    with Rig(tmp_path, cors_origins=(PAGE,)) as rig:
        rig.enclave.script = lambda request: native("hello")
        assert rig.post(chat(), headers={"origin": PAGE}).status_code == 200
        for headers in (
            {"origin": OTHER},
            {"origin": "http://localhost:3000"},
            {"origin": PAGE, "host": "evil.example"},
        ):
            assert rig.post(chat(), headers=headers).status_code == 403, headers


def test_any_origin_needs_keys(tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match="every web page"),
        Rig(tmp_path, connect=False, cors_origins=("*",)),
    ):
        pass
    database = open_database(tmp_path)
    _, key = create_key(database, "page", 1)
    database.close()
    with Rig(tmp_path, cors_origins=("*",)) as rig:
        own = {"authorization": f"Bearer {key}", "origin": OTHER}
        assert rig.post(chat(), headers=own).headers["access-control-allow-origin"] == "*"
        assert rig.post(chat(), headers={"origin": OTHER}).status_code == 401


@pytest.mark.parametrize(
    "origin",
    ["", "chat.example", PAGE + "/", PAGE + ":443", "http://a:80", "https://A.example", "null",
     "https://*.example", "https://a.example\r\nx: y", "https://u@a.example", "https://a.example?x"],
)  # fmt: skip
def test_what_is_no_origin_is_a_mistake(origin: str) -> None:
    with pytest.raises(InputError) as caught:
        EdgeConfig(cors_origins=(origin,)).check()
    assert "cors_origins" in str(caught.value.problems)


def test_origins_that_are_fine() -> None:
    EdgeConfig(cors_origins=(PAGE, "http://[::1]:3000", "app://obsidian.md")).check()
    for wrong in ((PAGE, "*"), (PAGE,) * 65):
        with pytest.raises(InputError):
            EdgeConfig(cors_origins=wrong).check()


class Blank(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>page</title>")

    def log_message(self, *_: object) -> None:
        """Nothing."""


@contextmanager
def site() -> Iterator[str]:
    """An empty page; its origin."""
    with HTTPServer(("127.0.0.1", 0), Blank) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


FETCH = """(async () => {
  const heads = {"content-type": TYPE}
  if (KEY) heads.authorization = "Bearer " + KEY
  try {
    const reply = await fetch(URL, {method: "POST", headers: heads, body: BODY})
    const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader()
    let parts = [], part
    while (!(part = await reader.read()).done) parts.push(part.value)
    return JSON.stringify([reply.status, parts.length, parts.join("")])
  } catch (error) { return JSON.stringify([0, 0, String(error)]) }
})()"""


async def fetched(page: Page, url: str, key: str, kind: str = "application/json") -> list[object]:
    words = {"TYPE": kind, "KEY": key, "URL": url, "BODY": json.dumps(chat(stream=True))}
    script = "".join(f"const {name} = {json.dumps(word)};" for name, word in words.items())
    return list(json.loads(await page.value(f"(() => {{{script} return {FETCH}}})()", wait=True)))


async def visit(socket: str, origin: str) -> tuple[aiohttp.ClientSession, Page]:
    session = aiohttp.ClientSession()
    page = Page(await session.ws_connect(socket, max_msg_size=0))
    await page.call("Page.enable")
    await page.call("Page.navigate", url=origin)
    async with asyncio.timeout(60):
        while await page.value("document.title") != "page":
            await asyncio.sleep(0.05)
    return session, page


@pytest.mark.skipif(not CHROMIUM, reason=WITHOUT)
def test_a_page_in_a_browser_streams_where_it_is_named(tmp_path: Path, key: str) -> None:
    async def look(port: str, origin: str, url: str) -> list[list[object]]:
        session, page = await visit(await tab(port), origin)
        async with session:
            named = await fetched(page, url, key)
            return [named, await fetched(page, url, "", "text/plain")]

    with (
        site() as ours,
        site() as others,
        Rig(tmp_path, cors_origins=(ours,)) as rig,
        chromium(tmp_path / "profile") as port,
    ):
        rig.enclave.script = lambda request: [*native("hello ")[:-1], 2.0, *native("world")[1:]]
        url = f"{rig.url}/v1/chat/completions"
        streamed, keyless = asyncio.run(look(port, ours, url))
        assert streamed[0] == 200, streamed
        assert int(str(streamed[1])) > 1, "it came in parts"
        assert "world" in str(streamed[2])
        assert "[DONE]" in str(streamed[2])
        assert keyless[0] == 401
        asked = len(rig.enclave.requests)
        for status, _, error in asyncio.run(look(port, others, url)):
            assert status == 0, "the browser gives it nothing"
            assert "TypeError" in str(error)
        assert len(rig.enclave.requests) == asked, "nothing was spent"
