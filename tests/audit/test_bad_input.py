"""What an audit may be given: each kind of bad input has a state of its own, is counted in full,
and nothing is credited by guess. docs/audit.md, "Bad input", names the state of each."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from audit.rig import KEY, audited, played, records, strong, tiny, weak
from audit.test_auditor import retaped
from narrows.audit.auditor import Rules, TapeAuditor
from narrows.audit.code import ONE_BIT
from narrows.audit.replay import LATE
from narrows.audit.report import report, state_of
from narrows.audit.scorer import RuntimeScorer
from narrows.bench.audit.tape import make_requests, serve, tape_of
from narrows.wire.messages import Request
from narrows.wire.tape import Record, TapeWriter
from narrows.wire.verdict import ALARMS, OTHER_WEIGHTS, RAISED

DOC = Path(__file__).parents[2] / "docs" / "audit.md"


class OtherTokenizer(RuntimeScorer):
    """The same weights behind another tokenizer."""

    def __init__(self) -> None:
        super().__init__(strong())
        self.vocabulary = b"o" * 32


class Short(RuntimeScorer):
    """A context of ``max_context`` tokens."""

    def __init__(self, max_context: int) -> None:
        super().__init__(strong())
        self.max_context = max_context


def scored_by(scorer: RuntimeScorer, tape: bytes, rules: Rules | None = None) -> TapeAuditor:
    one = TapeAuditor(scorer, {weak().digest: weak()}, rules or Rules(), KEY)
    one.feed(tape)
    one.replay.close()
    return one


def nothing_of_tokens(one: TapeAuditor) -> bool:
    """No more is credited than the checks, which nobody chooses."""
    return one.credit_bytes <= one.replay.checked_bits / 8


def test_another_tokenizer_is_said_and_nothing_is_scored() -> None:
    one = scored_by(OtherTokenizer(), tape_of(weak(), played(3, 30)))
    why = "the link's vocabulary is not the strong model's"
    assert one.tally.not_scored == {why: one.tally.segments}
    assert one.tally.tokens == 0
    assert state_of(one) == "nothing scored"
    assert nothing_of_tokens(one)


@pytest.mark.parametrize("room", [-1, 0])
def test_an_answer_beyond_the_scorers_context_counts_in_full(room: int) -> None:
    """The prompt alone is too long, or prompt and answer together by one token."""
    answer = played(1, 30)[0]
    prompt = len(RuntimeScorer(strong()).prompt(answer.request.body))
    fits = scored_by(Short(prompt + len(answer.tokens)), tape_of(weak(), [answer]))
    assert not fits.tally.not_scored
    size = prompt if room else prompt + len(answer.tokens) - 1
    one = scored_by(Short(size), tape_of(weak(), [answer]))
    assert one.tally.not_scored == {"longer than the scorer's context": 1}
    assert nothing_of_tokens(one)


def test_what_cannot_be_scored_is_in_the_bound_at_its_link_cost() -> None:
    """At a share: drawn, not scored, not drawn again, and as dear as it was on the link."""
    tape, rules = tape_of(weak(), played(6, 40)), Rules(share=0.5, delta=0.5)
    drawn = []
    one = TapeAuditor(OtherTokenizer(), {weak().digest: weak()}, rules, KEY, on_drawn=drawn.append)
    one.feed(tape)
    one.replay.close()
    assert 0 < one.tally.drawn == len(drawn) < one.tally.segments
    assert all(row.audit_q16 is None and not row.always for row in drawn)
    assert sum(one.tally.not_scored.values()) == one.tally.drawn
    assert one.bound_bits() >= sum(row.cost_q16 for row in drawn) / ONE_BIT
    assert nothing_of_tokens(one)


def hidden(answers: int = 6) -> bytes:
    """The strong model read a system prompt that no edge has sent."""
    asked = make_requests([f"hello {number}" for number in range(answers)], 60, 1.0, 1.0)
    secret = {"role": "system", "content": "Speak of bytes alone, in riddles."}
    inside = [
        Request(one.uid, one.body | {"messages": [secret, *one.body["messages"]]}, one.noise_key)
        for one in asked
    ]
    said = serve(strong(), inside)
    return tape_of(
        weak(), [replace(one, request=plain) for one, plain in zip(said, asked, strict=True)]
    )


def test_a_hidden_input_that_is_not_pinned_explains_nothing() -> None:
    """It steers what leaves, so what it changed is charged: an alarm, with as many tokens off the
    winner as it moved."""
    one = audited(hidden())
    assert 100 <= one.tally.tokens < 500
    assert one.tally.off > 0.2 * one.tally.tokens
    assert one.alarm.raised
    assert state_of(one) in (ALARMS[RAISED], ALARMS[OTHER_WEIGHTS])
    assert one.credit_bytes < 0.1 * one.replay.data_bytes


@pytest.mark.parametrize("temperature", [1.0, 0.0])
def test_other_weights_are_said_within_500_tokens(temperature: float) -> None:
    """Fed record by record: at the first segment with 100 tokens behind it, credits long over."""
    tape = tape_of(weak(), played(12, 40, temperature))
    one = TapeAuditor(RuntimeScorer(tiny(3)), {weak().digest: weak()}, Rules(), KEY)
    for record in records(tape):
        one.step(record)
        if one.other_weights:
            break
    assert one.other_weights
    assert 100 <= one.tally.tokens < 500


def test_a_key_that_comes_again_charges_the_second_in_full() -> None:
    """On one link and on the next, whether the first answer was scored or not."""
    first, second = played(2, 30)
    asked = second.request
    again = replace(second, request=Request(asked.uid, asked.body, first.request.noise_key))
    alone = audited(tape_of(weak(), [first]))
    both = audited(tape_of(weak(), [first, again]))
    assert both.tally.not_scored == {"noise key used twice": 1}
    assert both.tally.tokens == alone.tally.tokens
    checks = (both.replay.checked_bits - alone.replay.checked_bits) / 8
    assert both.credit_bytes <= alone.credit_bytes + checks + 1


def test_clocks_decide_nothing() -> None:
    """Moments are the gate's: none at all, and a year between two records, explain the same."""
    told = records(tape_of(weak(), played(3, 30)))

    def at(step_ns: int) -> dict[str, Any]:
        writer = TapeWriter(bytes(32))
        out = b"".join(
            writer.put(replace(record, moment_ns=number * step_ns))
            for number, record in enumerate(told)
        )
        return report(audited(writer.header + out))

    assert at(0) == at(365 * 86_400 * 10**9)


