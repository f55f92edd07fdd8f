"""Chat completions through the real openai package, curl-like raw HTTP beside it."""

from __future__ import annotations

import asyncio
import json
import random

import openai
import pytest

from edge.harness import MODEL, Hang, Rig, chat, foreign, native, wait_until
from narrows.coding.events import (
    Channel,
    Coding,
    Finish,
    Finished,
    Opened,
    Switch,
    Text,
    Tokens,
    Usage,
)


@pytest.fixture(scope="module")
def rig(tmp_path_factory):
    with Rig(tmp_path_factory.mktemp("state")) as rig:
        yield rig


def test_whole(rig):
    rig.enclave.script = lambda request: native("Hello, wörld 🙂")
    answer = rig.ask("hi", temperature=0.5, max_tokens=9)
    assert answer.choices[0].message.content == "Hello, wörld 🙂"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.completion_tokens == len("Hello, wörld 🙂".encode())
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    request = rig.enclave.requests[-1]
    assert request.body == {
        "messages": [{"role": "user", "content": "hi"}],
        "max_tokens": 9,
        "temperature": 0.5,
        "markup": 1,
        "reasoning": "send",
    }
    assert request.scope == 0
    assert len(bytes.fromhex(request.noise_key)) == 32


def test_streamed(rig):
    rig.enclave.script = lambda request: native("Hello, wörld 🙂", size=1)
    with rig.client() as client:
        stream = client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "hi"}],
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks[:-1]) == "Hello, wörld 🙂"
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == len("Hello, wörld 🙂".encode())
    assert len({(c.id, c.created, c.model, c.system_fingerprint) for c in chunks}) == 1


def test_async_client_and_many_streams(rig):
    rig.enclave.script = lambda request: native(request.body["messages"][0]["content"] * 20)

    async def one(client, index):
        stream = await client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": f"<{index}>"}], stream=True
        )
        return "".join([c.choices[0].delta.content or "" async for c in stream])

    async def all_of_them():
        async with openai.AsyncOpenAI(base_url=f"{rig.url}/v1", api_key="x") as client:
            return await asyncio.gather(*(one(client, index) for index in range(64)))

    assert asyncio.run(all_of_them()) == [f"<{index}>" * 20 for index in range(64)]


def test_n_answers_share_the_prompt_and_differ_in_noise(rig):
    texts = iter(["one", "two", "three"])
    rig.enclave.script = lambda request: native(next(texts))
    answer = rig.ask("hi", n=3)
    assert sorted(c.message.content for c in answer.choices) == ["one", "three", "two"]
    assert [c.index for c in answer.choices] == [0, 1, 2]
    last = rig.enclave.requests[-3:]
    assert len({request.noise_key for request in last}) == 3
    assert len({request.uid for request in last}) == 3
    assert last[0].body == last[1].body == last[2].body


def test_reasoning_refusal_and_tools(rig):
    script = [
        Opened(Coding.TEXT),
        Switch(Channel.REASONING),
        Text(b"let me think"),
        Switch(Channel.TOOL_NAME),
        Text(b"get_"),
        Text(b"weather"),
        Switch(Channel.TOOL_ARGUMENTS),
        Text(b'{"city": '),
        Text(b'"Oslo"}'),
        Switch(Channel.TOOL_NAME),
        Text(b"now"),
        Switch(Channel.TOOL_ARGUMENTS),
        Text(b"{}"),
        Usage(11, 22),
        Finished(Finish.TOOL_CALLS),
    ]
    rig.enclave.script = lambda request: script
    tools = [{"type": "function", "function": {"name": name}} for name in ("get_weather", "now")]
    answer = rig.ask("hi", tools=tools, tool_choice="auto", response_format={"type": "json_object"})
    message = answer.choices[0].message
    calls = [(c.function.name, c.function.arguments) for c in message.tool_calls]
    assert calls == [("get_weather", '{"city": "Oslo"}'), ("now", "{}")]
    assert len({call.id for call in message.tool_calls}) == 2
    assert message.content is None
    assert message.reasoning_content == "let me think"
    assert answer.choices[0].finish_reason == "tool_calls"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (11, 22)
    body = rig.enclave.requests[-1].body
    assert body["tools"] == tools
    assert body["response_format"] == {"type": "json_object"}
    with rig.client() as client:
        kwargs = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "tools": tools}
        with client.chat.completions.stream(**kwargs) as stream:
            final = stream.get_final_completion()
    calls = [(c.function.name, c.function.arguments) for c in final.choices[0].message.tool_calls]
    assert calls == [("get_weather", '{"city": "Oslo"}'), ("now", "{}")]


