"""From a tape of a real run to what is explained: nothing believed, nothing credited by guess."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from typing import Any

import pytest

from audit.rig import audited, auditor, played, records, strong, tiny, weak
from narrows.audit import reasons
from narrows.audit.auditor import Rules
from narrows.audit.code import ONE_BIT
from narrows.audit.keybook import KeyBook
from narrows.audit.replay import LATE, TapeReplay
from narrows.audit.report import report, text
from narrows.bench.audit.tape import Played, TapeRecorder, play, tape_of
from narrows.coding.events import Channel, Coding, Finish, Finished, Switch, Text, Tokens
from narrows.coding.link.options import LinkLimits, LinkOptions
from narrows.errors import InputError, LinkError
from narrows.wire.messages import Request
from narrows.wire.tape import Inward, LinkEnd, Outward, Record, TapeWriter, encode


def retaped(changed: list[Record]) -> bytes:
    """The records as a tape, positions made right again."""
    writer, position, out = TapeWriter(bytes(32)), 0, b""
    for record in changed:
        if isinstance(record, Outward):
            record = replace(record, position=position, moment_ns=0)
            position += len(record.data)
        out += writer.put(replace(record, moment_ns=0))
    return writer.header + out


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 0.9), (0.0, 1.0)])
def test_what_the_exact_runtime_served_is_explained(temperature: float, top_p: float) -> None:
    answers = played(6, 40, temperature, top_p)
    tape = tape_of(weak(), answers)
    one = audited(tape)
    assert one.tally.tokens == sum(len(answer.tokens) for answer in answers)
    assert one.tally.off == 0
    assert one.tally.audit_q16 / ONE_BIT <= 0.01 * one.tally.tokens
    assert not one.tally.not_scored
    assert not one.replay.faults
    assert not one.alarm.raised
    sent = one.replay.data_bytes
    tokens = one.replay.bits["tokens"]
    assert sum(one.replay.bits.values()) == pytest.approx(8 * (sent - 2), abs=80)
    checks = one.replay.checked_bits
    assert checks == one.replay.bits["checks"] == 8 * len(answers)
    assert 0 < 8 * one.credit_bytes <= tokens + checks
    assert 8 * one.credit_bytes >= tokens + checks - 20 - 12 * len(answers)


def test_a_tape_in_pieces_says_the_same_as_at_once() -> None:
    tape = tape_of(weak(), played())
    half = Rules(share=0.5, delta=0.5)
    for rules, model in ((Rules(), strong()), (half, strong()), (Rules(), tiny(3))):
        found = []
        for size in (1, 1000, len(tape)):
            one = auditor(rules, model)
            for start in range(0, len(tape), size):
                one.feed(tape[start : start + size])
            one.replay.close()
            found.append(report(one))
        assert found[0] == found[1] == found[2]
        assert found[0]["alarm"] == (model is not strong())


@pytest.mark.parametrize("lie", ["weights", "noise"])
def test_other_weights_or_noise_are_heard_and_earn_nothing(lie: str) -> None:
    answers = list(played(6, 40))
    if lie == "noise":
        keys = [answer.request.noise_key for answer in answers]
        for number, key in enumerate(keys[1:] + keys[:1]):
            request = answers[number].request
            changed = Request(uid=request.uid, body=request.body, noise_key=key)
            answers[number] = replace(answers[number], request=changed)
    one = audited(tape_of(weak(), answers), model=tiny(3) if lie == "weights" else strong())
    assert one.other_weights
    assert one.tally.tokens < 500
    assert one.alarm.raised
    assert one.credit_bytes < 0.3 * one.replay.data_bytes


def test_a_request_that_comes_behind_its_opening_earns_nothing() -> None:
    """The second request is moved behind ever more of the bytes: it is credited where it came
    before any byte of its OPEN was sent, then not at all; behind all of it the link is wrong."""
    first, second = played(2, 30)
    recorder = TapeRecorder(weak())
    number = recorder.request(first.request)
    recorder.encoder.open(number, Coding.COUPLED)
    recorder.encoder.put(number, Tokens(first.tokens[:10]))
    recorder.run_to(1000)
    late = recorder.request(second.request)
    recorder.encoder.open(late, Coding.COUPLED)
    recorder.encoder.put(late, Tokens(second.tokens))
    recorder.encoder.put(late, Finished(second.finish))
    recorder.encoder.put(number, Finished(Finish.LENGTH))
    told = records(recorder.finish())
    requests = [n for n, record in enumerate(told) if isinstance(record, Inward)]
    request = told.pop(requests[-1])
    at = requests[-1]
    behind = b"".join(record.data for record in told[at:] if isinstance(record, Outward))
    model = next(record for record in told if isinstance(record, Outward))
    states = []
    for cut in range(len(behind) + 1):
        parts = [replace(model, data=part, paid_bytes=len(part)) for part in (behind[:cut], behind[cut:]) if part]  # fmt: skip  # noqa: E501
        moved = told[:at] + parts[:1] * (cut > 0) + [request] + parts[(cut > 0) :] + told[-1:]
        replay = TapeReplay({weak().digest: weak()})
        segments = [s for s in replay.feed(retaped(moved)) if s.answer == 1]
        replay.close()
        if replay.faults:
            states.append("fault")
        else:
            states.append("late" if {s.why for s in segments} == {LATE} else "credited")
            assert segments
    assert states[0] == "credited"
    assert "late" in states
    assert states[-1] == "fault"
    order = ["credited", "late", "fault"]
    assert states == sorted(states, key=order.index)
    assert states.count("credited") <= 3  # only bytes that were coded before it


def asked_anew(answer: Played, depth: int = 1, **changes: object) -> bytes:
    """The answer's tape, its request in other words: "DEEP" is a list nested so many times."""
    told = records(tape_of(weak(), [answer]))
    at = [n for n, record in enumerate(told) if isinstance(record, Inward)][1]
    asked = {"type": "request", "uid": answer.request.uid, "body": answer.request.body}
    text = json.dumps(asked | {"noise_key": answer.request.noise_key} | changes)
    frame = text.replace('"DEEP"', "[" * depth + "]" * depth).encode()
    told[at] = Inward(0, 0, len(frame).to_bytes(4, "big") + frame)
    return retaped(told)


