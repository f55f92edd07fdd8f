"""OpenAI's completions, by the real ``openai`` package and by raw requests."""

from __future__ import annotations

import contextlib
import json

import httpx2
import openai
import pytest

from edge.harness import MODEL, Rig, foreign, mutations, native
from narrows.coding.events import Coding, Failed, Failure, Finish, Opened
from narrows.edge.api.request import parse_completion
from narrows.edge.config import EdgeLimits
from narrows.edge.problems import ApiError


@pytest.fixture(scope="module")
def rig(tmp_path_factory):
    with Rig(tmp_path_factory.mktemp("edge")) as one:
        yield one


def ask(rig, prompt="Once", **fields):
    with rig.client() as client:
        reply = client.completions.create(model=MODEL, prompt=prompt, **fields)
        return list(reply) if fields.get("stream") else reply  # read before the client closes


def echoing(request):
    return native(f"<{request.body['prompt']}>")


def test_whole(rig):
    rig.enclave.script = lambda request: native(" upon a time", Finish.LENGTH)
    reply = ask(rig, max_tokens=5, temperature=0.5, stop=["\n"], seed=3, user="me")
    (choice,) = reply.choices
    assert (choice.text, choice.finish_reason, choice.index) == (" upon a time", "length", 0)
    assert (reply.object, reply.model, choice.logprobs) == ("text_completion", MODEL, None)
    assert reply.id.startswith("cmpl-")
    assert reply.usage.completion_tokens == 12
    assert rig.enclave.requests[-1].body == {
        "reasoning": "send",
        "prompt": "Once",
        "max_tokens": 5,
        "temperature": 0.5,
        "stop": ["\n"],
        "seed": 3,
    }
    rig.enclave.script = lambda request: foreign("text")
    assert ask(rig).choices[0].text == "text"
    assert rig.enclave.requests[-1].body == {
        "prompt": "Once",
        "max_tokens": 16,
        "reasoning": "send",
    }


def test_streamed(rig):
    rig.enclave.script = lambda request: native("it rains in Łódź \U0001f327")
    chunks = list(ask(rig, stream=True, stream_options={"include_usage": True}))
    assert "".join(c.choices[0].text for c in chunks if c.choices) == "it rains in Łódź \U0001f327"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].usage.completion_tokens > 0
    assert len({c.id for c in chunks}) == 1


