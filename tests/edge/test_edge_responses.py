"""OpenAI's Responses API, by the real ``openai`` package and by raw requests."""

from __future__ import annotations

import json

import openai
import pytest

from edge.harness import MODEL, Rig, mutations, native
from edge.test_edge_anthropic import thinker
from narrows.coding.events import Channel, Failed, Failure, Finish, Finished, Switch, Text
from narrows.edge.api import jsonio
from narrows.edge.api.request import parse_chat
from narrows.edge.config import EdgeLimits
from narrows.edge.dialects.responses_request import responses_request
from narrows.edge.dialects.responses_store import ResponsesStore
from narrows.edge.problems import ApiError

TOOL = {
    "type": "function",
    "name": "weather",
    "description": "of a place",
    "parameters": {"type": "object", "properties": {"place": {"type": "string"}}},
    "strict": False,
}


@pytest.fixture(scope="module")
def rig(tmp_path_factory):
    with Rig(tmp_path_factory.mktemp("edge")) as one:
        yield one


def ask(rig, asked="hi", **fields):
    with rig.client() as client:
        return client.responses.create(model=MODEL, input=asked, **fields)


def sent(rig):
    return rig.enclave.requests[-1].body


def test_whole(rig):
    rig.enclave.script = lambda request: native("hello")
    reply = ask(rig, instructions="be kind", max_output_tokens=50, metadata={"a": "b"})
    assert reply.output_text == "hello"
    assert (reply.status, reply.model, reply.error) == ("completed", MODEL, None)
    assert reply.usage.output_tokens == 5
    assert reply.metadata == {"a": "b"}
    assert sent(rig) == {
        "messages": [
            {"role": "system", "content": "be kind"},
            {"role": "user", "content": "hi"},
        ],
        "max_tokens": 50,
        "markup": 1,
        "reasoning": "send",
    }


def test_items_whole_and_streamed_are_the_same(rig):
    rig.enclave.script = thinker
    whole = ask(rig, tools=[TOOL])
    with (
        rig.client() as client,
        client.responses.stream(model=MODEL, input="hi", tools=[TOOL]) as stream,
    ):
        events = list(stream)
        streamed = stream.get_final_response()
    for reply in (whole, streamed):
        thought, said, one, two = reply.output
        assert (thought.type, thought.content[0].text) == ("reasoning", "let me see")
        assert (said.type, reply.output_text) == ("message", "it rains in Łódź")
        assert (one.type, one.name, one.arguments) == (
            "function_call",
            "weather",
            '{"place":"here"}',
        )
        assert (two.name, two.arguments) == ("weather", "")
        assert one.call_id != two.call_id
        assert reply.usage.total_tokens == 33
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type for event in events]
    assert kinds[:3] == ["response.created", "response.in_progress", "response.output_item.added"]
    assert kinds[-1] == "response.completed"
    deltas = [e.delta for e in events if e.type == "response.output_text.delta"]
    assert "".join(deltas) == "it rains in Łódź"
    items = [e.item.id for e in events if e.type == "response.output_item.done"]
    assert items == [item.id for item in streamed.output]


def test_a_reply_goes_on_from_the_one_before(rig):
    rig.enclave.script = thinker
    first = ask(rig, "rain?", tools=[TOOL], instructions="once")
    calls = [item.call_id for item in first.output if item.type == "function_call"]
    rig.enclave.script = lambda request: native("dry")
    outputs = [{"type": "function_call_output", "call_id": one, "output": "ok"} for one in calls]
    second = ask(rig, outputs, previous_response_id=first.id, tools=[TOOL])
    messages = sent(rig)["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant", "tool", "tool"]
    assert messages[1]["reasoning_content"] == "let me see"
    assert [call["id"] for call in messages[1]["tool_calls"]] == calls
    third = ask(rig, "and then?", previous_response_id=second.id)
    assert [m["role"] for m in sent(rig)["messages"]][-2:] == ["assistant", "user"]
    with rig.client() as client:
        assert client.responses.retrieve(third.id).output_text == "dry"
        client.responses.delete(third.id)
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(third.id)
        with pytest.raises(openai.BadRequestError) as caught:
            client.responses.create(model=MODEL, input="x", previous_response_id=third.id)
    assert caught.value.code == "previous_response_not_found"
    forgotten = ask(rig, "x", store=False)
    with pytest.raises(openai.BadRequestError):
        ask(rig, "x", previous_response_id=forgotten.id)


def test_the_same_conversation_as_input_items(rig):
    """As clients that keep nothing at the server send it."""
    rig.enclave.script = thinker
    first = ask(rig, "rain?", tools=[TOOL], store=False, include=["reasoning.encrypted_content"])
    items = [item.model_dump(exclude_none=True) for item in first.output]
    turns = [{"role": "user", "content": [{"type": "input_text", "text": "rain?"}]}, *items]
    for item in first.output:
        if item.type == "function_call":
            output = [{"type": "input_text", "text": "wet"}]
            turns.append(
                {"type": "function_call_output", "call_id": item.call_id, "output": output}
            )
    rig.enclave.script = lambda request: native("dry")
    ask(rig, turns, tools=[TOOL], tool_choice="required", store=False)
    roles = [message["role"] for message in sent(rig)["messages"]]
    assert roles == ["user", "assistant", "tool", "tool"]
    assistant = sent(rig)["messages"][1]
    assert assistant["content"] == "it rains in Łódź"
    assert assistant["reasoning_content"] == "let me see"
    assert len(assistant["tool_calls"]) == 2


