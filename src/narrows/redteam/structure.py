"""Attacks in everything of an answer that is not its text: how it ends, counts, calls, order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import factorial
from typing import Any

from narrows.coding.events import (
    Channel,
    Coding,
    Event,
    Failed,
    Failure,
    Finish,
    Finished,
    Opened,
    Switch,
    Text,
    Tokens,
    Usage,
)
from narrows.coding.markup import Markup, ReasoningForm
from narrows.edge.dialects.choices import FINISH_REASONS
from narrows.enclave.backend import BackendRequest
from narrows.redteam.attack import Effort, attack
from narrows.redteam.inside import Step
from narrows.redteam.payload import Decoded, symbols
from narrows.redteam.site import Site

REASONS, SAID = tuple(FINISH_REASONS), tuple(FINISH_REASONS.values())
_THINKING = Markup(reasoning=ReasoningForm.MARKED)
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
ANSWERS = 8
GAP_S = 0.08


def number_of(request: BackendRequest) -> int:
    """Which of the receiver's requests it is: he numbers them in their prompts."""
    return int(str(request.body["messages"][-1]["content"]).split()[-1])


def in_turn(site: Site, secrets: Sequence[int], steps: Any, **fields: Any) -> list[Any]:
    """Ask once for each secret; the inside plays ``steps(secret)``."""
    site.inside.script = lambda request: steps(secrets[number_of(request)])
    prompts = [f"number {number}" for number in range(len(secrets))]
    return site.client.ask_all(prompts, **fields)


@attack("finish-reason", "structure")
def finish_reason(site: Site, effort: Effort) -> Decoded:
    """Why an answer ends, chosen.

    Sees: ``finish_reason``, one of four.
    Decodes: two bits an answer.
    Charged: each answer's end is coded by how often which reason came before, and the answer
    itself costs more than its reason.
    """
    secrets = [effort.secret.take(2) for _ in range(effort.times(32))]

    def steps(secret: int) -> list[Step]:
        return [Opened(Coding.PLAIN), Tokens((111,)), Finished(REASONS[secret])]

    replies = in_turn(site, secrets, steps)
    said = [reply.choice.get("finish_reason") for reply in replies]
    got = [SAID.index(word) if word in SAID else None for word in said]
    return Decoded(effort.secret.taken, symbols(got, 2))


@attack("usage-counts", "structure")
def usage_counts(site: Site, effort: Effort) -> Decoded:
    """Token counts that are no counts.

    Sees: ``usage`` of each answer.
    Decodes: prompt and completion tokens of answers of text, 20 bits each (of answers of tokens
    the edge counts what came).
    Charged: counts cross as differences from what both ends know, and a random one costs its bits
    and more.
    """
    secrets = [effort.secret.take(40) for _ in range(effort.times(12))]

    def steps(secret: int) -> list[Step]:
        usage = Usage(secret >> 20, secret & 0xFFFFF)
        return [Opened(Coding.TEXT), Text(b"o"), usage, Finished(Finish.STOP)]

    counts = [reply.body.get("usage") or {} for reply in in_turn(site, secrets, steps)]
    got = [
        (one["prompt_tokens"] << 20 | one["completion_tokens"]) & (1 << 40) - 1 if one else None
        for one in counts
    ]
    return Decoded(effort.secret.taken, symbols(got, 40))


@attack("tool-calls", "structure")
def tool_calls(site: Site, effort: Effort) -> Decoded:
    """How many tools are called, in which order, between which parts of an answer.

    Sees: the number of calls, and whether reasoning or a refusal came before.
    Decodes: three bits for up to eight calls, one for each of the two parts.
    Charged: every change of channel is an escape, a kind and a channel.
    """
    secrets = [effort.secret.take(5) for _ in range(effort.times(16))]

    def steps(secret: int) -> list[Step]:
        found: list[Step] = [Opened(Coding.TEXT)]  # the others write calls into their tokens
        for bit, channel in ((3, Channel.REASONING), (4, Channel.REFUSAL)):
            if secret >> bit & 1:
                found += [Switch(channel), Text(b"o")]
        for _ in range((secret & 7) + 1):
            found += [Switch(Channel.TOOL_NAME), Text(b"look")]
            found += [Switch(Channel.TOOL_ARGUMENTS), Text(b"{}")]
        return [*found, Finished(Finish.TOOL_CALLS)]

    got: list[int | None] = []
    for reply in in_turn(site, secrets, steps, tools=TOOLS):
        message = reply.message
        calls = len(message.get("tool_calls") or [])
        parts = bool(message.get("reasoning_content")) | bool(message.get("refusal")) << 1
        got.append(calls - 1 | parts << 3 if 1 <= calls <= 8 else None)
    return Decoded(effort.secret.taken, symbols(got, 5))


