"""Anthropic's Messages API, by the real ``anthropic`` package and by raw requests."""

from __future__ import annotations

import json

import pytest

from edge.harness import MODEL, Rig, mutations, native
from narrows.coding.events import (
    Channel,
    Coding,
    Failed,
    Failure,
    Finish,
    Finished,
    Opened,
    Switch,
    Text,
    Usage,
)
from narrows.edge.api import jsonio
from narrows.edge.api.request import parse_chat
from narrows.edge.config import EdgeLimits
from narrows.edge.dialects.anthropic_request import anthropic_request
from narrows.edge.problems import ApiError

anthropic = pytest.importorskip("anthropic")

TOOL = {
    "name": "weather",
    "description": "of a place",
    "input_schema": {"type": "object", "properties": {"place": {"type": "string"}}},
}


@pytest.fixture(scope="module")
def rig(tmp_path_factory):
    with Rig(tmp_path_factory.mktemp("edge")) as one:
        yield one


def client(rig, **options):
    options = {"api_key": "none", "max_retries": 0, "timeout": 60} | options
    return anthropic.Anthropic(base_url=rig.url, **options)


def ask(rig, **fields):
    usual = {"model": MODEL, "max_tokens": 50, "messages": [{"role": "user", "content": "hi"}]}
    with client(rig) as one:
        return one.messages.create(**usual | fields)


def thinker(request):
    return [
        Opened(Coding.TEXT),
        Switch(Channel.REASONING),
        Text(b"let me "),
        Text(b"see"),
        Switch(Channel.CONTENT),
        Text("it rains in Łódź".encode()),
        Switch(Channel.TOOL_NAME),
        Text(b"weather"),
        Switch(Channel.TOOL_ARGUMENTS),
        Text(b'{"place":'),
        Text(b'"here"}'),
        Switch(Channel.TOOL_NAME),
        Text(b"weather"),
        Switch(Channel.TOOL_ARGUMENTS),
        Text(b""),
        Usage(11, 22),
        Finished(Finish.TOOL_CALLS),
    ]


def test_whole(rig):
    rig.enclave.script = lambda request: native("hello")
    message = ask(rig, system="be kind", stop_sequences=["END"], extra_body={"temperature": 0.5})
    assert message.content[0].text == "hello"
    assert (message.stop_reason, message.role, message.model) == ("end_turn", "assistant", MODEL)
    assert message.usage.output_tokens == 5
    assert message.usage.input_tokens > 0
    sent = rig.enclave.requests[-1].body
    assert sent == {
        "messages": [
            {"role": "system", "content": "be kind"},
            {"role": "user", "content": "hi"},
        ],
        "max_tokens": 50,
        "temperature": 0.5,
        "stop": ["END"],
        "markup": 1,
        "reasoning": "keep",
    }


def test_thinking_and_tools_whole_and_streamed_are_the_same(rig):
    rig.enclave.script = thinker
    whole = ask(rig, tools=[TOOL], thinking={"type": "adaptive"})
    with (
        client(rig) as one,
        one.messages.stream(
            model=MODEL,
            max_tokens=50,
            messages=[{"role": "user", "content": "hi"}],
            tools=[TOOL],
            thinking={"type": "adaptive"},
        ) as stream,
    ):
        kinds = [event.type for event in stream]
        streamed = stream.get_final_message()
    for message in (whole, streamed):
        thought, said, one, two = message.content
        assert (thought.type, thought.thinking) == ("thinking", "let me see")
        assert thought.signature
        assert (said.type, said.text) == ("text", "it rains in Łódź")
        assert (one.type, one.name, one.input) == ("tool_use", "weather", {"place": "here"})
        assert (two.name, two.input) == ("weather", {})
        assert one.id != two.id
        assert one.id.startswith("toolu_")
        assert message.stop_reason == "tool_use"
        assert (message.usage.input_tokens, message.usage.output_tokens) == (11, 22)
    assert kinds[0] == "message_start"
    assert kinds[-1] == "message_stop"


def test_what_was_thought_is_hidden_unless_it_is_asked_for(rig):
    rig.enclave.script = thinker
    for fields in ({}, {"thinking": {"type": "disabled"}}):
        kinds = [block.type for block in ask(rig, tools=[TOOL], **fields).content]
        assert kinds == ["text", "tool_use", "tool_use"]


def test_a_conversation_goes_back(rig):
    rig.enclave.script = lambda request: native("dry")
    turns = [
        {"role": "user", "content": [{"type": "text", "text": "rain?"}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "c2ln"},
                {"type": "text", "text": "I look."},
                {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"place": "x"}},
                {"type": "tool_use", "id": "toolu_2", "name": "weather", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "toolu_1", "content": "wet"},
                {
                    "type": "tool_result",
                    "tool_use_id": "toolu_2",
                    "content": [{"type": "text", "text": "no such place"}],
                    "is_error": True,
                },
                {"type": "text", "text": "well?", "cache_control": {"type": "ephemeral"}},
            ],
        },
    ]
    ask(rig, messages=turns, tools=[TOOL], tool_choice={"type": "any"}, metadata={"user_id": "u"})
    sent = rig.enclave.requests[-1].body
    calls = [
        {"id": "toolu_1", "function": {"name": "weather", "arguments": '{"place":"x"}'}},
        {"id": "toolu_2", "function": {"name": "weather", "arguments": "{}"}},
    ]
    assert sent["messages"] == [
        {"role": "user", "content": "rain?"},
        {
            "role": "assistant",
            "content": "I look.",
            "reasoning_content": "hm",
            "tool_calls": [{"type": "function"} | call for call in calls],
        },
        {"role": "tool", "content": "wet", "tool_call_id": "toolu_1"},
        {"role": "tool", "content": "Error: no such place", "tool_call_id": "toolu_2"},
        {"role": "user", "content": "well?"},
    ]
    assert sent["tool_choice"] == "required"
    assert sent["tools"][0]["function"]["parameters"] == TOOL["input_schema"]