def test_structured_output(rig):
    rig.enclave.script = lambda request: native('{"a":1}')
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    wanted = {"type": "json_schema", "name": "it", "schema": schema, "strict": True}
    assert ask(rig, text={"format": wanted}).text.format.name == "it"
    inner = {"name": "it", "schema": schema, "strict": True}
    assert sent(rig)["response_format"] == {"type": "json_schema", "json_schema": inner}


def test_cut_off_and_failed(rig):
    rig.enclave.script = lambda request: native("abc", Finish.LENGTH)
    reply = ask(rig)
    assert (reply.status, reply.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    rig.enclave.script = lambda request: [*native("so far")[:-1], Failed(Failure.UPSTREAM_BROKE)]
    with rig.client() as client:
        events = list(client.responses.create(model=MODEL, input="hi", stream=True))
        assert events[-1].type == "response.failed"
        assert events[-1].response.output[0].content[0].text == "so far"
        assert events[-1].response.error.code == "server_error"
        with pytest.raises(openai.InternalServerError):
            client.responses.create(model=MODEL, input="hi")


GOOD = {
    "model": "m",
    "input": [
        {"role": "user", "content": [{"type": "input_text", "text": "t"}]},
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x"},
        {"type": "function_call", "call_id": "c", "name": "weather", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "o"},
    ],
    "instructions": "i",
    "tools": [TOOL],
    "tool_choice": {"type": "function", "name": "weather"},
    "text": {"format": {"type": "text"}, "verbosity": "medium"},
    "reasoning": {"effort": "low", "summary": "auto"},
    "stream": True,
    "store": False,
    "prompt_cache_key": "k",
    "include": ["reasoning.encrypted_content"],
}


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"input": []}, "input"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type"),
        ({"input": [{"role": "tool", "content": "x"}]}, "input[0].role"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"truncation": "auto"}, "truncation"),
        ({"background": True}, "background"),
        ({"conversation": "c"}, "conversation"),
        ({"include": ["file_search_call.results"]}, "include"),
        ({"include": ["message.output_text.logprobs"]}, "logprobs"),
        ({"text": {"verbosity": "low"}}, "text.verbosity"),
        ({"max_tool_calls": 3}, "max_tool_calls"),
    ],
)
def test_what_is_refused_is_named(change, param):
    parse_chat(responses_request(GOOD, EdgeLimits()).joined([]), "m", EdgeLimits())
    with pytest.raises(ApiError) as caught:
        responses_request(GOOD | change, EdgeLimits())
    assert caught.value.param == param


def test_any_mutation_is_a_request_or_an_error():
    limits = EdgeLimits()
    for data in mutations(GOOD, [{"type": "input_text"}, {"role": 3}]):
        try:
            asked = responses_request(jsonio.parse_object(json.dumps(data).encode()), limits)
        except ApiError:
            continue
        assert isinstance(asked.joined([])["messages"], list)


def test_what_is_kept_is_bounded_by_key_in_all_and_in_time():
    now = [0.0]
    store = ResponsesStore(3000, 6000, 60, lambda: now[0])
    words = [{"role": "user", "content": "x" * 300}]
    for index in range(5):
        store.put(1, f"r{index}", words, {})
    with pytest.raises(ApiError):
        store.messages(1, "r0")
    assert json.loads(store.messages(1, "r4")) == words
    with pytest.raises(ApiError):  # another key's
        store.messages(2, "r4")
    store.put(1, "huge", [{"role": "user", "content": "x" * 4000}], {})
    assert json.loads(store.messages(1, "r4")) == words
    for scope in range(2, 40):
        store.put(scope, "r", words, {})
        assert store.size_bytes <= 6000
    assert json.loads(store.messages(39, "r")) == words
    now[0] = 61.0
    with pytest.raises(ApiError):
        store.messages(39, "r")
    store.put(1, "new", words, {"id": "new"})
    assert store.response(1, "new") == {"id": "new"}
    store.forget(1, "new")
    assert store.size_bytes == 0


def test_a_conversation_is_held_to_the_limits_of_a_body(tmp_path):
    with Rig(tmp_path, limits=EdgeLimits(body_bytes=8192, prompt_bytes=8192)) as rig:
        rig.enclave.script = lambda request: native("so")
        first = ask(rig, "x" * 3000)
        second = ask(rig, "x" * 3000, previous_response_id=first.id)
        with pytest.raises(openai.BadRequestError) as caught:
            ask(rig, "x" * 3000, previous_response_id=second.id)
        assert caught.value.code == "context_length_exceeded"
        assert ask(rig).output_text == "so"


def test_many_parts_are_refused_before_they_are_read(rig):
    refusals = [{"type": "refusal", "refusal": "no"}] * 3000
    items = [{"role": "assistant", "content": refusals + [{"type": "output_text"}] * 3000}]
    with pytest.raises(openai.BadRequestError) as caught:
        ask(rig, items)
    assert caught.value.param == "input[0].content"
    with pytest.raises(openai.BadRequestError) as caught:
        ask(rig, [{"role": "assistant", "content": [{"type": "refusal", "refusal": {"a": 1}}]}])
    assert caught.value.param == "input[0].content[0].refusal"


def test_arguments_behind_other_text_end_the_answer(rig):
    """A nameless call would be a wrong answer."""
    rig.enclave.script = lambda request: [
        *thinker(request)[:10],
        Switch(Channel.CONTENT),
        Text(b"between"),
        Switch(Channel.TOOL_ARGUMENTS),
        Text(b"{}"),
        Finished(Finish.TOOL_CALLS),
    ]
    with pytest.raises(openai.InternalServerError) as caught:
        ask(rig, tools=[TOOL])
    assert caught.value.code == "upstream_malformed"
