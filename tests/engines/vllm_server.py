"""A real vLLM as a process of this machine, and a backend on it.

``NARROWS_VLLM``: its command (``make engines-test`` installs it). The model is the built-in
strong one, in float32.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from narrows.coding.events import Event, Finished, Opened, Tokens
from narrows.enclave.backend import BackendRequest
from narrows.enclave.config import EnclaveConfig, UpstreamConfig
from narrows.enclave.models import make_backend
from narrows.enclave.tokens.backend import TokenBackend
from ports import free_port

START_S = 3600  # a minute where the machine is free
KEY = bytes(range(32))
_PATIENT = {"first_token_timeout_s": 1800.0, "token_timeout_s": 1800.0, "answer_timeout_s": 7200.0}
_ENV = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}


@dataclass(frozen=True)
class Vllm:
    """``url`` ends in /v1; ``folder``: the model's; ``log``: what the server has said."""

    url: str
    folder: Path
    log: Path

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def backend(self, **changes: Any) -> TokenBackend:
        fields = {"url": self.url, "model": "m", "folder": self.folder} | _PATIENT | changes
        backend = make_backend(EnclaveConfig(upstream=UpstreamConfig(**fields)))
        assert isinstance(backend, TokenBackend)
        return backend

    def post(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Status and JSON of one completion, asked for without the enclave."""
        whole = {"model": "m", "prompt": [1, 2, 3], "max_tokens": 2} | body
        request = urllib.request.Request(
            self.url + "/completions",
            json.dumps(whole).encode(),
            {"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=600) as got:
                return int(got.status), json.load(got)
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read() or b"{}")

    def ids(self, body: dict[str, Any]) -> list[int]:
        """The token ids of one completion."""
        status, answer = self.post(body | {"return_token_ids": True})
        assert status == 200, answer
        ids: list[int] = answer["choices"][0]["token_ids"]
        return ids

    def figure(self, name: str) -> float:
        """The sum of a counter of /metrics."""
        with urllib.request.urlopen(self.url.removesuffix("/v1") + "/metrics", timeout=60) as got:
            text = got.read().decode()
        return sum(map(float, re.findall(rf"^{re.escape(name)}(?:{{.*}})? (\S+)$", text, re.M)))


@contextmanager
def serving(folder: Path, log: Path, *arguments: str, **env: str) -> Iterator[Vllm]:
    """vLLM with further ``arguments`` and variables; skips where there is none."""
    command = os.environ.get("NARROWS_VLLM")
    if not command:
        pytest.skip("no vLLM here: make engines-test")
    port = free_port()
    common = ["--served-model-name", "m", "--dtype", "float32", "--enforce-eager"]
    where = ["--host", "127.0.0.1", "--port", str(port)]
    limits = [] if "--max-model-len" in arguments else ["--max-model-len", "1024"]
    with log.open("wb") as out:
        process = subprocess.Popen(
            [command, "serve", str(folder), *common, *where, *limits, *arguments],
            stdout=out,
            stderr=subprocess.STDOUT,
            env=os.environ | _ENV | env,
            start_new_session=True,
        )
        try:
            vllm = Vllm(f"http://127.0.0.1:{port}/v1", folder, log)
            deadline = time.monotonic() + START_S
            while not _is_up(vllm.url):
                assert process.poll() is None, vllm.said()[-3000:]
                assert time.monotonic() < deadline, vllm.said()[-3000:]
                time.sleep(0.5)
            yield vllm
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """The server and the engine's own processes, which outlive a server that is only killed."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(120)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _is_up(url: str) -> bool:
    try:
        with urllib.request.urlopen(url + "/models", timeout=5):
            return True
    except OSError:
        return False


async def answer(
    backend: TokenBackend,
    question: str,
    key: bytes = KEY,
    resume: tuple[int, ...] = (),
    **body: Any,
) -> list[Event]:
    """The events of one answer."""
    assert backend.tokenizer is not None
    whole = {"messages": [{"role": "user", "content": question}], "max_tokens": 40} | body
    request = BackendRequest(whole, key, resume, tokenizer=backend.tokenizer.digest)
    return [event async for event in backend.generate(request)]


def ids(events: list[Event]) -> list[int]:
    """The tokens of an answer that ended well."""
    assert isinstance(events[0], Opened)
    assert isinstance(events[-1], Finished), events[-1]
    return [i for event in events if isinstance(event, Tokens) for i in event.ids]