def test_no_request_stops_the_audit() -> None:
    """Lone surrogates, fields nested as deep as a message may be: a link or an answer may go
    uncredited, the audit goes on."""
    answer = played(1, 5)[0]
    body = answer.request.body
    message = {"role": "user", "content": "hello 0"}
    one = audited(asked_anew(answer, uid="\ud800" * 32))
    assert one.tally.tokens == len(answer.tokens)
    deep_message = {"messages": [message | {"x": "DEEP"}]}
    for changed, depths in (
        ({"tools": "DEEP"}, range(900, 1000, 3)),
        (deep_message, range(500, 1000, 50)),
    ):
        for depth in depths:
            one = audited(asked_anew(answer, depth, body=body | changed))
            assert one.replay.faults or one.tally.not_scored
    parts = [{"role": "user", "content": [{"type": "text", "text": 5}]}]
    one = audited(asked_anew(answer, body=body | {"messages": parts}))
    assert "malformed request" in next(iter(one.replay.faults))


def test_a_noise_key_explains_one_answer() -> None:
    one, other = played(2, 30)
    same = Request(uid=other.request.uid, body=other.request.body, noise_key=one.request.noise_key)
    result = audited(tape_of(weak(), [one, replace(other, request=same)]))
    assert result.tally.not_scored == {"noise key used twice": 1}
    assert result.tally.tokens == len(one.tokens)


def test_two_open_answers_of_one_key_do_not_mix_their_tokens() -> None:
    asked = Request(uid="0" * 32, body={"messages": []}, noise_key="ab" * 32)
    book = KeyBook()
    first, _ = book.open(asked)
    book.token(first, 5)
    second, why = book.open(asked)
    assert why is None
    for use, token in ((second, 6), (first, 7), (second, 8)):
        book.token(use, token)
    for resume, reason in (([6, 7], "noise key used twice"), ([6, 8], None)):
        again = Request(asked.uid, asked.body, asked.noise_key, resume=resume)
        assert book.open(again)[1] == reason
    book.close(first)  # over already: the newest use goes on
    assert book.open(asked)[1] is None


def test_a_link_asks_no_more_of_the_auditor_than_the_defaults() -> None:
    answer = played(1, 5)[0]
    own = LinkLimits()
    for name in ("max_open", "max_skip", "steps_per_byte", "steps_saved", "max_cache_bytes"):
        high = LinkOptions(limits=replace(own, **{name: getattr(own, name) * 2}))
        one = audited(play(TapeRecorder(weak(), high), [answer], Coding.COUPLED, 50.0))
        assert list(one.replay.faults) == [f"limits above the auditor's own: {name}"]
        assert one.credit_bytes == 0


def test_requests_that_nobody_opens_are_not_kept_without_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("narrows.audit.replay.MAX_WAITING", 3)
    for early in (True, False):
        recorder = TapeRecorder(weak())
        for answer in played(4, 5):
            recorder.request(answer.request)
        told = records(recorder.finish())
        if early:  # all of them before the greeting
            told.sort(key=lambda record: isinstance(record, Outward | LinkEnd))
        one = audited(retaped(told))
        assert list(one.replay.faults) == ["more than 3 requests wait"]


