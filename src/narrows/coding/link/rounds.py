"""The grammar of a link, written once for both ends.

    link    = action*
    action  = ROUND counts items | OPEN number coding | PUSH | PAD
    counts  = per open answer, in order of opening: items it brings in this round
    items   = in turns: one item of each answer that has any left, again and again
    item    = token | ESCAPE (SWITCH | END | FAIL | BYTE | LITERAL)
    end     = (end token | END | FAIL) reason usage check

Invariants
- Everything that decides a symbol's probability is known to both ends before the symbol.
- A round brings at least one item, a PUSH at least a byte, a PAD two: no work without bytes
  or items, and items are bounded per answer and, as model steps, by the coded bytes.
- ``cache_bytes`` counts the weak model's memory by what both ends know, shared prefixes once for
  each answer; so the encoder knows what the decoder has left, and fails an answer in time.
- ``steps`` counts model steps that may still be asked for; it grows with the coder's position
  (bytes shifted, alike at both ends), so the encoder knows when the decoder would refuse.
- An answer's end is reported behind its check; a mismatch raises LinkError.

``Grammar`` is the state; its generators run one action each. The encoder passes the values,
the decoder passes None and gets them.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import replace

from narrows.coding.events import AnswerSpec, Coding, Noise, NoiseFamily
from narrows.coding.link.answer import Answer, CodeFactory, Item, Kind
from narrows.coding.link.drawn import NoiseGrammar
from narrows.coding.link.integrity import IntegrityCheck
from narrows.coding.link.items import ItemGrammar, Side, keep_rows
from narrows.coding.link.options import LinkLimits
from narrows.coding.link.symbols import Bit, Choice, Count, IntStep, SymbolPort
from narrows.coding.pacing import BATCH_STEPS, Pacer, Step
from narrows.coding.range.coder import Mark
from narrows.coding.tokens.calibrate import Calibration
from narrows.errors import LinkError
from narrows.models.api import TokenModel

MAX_AGE = 24
"""Rounds that the far side cannot decide yet, as a context: many mean that a push is near."""
_WASTES = 4
_SEVERAL = 3
"""Answers of a round that bring more than one item, as a context, up to this many: what held
the round up has held up all of them."""
_SYMBOLS_PER_STEP = 32
"""Open answers whose counts cost about as much time as a model step."""
REST = -1
"""As a count: everything through the answer's end, at most ``max_run`` items."""


class Action(enum.IntEnum):
    ROUND = 0
    OPEN = 1
    PUSH = 2
    PAD = 3


_OPENED = AnswerSpec(prompt=(), max_tokens=1)


