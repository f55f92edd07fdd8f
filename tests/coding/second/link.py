"""docs/link-format.md, "Grammar" and "What a decoder bears", the reading end.

What a mistaken reader of the page would do otherwise is a constant or a method of its own here,
so that a test can change one of them and see that a vector shows it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol

from coding.second.coder import Bit, Choice, Coder, Count, Missing, Refused, Signed
from narrows.coding import events as ev

CONTENT, REASONING, TOOL_NAME, TOOL_ARGUMENTS, REFUSAL = range(5)
PLAIN, COUPLED, TEXT = range(3)
ROUND, OPEN, PUSH, PAD = range(4)
SWITCH, END, FAIL, BYTE, LITERAL = range(5)
REST = -1

DEFAULTS = {
    "max_open": 1024,
    "max_skip": 65536,
    "max_run": 256,
    "max_switches": 1024,
    "text_base_bytes": 4096,
    "text_bytes_per_token": 64,
    "steps_per_byte": 1024,
    "steps_saved": 32768,
    "check_bytes": 4096,
}
FAMILIES = {1: [1], 2: [1], 3: [1, 3], 4: [1, 3, 4]}


class Model(Protocol):
    """The weak model. ``logits``: behind these tokens."""

    vocab_size: int
    ends: frozenset[int]
    specials: frozenset[int]

    def token_bytes(self, token: int) -> bytes: ...

    def logits(self, tokens: Sequence[int]) -> list[int]: ...


MakeCode = Callable[[ev.AnswerSpec, int], Any]


class Answer:
    def __init__(self, number: int, spec: ev.AnswerSpec, coding: int, link: Link) -> None:
        self.number, self.spec, self.coding = number, spec, coding
        self.code = link.make_code(spec, coding)
        self.context = list(spec.prompt + spec.resume) or [min(link.model.ends, default=0)]
        self.channel = CONTENT
        self.coded = 0  # tokens, the end token and LITERALs among them
        self.switches = 0
        self.escaped = False
        self.silent = self.steady = 0
        self.last_count = 1
        self.begun = False
        self.over = False
        self.room = max(spec.max_tokens - len(spec.resume), 0)
        if coding == TEXT:
            options = link.options
            whole = options["text_base_bytes"] + options["text_bytes_per_token"] * spec.max_tokens
            resumed = sum(len(link.model.token_bytes(token)) for token in spec.resume)
            self.room = max(whole - resumed, 0)


class Link:
    ESCAPE_LIMIT = 8192
    REST_LIMIT = MAX_RUN_LIMIT = 512
    SILENCE_CAP, STEADY_CAP, AGE_CAP, HELD_CAP = 7, 6, 24, 2
    bit: type[Bit] = Bit
    choice: type[Choice] = Choice
    count: type[Count] = Count
    signed: type[Signed] = Signed

    def __init__(
        self, model: Model, options: dict[str, int], make_code: MakeCode, specs: list[ev.AnswerSpec]
    ) -> None:
        self.model, self.make_code, self.specs = model, make_code, specs
        self.options = DEFAULTS | options
        self.opened: set[int] = set()
        self.open: list[Answer] = []
        self.events: list[tuple[int, ev.Event]] = []
        self.last_check = 0
        self.steps, self.filled_at = self.options["steps_saved"], 0
        self.marks: list[tuple[int, int, int]] = []
        self.is_round: dict[Any, Bit] = {}
        self.other: dict[Any, Choice] = {}
        self.skip, self.more_than_two = self.count(), self.count()
        self.coding: dict[int, Choice] = {}
        self.last_coding = PLAIN
        self.families = FAMILIES[self.options.get("noise", 1)]
        self.family: dict[int, Choice] = {}
        self.last_family = 0
        self.noise_start = self.signed()
        self.any: dict[Any, Bit] = {}
        self.several: dict[Any, Bit] = {}
        self.rest: dict[bool, Bit] = {}
        self.max_run = self.bit(4, 28, self.MAX_RUN_LIMIT)
        limit = self.ESCAPE_LIMIT
        self.escape = self.bit(1, 255, limit)
        self.first_escape = self.bit(2, 254, limit)
        self.next_escape = self.bit(16, 48)
        self.kind: dict[bool, Choice] = {}
        self.channel: dict[int, Choice] = {}
        self.tool_end, self.natural_end = self.choice(5, 16, 2, 120), self.choice(5, 120)
        self.said_end, self.failure = self.choice(5, 8, 200), self.choice(9)
        self.has_usage = self.bit()
        self.usage: dict[Any, Signed] = {}

    def decode(self, data: bytes) -> list[tuple[int, ev.Event]]:
        """What the bytes decide, and no more. Refused: what came before it is in ``events``."""
        self.coder = Coder(data)
        try:
            while True:
                self.action()
        except Missing:
            return self.events

    # -- actions ---------------------------------------------------------------------------

    def action(self) -> None:
        coder = self.coder
        if coder.position - self.last_check >= self.options["check_bytes"]:
            begun_at = coder.position
            self.check(32)
            self.last_check = self.checked_at(begun_at)
        age = self.age()
        waste = coder.range.bit_length() - 57
        if self.open:
            bit = self.is_round.setdefault((age, min(waste, 3)), self.bit(64, 1))
            if bit.read(coder):
                self.fill()
                self.round()
                return
        context = bool(self.open), age
        action = 1 + self.other.setdefault(context, self.choice(3, 48, 48)).read(coder)
        self.fill()
        if action == OPEN:
            self.open_answer()
        elif action == PUSH:
            coder.push()
            self.pushed()
        elif coder.raw(16):
            raise Refused("padding")
        self.fill()

    def checked_at(self, begun_at: int) -> int:
        return begun_at

    def pushed(self) -> None:
        self.marks.clear()

    def check(self, bits: int) -> None:
        own = self.coder.digest >> 64 - bits
        if self.coder.raw(bits) != own:
            raise Refused("a check")

    def fill(self) -> None:
        gained = self.coder.position - self.filled_at
        self.filled_at += gained
        more = self.steps + gained * self.options["steps_per_byte"]
        self.steps = min(more, self.options["steps_saved"])

    def age(self) -> int:
        while self.marks and self.decided(*self.marks[0]):
            del self.marks[0]
        return min(len(self.marks), self.AGE_CAP)

    def decided(self, position: int, x: int, size: int) -> bool:
        held = self.coder.held()
        known = self.coder.position - held - position
        if known > 5:
            return True
        if known < 1 or held > self.HELD_CAP:
            return False
        y = self.coder.out >> 8 * held << 64
        return (y - (x << 8 * known)) % (1 << 112) + (1 << 64) <= size << 8 * known

    def open_answer(self) -> None:
        skipped = self.skip.read(self.coder)
        if skipped > self.options["max_skip"]:
            raise Refused("skips")
        number = min(set(range(len(self.opened) + 1)) - self.opened)
        while skipped or number in self.opened:
            skipped -= number not in self.opened
            number += 1
        chooser = self.coding.setdefault(self.last_coding, self.choice(3))
        coding = self.last_coding = chooser.read(self.coder)
        if number >= len(self.specs) or len(self.open) >= self.options["max_open"]:
            raise Refused("an answer that may not open")
        self.opened.add(number)
        spec = self.specs[number]
        if coding == COUPLED:
            spec = replace(spec, noise=self.noise(len(spec.prompt)))
        self.open.append(Answer(number, spec, coding, self))
        self.events.append((number, ev.Opened(ev.Coding(coding), spec.noise)))

    def noise(self, prompt_tokens: int) -> ev.Noise:
        if len(self.families) == 1:
            return ev.Noise()
        chooser = self.family.setdefault(self.family_context(), self.choice(len(self.families)))
        self.last_family = chooser.read(self.coder)
        family = self.families[self.last_family]
        if family == 1:
            return ev.Noise()
        start = self.noise_guess(prompt_tokens) + self.noise_start.read(self.coder)
        if not 0 <= start < 1 << 30:
            raise Refused("noise that starts nowhere")
        return ev.Noise(ev.NoiseFamily(family), start)

    def family_context(self) -> int:
        return self.last_family

    def noise_guess(self, prompt_tokens: int) -> int:
        return prompt_tokens

    # -- rounds ----------------------------------------------------------------------------

    def round(self) -> None:
        turn: list[tuple[Answer, int]] = []
        silent = several = 0
        for answer in self.open:
            count = self.count_of(answer, min(silent, 2), min(several, 3))
            silent = 0 if count else silent + 1
            several += count not in (0, 1)
            if count:
                turn.append((answer, count))
        if not turn:
            raise Refused("an empty round")
        for done in range(1, self.options["max_run"] + 1):
            for answer, count in turn:
                self.item(answer)
                if answer.over and count > 1:
                    raise Refused("an end before its count")
            turn = [(a, n if n == REST else n - 1) for a, n in turn if not a.over and n != 1]
            if not turn:
                break
            if done == self.options["max_run"]:
                raise Refused("too many items")
        self.open = [answer for answer in self.open if not answer.over]
        coder = self.coder
        self.marks.append((coder.position, coder.out << 64 | coder.low, coder.range))

    def count_of(self, answer: Answer, silent: int, several: int) -> int:
        coder = self.coder
        fresh = not answer.begun
        pause = min(answer.silent, self.SILENCE_CAP)
        steady = 8 + min(answer.steady.bit_length(), self.STEADY_CAP)
        key = pause or steady, 3 * fresh + answer.last_count, silent
        bit = self.any.setdefault(key, self.bit(16 if answer.silent else 60, 4))
        count = 0
        if bit.read(coder):
            count = 1
            key = several, fresh, answer.last_count > 1
            if self.several.setdefault(key, self.bit(4, 28)).read(coder):
                count = self.count_over_one(fresh)
        answer.silent = 0 if count else answer.silent + 1
        answer.steady = answer.steady + 1 if count == 1 else 0
        answer.begun = answer.begun or count != 0
        answer.last_count = self.last_count(answer.last_count, count)
        return count

    def last_count(self, before: int, count: int) -> int:
        return 2 if count == REST else min(count, 2)

    def count_over_one(self, fresh: bool) -> int:
        rest = self.rest.setdefault(fresh, self.bit(12, 20, self.REST_LIMIT))
        if rest.read(self.coder):
            return REST
        most = self.options["max_run"]
        full = self.max_run.read(self.coder)
        count = most if full else 2 + self.more_than_two.read(self.coder)
        if count < 2 or (not full and count >= most):
            raise Refused("too many items")
        return count

    # -- items -----------------------------------------------------------------------------

    def item(self, answer: Answer) -> None:
        before = answer.coded
        self.item_of(answer)
        self.fill()
        self.steps -= answer.coded - before
        if self.steps < 0:
            raise Refused("steps")

    def item_of(self, answer: Answer) -> None:
        coder = self.coder
        full = answer.room == 0
        if not full:
            behind = self.next_escape if answer.escaped else None
            escape = behind or (self.escape if answer.coded else self.first_escape)
            answer.escaped = bool(escape.read(coder))
            if not answer.escaped:
                self.token(answer)
                return
        answer.escaped = True
        kind = self.kind.setdefault(full, self.choice(5)).read(coder)
        if kind in (END, FAIL):
            self.end(answer, kind, natural=False)
            return
        answer.switches += 1
        if answer.switches > self.options["max_switches"]:
            raise Refused("switches")
        if kind == SWITCH:
            self.switch(answer)
        elif kind == BYTE:
            if answer.coding != TEXT:
                raise Refused("a byte among tokens")
            self.text(answer, bytes([coder.raw(8)]))
            self.byte_coded(answer)
        else:
            token = coder.raw(32)
            if answer.coding == TEXT or full or token not in self.model.ends:
                raise Refused("a literal token")
            answer.code.skip()
            self.take(answer, token)
            self.literal_coded(answer)

    def token(self, answer: Answer) -> None:
        answer.code.prepare(self.model.logits(answer.context))
        token = self.coder.symbol(answer.code.find)
        answer.code.update(token)
        if token in self.model.ends:
            answer.coded += 1
            self.end(answer, END, natural=True)
        elif answer.coding != TEXT:
            self.take(answer, token)
        else:
            data = self.model.token_bytes(token)
            if token in self.model.specials or not data:
                raise Refused("no token of text")
            self.text(answer, data)
            answer.coded += 1
            answer.context.append(token)

    def take(self, answer: Answer, token: int) -> None:
        answer.room -= 1
        answer.coded += 1
        answer.context.append(token)
        self.events.append((answer.number, ev.Tokens((token,))))

    def byte_coded(self, answer: Answer) -> None:
        """The weak model does not see it."""

    def literal_coded(self, answer: Answer) -> None:
        """The weak model has seen it."""

    def text(self, answer: Answer, data: bytes) -> None:
        answer.room -= len(data)
        if answer.room < 0:
            raise Refused("too much text")
        self.events.append((answer.number, ev.Text(data)))

    def switch(self, answer: Answer) -> None:
        chooser = self.channel.setdefault(self.channel_context(answer), self.choice(5))
        channel = chooser.read(self.coder)
        if channel == answer.channel != TOOL_NAME:
            raise Refused("a switch to the same channel")
        answer.channel = channel
        self.events.append((answer.number, ev.Switch(ev.Channel(channel))))

    def channel_context(self, answer: Answer) -> int:
        return answer.channel

    # -- ends ------------------------------------------------------------------------------

    def reason(self, answer: Answer, natural: bool) -> Choice:
        if not natural:
            return self.said_end
        tools = answer.channel in (TOOL_NAME, TOOL_ARGUMENTS)
        return self.tool_end if tools else self.natural_end

    def end(self, answer: Answer, kind: int, natural: bool) -> None:
        coder = self.coder
        end: ev.Event
        if kind == FAIL:
            end = ev.Failed(ev.Failure(self.failure.read(coder)))
        else:
            end = ev.Finished(ev.Finish(self.reason(answer, natural).read(coder)))
        usage = None
        if self.has_usage.read(coder):
            guesses = len(answer.spec.prompt), len(answer.spec.resume) + answer.coded
            counts = [
                guess
                + self.usage.setdefault(self.usage_context(answer, which), self.signed()).read(
                    coder
                )
                for which, guess in enumerate(guesses)
            ]
            if not all(0 <= count < 1 << 30 for count in counts):
                raise Refused("usage")
            usage = ev.Usage(*counts)
        self.check(8)
        answer.over = True
        answer.code.close()
        if usage:
            self.events.append((answer.number, usage))
        self.events.append((answer.number, end))

    def usage_context(self, answer: Answer, which: int) -> tuple[int, ...]:
        return answer.coding, which
