"""The encoding end of a link: events of many answers in, the bytes to send out.

Pure and synchronous: the stream is fully determined by the calls and the ``now_ms`` values.
Model steps happen inside ``poll`` or ``step``; one thread at a time.
"""

from __future__ import annotations

from collections import Counter, deque
from itertools import islice

from narrows.coding.cache_account import CacheAccount, LinkCache, first_tokens
from narrows.coding.events import OWN_NOISE, AnswerSpec, Coding, Event, Failed, Finished, Noise
from narrows.coding.link.answer import Answer, CodeFactory, Item, Kind, Rows, context_of
from narrows.coding.link.drawn import START_LIMIT
from narrows.coding.link.ends import EncoderPort
from narrows.coding.link.items import NATURAL, prepare_rows, read_context
from narrows.coding.link.options import LinkOptions
from narrows.coding.link.rounds import REST, Action, Grammar
from narrows.coding.link.schedule import Schedule
from narrows.coding.link.source import Source
from narrows.coding.link.symbols import IntStep
from narrows.coding.pacing import BATCH_STEPS, Step
from narrows.coding.range.coder import Mark
from narrows.coding.tokens.choice import CodingChoice
from narrows.coding.tokens.code import TokenCode
from narrows.errors import InputError
from narrows.models.api import TokenModel

MAX_ITEMS_PER_POLL = 4096
"""Then ``poll`` pushes what is due, returns what it has and wants to be called again at once."""

MAX_WAITING = 256
"""Answers that may wait with what they say until there is room to open them. Further ones fail
as OVERLOADED."""

MAX_EXTEND = BATCH_STEPS
MAX_ROWS = 256
"""Rows of logits held at once by read-ahead: 50 MB at 49k tokens."""
WORTH_EXTEND = 16
_OVER = object()


class LinkStats:
    """``bits``: code length by kind (tokens, signals, pushes). ``delays``: items by whole
    milliseconds from the poll that saw them to the bytes that decide them."""

    def __init__(self, bits: dict[str, float]) -> None:
        self.bits = bits
        self.delays: Counter[int] = Counter()
        self.items = 0
        self.rounds = 0
        self.pushes = 0