class Grammar:
    """One end's state. ``side`` supplies items and receives them."""

    def __init__(
        self,
        port: SymbolPort,
        side: Side,
        model: TokenModel,
        limits: LinkLimits,
        make_code: CodeFactory,
        noise: int = NoiseFamily.KEYED,
    ) -> None:
        self.port = port
        self.model = model
        self.limits = limits
        self.specs: list[AnswerSpec] = []
        self.active: list[Answer] = []
        self.steps = limits.steps_saved
        self.cache_bytes = 0
        self._seen_position = 0
        self._side = side
        self._calibration = Calibration()
        self._make_code = make_code
        self._check = IntegrityCheck(port, model)
        self.pacer = Pacer(self.keep)
        self._items = ItemGrammar(port, side, model, self._check, self.pacer)
        self._first_unopened = 0
        self._opened: set[int] = set()
        self._round_marks: deque[Mark] = deque()
        self._round_bit = [[Bit(64, 1) for _ in range(_WASTES)] for _ in range(MAX_AGE + 1)]
        self._other = [Choice(3, ones=(48, 48)) for _ in range(2 * (MAX_AGE + 1))]
        self._skip = Count()
        self._coding = [Choice(3) for _ in range(3)]
        self._last_coding = 0
        self._noise = NoiseGrammar(noise)
        self._any: dict[tuple[int, int, int], Bit] = {}
        self._more = [[Bit(4, 28) for _ in range(4)] for _ in range(_SEVERAL + 1)]
        self._rest = [Bit(12, 20, 512) for _ in range(2)]
        self._full = Bit(4, 28, 512)
        self._extra = Count()

    # -- actions ---------------------------------------------------------------------------

    def act(self, action: Action | None, detail: Sequence[int] = ()) -> Step:
        """One action. ``detail``: counts of a ROUND; (number, coding, noise family, its start)
        of an OPEN."""
        yield from self._check.periodic(self.limits.check_bytes, self._verified)
        chosen = yield from self._action(action)
        self._refill()
        self.keep()
        yield from self.pacer.spend(1 + len(self.active) // _SYMBOLS_PER_STEP)
        if chosen is Action.ROUND:
            yield from self._round(detail if action is not None else None)
        elif chosen is Action.OPEN:
            yield from self._open(detail if action is not None else None)
        elif chosen is Action.PUSH:
            yield from self.port.push()
            self._round_marks.clear()
        else:
            padding = yield from self.port.raw(16, 0 if action is not None else None)
            if padding:
                raise LinkError("padding that is not 0")
        self._refill()

    def keep(self) -> None:
        """Copy the logits that are still needed: the model may be called by others now."""
        keep_rows(self.active)

    def close(self) -> None:
        """Let go of the open answers' streams. They stay listed."""
        for answer in self.active:
            self._let_go(answer)

    def _hold(self, answer: Answer, cache_bytes: int) -> None:
        more = cache_bytes - answer.cache_bytes
        self.cache_bytes += more
        answer.cache_bytes = cache_bytes
        if more > 0 and self.cache_bytes > self.limits.max_cache_bytes:
            raise LinkError(
                "the open answers hold more of the weak model's memory than was offered"
            )

    def _let_go(self, answer: Answer) -> None:
        answer.rows.clear()
        self._hold(answer, 0)
        if answer.stream is not None:
            self.model.close(answer.stream)

    def _action(self, action: Action | None) -> Generator[None, None, Action]:
        sent = self.port.now()
        while self._round_marks and sent.decides(self._round_marks[0]):
            self._round_marks.popleft()
        age = min(len(self._round_marks), MAX_AGE)
        if self.active:
            wanted = None if action is None else int(action is Action.ROUND)
            model = self._round_bit[age][min(sent.waste, _WASTES - 1)]
            if (yield from self.port.bit(model, wanted)):
                return Action.ROUND
        context = age + (MAX_AGE + 1 if self.active else 0)
        value = None if action is None else int(action) - 1
        return Action((yield from self._other[context].code(self.port, value)) + 1)

    def _refill(self) -> None:
        gained = self.port.position - self._seen_position
        if gained:
            self._seen_position += gained
            self.steps = min(
                self.steps + gained * self.limits.steps_per_byte, self.limits.steps_saved
            )

    def _verified(self) -> None:
        for answer in self.active:
            answer.verified = len(answer.tokens)

    # -- opening ---------------------------------------------------------------------------

    def knows(self, noise: Noise) -> bool:
        """Whether both ends of this link can compute it."""
        return noise.family in self._noise.families

    def _open(self, detail: Sequence[int] | None) -> Step:
        ahead = coding = noise = None
        if detail is not None:
            ahead, coding = self.skip_of(detail[0]), detail[1]
            noise = Noise(NoiseFamily(detail[2]), detail[3])
        skipped = yield from self._skip.code(self.port, ahead)
        if skipped > self.limits.max_skip:
            raise LinkError(f"an answer overtakes {skipped} others")
        chosen = self._number_at(skipped)
        value = yield from self._coding[self._last_coding].code(self.port, coding)
        self._last_coding = value
        if chosen >= len(self.specs):
            raise LinkError(f"answer {chosen} was opened, which no one asked for")
        if len(self.active) >= self.limits.max_open:
            raise LinkError(f"more than {self.limits.max_open} answers are open")
        self._opened.add(chosen)
        while self._first_unopened in self._opened:
            self._opened.discard(self._first_unopened)
            self._first_unopened += 1
        spec, kind = self.specs[chosen], Coding(value)
        self.specs[chosen] = _OPENED  # a link may live for months: its prompts must not
        if kind is Coding.COUPLED:
            drawn = yield from self._noise.code(self.port, noise, len(spec.prompt))
            spec = replace(spec, noise=drawn)
        code = self._make_code(spec, kind, self.model.vocab_size, self._calibration)
        answer = Answer(chosen, spec, kind, self.model, code, self.limits)
        self.active.append(answer)
        self._side.opened(answer)

    def is_opened(self, number: int) -> bool:
        return number < self._first_unopened or number in self._opened

    def skip_of(self, number: int) -> int:
        """How many unopened answers an opening of ``number`` would overtake."""
        return number - self._first_unopened - sum(1 for seen in self._opened if seen < number)

    def _number_at(self, skipped: int) -> int:
        number = self._first_unopened
        for seen in sorted(self._opened):
            if seen > number + skipped:
                break
            skipped += 1
        return number + skipped

    # -- rounds ----------------------------------------------------------------------------

    def _round(self, counts: Sequence[int] | None) -> Step:
        turn: list[tuple[Answer, int]] = []
        silent = several = 0
        for index, answer in enumerate(self.active):
            wanted = None if counts is None else counts[index]
            count = yield from self._count(answer, wanted, silent, several)
            silent = min(silent + 1, 2) if count == 0 else 0
            several = min(several + (count not in (0, 1)), _SEVERAL)
            if count:
                turn.append((answer, count))
        if not turn:
            raise LinkError("an empty round")
        done = 0
        while turn:
            rest: list[tuple[Answer, int]] = []
            for index, (answer, count) in enumerate(turn):
                if index % BATCH_STEPS == 0:
                    batch = turn[index : index + BATCH_STEPS]
                    yield from self._side.before_batch([one for one, _ in batch])
                yield from self._item(answer)
                if answer.ended:
                    if count > 1:
                        raise LinkError("an answer ended before its count")
                elif count != 1:
                    rest.append((answer, count if count == REST else count - 1))
            done += 1
            if rest and done >= self.limits.max_run:
                raise LinkError(f"more than {self.limits.max_run} items of one answer in a round")
            turn = rest
        self.active = [answer for answer in self.active if not answer.ended]
        self._round_marks.append(self.port.mark())

    def _item(self, answer: Answer) -> Step:
        before = answer.token_count
        item: Item = yield from self._items.item(answer)
        self._refill()
        self.steps -= answer.token_count - before
        if self.steps < 0:
            raise LinkError("more model steps were asked for than the coded bytes allow")
        if answer.token_count != before:
            self._hold(answer, self.model.stream_bytes(answer.length))
        if item.kind in (Kind.END, Kind.FAIL):
            self._verified()
            answer.verified = len(answer.tokens)
            answer.code.close()
            self._let_go(answer)
        self._side.coded(answer, item)

    def _count(self, answer: Answer, count: int | None, silent: int, several: int) -> IntStep:
        """0, 1, ... , ``max_run``, or REST. ``silent``: answers just before this one that bring
        none; ``several``: answers of the round so far that bring more than one."""
        fresh = 0 if answer.started else 1
        steady = min(answer.steady_rounds.bit_length(), 6)
        pause = min(answer.silent_rounds, 7)
        key = (8 + steady if pause == 0 else pause, fresh * 3 + min(answer.last_count, 2), silent)
        some = self._any.get(key)
        if some is None:
            some = self._any[key] = Bit(60 if answer.silent_rounds == 0 else 16, 4)
        present = yield from self.port.bit(some, None if count is None else int(count != 0))
        result = 0
        if present:
            context = fresh * 2 + int(answer.last_count > 1)
            more = None if count is None else int(count != 1)
            result = 1
            if (yield from self.port.bit(self._more[several][context], more)):
                result = yield from self._several(fresh, count)
        answer.silent_rounds = 0 if present else answer.silent_rounds + 1
        answer.last_count = 2 if result == REST else min(result, 2)
        answer.steady_rounds = answer.steady_rounds + 1 if result == 1 else 0
        if present:
            answer.started = True
        return result

    def _several(self, fresh: int, count: int | None) -> IntStep:
        highest = self.limits.max_run
        wanted = None if count is None else int(count == REST)
        if (yield from self.port.bit(self._rest[fresh], wanted)):
            return REST
        wanted = None if count is None else int(count == highest)
        if (yield from self.port.bit(self._full, wanted)):
            several = highest
        else:
            extra = yield from self._extra.code(self.port, None if count is None else count - 2)
            several = extra + 2 if extra + 2 < highest else 0
        if several < 2:  # also max_run where that is 1, which is said as "not more than one"
            raise LinkError(f"more than {highest} items of one answer in a round")
        return several
