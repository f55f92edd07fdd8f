"""Every error: its status, its code, whether a retry helps, and that it comes in bounded time."""

from __future__ import annotations

import asyncio
import json
import socket

import openai
import pytest

from edge.harness import MODEL, Drop, Hang, Rig, chat, foreign, native, wait_until
from narrows.coding.events import Coding, Failed, Failure, Finish, Finished, Opened, Text, Tokens
from narrows.edge.config import EdgeLimits
from narrows.wire.gatestate import GateState, PortState, encode_state
from narrows.wire.messages import Greeting


@pytest.fixture(scope="module")
def rig(tmp_path_factory):
    with Rig(tmp_path_factory.mktemp("state")) as rig:
        yield rig


def check(answer, status, code, retry=False):
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error["code"] == code
    assert set(error) >= {"message", "type", "param", "code"}
    assert answer.headers["x-should-retry"] == ("true" if retry else "false")
    return error


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "invalid_json"),
        (b"[]", "invalid_json"),
        (b'{"model": NaN}', "invalid_json"),
        (b'{"temperature": 1e999}', "invalid_json"),
        (b"\xff\xfe{}", "invalid_json"),
        (b'{"a":' * 2000 + b"1" + b"}" * 2000, "invalid_json"),
        (b'{"n": ' + b"9" * 5000 + b"}", "invalid_json"),
        (b'{"n": ' + b"9" * 30 + b"}", "invalid_json"),
        (b'{"model": "a", "model": "b"}', "invalid_json"),
        (b'{"messages": [{"role": "user", "content": "a", "content": "b"}]}', "invalid_json"),
        (b"{}", "missing_required_parameter"),
        (chat(messages=[]), "invalid_value"),
        (chat(messages=[{"role": "king", "content": "x"}]), "invalid_value"),
        (chat(messages=[{"role": "user"}]), "invalid_value"),
        (chat(messages=[{"role": "tool", "content": "x"}]), "invalid_value"),
        (chat(messages=["hi"]), "invalid_value"),
        (chat(temperature=2.1), "invalid_value"),
        (chat(temperature="hot"), "invalid_type"),
        (chat(top_p=-0.1), "invalid_value"),
        (chat(n=0), "invalid_value"),
        (chat(n=9), "invalid_value"),
        (chat(n=True), "invalid_type"),
        (chat(max_tokens=0), "invalid_value"),
        (chat(max_tokens=1 << 40), "invalid_value"),
        (chat(max_tokens=1, max_completion_tokens=2), "invalid_value"),
        (chat(stop=["x"] * 17), "invalid_value"),
        (chat(stop="x" * 257), "invalid_value"),
        (chat(stop=[1]), "invalid_type"),
        (chat(stream="yes"), "invalid_type"),
        (chat(stream_options={"include_usage": True}), "invalid_value"),
        (chat(tools=[{"type": "function", "function": {"name": "a b"}}]), "invalid_value"),
        (chat(tool_choice="required"), "invalid_value"),
        (chat(response_format={"type": "poem"}), "invalid_value"),
        (chat(verbosity="low"), "unsupported_parameter"),
        (chat(what=1), "unknown_parameter"),
        (chat(messages=[{"role": "user", "content": "x" * (1 << 20)}] * 2), "request_too_large"),
        (chat(messages=[{"role": "user", "content": "x"}] * 2049), "context_length_exceeded"),
        (chat(messages=[{"role": "user", "content": "é" * 600_000}]), "context_length_exceeded"),
    ],
)
def test_bad_requests(rig, body, code):
    before = len(rig.enclave.requests)
    check(rig.post(body), 413 if code == "request_too_large" else 400, code)
    assert len(rig.enclave.requests) == before


def test_harmless_fields_pass_and_null_is_absent(rig):
    rig.enclave.script = lambda request: native("x")
    nothing = dict.fromkeys(("temperature", "stop", "tools", "logprobs", "seed", "n", "stream"))
    more = {"user": "me", "metadata": {"a": "b"}, "frequency_penalty": 0.0, "logit_bias": {}}
    assert rig.post(chat(**nothing, **more)).status_code == 200
    sent = {"messages", "markup", "reasoning", "frequency_penalty", "logit_bias"}
    assert set(rig.enclave.requests[-1].body) == sent


