"""One item of one answer: a token, or one of the rare things behind an escape.

An answer that ends as models end is closed by the weak model's own end token, so it costs what
the model thinks of it; every other end is an escape. Behind either: the reason, the usage and
the check.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Protocol

import numpy as np

from narrows.coding.events import Channel, Coding, Failure, Finish, Usage
from narrows.coding.link.answer import Answer, End, Item, Kind, Rows, context_of
from narrows.coding.link.integrity import END_BITS, IntegrityCheck
from narrows.coding.link.symbols import Bit, Choice, Signed, SymbolPort
from narrows.coding.pacing import BATCH_STEPS, Pacer, Step
from narrows.errors import LinkError
from narrows.models.api import Logits, Stream, TokenModel

NATURAL = (Finish.STOP, Finish.TOOL_CALLS)
"""Ends that the end token stands for."""

USAGE_LIMIT = 1 << 30

ItemStep = Generator[None, None, Item]


class Side(Protocol):
    """What an end does with the grammar: the encoder gives items, the decoder takes them."""

    def opened(self, answer: Answer) -> None: ...

    def before_batch(self, answers: list[Answer]) -> Step:
        """Have the logits ready for those of at most ``BATCH_STEPS`` answers that have begun
        and whose next item may be a token."""

    def next_item(self, answer: Answer) -> Item | None:
        """The item to encode, None to decode."""

    def coded(self, answer: Answer, item: Item) -> None: ...


class ItemGrammar:
    def __init__(
        self, port: SymbolPort, side: Side, model: TokenModel, check: IntegrityCheck, pacer: Pacer
    ) -> None:
        self._port = port
        self._pacer = pacer
        self._side = side
        self._model = model
        self._check = check
        self._token_bytes = model.tokenizer.token_bytes
        self._eos = model.tokenizer.eos_ids
        self._special = model.tokenizer.special_ids
        self._escape = [Bit(1, 255, 8192), Bit(2, 254, 8192), Bit(16, 48)]
        self._kind = [Choice(5), Choice(5)]
        self._channel = [Choice(len(Channel)) for _ in Channel]
        self._reason = [Choice(len(Finish), ones=(120,)), Choice(len(Finish), ones=(8, 200))]
        self._tool_reason = Choice(len(Finish), ones=(16, 2, 120))
        self._failure = Choice(len(Failure))
        self._has_usage = Bit(16, 16)
        self._prompt_usage = [Signed() for _ in Coding]
        self._completion_usage = [Signed() for _ in Coding]

    def item(self, answer: Answer) -> ItemStep:
        item = self._side.next_item(answer)
        if not answer.full:
            wanted = None if item is None else int(item.kind is not Kind.TOKEN)
            context = 2 if answer.escaped else int(answer.token_count == 0)
            escape = yield from self._port.bit(self._escape[context], wanted)
            if not escape:
                answer.escaped = False
                return (yield from self._token(answer, item))
        answer.escaped = True
        value = None if item is None else int(item.kind)
        chosen = Kind((yield from self._kind[int(answer.full)].code(self._port, value)))
        if chosen in (Kind.END, Kind.FAIL):
            end = yield from self._end(answer, item, chosen, False)
            return Item(chosen, end=end)
        answer.switches_left -= 1
        if answer.switches_left < 0:
            raise LinkError("an answer switches without end")
        if chosen is Kind.SWITCH:
            return (yield from self._switch(answer, item))
        if chosen is Kind.BYTE:
            return (yield from self._byte(answer, item))
        return (yield from self._literal(answer, item))

    # -- tokens ----------------------------------------------------------------------------

    def _token(self, answer: Answer, item: Item | None) -> ItemStep:
        yield from self._ready(answer)
        answer.code.prepare(self._logits(answer))
        token = yield from self._port.token(answer.code, None if item is None else item.value)
        answer.code.update(token)
        if token in self._eos:
            answer.token_count += 1
            end = yield from self._end(answer, item, Kind.END, True)
            return Item(Kind.END, token, end=end)
        return self._take(answer, token)

    def _take(self, answer: Answer, token: int) -> Item:
        size = 0
        if answer.coding is Coding.TEXT:
            size = len(self._token_bytes(token))
            if token in self._special or size == 0:
                raise LinkError(f"token {token} cannot come from text")
            self._grow(answer, size)
        else:
            answer.items_left -= 1
        answer.tokens.append(token)
        answer.token_count += 1
        answer.unfed = None if answer.rows else token  # rows left: the model has read it already
        return Item(Kind.TOKEN, token, size=size)

    def _grow(self, answer: Answer, size: int) -> None:
        answer.bytes_left -= size
        answer.items_left = max(answer.bytes_left, 0)
        if answer.bytes_left < 0:
            raise LinkError("an answer is longer than its limit")

    def _ready(self, answer: Answer) -> Step:
        """Where no batch has made the answer's row: its first token, mostly."""
        if not answer.rows:
            yield from read_context(self._model, answer, self._pacer)
            prepare_rows(self._model, [answer])

    def _logits(self, answer: Answer) -> Logits:
        rows, index = answer.rows.popleft()
        row: Logits = rows.array[index]
        return row

    # -- escapes ---------------------------------------------------------------------------

    def _switch(self, answer: Answer, item: Item | None) -> ItemStep:
        value = None if item is None else item.value
        channel = yield from self._channel[answer.channel].code(self._port, value)
        answer.channel = Channel(channel)
        return Item(Kind.SWITCH, channel)

    def _byte(self, answer: Answer, item: Item | None) -> ItemStep:
        """A byte that no token has. The weak model never sees it."""
        if answer.coding is not Coding.TEXT:
            raise LinkError("a byte in an answer of tokens")
        byte = yield from self._port.raw(8, None if item is None else item.value)
        self._grow(answer, 1)
        return Item(Kind.BYTE, byte, size=1)

    def _literal(self, answer: Answer, item: Item | None) -> ItemStep:
        """An end token that does not end: some backends are told to ignore it."""
        value = None if item is None else item.value
        token = yield from self._port.raw(32, value)
        if answer.coding is Coding.TEXT or token not in self._eos or answer.full:
            raise LinkError("a literal token where none may be")
        yield from self._ready(answer)
        answer.rows.popleft()
        return self._take(answer, token)

    # -- the end ---------------------------------------------------------------------------

    def _end(
        self, answer: Answer, item: Item | None, kind: Kind, natural: bool
    ) -> Generator[None, None, End]:
        given = None if item is None else item.end
        reason: Finish | None = None
        failure: Failure | None = None
        if kind is Kind.FAIL:
            code = None if given is None or given.failure is None else int(given.failure)
            failure = Failure((yield from self._failure.code(self._port, code)))
        else:
            tools = answer.channel in (Channel.TOOL_NAME, Channel.TOOL_ARGUMENTS)
            model = self._tool_reason if natural and tools else self._reason[int(not natural)]
            code = None if given is None or given.reason is None else int(given.reason)
            reason = Finish((yield from model.code(self._port, code)))
        usage = yield from self._usage(answer, given, natural)
        answer.ended = True
        yield from self._check.check(END_BITS)
        return End(reason, failure, usage)

    def _usage(
        self, answer: Answer, given: End | None, natural: bool
    ) -> Generator[None, None, Usage | None]:
        """Both numbers as differences from what both ends already know."""
        wanted = None if given is None else int(given.usage is not None)
        if not (yield from self._port.bit(self._has_usage, wanted)):
            return None
        usage = None if given is None else given.usage
        guess = (len(answer.spec.prompt), len(answer.spec.resume) + answer.token_count)
        prompt = yield from self._prompt_usage[answer.coding].code(
            self._port, None if usage is None else usage.prompt_tokens - guess[0]
        )
        completion = yield from self._completion_usage[answer.coding].code(
            self._port, None if usage is None else usage.completion_tokens - guess[1]
        )
        counts = (guess[0] + prompt, guess[1] + completion)
        if not all(0 <= count < USAGE_LIMIT for count in counts):
            raise LinkError("a usage count is out of range")
        return Usage(*counts)


