"""The decoding end of a link: bytes in, events of many answers out.

The bytes may come from an attacker: every byte string decodes to something or raises
LinkError, in bounded memory, with model steps bounded by the bytes (see ``LinkLimits``).
Few bytes may hold many steps, so they are decoded in batches (``pacing.py``); between two, the
caller may drop the link or lend the model. Each symbol is decided as soon as the bytes so far
determine it. One thread at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass

from narrows.coding.events import (
    AnswerSpec,
    Channel,
    Coding,
    Event,
    Failed,
    Finished,
    Opened,
    Switch,
    Text,
    Tokens,
)
from narrows.coding.link.answer import Answer, CodeFactory, Item, Kind
from narrows.coding.link.ends import DecoderPort
from narrows.coding.link.items import prepare_rows, read_context
from narrows.coding.link.options import LinkOptions
from narrows.coding.link.rounds import Grammar
from narrows.coding.pacing import Step
from narrows.coding.tokens.code import TokenCode
from narrows.errors import LinkError
from narrows.models.api import TokenModel


@dataclass(frozen=True, slots=True)
class OpenAnswer:
    """An answer that has begun. ``verified``: its first tokens (``resume`` included) that a
    check has covered; a new link may resume behind them."""

    number: int
    coding: Coding
    verified: tuple[int, ...]
    tokens: int


class LinkDecoder:
    def __init__(
        self,
        model: TokenModel,
        options: LinkOptions | None = None,
        make_code: CodeFactory = TokenCode,
        make_port: Callable[[Callable[[], None]], DecoderPort] = DecoderPort,
    ) -> None:
        """``make_port``: a port that keeps account of what it decodes, say."""
        self.options = options or LinkOptions()
        self._model = model
        self._port = make_port(lambda: self._grammar.keep())
        self._grammar = Grammar(
            self._port, self, model, self.options.limits, make_code, self.options.noise
        )
        self._events: list[tuple[int, Event]] = []
        self._dead: LinkError | None = None
        self._running = self._run()

    def request(self, spec: AnswerSpec) -> int:
        """The answer's number; requests are counted alike on both ends."""
        self._grammar.specs.append(spec)
        return len(self._grammar.specs) - 1

    def feed(self, data: bytes) -> list[tuple[int, Event]]:
        """All that the bytes so far decide, however long that takes. Errors as of ``step``."""
        events = self.step(data)
        while self.more:
            events += self.step(b"")
        return events

    @property
    def more(self) -> bool:
        """Whether the last step stopped for its length: there is more to decode at once."""
        return self._grammar.pacer.paused and self._dead is None

    @property
    def position(self) -> int:
        """Bytes that are decoded."""
        return self._port.position

    def step(self, data: bytes) -> list[tuple[int, Event]]:
        """Take ``data``; decode at most one batch. LinkError: the link is dead, and stays so."""
        if self._dead is not None:
            raise self._dead
        self._port.coder.feed(data)
        self._grammar.pacer.begin()
        try:
            next(self._running)
        except LinkError as error:
            self._dead = error
            self._grammar.close()
            raise
        except BaseException:
            self._dead = LinkError("the decoder was interrupted by an error of this process")
            self._grammar.close()
            raise
        events, self._events = self._events, []
        return events

    def open_answers(self) -> list[OpenAnswer]:
        """Answers begun and not ended, in order of opening; valid behind an error too."""
        return [
            OpenAnswer(
                answer.number,
                answer.coding,
                tuple(answer.tokens[: answer.verified]),
                len(answer.tokens),
            )
            for answer in self._grammar.active
            if not answer.ended
        ]

    def close(self) -> None:
        """Give the model's memory back; for a link that is over. Idempotent."""
        self._dead = self._dead or LinkError("the link has been closed")
        self._grammar.close()

    def _run(self) -> Generator[None, None, None]:
        while True:
            yield from self._grammar.act(None)

    # -- the grammar's side ----------------------------------------------------------------

    def opened(self, answer: Answer) -> None:
        self._events.append((answer.number, Opened(answer.coding, answer.spec.noise)))

    def before_batch(self, answers: list[Answer]) -> Step:
        pacer = self._grammar.pacer
        pacer.keep()
        yield from pacer.spend(len(answers))
        wanted = [answer for answer in answers if not answer.full]
        for answer in wanted:
            if answer.stream is not None and not answer.rows:
                yield from read_context(self._model, answer, pacer)
        prepare_rows(self._model, wanted)

    def next_item(self, answer: Answer) -> Item | None:
        return None

    def coded(self, answer: Answer, item: Item) -> None:
        number = answer.number
        if item.kind is Kind.SWITCH:
            self._events.append((number, Switch(Channel(item.value))))
        elif item.kind is Kind.BYTE:
            self._text(number, bytes([item.value]))
        elif item.end is not None:
            if item.end.usage is not None:
                self._events.append((number, item.end.usage))
            if item.end.failure is not None:
                self._events.append((number, Failed(item.end.failure)))
            elif item.end.reason is not None:
                self._events.append((number, Finished(item.end.reason)))
        elif answer.coding is Coding.TEXT:
            self._text(number, self._model.tokenizer.token_bytes(item.value))
        else:
            self._events.append((number, Tokens((item.value,))))

    def _text(self, number: int, data: bytes) -> None:
        self._events.append((number, Text(data)))