def test_unknown_model_and_paths(rig):
    check(rig.post(chat(model="gpt-5")), 404, "model_not_found")
    check(rig.post({}, "/v1/assistants"), 404, "unknown_url")
    check(rig.get("/v1/chat/completions"), 404, "unknown_url")
    check(rig.get("/nothing"), 404, "unknown_url")
    with rig.client() as client, pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="gpt-5", messages=[{"role": "user", "content": "x"}])


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/embeddings", {"model": MODEL, "input": ["a", "b"]}),
        ("/v1/images/generations", {"prompt": "a cat"}),
        ("/v1/audio/speech", {"input": "hello", "voice": "x", "model": MODEL}),
        ("/v1/chat/completions", chat(logprobs=True, top_logprobs=5, max_tokens=100)),
        ("/v1/chat/completions", chat(top_logprobs=2)),
        ("/v1/chat/completions", chat(modalities=["text", "audio"], audio={"voice": "x"})),
        (
            "/v1/chat/completions",
            chat(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]),
        ),
    ],
)
def test_egress_policy_names_reason_and_price(rig, path, body):
    error = check(rig.post(body, path), 403, "egress_policy")
    assert error["price_bytes"] > 0
    assert f"{error['price_bytes']:,} bytes" in error["message"]


@pytest.mark.parametrize(
    ("failure", "status", "code", "retry"),
    [
        (Failure.INTERNAL, 502, "enclave_failed", False),
        (Failure.UPSTREAM_REFUSED, 502, "upstream_refused", True),
        (Failure.UPSTREAM_BROKE, 502, "upstream_broke", True),
        (Failure.UPSTREAM_MALFORMED, 502, "upstream_malformed", False),
        (Failure.UPSTREAM_SLOW, 504, "upstream_slow", False),
        (Failure.UPSTREAM_REJECTED, 400, "rejected", False),
        (Failure.PROMPT_TOO_LONG, 400, "context_length_exceeded", False),
        (Failure.BAD_REQUEST, 400, "unsupported_by_model", False),
        (Failure.OVERLOADED, 429, "overloaded", True),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_failures_before_text_have_their_status(rig, failure, status, code, retry, stream):
    rig.enclave.script = lambda request: [Opened(Coding.PLAIN), Failed(failure)]
    check(rig.post(chat(stream=stream)), status, code, retry)


@pytest.mark.parametrize("stream", [False, True])
def test_an_end_that_no_one_asked_for_is_a_limit_of_the_link(rig, stream):
    rig.enclave.script = lambda request: [Opened(Coding.PLAIN), Finished(Finish.CANCELLED)]
    check(rig.post(chat(stream=stream)), 502, "answer_over_limit", False)


def test_a_failure_in_mid_stream_raises_in_the_openai_package(rig):
    script = [Opened(Coding.PLAIN), Tokens(tuple(b"some")), 0.1, Failed(Failure.UPSTREAM_BROKE)]
    rig.enclave.script = lambda request: script
    with rig.client() as client:
        stream = client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "x"}], stream=True
        )
        got = []
        with pytest.raises(openai.APIError) as caught:
            got.extend(chunk.choices[0].delta.content or "" for chunk in stream)
    assert caught.value.code == "upstream_broke"
    whole = rig.post(chat(n=2))
    check(whole, 502, "upstream_broke", retry=True)


def test_one_failed_choice_fails_all_and_cancels_the_others(rig):
    scripts = iter([[Opened(Coding.PLAIN), Failed(Failure.UPSTREAM_SLOW)], [Hang()]])
    rig.enclave.script = lambda request: next(scripts)
    before = len(rig.enclave.cancels)
    check(rig.post(chat(n=2)), 504, "upstream_slow")
    wait_until(lambda: len(rig.enclave.cancels) == before + 1)


def test_an_answer_that_stalls_is_ended(tmp_path):
    with Rig(tmp_path, limits=EdgeLimits(idle_s=1.0)) as rig:
        rig.enclave.script = lambda request: [Opened(Coding.PLAIN), Hang()]
        check(rig.post(chat()), 504, "answer_stalled")
        wait_until(lambda: len(rig.enclave.cancels) == 1)


def test_hostile_text_fails_its_answer_alone(rig):
    rig.enclave.script = lambda request: [Opened(Coding.TEXT), Text(b"\xff\xff"), Hang()]
    check(rig.post(chat()), 502, "upstream_malformed")
    rig.enclave.script = lambda request: native("fine")
    assert rig.ask().choices[0].message.content == "fine"