def read_context(model: TokenModel, answer: Answer, pacer: Pacer) -> Step:
    """Have the model read what lies before the answer's next token, in parts. A stream is made
    for the first token, so an answer that fails before it costs neither steps nor memory."""
    pacer.keep()
    if answer.stream is None:
        yield from pacer.spend(1)
        answer.stream = model.open(context_of(answer.spec, model), answer.spec.scope, lazy=True)
    left = model.catch_up(answer.stream, 0)
    while left:
        part = min(left, BATCH_STEPS)
        yield from pacer.spend(part)
        left = model.catch_up(answer.stream, part)


def prepare_rows(model: TokenModel, answers: list[Answer]) -> None:
    """See that each answer has a row of logits, by one batched step for all that need one.

    Rows of earlier steps are copied first: the model's arrays hold until its next call."""
    keep_rows(answers)
    waiting: list[tuple[Answer, Stream, int]] = []
    for answer in answers:
        if answer.rows or answer.stream is None:
            continue
        if answer.unfed is None:
            first = Rows(model.logits(answer.stream)[np.newaxis, :])
            first.keep()
            answer.rows.append((first, 0))
        else:
            waiting.append((answer, answer.stream, answer.unfed))
    if not waiting:
        return
    rows = model.advance([stream for _, stream, _ in waiting], [unfed for _, _, unfed in waiting])
    batch = Rows(rows)
    for index, (answer, _, _) in enumerate(waiting):
        answer.unfed = None
        answer.rows.append((batch, index))


def keep_rows(answers: list[Answer]) -> None:
    """Copy those that hold only until the model's next call: of an answer, its newest at most,
    since rows are added behind rows that are kept."""
    for answer in answers:
        if answer.rows:
            answer.rows[-1][0].keep()