class LinkEncoder:
    def __init__(
        self,
        model: TokenModel,
        options: LinkOptions | None = None,
        make_code: CodeFactory = TokenCode,
        account: CacheAccount | None = None,
        choice: CodingChoice | None = None,
    ) -> None:
        """``account``: of all links that use ``model``; without one, there are no others.
        ``choice``: with a chance of its own, for who wants the same bytes each time."""
        self.options = options or LinkOptions()
        self._model = model
        self._port = EncoderPort()
        self._limits = self.options.limits
        self._grammar = Grammar(
            self._port, self, model, self._limits, make_code, self.options.noise
        )
        self._schedule = Schedule(self.options.round_hold_ms, self._limits.max_run)
        self._cache = LinkCache(
            account or CacheAccount(model.cache_bytes), self._limits.max_cache_bytes
        )
        self._sources: dict[int, Source] = {}
        self._to_open: deque[Source] = deque()
        self._cut: set[int] = set()  # failed here; events that still come for them are dropped
        self.failed_here: list[int] = []
        """Answers that have just been failed for want of memory: their backends may stop."""
        self._marks: deque[tuple[float, Mark]] = deque()
        self._again = False
        self._running: Step | None = None
        self._unread: deque[Answer] = deque()  # whose prompts may not be read yet
        self._now_ms = 0.0
        self._out = b""
        self._choice = choice or CodingChoice()
        self.stats = LinkStats(self._port.bits)

    # -- calls -----------------------------------------------------------------------------

    def request(self, spec: AnswerSpec) -> int:
        """The answer's number; requests are counted alike on both ends."""
        self._grammar.specs.append(spec)
        return len(self._grammar.specs) - 1

    def open(self, number: int, coding: Coding, noise: Noise = OWN_NOISE) -> None:
        """Begin an answer; in any order. COUPLED allows PLAIN too, where that has measured
        cheaper on this link, or its ends do not both know ``noise``. InputError where it was
        not requested or was opened."""
        if not 0 <= number < len(self._grammar.specs):
            raise InputError(f"answer {number} was not requested")
        if number in self._sources or self._grammar.is_opened(number):
            raise InputError(f"answer {number} is open already")
        if not 0 <= noise.start < START_LIMIT:
            raise InputError(f"noise that starts at {noise.start}")
        if coding is Coding.COUPLED:
            shared = self._grammar.knows(noise)
            coding = self._choice.choose(self._grammar.specs[number], sampler_is_shared=shared)
        source = Source(number, coding, self._model, self.options)
        source.noise = noise
        self._sources[number] = source
        self._to_open.append(source)

    def put(self, number: int, event: Event) -> None:
        """The next event of an open answer. InputError for one that its coding forbids."""
        source = self._sources.get(number)
        if number in self._cut:
            if isinstance(event, Finished | Failed):
                self._cut.discard(number)
            return
        if source is None:
            raise InputError(f"answer {number} is not open")
        source.put(event)

    def is_open(self, number: int) -> bool:
        """Whether ``open`` was called and its end is not coded yet."""
        return number in self._sources

    def is_over(self, number: int) -> bool:
        """Whether it has been opened and nothing that is put into it is read any more: it has
        its end, or it passed a limit of the link and was ended here."""
        source = self._sources.get(number)
        return self._grammar.is_opened(number) if source is None else source.over

    def forget(self, number: int) -> None:
        """Nothing more is put into this answer: it need not be known that it failed here."""
        self._cut.discard(number)

    def poll(self, now_ms: float) -> bytes:
        """Run the rounds and the push that are due. The bytes to send now, often none."""
        data = self.step(now_ms)
        while self._running is not None:
            data += self.step(now_ms)
        return data

    def step(self, now_ms: float) -> bytes:
        """``poll``, but at most about one batch of model steps (``pacing.py``): where there is
        more to do, ``next_poll_ms`` says "now". Any call may come in between."""
        self._now_ms = now_ms
        self._grammar.pacer.begin()
        if self._running is None:
            self._running = self._due()
        if next(self._running, _OVER) is _OVER:
            self._running = None
        self._send()
        if self._running is None:
            self._again = self._again or self._read_ahead()
        data, self._out = self._out, b""
        return data

    def next_poll_ms(self, now_ms: float) -> float | None:
        """When ``poll`` has something to do without new input; None: only after new input."""
        if self._again or self._running is not None:
            return now_ms
        if any(source.untimed for source in self._sources.values()):
            return now_ms
        times = [source.text_due_ms for source in self._sources.values()]
        times.append(self._schedule.due_ms(self._active_sources()))
        if self._marks:
            times.append(self._marks[0][0] + self.options.max_hold_ms)
        known = [time for time in times if time is not None]
        return min(known) if known else None

    def close(self) -> None:
        """Give the model's memory back; for a link that is over. Idempotent."""
        self._grammar.close()
        self._cache.close()

    # -- actions ---------------------------------------------------------------------------

    def _active_sources(self) -> list[Source]:
        return [self._sources[answer.number] for answer in self._grammar.active]

    def _due(self) -> Step:
        """What one ``poll`` does."""
        items = 0
        yield from self._open_waiting()
        for source in islice(self._to_open, MAX_WAITING, None):
            source.refuse()
        for source in list(self._sources.values()):
            source.absorb(self._now_ms)
        while items < MAX_ITEMS_PER_POLL:
            counts = self._schedule.plan(self._active_sources(), self._now_ms)
            if counts is None:
                break
            items += yield from self._round(counts)
            yield from self._open_waiting()
        self._again = items >= MAX_ITEMS_PER_POLL
        self._send()
        if self._push_due(self._now_ms):
            yield from self._grammar.act(Action.PUSH)
            self.stats.pushes += 1

    def _send(self) -> None:
        self._grammar.keep()
        self._out += self._port.coder.take()
        self._settle(self._now_ms)

    def _open_waiting(self) -> Step:
        # A round asks for a step of each open answer, so the bucket must be able to hold that.
        room = min(self._limits.max_open, self._limits.steps_saved)
        while self._to_open and len(self._grammar.active) < room:
            source = next(filter(self._may_open, self._to_open), None)
            if source is None:
                break
            self._to_open.remove(source)
            spec = self._grammar.specs[source.number]
            if not self._cache.reserve(source.number, self._model.stream_bytes(first_tokens(spec))):
                self._overload(source)
            noise = source.noise
            detail = (source.number, int(source.coding), int(noise.family), noise.start)
            yield from self._grammar.act(Action.OPEN, detail)

    def _may_open(self, source: Source) -> bool:
        return self._grammar.skip_of(source.number) <= self._limits.max_skip

    def _read_ahead(self) -> bool:
        """While nothing is due: one part of a prompt that will be needed. Whether it wants to
        go on at once."""
        while self._unread:
            answer = self._unread[0]
            if not answer.ended and not self._sources[answer.number].failed:
                if answer.stream is None:
                    context = context_of(answer.spec, self._model)
                    answer.stream = self._model.open(context, answer.spec.scope, lazy=True)
                if self._model.catch_up(answer.stream, BATCH_STEPS):
                    return True
            self._unread.popleft()
        return False

    def _round(self, counts: list[int]) -> IntStep:
        """One round of about these counts: fewer where the decoder's step budget is short."""
        active = self._active_sources()
        for index, answer in enumerate(self._grammar.active):
            counts[index] = self._afford(answer, counts[index])
        share = max(1, (self._limits.steps_saved // 2) // len(active))
        counts = [
            min(count, share) if count != REST or len(source.queue) > share else count
            for count, source in zip(counts, active, strict=True)
        ]
        counts = [
            share if count == REST and len(source.queue) > share else count
            for count, source in zip(counts, active, strict=True)
        ]
        items = sum(
            len(source.queue) if count == REST else count
            for count, source in zip(counts, active, strict=True)
        )
        while self._grammar.steps < items:
            yield from self._grammar.act(Action.PAD)
        yield from self._grammar.act(Action.ROUND, tuple(counts))
        self.stats.rounds += 1
        self.stats.items += items
        return items

    def _afford(self, answer: Answer, count: int) -> int:
        """The count, with memory for its tokens at both ends; else the answer fails instead."""
        source = self._sources[answer.number]
        tokens = len(source.queue) if count == REST else count
        if not count or source.failed:
            return count
        need_bytes = self._model.stream_bytes(answer.length + tokens)
        if self._cache.reserve(answer.number, need_bytes):
            return count
        self._overload(source)
        return 1

    def _overload(self, source: Source) -> None:
        if not source.ended:
            self._cut.add(source.number)
            self.failed_here.append(source.number)
        source.overload(self._now_ms)

    def _push_due(self, now_ms: float) -> bool:
        if not self._marks:
            return False
        if not self._sources:
            return True  # nothing follows that could push for us
        return self._marks[0][0] + self.options.max_hold_ms <= now_ms

    def _settle(self, now_ms: float) -> None:
        """Strike off the items that the far side can decide with what has been sent."""
        sent = self._port.coder.now()
        while self._marks and sent.decides(self._marks[0][1]):
            came_ms, _ = self._marks.popleft()
            self.stats.delays[int(now_ms - came_ms)] += 1

    # -- the grammar's side ----------------------------------------------------------------

    def opened(self, answer: Answer) -> None:
        self._sources[answer.number].opened(answer)
        self._unread.append(answer)

    def before_batch(self, answers: list[Answer]) -> Step:
        pacer = self._grammar.pacer
        pacer.keep()
        yield from pacer.spend(len(answers))
        held = sum(len(answer.rows) for answer in self._grammar.active)
        wanted = [answer for answer in answers if self._needs_model(answer)]
        for answer in wanted:
            if not answer.rows:
                yield from read_context(self._model, answer, pacer)
                if held + MAX_EXTEND < MAX_ROWS:
                    yield from self._extend(answer, alone=len(answers) == 1)
                    held += len(answer.rows)
        prepare_rows(self._model, wanted)

    def _needs_model(self, answer: Answer) -> bool:
        source = self._sources[answer.number]
        return answer.stream is not None or not (source.failed or answer.full)

    def next_item(self, answer: Answer) -> Item | None:
        source = self._sources[answer.number]
        item = source.queue.popleft()
        natural = item.kind is Kind.END and item.end is not None and item.end.reason in NATURAL
        if natural and self._model.tokenizer.eos_ids and not answer.full:
            eos = self._likeliest_end(answer)
            item = Item(Kind.TOKEN, eos, end=item.end, came_ms=item.came_ms)
        self._came_ms = item.came_ms
        self._bits_before = self._port.bits.get("tokens", 0.0)
        return item

    def _likeliest_end(self, answer: Answer) -> int:
        """Any end token ends an answer, and foreign text has none of its own: the one that the
        weak model expects is the cheapest (chat models end turns, base models texts)."""
        ends = sorted(self._model.tokenizer.eos_ids)
        rows, index = answer.rows[0]
        return ends[0] if len(ends) == 1 else max(ends, key=lambda end: int(rows.array[index][end]))

    def coded(self, answer: Answer, item: Item) -> None:
        self._marks.append((self._came_ms, self._port.coder.mark()))
        source = self._sources[answer.number]
        source.bits += self._port.bits.get("tokens", 0.0) - self._bits_before
        source.tokens += item.kind is Kind.TOKEN
        if answer.ended:
            self._cache.drop(answer.number)
            del self._sources[answer.number]
            self._choice.observe(source.coding, source.bits, source.tokens)

    def _extend(self, answer: Answer, alone: bool) -> Step:
        """Have the model read what is queued in one parallel pass, where it is long enough."""
        if answer.stream is None:
            return
        ahead: list[int] = [] if answer.unfed is None else [answer.unfed]
        for item in self._sources[answer.number].queue:
            if len(ahead) >= MAX_EXTEND:
                break
            if item.kind in (Kind.TOKEN, Kind.LITERAL):
                ahead.append(item.value)
        else:
            if not self._sources[answer.number].complete:
                ahead = ahead[:-1]  # nothing follows the last token yet: it stays unfed
        half = max(self._model.max_context // 2, 1)
        del ahead[half - answer.stream.length % half :]  # a window that slides is read apart
        if len(ahead) < (2 if alone else WORTH_EXTEND):
            return
        # What is read ahead of the round has room of its own, or others' steps would find none.
        need_bytes = self._model.stream_bytes(answer.stream.length + len(ahead))
        if not self._cache.reserve(answer.number, need_bytes):
            return
        yield from self._grammar.pacer.spend(len(ahead))
        if answer.unfed is None:
            first = Rows(self._model.logits(answer.stream).copy()[None, :], own=True)
            answer.rows.append((first, 0))
        rows = Rows(self._model.extend(answer.stream, ahead))
        rows.keep()
        answer.unfed = None
        answer.rows.extend((rows, index) for index in range(len(ahead)))
