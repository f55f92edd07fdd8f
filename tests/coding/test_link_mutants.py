"""What the vectors tell apart: a decoder that reads one thing of docs/link-format.md otherwise
fails at least one of them. The decoder is that of ``second/``; each reading changes it once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from coding.link_scripts import Vector, as_pinned
from coding.second.coder import Bit, Choice, Count, Refused, Signed
from coding.second.link import REST, Answer, Link
from coding.second_vectors import second
from coding.test_link_vectors import VECTORS

SLOW_LAST = sorted(VECTORS, key=lambda vector: len(str(vector["costs"])) + len(vector["bytes"]))


def reads(vector: Vector, link: type[Link]) -> bool:
    try:
        return as_pinned(vector, second(vector, link))
    except Refused:
        return False


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_the_second_decoder_reads_every_vector(vector: Vector) -> None:
    assert reads(vector, Link)


def part(of: type[Any], **changed: Any) -> type[Any]:
    return type(of.__name__, (of,), changed)


def with_tokens_behind(step: int) -> dict[str, Any]:
    """The weak model's place behind a BYTE or LITERAL, moved."""

    def moved(self: Link, answer: Answer) -> None:
        answer.context = answer.context[:-1] if step < 0 else [*answer.context, 0]

    return {"literal_coded" if step < 0 else "byte_coded": moved}


def room_in_tokens(self: Link, answer: Answer, data: bytes) -> None:
    """A text answer that is never full: its bytes are counted and not looked at."""
    room = answer.room
    Link.text(self, answer, data)
    answer.room = room


def halved_without_one(count: int) -> int:
    return count // 2


def halved_upwards(count: int) -> int:
    return (count + 1) // 2


def tool_end_always(self: Link, answer: Answer, natural: bool) -> Choice:
    return Link.reason(self, answer, True)


def no_tool_end(self: Link, answer: Answer, natural: bool) -> Choice:
    return self.natural_end if natural else self.said_end


def tool_arguments_alone(self: Link, answer: Answer, natural: bool) -> Choice:
    if natural and answer.channel == 3:
        return self.tool_end
    return no_tool_end(self, answer, natural)


def behind_the_check(self: Link, begun_at: int) -> int:
    return self.coder.position


def at_multiples(self: Link, begun_at: int) -> int:
    every = self.options["check_bytes"]
    return begun_at // every * every


def last_count_kept(self: Link, before: int, count: int) -> int:
    return Link.last_count(self, before, count) if count else before


def rest_as_one(self: Link, before: int, count: int) -> int:
    return 1 if count == REST else min(count, 2)


def last_count_to_three(self: Link, before: int, count: int) -> int:
    return 2 if count == REST else min(count, 3)


def one_for_both(self: Link, answer: Answer, which: int) -> tuple[int, ...]:
    return (answer.coding,)


def halving(halved: Callable[[int], int]) -> dict[str, Any]:
    return {"bit": part(Bit, halved=staticmethod(halved))}


def limited(of: type[Any], limit: int) -> type[Any]:
    return part(of, limit=limit)


READINGS: dict[str, dict[str, Any]] = {
    "the last count lasts over silence": {"last_count": last_count_kept},
    "the last count goes to 3": {"last_count": last_count_to_three},
    "a check is counted from where the last one ended": {"checked_at": behind_the_check},
    "a check is counted from a multiple": {"checked_at": at_multiples},
    "counters are halved without the 1": {
        "bit": part(Bit, halved=staticmethod(halved_without_one))
    },
    "counters are halved upwards": halving(halved_upwards),
    "Choice adapts like Bit": {"choice": limited(Choice, 4096)},
    "Choice adapts like Count": {"choice": limited(Choice, 256)},
    "Signed adapts like Bit": {"signed": limited(Signed, 4096)},
    "Signed adapts like Choice": {"signed": limited(Signed, 512)},
    "Count adapts like Bit": {"count": limited(Count, 4096)},
    "Count adapts like Choice": {"count": limited(Count, 512)},
    "REST adapts like Bit": {"REST_LIMIT": 4096},
    "REST adapts like Count": {"REST_LIMIT": 256},
    "max_run adapts like Bit": {"MAX_RUN_LIMIT": 4096},
    "max_run adapts like Count": {"MAX_RUN_LIMIT": 256},
    "escape adapts like Bit": {"ESCAPE_LIMIT": 4096},
    "escape never forgets": {"ESCAPE_LIMIT": 1 << 40},
    "Signed has one context": {"usage_context": lambda self, answer, which: (which,)},
    "Signed has one for both counts": {
        "usage_context": lambda self, answer, which: (answer.coding,)
    },
    "a noise family has one context": {"family_context": lambda self: 0},
    "noise starts at what is said": {"noise_guess": lambda self, prompt_tokens: 0},
    "SWITCH has one context": {"channel_context": lambda self, answer: 0},
    "p goes to 6": {"SILENCE_CAP": 6},
    "p goes to 8": {"SILENCE_CAP": 100},
    "s goes to 5": {"STEADY_CAP": 5},
    "s has no cap": {"STEADY_CAP": 60},
    "END in a tool call is as an end token": {"reason": tool_end_always},
    "an end token in a tool call is as any": {"reason": no_tool_end},
    "a tool's name is no tool call": {"reason": tool_arguments_alone},
    "the weak model does not see a LITERAL": with_tokens_behind(-1),
    "the weak model sees a BYTE": with_tokens_behind(1),
    "a text answer is never full": {"text": room_in_tokens},
    "age goes to 23": {"AGE_CAP": 23},
    "age has no cap": {"AGE_CAP": 1 << 20},
    "one byte is held": {"HELD_CAP": 1},
    "three bytes are held": {"HELD_CAP": 3},
    "any bytes are held": {"HELD_CAP": 9},
}


@pytest.mark.parametrize("reading", READINGS)
def test_a_vector_shows_another_reading(reading: str) -> None:
    link = part(Link, **READINGS[reading])
    assert not all(reads(vector, link) for vector in SLOW_LAST)


def test_a_push_decides_every_mark() -> None:
    """That a PUSH drops the marks is no choice of a reader: the rule finds all of them decided."""

    def pushed(self: Link) -> None:
        assert all(self.decided(*mark) for mark in self.marks)

    link = part(Link, pushed=pushed)
    assert all(reads(vector, link) for vector in VECTORS)