@pytest.mark.parametrize(
    ("events", "fields", "reason", "stop"),
    [
        (native("a", Finish.LENGTH), {}, "max_tokens", None),
        (native("a", Finish.CONTENT_FILTER), {}, "refusal", None),
        (native("yes END no"), {"stop_sequences": ["END"]}, "stop_sequence", "END"),
        (native("yes"), {"stop_sequences": ["END"]}, "end_turn", None),
        (
            [Opened(Coding.TEXT), Switch(Channel.REFUSAL), Text(b"no"), Finished(Finish.STOP)],
            {},
            "refusal",
            None,
        ),
    ],
)
def test_why_it_ended(rig, events, fields, reason, stop):
    rig.enclave.script = lambda request: events
    message = ask(rig, **fields)
    assert (message.stop_reason, message.stop_sequence) == (reason, stop)
    with (
        client(rig) as one,
        one.messages.stream(
            model=MODEL, max_tokens=50, messages=[{"role": "user", "content": "hi"}], **fields
        ) as stream,
    ):
        streamed = stream.get_final_message()
    assert (streamed.stop_reason, streamed.stop_sequence) == (reason, stop)
    assert [block.text for block in streamed.content] == [block.text for block in message.content]


def test_errors_have_the_shape_of_that_api(rig):
    rig.enclave.script = lambda request: [Failed(Failure.OVERLOADED)]
    with pytest.raises(anthropic.RateLimitError) as caught:
        ask(rig)
    assert caught.value.body["error"]["type"] == "rate_limit_error"
    with pytest.raises(anthropic.NotFoundError):
        ask(rig, model="other")
    image = {"type": "base64", "media_type": "image/png", "data": "AAAA"}
    shown = [{"role": "user", "content": [{"type": "image", "source": image}]}]
    with pytest.raises(anthropic.PermissionDeniedError) as caught:
        ask(rig, messages=shown)
    assert caught.value.body["error"]["code"] == "egress_policy"
    rig.enclave.script = lambda request: [*native("so far")[:-1], Failed(Failure.UPSTREAM_BROKE)]
    with client(rig) as one:
        turns = [{"role": "user", "content": "hi"}]
        stream = one.messages.create(model=MODEL, max_tokens=5, messages=turns, stream=True)
        with pytest.raises(anthropic.APIError):
            list(stream)


def test_every_error_has_that_shape(rig):
    for path, method in (("/v1/messages/batches", "post"), ("/v1/messages", "get")):
        reply = rig.post({}, path) if method == "post" else rig.get(path)
        assert reply.status_code in (404, 405)
        assert reply.json()["type"] == "error"


def test_an_effort_reaches_the_server(rig):
    rig.enclave.script = lambda request: native("hello")
    ask(rig, output_config={"effort": "high"})
    assert rig.enclave.requests[-1].body["reasoning_effort"] == "high"


def test_arguments_that_are_no_object_fail_and_are_not_dropped(rig):
    for text in (b'{"a":', b"[1]", b'{"a":1e999}', b'{"a":1,"a":2}'):
        rig.enclave.script = lambda request, text=text: [
            Opened(Coding.TEXT),
            Switch(Channel.TOOL_NAME),
            Text(b"weather"),
            Switch(Channel.TOOL_ARGUMENTS),
            Text(text),
            Finished(Finish.TOOL_CALLS),
        ]
        with pytest.raises(anthropic.InternalServerError) as caught:
            ask(rig, tools=[TOOL])
        assert caught.value.body["error"]["code"] == "upstream_malformed"


def test_count_tokens_sends_nothing_inward(rig):
    before = len(rig.enclave.requests)
    with client(rig) as one:
        short = one.messages.count_tokens(
            model=MODEL, messages=[{"role": "user", "content": "hi"}], tools=[TOOL]
        )
        long = one.messages.count_tokens(
            model=MODEL, messages=[{"role": "user", "content": "hi" * 5000}]
        )
    assert long.input_tokens - short.input_tokens == 9998  # the rig's model has bytes as tokens
    assert len(rig.enclave.requests) == before


GOOD = {
    "model": "m",
    "max_tokens": 5,
    "system": [{"type": "text", "text": "s", "cache_control": {"type": "ephemeral"}}],
    "messages": [{"role": "user", "content": [{"type": "text", "text": "t"}]}],
    "tools": [TOOL],
    "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
    "thinking": {"type": "enabled", "budget_tokens": 1024},
    "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": {}}},
}


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "assistant", "content": "The answer is ("}]}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": [7]}]}, "messages[0].content[0]"),
        ({"system": [{"type": "image"}]}, "system[0].type"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type"),
        ({"tool_choice": {"type": "some"}}, "tool_choice.type"),
        ({"thinking": {"type": "deep"}}, "thinking.type"),
        ({"mcp_servers": []}, "mcp_servers"),
        ({"n": 2}, "n"),
    ],
)
def test_what_is_refused_is_named(change, param):
    parse_chat(anthropic_request(GOOD, EdgeLimits()).chat, "m", EdgeLimits())
    with pytest.raises(ApiError) as caught:
        anthropic_request(GOOD | change, EdgeLimits())
    assert caught.value.param == param


def test_any_mutation_is_a_request_or_an_error():
    limits = EdgeLimits()
    for data in mutations(GOOD, [{"type": "text"}, {"role": 3}]):
        try:
            asked = anthropic_request(jsonio.parse_object(json.dumps(data).encode()), limits)
        except ApiError:
            continue
        assert isinstance(asked.chat["messages"], list)
