"""Real language models through the real path: llama.cpp behind it, and the built-in one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from e2e.chain import Chain
from narrows.models.checkpoint.fetch import fetch_gguf
from ports import free_port

Chains = Callable[..., Chain]


@pytest.fixture(scope="module")
def llama_url() -> Iterator[str]:
    script = Path(__file__).with_name("llama_server.py")
    process = subprocess.Popen(
        [sys.executable, str(script), str(fetch_gguf())],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        address = ""
        while not address.startswith("http"):
            address = process.stdout.readline().strip()
            assert process.poll() is None, "the llama.cpp server ended"
        yield f"{address}/v1"
    finally:
        process.kill()
        process.wait()


def direct(url: str, content: str, **options: Any) -> str:
    """The server's own answer, without the path."""
    answer = openai.OpenAI(base_url=url, api_key="none").chat.completions.create(
        model="m", messages=[{"role": "user", "content": content}], **options
    )
    return answer.choices[0].message.content or ""


def narrows_up(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "narrows.cli.main", "up", *arguments]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def wait_until_it_serves(process: subprocess.Popen[str]) -> None:
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if "Ctrl-C stops" in line:
            return
    pytest.fail(f"narrows up ended before it served: {said}")


@pytest.mark.slow
def test_a_llama_cpp_server_behind_the_path(chains: Chains, llama_url: str) -> None:
    chain = chains(strong=llama_url).start()
    options = {"temperature": 0.0, "max_tokens": 40}
    want = direct(llama_url, "Name three colours.", **options)
    assert chain.ask("Name three colours.", **options) == want
    streamed = "".join(
        choice.delta.content or ""
        for chunk in chain.stream("Name three colours.", **options)
        for choice in chunk.choices
    )
    assert streamed == want
    with pytest.raises(openai.APIStatusError) as refused:  # more than its context
        chain.ask("word " * 20_000, **options)
    assert 400 <= refused.value.status_code < 500
    chain.assert_paid()


@pytest.mark.slow
def test_narrows_up_serves_and_stops(tmp_path: Path) -> None:
    """The command that users type: it serves the built-in model, and one signal ends it all."""
    port = free_port()
    state = str(tmp_path / "s")
    process = narrows_up("--state", state, "--port", str(port), "--budget", "1000000")
    try:
        wait_until_it_serves(process)
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none")
        name = client.models.list().data[0].id
        ask = {"model": name, "messages": [{"role": "user", "content": "Say hello."}]}
        first = client.chat.completions.create(**ask, max_tokens=20, seed=7)  # type: ignore[call-overload]
        again = client.chat.completions.create(**ask, max_tokens=20, seed=7)  # type: ignore[call-overload]
        assert first.choices[0].message.content
        assert again.choices[0].message.content == first.choices[0].message.content
        assert first.usage.completion_tokens <= 20
        many = client.chat.completions.create(**ask, max_tokens=10, n=3)  # type: ignore[call-overload]
        assert [choice.index for choice in many.choices] == [0, 1, 2]
        with pytest.raises(openai.BadRequestError):
            client.chat.completions.create(**ask, tools=[_TOOL])  # type: ignore[call-overload]

        assert "another 'narrows up' runs" in refusal(state)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        assert "a flag never changes a budget" in refusal(state)
    finally:
        process.kill()
        process.wait()


def refusal(state: str) -> str:
    second = narrows_up("--state", state, "--budget", "2000000")
    told = second.communicate(timeout=120)[1]
    assert second.returncode == 2
    return told


_TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


@pytest.mark.slow
def test_a_role_that_dies_is_named(tmp_path: Path) -> None:
    process = narrows_up("--state", str(tmp_path / "s"), "--port", "0")
    try:
        wait_until_it_serves(process)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        commands = {int(pid): Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children}
        gate = next(pid for pid, words in commands.items() if b"\x00gate\x00" in words)
        os.kill(gate, signal.SIGKILL)
        assert process.stderr is not None
        rest = process.stderr.read()
        assert "the gate was killed by SIGKILL" in rest
        assert str(tmp_path / "s" / "log" / "gate.log") in rest
        assert process.wait(60) == 1
    finally:
        process.kill()
        process.wait()
