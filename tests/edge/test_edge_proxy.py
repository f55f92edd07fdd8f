"""The edge behind Debian's nginx, as docs/proxies.md has it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from edge.harness import MODEL, Rig, Until, chat, native, wait_until
from edge.test_edge_tls import make_pair, trusting
from narrows.edge.books.keys import create_key
from narrows.edge.books.store import open_database
from narrows.edge.config import HttpsFiles
from ports import free_port

PAGE = Path(__file__).parents[2] / "docs" / "proxies.md"
NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin") or ""
needs_nginx = pytest.mark.skipif(not NGINX, reason="needs nginx (apt-get install nginx-light)")


def configured(port: int, edge_port: int, own: HttpsFiles, edge: HttpsFiles | None) -> str:
    """The page's blocks, with this machine's names in them."""
    server, tls = re.findall(r"^```nginx\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    text = server
    if edge is not None:
        text = text.replace("        proxy_pass http://narrows;\n", tls)
        text = text.replace("/etc/nginx/edge.crt", str(edge.cert_file))
        text = text.replace("edge.example", "localhost")
    text = text.replace("listen 443 ssl", f"listen 127.0.0.1:{port} ssl")
    text = text.replace("127.0.0.1:8400", f"127.0.0.1:{edge_port}")
    text = text.replace("/etc/nginx/api.crt", str(own.cert_file))
    text = text.replace("/etc/nginx/api.key", str(own.key_file))
    assert "8400" not in text
    return text


@contextmanager
def nginx(
    folder: Path, edge_port: int, edge: HttpsFiles | None = None
) -> Iterator[tuple[str, httpx2.Client]]:
    """Its URL, and a client that knows its certificate."""
    folder.mkdir()
    port, own = free_port(), make_pair(folder, "proxy")
    temporary = "".join(
        f"{kind}_temp_path {folder}/{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;"
        f"events {{}} http {{ access_log off; {temporary}\n"
        f"{configured(port, edge_port, own, edge)}}}\n"
    )
    log = folder / "error.log"
    command = [NGINX, "-c", str(folder / "nginx.conf"), "-e", str(log), "-p", str(folder)]
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)
    try:
        with httpx2.Client(verify=trusting(own), timeout=60) as client:

            def answers() -> bool:
                assert process.poll() is None, log.read_text()
                try:
                    return client.get(f"https://127.0.0.1:{port}/health").status_code == 200
                except httpx2.TransportError:
                    return False

            wait_until(answers)
            yield f"https://127.0.0.1:{port}", client
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture
def key(tmp_path: Path) -> str:
    database = open_database(tmp_path)
    _, text = create_key(database, "a", 1)
    database.close()
    return text


@needs_nginx
@pytest.mark.parametrize("tls", [False, True])
def test_behind_nginx(tmp_path: Path, key: str, tls: bool) -> None:
    pair = make_pair(tmp_path, "edge") if tls else None
    settings: dict[str, Any] = {"https": pair} if pair else {}
    go_on = threading.Event()
    with Rig(tmp_path, **settings) as rig:
        rig.enclave.script = lambda request: native("hello")
        if pair is None:
            wait_until(lambda: rig.get("/health").status_code == 200)
        with nginx(tmp_path / "nginx", rig.port, pair) as (url, client):
            client.headers["authorization"] = f"Bearer {key}"
            place = f"{url}/v1/chat/completions"
            answer = client.post(place, json=chat())
            assert answer.json()["choices"][0]["message"]["content"] == "hello"
            assert re.fullmatch(r"[0-9a-f]{32}", answer.headers["x-request-id"]), "nginx's"
            anthropic = {"model": MODEL, "max_tokens": 5, "messages": chat()["messages"]}
            headers = {"x-api-key": key, "authorization": ""}
            assert client.post(f"{url}/v1/messages", json=anthropic, headers=headers).json()[
                "content"
            ]
            large = [{"role": "user", "content": "x" * 900_000}]
            assert client.post(place, json=chat(messages=large)).status_code == 200
            wrong = client.get(f"{url}/v1/models", headers={"authorization": "Bearer nk-x"})
            assert wrong.json()["error"]["code"] == "invalid_api_key"

            begun = [*native("begun")[:-1], Until(go_on.is_set), native("")[-1]]
            rig.enclave.script = lambda request: begun
            with client.stream("POST", place, json=chat(stream=True)) as stream:
                lines = stream.iter_lines()
                assert any("begun" in line for line in lines), "before the answer ends"
                go_on.set()
                assert any("[DONE]" in line for line in lines)


@needs_nginx
def test_an_edge_without_keys_does_not_serve_a_proxy(tmp_path: Path) -> None:
    with Rig(tmp_path) as rig:
        wait_until(lambda: rig.get("/health").status_code == 200)
        with nginx(tmp_path / "nginx", rig.port) as (url, client):
            answer = client.post(f"{url}/v1/chat/completions", json=chat())
            assert answer.json()["error"]["code"] == "foreign_origin"
        assert not rig.enclave.requests


@pytest.mark.parametrize("name", ["x-forwarded-for", "forwarded", "via", "x-real-ip"])
def test_a_request_that_names_a_proxy_needs_a_key(tmp_path: Path, name: str) -> None:
    headers = {name: "192.0.2.1"}
    with Rig(tmp_path) as rig:
        rig.enclave.script = lambda request: native("hello")
        assert rig.post(chat(), headers=headers).status_code == 403
        database = open_database(tmp_path)
        _, text = create_key(database, "a", 1)
        database.close()
        headers["authorization"] = f"Bearer {text}"
        assert rig.post(chat(), headers=headers).status_code == 200
