"""Reasoning that stays inside, of a model that says its ids: what leaves is coupled still."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from enclave.strong_folder import seen, serving, write_folder
from enclave.templates import BEGUN, QWEN3
from enclave.test_upstream_markup import ADD, CALL, Served, asked, heads, said
from enclave.test_upstream_tokens import KEY, Case, ids, run
from narrows.coding.events import (
    Channel,
    Coding,
    Failed,
    Failure,
    Finish,
    Finished,
    Opened,
    Usage,
)
from narrows.coding.kept import ReasoningLevel
from narrows.enclave.less.hidden import HiddenStore, cut_behind_marker, inner_key
from narrows.enclave.less.withheld import ReasoningRule
from narrows.enclave.tokens.backend import TokenBackend
from narrows.models.bytemodel import ByteModel

SEND, KEEP = ReasoningLevel.SEND, ReasoningLevel.KEEP


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Served]]:
    root = tmp_path_factory.mktemp("strong")
    templates = {"qwen3": QWEN3, "begun": BEGUN}
    for name, template in templates.items():
        write_folder(root / name, template=template)
    with serving(root / "qwen3") as url:
        yield {name: Served(root / name, url) for name in templates}


def case_of(one: Served, most: ReasoningLevel = SEND, limit_bytes: int = 1 << 20) -> Case:
    case = one.case()
    config = case.backend._config
    rule = ReasoningRule(most, limit_bytes)
    case.backend = TokenBackend(config, case.backend._server, one.strong, case.standing, rule=rule)
    return case


@pytest.mark.parametrize(
    ("name", "reasoning", "content"),
    [
        ("qwen3", "<think>\nSECRET\n</think>", "\n\nYes."),
        ("qwen3", "", "Yes."),
        ("begun", "SECRET</think>", "\n\nSo. " + CALL),
    ],
)
def test_what_leaves_is_the_noises_and_nothing_hidden(
    name: str, reasoning: str, content: str, served: dict[str, Served]
) -> None:
    one = served[name]

    async def check(case: Case) -> None:
        body = asked(reasoning + content, tools=[ADD], max_tokens=300, reasoning="keep")
        whole = await case.answer(**body | {"reasoning": "send"})
        events = await case.answer(**body)
        assert events[0] == Opened(Coding.COUPLED)
        kept = [Channel.REFUSAL] if reasoning else []
        assert heads(events) == [*kept, Channel.TOOL_NAME]
        assert said(one.strong, events) == content
        total = len(ids(whole))
        prompt = whole[-2].prompt_tokens
        assert events[-2:] == [Usage(prompt, total), Finished(Finish.STOP)]
        row = seen(one.url)[-1]
        # The content is drawn with the answer's own key from its first position on.
        assert row["vllm_xargs"] == {"narrows_key": KEY.hex(), "narrows_position": 0}
        if reasoning:
            inner = seen(one.url)[-2]
            assert inner["vllm_xargs"]["narrows_key"] == inner_key(KEY).hex()
            assert len(row["prompt"]) == prompt + total - len(ids(events))
        # It goes on over another link, behind the reasoning that it had.
        rest = await case.answer(tuple(ids(events)[:1]), **body)
        assert ids(rest) == ids(events)[1:]
        assert heads(rest) == heads(events)
        assert rest[-2:] == events[-2:]

    run(case_of(one), check)


def test_the_operator_decides_over_the_client(served: dict[str, Served]) -> None:
    one = served["qwen3"]

    async def check(case: Case) -> None:
        body = asked("<think>SECRET</think>ok", max_tokens=300)
        for more in ({}, {"reasoning": "send"}):
            events = await case.answer(**body | more)
            assert said(one.strong, events) == "ok"
            # An edge that does not ask is not told: it would not know the head.
            assert heads(events) == ([Channel.REFUSAL] if more else [])

    run(case_of(one, KEEP), check)


@pytest.mark.parametrize("name", ["qwen3", "begun"])
def test_reasoning_that_never_closes(name: str, served: dict[str, Served]) -> None:
    one = served[name]

    async def check(case: Case) -> None:
        text = "<think>" * (name == "qwen3") + "x y " * 200
        for most in (20, 300):
            events = await case.answer(**asked(text, max_tokens=most, reasoning="keep"))
            assert ids(events) == []
            assert heads(events) == [Channel.REFUSAL]
            assert isinstance(events[-2], Usage)
            assert 0 < events[-2].completion_tokens <= most
            assert events[-1] == Finished(Finish.LENGTH)
        over = await case.answer(**asked(text[:40], max_tokens=300, reasoning="keep"))
        assert ids(over) == []
        assert over[-1] == Finished(Finish.STOP)

    run(case_of(one, SEND, 200), check)


def test_an_answer_whose_reasoning_is_gone_does_not_go_on(served: dict[str, Served]) -> None:
    one = served["begun"]

    async def check(case: Case) -> None:
        assert case.standing.now.coupled
        events = await case.answer((5, 6), **asked("x</think>ok", reasoning="keep"))
        assert events[1:] == [Failed(Failure.UPSTREAM_BROKE)]
        assert case.standing.now.coupled, "the server is there: others' answers stay as they are"

    run(case_of(one), check)


def test_reasoning_is_kept_for_a_time_and_to_a_size() -> None:
    now = [0.0]
    store = HiddenStore(lambda: now[0])
    store.put(1, KEY, (1, 2))
    assert store.get(1, KEY) == (1, 2)
    assert store.get(2, KEY) is None
    store.put(2, KEY, (3,) * (1 << 22))
    assert store.get(1, KEY) is None
    now[0] = 1e4
    assert store.get(2, KEY) is None


def test_a_last_token_that_holds_more_is_cut() -> None:
    tokenizer = ByteModel().tokenizer
    assert cut_behind_marker(tokenizer, list(b"hm</think>")) == list(b"hm</think>")

    class Wide:
        def token_bytes(self, token: int) -> bytes:
            return {0: b"hm</thin", 1: b"k>\n\n"}[token]

        def encode(self, data: bytes) -> list[int]:
            return [1000 + byte for byte in data]

    assert cut_behind_marker(Wide(), [0, 1]) == [0, 1000 + ord("k"), 1000 + ord(">")]