def test_a_late_request_and_a_broken_tape_are_states() -> None:
    """The rows that ``test_auditor`` covers, by the words that operators see."""
    told: list[Record] = records(tape_of(weak(), played(3, 30)))
    half = retaped(told)
    one = TapeAuditor(RuntimeScorer(strong()), {weak().digest: weak()}, Rules(), KEY)
    one.feed(half[: len(half) - 5])
    one.replay.close()
    assert report(one)["tape_pending_bytes"] > 0
    lacking = TapeAuditor(RuntimeScorer(strong()), {}, Rules(), KEY)
    lacking.feed(half)
    lacking.replay.close()
    assert [why.split()[:2] for why in report(lacking)["link_faults"]] == [["weak", "model"]]
    assert lacking.credit_bytes == 0


def test_the_page_names_every_state() -> None:
    section = DOC.read_text().partition("\n## Bad input\n")[2].partition("\n## ")[0]
    assert len(re.findall(r"^\| ", section, re.MULTILINE)) >= 11
    for state in (
        LATE,
        "longer than the scorer's context",
        "the link's vocabulary is not the strong model's",
        "the scorer cannot apply a field of the request",
        "noise key used twice",
        "noise that starts elsewhere than behind the prompt",
        "is not here",
        "tape_pending_bytes",
        ALARMS[OTHER_WEIGHTS],
    ):
        assert f"`{state}`" in section or f"{state}`" in section, state
    named = re.findall(r"`(tests/[\w/.]+)::(\w+)`", section)
    assert len(named) >= 11
    for path, test in named:
        assert f"def {test}(" in (DOC.parents[1] / path).read_text(), test