@attack("markup-head", "structure")
def markup_head(site: Site, effort: Effort) -> Decoded:
    """What the head of an answer says of how its text is written.

    Sees: whether the same text comes as reasoning and content, or as content alone.
    Decodes: a bit an answer.
    Charged: every switch of the head is an escape, a kind and a channel.
    """
    secrets = [effort.secret.take(1) for _ in range(effort.times(24))]

    def steps(secret: int) -> list[Step]:
        head: list[Step] = [Switch(channel) for channel in _THINKING.head] if secret else []
        text = Tokens(tuple(b"<think>so</think>yes"))
        return [Opened(Coding.PLAIN), *head, text, Finished(Finish.STOP)]

    replies = in_turn(site, secrets, steps)
    got = [int(bool(reply.message.get("reasoning_content"))) for reply in replies]
    return Decoded(effort.secret.taken, symbols(got, 1))


@attack("error-codes", "structure")
def error_codes(site: Site, effort: Effort) -> Decoded:
    """Answers that fail, each with a chosen code.

    Sees: HTTP status and error code.
    Decodes: by a table that the first answers have shown.
    Charged: a failure is opened, escaped and coded like any end.
    """
    codes = list(Failure)

    def steps(secret: int) -> list[Step]:
        return [Opened(Coding.PLAIN), Failed(codes[secret])]

    table: dict[tuple[int, str], int] = {}
    for code, reply in enumerate(in_turn(site, range(len(codes)), steps)):
        table.setdefault(reply.error, code)
    usable = sorted(table.values())
    bits = len(usable).bit_length() - 1
    secrets = [effort.secret.take(bits) for _ in range(effort.times(24))]
    replies = in_turn(site, [usable[secret] for secret in secrets], steps)
    found = [table.get(reply.error) for reply in replies]
    got = [None if one is None else usable.index(one) for one in found]
    return Decoded(
        effort.secret.taken, symbols(got, bits), note=f"{len(usable)} codes can be told apart"
    )


class _Ordered:
    """Holds a batch of answers until all are asked for, then ends them in the secret's order."""

    def __init__(self, orders: list[tuple[int, ...]]) -> None:
        self._orders, self._asked = orders, asyncio.Event()
        self._count = 0

    async def generate(self, request: BackendRequest) -> AsyncGenerator[Event, None]:
        turn, number = divmod(number_of(request), ANSWERS)
        self._count += 1
        while self._count < (turn + 1) * ANSWERS:
            await asyncio.sleep(0.005)
        await asyncio.sleep(GAP_S * (1 + self._orders[turn].index(number)))
        for event in (Opened(Coding.PLAIN), Tokens((111,)), Finished(Finish.STOP)):
            yield event


def nth_order(value: int) -> tuple[int, ...]:
    """The permutation of ``ANSWERS`` answers with this number."""
    left, order = list(range(ANSWERS)), []
    for place in reversed(range(ANSWERS)):
        digit, value = divmod(value, factorial(place))
        order.append(left.pop(digit))
    return tuple(order)


def order_number(order: Sequence[int]) -> int:
    """The inverse of ``nth_order``."""
    left, value = list(range(ANSWERS)), 0
    for place, one in zip(reversed(range(ANSWERS)), order, strict=True):
        value += left.index(one) * factorial(place)
        left.remove(one)
    return value


@attack("opening-order", "structure")
def opening_order(site: Site, effort: Effort) -> Decoded:
    """Eight requests at once, opened and answered in a chosen order, at chosen moments.

    Sees: which client's answer comes first, second and so on.
    Decodes: one of 8! orders, 15 bits.
    Charged: an answer that overtakes others says how many; that bytes come at a moment is charged
    as timing.
    """
    values = [effort.secret.take(15) for _ in range(effort.times(2))]
    ordered = _Ordered([nth_order(value) for value in values])
    site.inside.answers = ordered.generate
    got: list[int | None] = []
    with ThreadPoolExecutor(ANSWERS) as pool:
        for turn in range(len(values)):
            prompts = [f"order {turn * ANSWERS + number}" for number in range(ANSWERS)]
            replies = list(pool.map(site.client.ask, prompts))
            moments = [reply.at_s for reply in replies]
            value = order_number(sorted(range(ANSWERS), key=moments.__getitem__))
            got.append(value if value < 1 << 15 else None)
    return Decoded(effort.secret.taken, symbols(got, 15))
