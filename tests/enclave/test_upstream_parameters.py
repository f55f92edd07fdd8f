"""Parameters on their way to a model server: passed, said in its words, dropped or refused."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from enclave.test_upstream import DONE, delta, server, stream
from narrows.coding.events import (
    Coding,
    Event,
    Failed,
    Failure,
    Finish,
    Finished,
    NoiseFamily,
    Opened,
    Text,
)
from narrows.config import load_sections
from narrows.enclave.backend import BackendRequest
from narrows.enclave.config import EnclaveConfig, UpstreamConfig
from narrows.enclave.parameters import PRESETS, UpstreamParameters
from narrows.enclave.tokens.backend import _couples
from narrows.enclave.tokens.completion import Asked
from narrows.enclave.tokens.dialect import native_body
from narrows.enclave.upstream import UpstreamBackend
from narrows.errors import InputError

MESSAGES = [{"role": "user", "content": "hello"}]
SCHEMA = {"type": "object"}
FORM = {
    "type": "json_schema",
    "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True},
}


def applied(server: Any = "openai", *, given: dict[str, Any], **config: Any) -> dict[str, Any]:
    body = UpstreamParameters(server, **config).applied({"messages": MESSAGES} | given)
    return {name: value for name, value in body.items() if name != "messages"}


@pytest.mark.parametrize(
    ("server", "given", "sent"),
    [
        ("openai", {"presence_penalty": 1}, {"presence_penalty": 1}),
        ("openai", {"top_k": -1, "min_p": 0, "typical_p": 1.0, "ignore_eos": False}, {}),
        ("vllm", {"top_k": -1}, {"top_k": -1}),
        ("vllm", {"repeat_penalty": 1.2}, {"repetition_penalty": 1.2}),
        ("llama.cpp", {"repetition_penalty": 1.2}, {"repeat_penalty": 1.2}),
        ("openai", {"guided_json": SCHEMA}, {"response_format": FORM}),
        ("vllm", {"structured_outputs": {"json": SCHEMA}}, {"response_format": FORM}),
        ("vllm", {"guided_choice": ["a"]}, {"structured_outputs": {"choice": ["a"]}}),
        ("vllm", {"ebnf": "x"}, {"structured_outputs": {"grammar": "x"}}),
        ("sglang", {"guided_regex": "a+"}, {"regex": "a+"}),
        ("sglang", {"guided_grammar": "x"}, {"ebnf": "x"}),
        ("llama.cpp", {"grammar": "x"}, {"grammar": "x"}),
        ("llama.cpp", {"json_schema": SCHEMA}, {"response_format": FORM}),
        ("vllm", {"structured_outputs": {"json_object": False}, "top_k": 3}, None),
    ],
)
def test_a_preset_says_it_in_the_servers_words(server: Any, given: Any, sent: Any) -> None:
    if sent is None:
        sent = given
    assert applied(server, given=given) == sent


@pytest.mark.parametrize(
    ("server", "given", "name"),
    [
        ("openai", {"top_k": 3}, "top_k"),
        ("openai", {"guided_regex": "a"}, "guided_regex"),
        ("vllm", {"typical_p": 0.5}, "typical_p"),
        ("vllm", {"grammar": "x"}, "grammar"),
        ("sglang", {"guided_choice": ["a"]}, "guided_choice"),
        ("llama.cpp", {"min_tokens": 5}, "min_tokens"),
        ("vllm", {"top_k": 1 << 40}, "top_k"),
        ("vllm", {"logprobs": True}, "logprobs"),
        ("vllm", {"prompt_logprobs": 1}, "prompt_logprobs"),
        ("vllm", {"echo": True}, "echo"),
        ("vllm", {"n": 2}, "n"),
        ("vllm", {"grammar": "x", "ebnf": "x"}, "grammar"),
        ("vllm", {"ebnf": "x", "response_format": FORM}, "ebnf"),
    ],
)
def test_what_is_not_passed_is_refused_by_its_name(server: Any, given: Any, name: str) -> None:
    with pytest.raises(InputError, match=name):
        applied(server, given=given)


def test_the_operator_passes_drops_and_adds() -> None:
    assert applied(given={"top_k": 3}, passed=["top_k"]) == {"top_k": 3}
    assert applied(given={"guided_json": SCHEMA}, passed=["guided_json"]) == {"guided_json": SCHEMA}
    assert applied("vllm", given={"top_k": 3}, drop=["top_k"]) == {}
    assert applied("vllm", given={"top_k": 3}, extra={"top_k": 5, "x": 1}) == {"top_k": 3, "x": 1}
    dropped = applied("vllm", given={"top_k": 3}, drop=["top_k"], extra={"top_k": 5})
    assert dropped == {"top_k": 5}, "dropped and said: the operator's value, whoever asks"
    assert "reasoning_effort" in PRESETS["openai"]


def test_wrong_words_of_the_operator_are_told(tmp_path: Path) -> None:
    path = tmp_path / "narrows.toml"
    head = '[enclave.upstream]\nurl = "http://x/v1"\nmodel = "m"\n'
    path.write_text(head + 'server = "vllm"\npass = ["top_a"]\ndrop = ["min_p"]\n')
    with pytest.raises(InputError) as told:
        load_sections(path, {"enclave": EnclaveConfig})
    assert "narrows.toml:5" in told.value.problems[0]
    assert "top_a" in told.value.problems[0]
    for extra in ("n = 2", "logprobs = true", "echo = true", "model = 'x'", "top_k = 'x'"):
        path.write_text(head + f"[enclave.upstream.extra_body]\n{extra}\n")
        with pytest.raises(InputError):
            load_sections(path, {"enclave": EnclaveConfig})
    path.write_text(head + 'pass = ["top_k"]\ndrop = ["top_k"]\n')
    with pytest.raises(InputError):
        load_sections(path, {"enclave": EnclaveConfig})
    extra = 'extra_body = { cache_prompt = true, part_bytes = "10MB" }'
    path.write_text(head + f'pass = ["top_k"]\nmax_line_bytes = "2MB"\n{extra}\n')
    found = load_sections(path, {"enclave": EnclaveConfig})["enclave"].upstream
    assert (found.pass_, found.max_line_bytes) == (("top_k",), 2_000_000)
    assert found.extra_body == {"cache_prompt": True, "part_bytes": "10MB"}, "as it is written"


def asked(given: dict[str, Any], **config: Any) -> tuple[list[Event], list[dict[str, Any]]]:
    """The events of an answer, and what the server was sent."""
    seen: list[dict[str, Any]] = []
    play = stream(delta(content="yes"), delta("stop"), DONE)

    async def handler(request: web.Request) -> web.StreamResponse:
        seen.append(json.loads(await request.read()) | {"path": request.path})
        return await play(request)

    async def go() -> list[Event]:
        async with server(handler) as url:
            backend = UpstreamBackend(UpstreamConfig(url=url, model="m", **config))
            try:
                request = BackendRequest(given, bytes(32))
                return [event async for event in backend.generate(request)]
            finally:
                await backend.close()

    return asyncio.run(go()), seen


def test_the_server_gets_what_is_passed_and_an_answer_that_is_not_fails() -> None:
    body = {"messages": MESSAGES, "top_k": 7, "markup": 1, "seed": 3}
    events, seen = asked(body, server="vllm", extra_body={"priority": 3})
    assert events == [Opened(Coding.TEXT), Text(b"yes"), Finished(Finish.STOP)]
    assert seen == [
        {
            "messages": MESSAGES,
            "top_k": 7,
            "seed": 3,
            "priority": 3,
            "model": "m",
            "stream": True,
            "stream_options": {"include_usage": True},
            "path": "/v1/chat/completions",
        }
    ]
    for wrong in (body, body | {"top_k": "x"}, body | {"top_k": -1, "best_of": 2}):
        events, seen = asked(wrong)
        assert events == [Opened(Coding.TEXT), Failed(Failure.BAD_REQUEST)]
        assert not seen, "the server was asked"


def test_what_sglang_draws_by_rank_does_not_couple() -> None:
    for body in ({"top_k": 5}, {"min_p": 0.1}, {"top_p": 0.9}):
        assert not _couples(body, NoiseFamily.SEED_SGLANG)
        assert _couples(body, NoiseFamily.SEED_VLLM)
    for body in ({}, {"top_k": -1}, {"top_k": 0, "min_p": 0, "logit_bias": {"1": 1}}):
        assert _couples(body, NoiseFamily.SEED_SGLANG)


def test_a_raw_prompt_goes_to_completions() -> None:
    def chunk(**choice: Any) -> bytes:
        return b"data: " + json.dumps({"choices": [{"index": 0} | choice]}).encode() + b"\n\n"

    seen: list[dict[str, Any]] = []

    async def asked(*chunks: bytes) -> list[Event]:
        play = stream(*chunks)

        async def handler(request: web.Request) -> web.StreamResponse:
            seen.append(json.loads(await request.read()))
            return await play(request)

        async with server(handler, "/v1/completions") as url:
            backend = UpstreamBackend(UpstreamConfig(url=url, model="m"))
            try:
                request = BackendRequest({"prompt": "Once", "max_tokens": 5}, bytes(32))
                return [event async for event in backend.generate(request)]
            finally:
                await backend.close()

    good = asyncio.run(asked(chunk(text=" upon"), chunk(text="", finish_reason="length"), DONE))
    assert good == [Opened(Coding.TEXT), Text(b" upon"), Finished(Finish.LENGTH)]
    assert (seen[0]["prompt"], "messages" in seen[0]) == ("Once", False)
    for bad in ({"text": 5}, {"delta": {"content": "x"}}, {"message": {"content": "x"}}):
        events = asyncio.run(asked(chunk(**bad), DONE))
        assert events[-1] == Failed(Failure.UPSTREAM_MALFORMED), bad


def test_sglangs_own_endpoint_gets_its_own_words() -> None:
    asked = Asked((1, 2), 9, {"min_tokens": 3, "top_k": 5, "logit_bias": {"1": 2}})
    params = json.loads(native_body(asked))["sampling_params"]
    assert (params["min_new_tokens"], params["top_k"]) == (3, 5)
    assert params["logit_bias"] == {"1": 2}
    assert "min_tokens" not in params


@pytest.mark.parametrize(
    "given",
    [
        {"guided_json": {}, "response_format": FORM},
        {"guided_regex": "a", "json_schema": {}},
        {"repetition_penalty": 1.3, "repeat_penalty": 1.1},
    ],
)
def test_of_two_that_say_one_thing_none_wins_unsaid(given: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=" and ".join(given)):
        applied("llama.cpp", given=given)
    same = {"repetition_penalty": 1.3, "repeat_penalty": 1.3}
    assert applied("llama.cpp", given=same) == {"repeat_penalty": 1.3}


@pytest.mark.parametrize("value", ["2026-11-28", "nan", "[inf]", "{ a = 10:00:00 }"])
def test_an_extra_body_that_no_json_holds_is_refused_at_the_start(
    value: str, tmp_path: Path
) -> None:
    path = tmp_path / "narrows.toml"
    path.write_text(
        '[enclave.upstream]\nurl = "http://127.0.0.1:1/v1"\nmodel = "m"\n'
        f"extra_body = {{ since = {value} }}\n"
    )
    with pytest.raises(InputError) as refused:
        load_sections(path, {"enclave": EnclaveConfig})
    assert any("extra_body: since is not JSON" in one for one in refused.value.problems)
