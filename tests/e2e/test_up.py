"""``narrows up`` before a model server that is not there, comes, goes and comes back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx2

from e2e.fakes import ScriptedModel
from ports import free_port

PATIENCE_S = 120.0
CONFIG = """
[enclave]
weak = ["bytes"]
[edge]
weak = ["bytes"]
"""


def until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def test_serving_is_said_and_healthy_while_the_model_server_answers(
    tmp_path: Path, model: ScriptedModel
) -> None:
    """And a forgotten model_name is the server's."""
    at, port = model.port, free_port()
    model.go()
    (tmp_path / "narrows.toml").write_text(CONFIG)
    words = f"up --config {tmp_path}/narrows.toml --state {tmp_path}/state --budget 1MB"
    words += f" --port {port} --upstream-url http://127.0.0.1:{at}/v1 --upstream-model llama-7"
    said = tmp_path / "said"
    with said.open("wb") as out:
        up = subprocess.Popen(
            [sys.executable, "-m", "narrows.cli.main", *words.split()],
            stdout=out,
            stderr=out,
            stdin=subprocess.DEVNULL,
            env=os.environ | {"COLUMNS": "100"},
        )
    url = f"http://127.0.0.1:{port}"

    def health() -> dict[str, str]:
        try:
            got = httpx2.get(f"{url}/healthz")
        except httpx2.HTTPError:
            return {}
        body: dict[str, str] = got.json()
        assert (got.status_code == 200) == (body["status"] == "ok")
        return body

    def ask() -> httpx2.Response:
        body = {"model": "llama-7", "messages": [{"role": "user", "content": "x"}]}
        return httpx2.post(f"{url}/v1/chat/completions", json=body, timeout=60)

    try:
        until(lambda: health().get("model") == "down", "no server, and nobody says so")
        assert health()["status"] == "unavailable"
        until(lambda: f"127.0.0.1:{at}/v1 has not answered" in said.read_text(), "why is not said")
        assert "Serving llama-7" not in said.read_text()
        model.return_at(at)
        until(lambda: f"Serving llama-7 at {url}/v1" in said.read_text(), "it is not served")
        assert health()["status"] == "ok"
        assert [one["id"] for one in httpx2.get(f"{url}/v1/models").json()["data"]] == ["llama-7"]
        assert model.seen[-1]["max_tokens"] == 1
        model.go()
        assert ask().status_code == 502
        until(lambda: health()["model"] == "down", "a server that went is not noticed")
        model.return_at(at)
        began_s = time.monotonic()
        until(lambda: health()["status"] == "ok", "nobody asks, and it stays unhealthy")
        print(f"healthy again after {time.monotonic() - began_s:.1f} s")
        assert ask().json()["choices"][0]["message"]["content"] == "hello"
    finally:
        up.send_signal(signal.SIGINT)
        assert up.wait(60) == 0, said.read_text()
