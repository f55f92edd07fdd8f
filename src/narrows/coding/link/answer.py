"""One answer's state on a link, alike at both ends."""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from narrows.coding.events import AnswerSpec, Channel, Coding, Failure, Finish, Usage
from narrows.coding.link.options import LinkLimits
from narrows.coding.link.symbols import Code
from narrows.coding.tokens.calibrate import Calibration
from narrows.models.api import Logits, Stream, TokenModel


class Kind(enum.IntEnum):
    """What an item is. TOKEN is the rule; the others follow an escape, in this order."""

    TOKEN = -1
    SWITCH = 0
    END = 1
    FAIL = 2
    BYTE = 3
    LITERAL = 4


@dataclass(frozen=True, slots=True)
class End:
    """How an answer ends. ``reason`` or ``failure``, never both."""

    reason: Finish | None
    failure: Failure | None = None
    usage: Usage | None = None


@dataclass(frozen=True, slots=True)
class Item:
    """One step of an answer. ``value``: token, channel, byte; ``end`` for END and FAIL.
    ``size``: bytes of text. Encoder only: ``came_ms``, when it was put, and ``held_ms``, how
    long it may have been held back before it was an item; the schedule counts from there."""

    kind: Kind
    value: int = 0
    end: End | None = None
    size: int = 0
    came_ms: float = 0.0
    held_ms: float = 0.0

    @property
    def ready_ms(self) -> float:
        return self.came_ms + self.held_ms


class Rows:
    """Logits of one batched step, shared by the answers that were in it."""

    __slots__ = ("array", "own")

    def __init__(self, array: Logits, own: bool = False) -> None:
        self.array = array
        self.own = own

    def keep(self) -> None:
        """Copy before the model is called again (its arrays hold only until then)."""
        if not self.own:
            self.array = self.array.copy()
            self.own = True


CodeFactory = Callable[[AnswerSpec, Coding, int, Calibration], Code]
"""Makes an answer's token code: ``TokenCode``, unless a measurement puts another in."""


class Answer:
    """From opening to end. Both ends change it by the same items in the same order."""

    def __init__(
        self,
        number: int,
        spec: AnswerSpec,
        coding: Coding,
        model: TokenModel,
        code: Code,
        limits: LinkLimits,
    ) -> None:
        self.number = number
        self.spec = spec
        self.coding = coding
        self.code = code
        self.channel = Channel.CONTENT
        self.stream: Stream | None = None  # from the first token on, see read_context
        self.context_length = len(context_of(spec, model))
        self.cache_bytes = 0
        self.unfed: int | None = None
        self.rows: deque[tuple[Rows, int]] = deque()
        self.started = False
        self.ended = False
        self.escaped = False
        self.silent_rounds = 0
        self.steady_rounds = 0
        self.last_count = 1
        self.switches_left = limits.max_switches
        self.token_count = 0
        self.tokens: list[int] = list(spec.resume)
        self.verified = len(self.tokens)
        self.items_left = max(spec.max_tokens - len(spec.resume), 0)
        self.bytes_left = 0
        if coding is Coding.TEXT:
            resumed = sum(len(model.tokenizer.token_bytes(token)) for token in spec.resume)
            allowed = limits.text_base_bytes + limits.text_bytes_per_token * spec.max_tokens
            self.items_left = self.bytes_left = max(allowed - resumed, 0)

    @property
    def length(self) -> int:
        """Tokens that the weak model has read or will have read for the next one."""
        return self.context_length + self.token_count

    @property
    def full(self) -> bool:
        """No token may follow: only an escape, which then needs no flag."""
        return self.items_left == 0


def context_of(spec: AnswerSpec, model: TokenModel) -> tuple[int, ...]:
    """What the weak model has read before the first token; never nothing."""
    context = spec.prompt + spec.resume
    return context or (min(model.tokenizer.eos_ids, default=0),)