def test_a_tape_that_breaks_off_gives_the_models_memory_back() -> None:
    tape = tape_of(weak(), played())
    end = len(tape) - len(encode(LinkEnd(0, 0)))
    for size in (end, end * 2 // 3):
        one = auditor()
        one.feed(tape[:size])
        decoder = one.replay._links[0]._decoder
        one.replay.close()
        assert decoder is not None
        with pytest.raises(LinkError, match="closed"):
            decoder.step(b"")


def test_a_resume_is_no_second_use_and_a_forged_one_is() -> None:
    def request(**changes: object) -> Request:
        values = {"uid": "0" * 32, "body": {"messages": []}, "noise_key": "ab" * 32} | changes
        return Request(**values)  # type: ignore[arg-type]

    book = KeyBook()
    use, why = book.open(request())
    assert why is None
    for token in (5, 6, 7):
        book.token(use, token)
    for resume, reason in (([5, 6], None), ([5, 6], None), ([5, 9], "used twice"), ([], None)):
        assert (book.open(request(resume=resume))[1] or "").endswith(reason or "")
    assert book.open(request(uid="1" * 32))[1] == "noise key used twice"
    assert book.open(request(scope=4))[1] == "noise key used twice"
    use, why = book.open(request())
    assert why is None
    book.close(use)
    assert book.open(request())[1] == "noise key used twice"
    assert (
        book.open(request(noise_key="cd" * 32, resume=[1]))[1] == "a resume of what was never seen"
    )
    full = KeyBook(max_keys=1)
    full.open(request())
    assert full.open(request(noise_key="cd" * 32))[1] == "no memory for further noise keys"


def test_what_is_no_token_of_the_content_counts_in_full() -> None:
    answer = played(1, 30)[0]
    recorder = TapeRecorder(weak())
    numbers = [
        recorder.request(Request(uid=f"{n:032x}", body=answer.request.body, noise_key=f"{n:064x}"))
        for n in range(2)
    ]
    recorder.encoder.open(numbers[0], Coding.COUPLED)
    recorder.encoder.put(numbers[0], Tokens(answer.tokens[:4]))
    recorder.encoder.put(numbers[0], Switch(Channel.REASONING))
    recorder.encoder.put(numbers[0], Tokens(answer.tokens[4:9]))
    recorder.encoder.open(numbers[1], Coding.TEXT)
    recorder.encoder.put(numbers[1], Text(b"hello there"))
    for number in numbers:
        recorder.encoder.put(number, Finished(Finish.LENGTH))
    one = audited(recorder.finish())
    assert one.tally.not_scored == {"another channel than the content": 1, "foreign text": 1}
    assert one.tally.tokens == 4


def test_tokens_behind_a_head_are_the_models_own() -> None:
    answer = played(1, 30)[0]
    for marked, late in ((True, False), (True, True), (False, False)):
        recorder = TapeRecorder(weak())
        body = answer.request.body | ({"markup": 1} if marked else {})
        key = answer.request.noise_key
        number = recorder.request(Request(uid="0" * 32, body=body, noise_key=key))
        recorder.encoder.open(number, Coding.COUPLED)
        first = int(late)  # tokens ahead of the switch
        for event in (
            Tokens(answer.tokens[:first]),
            Switch(Channel.REASONING),
            Tokens(answer.tokens[first:4]),
        ):
            recorder.encoder.put(number, event)
        recorder.encoder.put(number, Finished(Finish.LENGTH))
        one = audited(recorder.finish())
        refused = {"another channel than the content": 1}
        assert one.tally.not_scored == ({} if marked and not late else refused)
        assert one.tally.tokens == (4 if marked and not late else int(late))


def test_answers_behind_kept_reasoning_count_in_full() -> None:
    answer = played(1, 30)[0]
    for head, refused in (
        ([Channel.REFUSAL], True),
        ([Channel.REFUSAL, Channel.TOOL_NAME], True),
        ([Channel.REASONING, Channel.REFUSAL], False),
    ):
        recorder = TapeRecorder(weak())
        body = answer.request.body | {"markup": 1, "reasoning": "keep"}
        key = answer.request.noise_key
        number = recorder.request(Request(uid="0" * 32, body=body, noise_key=key))
        recorder.encoder.open(number, Coding.COUPLED)
        for event in (*map(Switch, head), Tokens(answer.tokens[:9]), Finished(Finish.LENGTH)):
            recorder.encoder.put(number, event)
        one = audited(recorder.finish())
        why = "reasoning that stayed inside decides the tokens"
        assert one.tally.not_scored == ({why: 1} if refused else {})
        if refused:
            assert one.credit_bytes <= one.replay.checked_bits / 8


def test_requests_that_the_scorer_cannot_follow_count_in_full() -> None:
    answers = list(played(4, 30))
    changes: tuple[dict[str, Any], ...] = (
        {"tools": [{}]},
        {"messages": [{"role": "user", "content": "x" * 2000}]},
        {"top_k": 5},
        {"logit_bias": {"1": 100}},
    )
    for number, change in enumerate(changes):
        request = answers[number].request
        body = request.body | change
        answers[number] = replace(
            answers[number],
            request=Request(uid=request.uid, body=body, noise_key=request.noise_key),
        )
    one = audited(tape_of(weak(), answers))
    assert one.tally.not_scored["the scorer cannot apply a field of the request"] == 3
    assert sum(one.tally.not_scored.values()) == 4
    assert one.credit_bytes <= one.replay.checked_bits / 8


def test_a_weak_model_that_is_not_here_is_said() -> None:
    tape = tape_of(tiny(3), played(1, 30))
    one = audited(tape)
    assert list(one.replay.faults) == [f"weak model {tiny(3).digest.hex()[:16]} is not here"]
    assert one.credit_bytes == 0
    assert one.replay.data_bytes >= 8


def test_from_the_first_byte_that_cannot_be_decoded_all_counts() -> None:
    told = records(tape_of(weak(), played(6, 40), tick_ms=500))
    whole = audited(retaped(told)).credit_bytes
    outs = [n for n, record in enumerate(told) if isinstance(record, Outward)]
    middle = outs[len(outs) // 2]
    told[middle] = replace(told[middle], data=b"\xff" * len(told[middle].data))
    one = audited(retaped(told))
    assert 0 < one.credit_bytes < whole


def test_a_tape_that_ends_in_the_middle_credits_what_was_complete() -> None:
    tape = tape_of(weak(), played())
    one = auditor()
    one.feed(tape[: len(tape) * 2 // 3])
    before = one.credit_bytes
    one.feed(tape[len(tape) * 2 // 3 :])
    assert one.credit_bytes >= before


def test_a_share_credits_by_the_bound_and_never_more_than_all() -> None:
    """Long runs of cheap segments: at f = 20 % the bound leaves something to credit."""
    answers = played(6, 40)
    tape = tape_of(weak(), answers)
    whole = audited(tape)
    part = audited(tape, Rules(share=0.2, bound_bits=2048, delta=0.5))
    assert part.tally.drawn <= whole.tally.drawn
    assert part.credit_bytes <= whole.credit_bytes
    assert part.bound_bits() >= whole.bound_bits()  # at f = 1 it is the sum itself
    always = audited(tape, Rules(share=0.01, bound_bits=2))
    assert always.tally.drawn == always.tally.segments
    assert always.credit_bytes == whole.credit_bytes


def test_hostile_tapes_are_refused_or_counted_in_full() -> None:
    """Changed bytes outward and inward: no error but a refusal, and never a credit for more than
    what left."""
    tape = tape_of(weak(), played(3, 20), tick_ms=500)
    told = records(tape)
    rng = random.Random(9)
    for _ in range(25):
        changed = list(told)
        for _ in range(rng.choice((1, 3))):
            at = rng.randrange(1, len(changed) - 1)
            record = changed[at]
            if not isinstance(record, Inward | Outward) or not record.data:
                continue
            data = bytearray(record.data)
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            changed[at] = replace(record, data=bytes(data))
        one = audited(retaped(changed))
        assert one.credit_bytes <= one.replay.data_bytes
    with pytest.raises(InputError, match="refused at byte"):
        auditor().feed(tape[:60] + b"\xff" * 9)


def test_the_same_answer_under_plain_coding_is_explained_too() -> None:
    answers: list[Played] = list(played())
    one = audited(tape_of(weak(), answers, coding=Coding.PLAIN))
    assert one.tally.off == 0
    assert one.credit_bytes > 0.5 * one.replay.bits["tokens"] / 8


def test_reasons_are_bounded_and_reports_plain() -> None:
    found: dict[str, int] = {}
    for number in range(1000):
        reasons.count(found, f"{number} \x1b[2J" + "x" * 1000)
    assert len(found) == reasons.MAX_REASONS + 1
    assert found[reasons.OTHERS] == 1000 - reasons.MAX_REASONS
    assert max(map(len, found)) <= reasons.MAX_CHARACTERS
    one = audited(tape_of(weak(), played(1, 5)))
    lines = text(report(one) | {"not_scored": found})
    assert "\x1b" not in "".join(lines)
