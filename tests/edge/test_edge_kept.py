"""Reasoning that stayed inside, as the edge tells its clients."""

from __future__ import annotations

import anthropic
import pytest

from edge.harness import MODEL, Rig, chat
from edge.test_edge_markup_answers import Answer, marked
from narrows.coding.events import (
    Channel,
    Coding,
    Event,
    Finish,
    Finished,
    Opened,
    Switch,
    Text,
    Usage,
)
from narrows.coding.kept import count_said
from narrows.coding.markup import CallForm, Markup, ReasoningForm

KEPT = Markup(ReasoningForm.KEPT, CallForm.NONE)


@pytest.fixture(scope="module")
def rig(tmp_path_factory):
    with Rig(tmp_path_factory.mktemp("state")) as rig:
        yield rig


def text_answer(text: str, tokens: int, usage: Usage | None = None) -> list[Event]:
    said = [usage] if usage else []
    head = [Opened(Coding.TEXT), Text(text.encode())]
    return [*head, *count_said(tokens, Channel.CONTENT), *said, Finished(Finish.STOP)]


def token_answer(text: str, hidden: int) -> list[Event]:
    *events, end = marked(text, KEPT)
    return [*events, Usage(9, len(text) + hidden), end]


@pytest.mark.parametrize("kind", ["text", "tokens"])
def test_usage_counts_what_stayed_inside(kind, rig):
    script = {
        "text": text_answer("shown", 70, Usage(9, 100)),
        "tokens": token_answer("shown", 95),
    }[kind]
    hidden = 70 if kind == "text" else 95
    rig.enclave.script = lambda request: script
    answer = rig.ask("hi")
    assert answer.choices[0].message.content == "shown"
    assert "reasoning_content" not in answer.choices[0].message.model_dump()
    assert answer.choices[0].message.refusal is None
    assert answer.usage.prompt_tokens == 9
    assert answer.usage.completion_tokens == 100
    assert answer.usage.completion_tokens_details.reasoning_tokens == hidden
    with rig.client() as client:
        made = client.responses.create(model=MODEL, input="hi")
        assert made.output_text == "shown"
        assert [item.type for item in made.output] == ["message"]
        assert made.usage.output_tokens == 100
        assert made.usage.output_tokens_details.reasoning_tokens == hidden
        chunks = list(
            client.chat.completions.create(
                model=MODEL,
                messages=[{"role": "user", "content": "hi"}],
                stream=True,
                stream_options={"include_usage": True},
            )
        )
    assert "".join(c.choices[0].delta.content or "" for c in chunks[:-1]) == "shown"
    assert chunks[-1].usage.completion_tokens_details.reasoning_tokens == hidden
    with anthropic.Anthropic(base_url=rig.url, api_key="none", max_retries=0) as client:
        told = client.messages.create(
            model=MODEL, max_tokens=200, messages=[{"role": "user", "content": "hi"}]
        )
    assert [block.text for block in told.content] == ["shown"]
    assert told.usage.output_tokens == 100


def test_a_client_asks_for_less(rig):
    rig.enclave.script = lambda request: text_answer("x", 5)
    for fields, want in (
        ({}, "send"),
        ({"include_reasoning": True}, "send"),
        ({"include_reasoning": False}, "keep"),
        ({"include_reasoning": False, "reasoning": "send"}, "keep"),
        ({"reasoning": "keep"}, "keep"),
    ):
        assert rig.post(chat(**fields)).status_code == 200
        assert rig.enclave.requests[-1].body["reasoning"] == want
    for field, value in (("reasoning", "more"), ("reasoning", {}), ("include_reasoning", 1)):
        assert rig.post(chat(**{field: value})).status_code == 400
    for summary, want in (("auto", "send"), ("none", "keep")):
        body = {"model": MODEL, "input": "hi", "reasoning": {"summary": summary}}
        assert rig.post(body, "/v1/responses").status_code == 200
        assert rig.enclave.requests[-1].body["reasoning"] == want
    for thinking, want in (
        (None, "keep"),
        ({"type": "disabled"}, "keep"),
        ({"type": "enabled", "budget_tokens": 1024}, "send"),
    ):
        body = chat(max_tokens=5) | ({"thinking": thinking} if thinking else {})
        assert rig.post(body, "/v1/messages").status_code == 200
        assert rig.enclave.requests[-1].body["reasoning"] == want


def test_long_thought_is_waited_for_where_it_stays_inside(tmp_path):
    from narrows.edge.config import EdgeLimits

    limits = EdgeLimits(idle_s=0.5, thinking_s=60.0)
    with Rig(tmp_path, limits=limits) as rig:
        rig.enclave.script = lambda request: [Opened(Coding.TEXT), 2.0, *text_answer("x", 5)[1:]]
        assert rig.post(chat()).status_code == 504
        assert rig.post(chat(include_reasoning=False)).status_code == 200


def test_what_a_hostile_enclave_says_of_it():
    for digits in (b"", b"x", b"1234567890", "١".encode(), b"-1", b"1 "):
        one = Answer(reasoning="send")
        head = [Opened(Coding.TEXT), Text(b"a"), Switch(Channel.REASONING)]
        one.put(*head, Switch(Channel.REFUSAL), Text(digits), Finished(Finish.STOP))
        assert one.answer.error is not None, digits
    one = Answer(reasoning="send")
    one.put(Opened(Coding.TEXT), *count_said(5, Channel.CONTENT), Switch(Channel.CONTENT))
    assert one.answer.error is not None
    # Who never asked for it has a refusal, and no head that he does not know.
    one = Answer()
    one.put(Opened(Coding.TEXT), *count_said(5, Channel.CONTENT), Finished(Finish.STOP))
    assert [piece.text for piece in one.answer.take()] == ["5"]
    one = Answer()
    one.put(*token_answer("x", 5))
    assert one.answer.error is not None
    # Counts below what came hide nothing.
    one = Answer(reasoning="send")
    one.put(*token_answer("xyz", -2))
    assert one.answer.kept_tokens == 0


def test_an_answer_of_nothing_but_kept_reasoning():
    one = Answer(reasoning="keep")
    head = [Switch(channel) for channel in KEPT.head]
    one.put(Opened(Coding.COUPLED), *head, Usage(9, 64), Finished(Finish.LENGTH))
    assert one.answer.finish is Finish.LENGTH
    assert one.answer.reasoning_tokens == 64
    assert not one.answer.take()
