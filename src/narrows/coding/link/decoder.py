"""The decoding end of a link: bytes in, events of many answers out.

The bytes may come from an attacker: every byte string decodes to something or raises
LinkError, in bounded memory, with model steps bounded by the bytes (see ``LinkLimits``).
Each symbol is decided as soon as the bytes so far determine it. One thread at a time.
"""

from __future__ import annotations

from collections.abc import Generator
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
from narrows.coding.link.items import keep_rows, prepare_rows
from narrows.coding.link.options import LinkOptions
from narrows.coding.link.rounds import Grammar
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
    ) -> None:
        self.options = options or LinkOptions()
        self._model = model
        self._port = DecoderPort(self._before_wait)
        self._grammar = Grammar(self._port, self, model, self.options.limits, make_code)
        self._events: list[tuple[int, Event]] = []
        self._dead: LinkError | None = None
        self._running = self._run()

    def request(self, spec: AnswerSpec) -> int:
        """The answer's number; requests are counted alike on both ends."""
        self._grammar.specs.append(spec)
        return len(self._grammar.specs) - 1

    def feed(self, data: bytes) -> list[tuple[int, Event]]:
        """All that the bytes so far decide. LinkError: the link is dead, and stays so."""
        if self._dead is not None:
            raise self._dead
        self._port.coder.feed(data)
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

    def _before_wait(self) -> None:
        keep_rows(self._grammar.active)

    # -- the grammar's side ----------------------------------------------------------------

    def opened(self, answer: Answer) -> None:
        self._events.append((answer.number, Opened(answer.coding)))

    def before_turn(self, turn: list[tuple[Answer, int]]) -> None:
        keep_rows(self._grammar.active)
        prepare_rows(self._model, [answer for answer, _ in turn if not answer.full])

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