def test_each_prompt_has_its_answers_under_its_indexes(rig):
    rig.enclave.script = echoing
    prompts = ["one", "two", "three"]
    whole = ask(rig, prompts, n=2, seed=7)
    wanted = ["<one>", "<one>", "<two>", "<two>", "<three>", "<three>"]
    assert [(c.index, c.text) for c in whole.choices] == list(enumerate(wanted))
    sent = rig.enclave.requests[-6:]
    asked = {(one.body["prompt"], one.body["seed"]) for one in sent}
    assert asked == {(prompt, seed) for prompt in prompts for seed in (7, 8)}
    assert len({one.noise_key for one in sent}) == 6
    again = ask(rig, prompts, n=2, seed=7)
    assert {one.noise_key for one in rig.enclave.requests[-6:]} == {one.noise_key for one in sent}
    assert again.id != whole.id
    alone = [ask(rig, prompt).usage.prompt_tokens for prompt in prompts]
    assert whole.usage.prompt_tokens == sum(alone)
    texts = [""] * 6
    for chunk in ask(rig, prompts, n=2, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == wanted


def test_token_ids_are_read_by_the_weak_models_vocabulary(rig):
    rig.enclave.script = echoing
    assert ask(rig, list(b"hi you")).choices[0].text == "<hi you>"
    assert [c.text for c in ask(rig, [list(b"a"), list(b"b")]).choices] == ["<a>", "<b>"]
    for ids in ([1 << 20], [-1], [255, 254]):
        with pytest.raises(openai.BadRequestError) as refused:
            ask(rig, ids)
        assert refused.value.param == "prompt"
        assert "send text" in refused.value.message


@pytest.mark.parametrize(
    ("fields", "status", "code", "param"),
    [
        ({"echo": True}, 403, "egress_policy", "echo"),
        ({"logprobs": 3}, 403, "egress_policy", "logprobs"),
        ({"logprobs": 0}, 403, "egress_policy", "logprobs"),
        ({"suffix": "end"}, 400, "unsupported_parameter", "suffix"),
        ({"best_of": 3}, 400, "unsupported_parameter", "best_of"),
        ({"prompt": None}, 400, "missing_required_parameter", "prompt"),
        ({"prompt": []}, 400, "invalid_type", "prompt"),
        ({"prompt": [1, "a"]}, 400, "invalid_type", "prompt"),
        ({"prompt": [[]]}, 400, "invalid_type", "prompt"),
        ({"prompt": ["a"] * 65}, 400, "invalid_value", "prompt"),
        ({"prompt": ["a"] * 40, "n": 8}, 400, "invalid_value", "prompt"),
        ({"prompt": "é" * 600_000}, 400, "context_length_exceeded", "messages"),
        ({"messages": []}, 400, "unknown_parameter", "messages"),
        ({"tools": []}, 400, "unknown_parameter", "tools"),
        ({"prompt_logprobs": 1}, 400, "unknown_parameter", "prompt_logprobs"),
        ({"top_k": -5}, 400, "invalid_value", "top_k"),
    ],
)
def test_what_is_refused(rig, fields, status, code, param):
    before = len(rig.enclave.requests)
    reply = rig.post({"model": MODEL, "prompt": "Once"} | fields, "/v1/completions")
    error = reply.json()["error"]
    assert (reply.status_code, error["code"], error["param"]) == (status, code, param)
    assert len(rig.enclave.requests) == before
    if code == "egress_policy":
        assert error["price_bytes"] >= 4


def test_the_price_of_an_echo_is_the_prompts(rig):
    body = {"model": MODEL, "prompt": ["x" * 700, "y" * 300], "echo": True}
    assert rig.post(body, "/v1/completions").json()["error"]["price_bytes"] == 1000


def test_harmless_values_pass(rig):
    rig.enclave.script = echoing
    body = {"model": MODEL, "prompt": "a", "echo": False, "best_of": 1, "suffix": None}
    body |= {"logprobs": None, "logit_bias": {}, "presence_penalty": 0, "min_p": 0.1}
    assert rig.post(body, "/v1/completions").status_code == 200
    assert rig.enclave.requests[-1].body["min_p"] == 0.1


def test_a_failure_inside_is_an_error(rig):
    rig.enclave.script = lambda request: [Opened(Coding.PLAIN), Failed(Failure.OVERLOADED)]
    with pytest.raises(openai.RateLimitError):
        ask(rig)
    rig.enclave.script = lambda request: [*native("half")[:-1], Failed(Failure.UPSTREAM_BROKE)]
    with pytest.raises(openai.APIError):
        list(ask(rig, stream=True))


def test_hostile_requests_are_parsed_or_refused(rig):
    good = {
        "model": MODEL,
        "prompt": ["a", "b"],
        "n": 2,
        "stop": ["x"],
        "stream_options": {"include_usage": True},
        "logit_bias": {"1": 1},
        "response_format": {"type": "json_object"},
    }
    for body in mutations(good, [{"1": {}}, "\ud800", 1 << 70, [[1, 2]], [[["x"]]]], 1500):
        if isinstance(body, dict):
            with contextlib.suppress(ApiError):
                parse_completion(body, ("a", "b"), MODEL, EdgeLimits())
    rig.enclave.script = echoing
    for count, body in enumerate(mutations(good, ["\ud800", [[1, 2]], [[["x"]]], [["a"]]], 60)):
        with contextlib.suppress(httpx2.ReadError):
            status = rig.post(json.dumps(body).encode(), "/v1/completions").status_code
            assert status in (200, 400, 403, 404), (count, body)