@pytest.mark.parametrize("stream", [False, True])
def test_stop_strings_cut_native_text_and_never_show(rig, stream):
    rig.enclave.script = lambda request: native("one two STOP three", size=10)
    answer = rig.post(chat(stop=["nothing", "ST", "two ST"], stream=stream)).text
    if stream:
        events = [json.loads(line[6:]) for line in answer.split("\n\n")[:-2]]
        text = "".join(e["choices"][0]["delta"].get("content", "") for e in events)
        reason = events[-1]["choices"][0]["finish_reason"]
    else:
        choice = json.loads(answer)["choices"][0]
        text, reason = choice["message"]["content"], choice["finish_reason"]
    assert (text, reason) == ("one ", "stop")


def test_stop_cancels_an_enclave_that_goes_on(rig):
    before = len(rig.enclave.cancels)
    rig.enclave.script = lambda request: [*native("a END b c d", size=1)[:-1], Hang()]
    # What ends it is the enclave's answer to Cancel, which is no failure behind a stop.
    assert rig.ask("hi", stop="END").choices[0].message.content == "a "
    # Cancels of earlier tests' answers may still arrive.
    assert rig.enclave.last_number in rig.enclave.cancels[before:]


def test_stop_leaves_foreign_text_to_its_server(rig):
    rig.enclave.script = lambda request: foreign("a STOP b")
    assert rig.ask("hi", stop="STOP").choices[0].message.content == "a STOP b"


def test_length_and_filter(rig):
    rig.enclave.script = lambda request: native("abc", Finish.LENGTH)
    assert rig.ask().choices[0].finish_reason == "length"
    rig.enclave.script = lambda request: native("abc", Finish.CONTENT_FILTER)
    assert rig.ask().choices[0].finish_reason == "content_filter"


def test_empty_answers(rig):
    for coding in (Coding.PLAIN, Coding.COUPLED, Coding.TEXT):
        events = [Opened(coding), Finished(Finish.STOP)]
        rig.enclave.script = lambda request, events=events: events
        assert rig.ask().choices[0].message.content == ""


def test_models_and_health(rig):
    with rig.client() as client:
        assert [model.id for model in client.models.list()] == [MODEL]
        assert client.models.retrieve(MODEL).id == MODEL
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("other")
    health = rig.get("/healthz")
    assert health.status_code == 200
    assert health.json()["link"] == "up"
    assert health.json()["decoder"] == "ok"


def test_seed_reaches_the_server_and_is_never_the_noise(rig):
    rig.enclave.script = lambda request: native("x")

    def key(**fields):
        assert rig.post(chat(**fields)).status_code == 200
        request = rig.enclave.requests[-1]
        assert request.body.get("seed") == fields.get("seed")
        assert "max_tokens" not in request.body
        return request.noise_key

    assert key(seed=7) == key(seed=7)
    assert len({key(seed=7), key(seed=8), key(seed=7, temperature=0.5), key(), key()}) == 5


def test_each_choice_has_a_seed_of_its_own(rig):
    rig.enclave.script = lambda request: native("x")
    assert rig.post(chat(seed=7, n=3)).status_code == 200
    assert sorted(request.body["seed"] for request in rig.enclave.requests[-3:]) == [7, 8, 9]


def test_a_client_that_leaves_cancels_at_once(rig):
    rig.enclave.script = lambda request: [*native("a" * 50)[:-1], Hang()]
    before = len(rig.enclave.cancels)
    with rig.client() as client:
        stream = client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "hi"}], stream=True, n=2
        )
        next(stream)
        stream.close()
    wait_until(lambda: len(rig.enclave.cancels) >= before + 2)


def test_chunks_are_the_edges_own(rig):
    """However the enclave cuts its events, text of one moment is one chunk."""
    rig.enclave.script = lambda request: (
        [Opened(Coding.PLAIN)] + [Tokens((97,)) for _ in range(500)] + [Finished(Finish.STOP)]
    )
    chunks = rig.post(chat(stream=True)).text.count("data: ")
    assert chunks < 100


@pytest.mark.parametrize("stream", [False, True])
def test_a_megabyte(rig, stream):
    rng = random.Random(4)
    text = "".join(rng.choice("ab é漢🙂\x00") for _ in range(540_000))
    assert len(text.encode()) > 1_000_000
    rig.enclave.script = lambda request: foreign(text, 4096)
    with rig.client() as client:
        messages = [{"role": "user", "content": "hi"}]
        if stream:
            chunks = client.chat.completions.create(model=MODEL, messages=messages, stream=True)
            got = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        else:
            got = client.chat.completions.create(model=MODEL, messages=messages)
            got = got.choices[0].message.content
    assert got == text