def test_a_broken_link_fails_answers_and_comes_back(rig):
    rig.enclave.script = lambda request: [Opened(Coding.PLAIN), Tokens((97,)), 0.1, Drop()]
    check(rig.post(chat()), 502, "link_lost", retry=True)
    rig.enclave.script = lambda request: [Opened(Coding.PLAIN), Tokens((97,)), 0.1, b"garbage\n"]
    check(rig.post(chat()), 502, "link_corrupt", retry=True)
    rig.enclave.script = lambda request: foreign("back")
    assert rig.ask().choices[0].message.content == "back"


def test_events_of_answers_that_no_one_asked_for_close_the_link(rig):
    rig.enclave.script = lambda request: [b'[77, "open", 0]\n', Hang()]
    check(rig.post(chat()), 502, "link_corrupt", retry=True)


def test_link_down_from_the_start(tmp_path):
    with Rig(tmp_path, connect=False, link_wait_s=0.2) as rig:
        check(rig.post(chat()), 503, "link_down", retry=True)
        check(rig.post(chat(stream=True)), 503, "link_down", retry=True)
        assert rig.get("/healthz").status_code == 503
        with rig.client() as client, pytest.raises(openai.InternalServerError):
            client.chat.completions.create(
                model=MODEL, messages=[{"role": "user", "content": "x"}], stream=True
            )


def test_a_refused_greeting_is_named(tmp_path):
    rig = Rig(tmp_path, link_wait_s=0.5)
    rig.enclave.greeting = bytes([Greeting.NUMERICS_DIFFER, 0])
    with rig:
        wait_until(lambda: rig.get("/healthz").json()["refusal"])
        error = check(rig.post(chat()), 503, "link_refused")
        assert "NUMERICS_DIFFER" in error["message"]
        assert rig.get("/healthz").json()["refusal"] == "NUMERICS_DIFFER"


class Gate:
    """What the gate's state port tells."""

    state = PortState("ok")

    async def serve(self, port):
        await asyncio.start_server(self._tell, "127.0.0.1", port)

    async def _tell(self, reader, writer):
        writer.write(encode_state(GateState({"answers": self.state})))
        writer.close()


@pytest.fixture(scope="module")
def gated(tmp_path_factory):
    """A rig whose gate tells its state."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with Rig(tmp_path_factory.mktemp("state"), state_port=port, link_wait_s=0.5) as rig:
        rig.gate = Gate()
        rig.call(rig.gate.serve(port))
        yield rig


def test_budget_spent_in_mid_answer(gated):
    """The gate holds back bytes: the client learns why, in mid-stream and afterwards."""
    gated.gate.state = PortState("ok")
    wait_until(lambda: gated.get("/healthz").status_code == 200)
    gated.enclave.script = lambda request: [Opened(Coding.PLAIN), Tokens((97,)), 0.2, Hang()]
    with gated.client() as client:
        stream = client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "x"}], stream=True
        )
        next(stream)
        gated.gate.state = PortState("depleted")
        with pytest.raises(openai.APIError) as caught:
            list(stream)
    assert caught.value.code == "egress_budget_exhausted"
    check(gated.post(chat()), 429, "egress_budget_exhausted")
    gated.enclave.script = lambda request: [Drop()]
    gated.post(chat())
    check(gated.post(chat()), 429, "egress_budget_exhausted")  # now without a link
    with gated.client(max_retries=5) as client, pytest.raises(openai.RateLimitError):
        client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "x"}])


@pytest.mark.parametrize(
    ("state", "status", "code", "retry", "after"),
    [
        (PortState("window", 3000), 429, "egress_budget_exhausted", True, "3000"),
        (PortState("witness"), 503, "egress_closed", True, "5"),
        (PortState("behind"), 503, "egress_closed", False, None),
    ],
)
def test_other_states_of_the_gate(gated, state, status, code, retry, after):
    gated.gate.state = PortState("ok")
    wait_until(lambda: gated.get("/healthz").status_code == 200)
    gated.enclave.script = lambda request: [Hang()]
    gated.gate.state = state
    answer = gated.post(chat())
    check(answer, status, code, retry)
    assert answer.headers.get("retry-after") == after


def test_errors_are_one_line_of_json_without_the_enclaves_words(rig):
    rig.enclave.script = lambda request: [Opened(Coding.TEXT), Failed(Failure.UPSTREAM_REJECTED)]
    body = rig.post(chat()).content
    assert b"\n" not in body
    assert json.loads(body)["error"]["message"].isascii()
