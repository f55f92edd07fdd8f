"""The auditor: tape in, coins, scores, what is explained and what of it may be credited.

Order of a segment, which the bound rests on: it is complete on the tape; its coin is drawn; both
are durable, where an auditor has a memory; only then is it scored. Its class is fixed before the
coin: what costs more than B on the link alone is audited whatever the coin says and is added
exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from narrows.alarms.sequential import Alarm
from narrows.audit import reasons
from narrows.audit.charge import credit_bytes, explained_q16, segment_cost_q16
from narrows.audit.code import ONE_BIT, Experience
from narrows.audit.keybook import KeyBook
from narrows.audit.replay import TapeReplay
from narrows.audit.scorer import Scorer
from narrows.audit.scoring import Scored, score
from narrows.audit.segments import Segment
from narrows.audit.share.bound import Bound
from narrows.audit.share.coins import coin
from narrows.coding.spec import message_text
from narrows.errors import NarrowsError
from narrows.models.api import TokenModel
from narrows.wire.tape import Record

KEEP_WORST = 5
POSITION_TOKENS, MAX_POSITIONS = 32, 64
SWAP_TOKENS = 100
"""After so many scored tokens, most of them off the winner mean other weights or other noise."""


@dataclass(frozen=True, slots=True)
class Rules:
    """As operators sign them into the enrolment. ``share`` f in (0, 1]; ``bound_bits`` B: what a
    segment in the bound may cost at most; ``delta``: the chance that the bound ever fails."""

    share: float = 1.0
    bound_bits: int = 2048
    delta: float = 1e-9


@dataclass(frozen=True, slots=True)
class Worst:
    """An answer's segment among the dearest for each token."""

    bits_per_token: float
    tokens: int
    link: int
    answer: int
    index: int
    prompt: str
    costs_q16: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Drawn:
    """A drawn segment: its cost; by the audit's code alone, None where it was not scored; its
    tokens that the link's token code carried. Q16 bits. ``always``: it is not in the bound."""

    cost_q16: int
    audit_q16: int | None
    tokens: int
    always: bool = False


@dataclass(frozen=True, slots=True)
class SegmentOutcome:
    """What came of a drawn segment: its cost by the audit's code, Q16 bits, and tokens off the
    winner; or ``why`` it has none, and counts with its link cost. ``learned``: the experience
    behind it, None where it is as before."""

    audit_q16: int | None
    off: int
    why: str
    learned: Experience | None


class AuditMemory(Protocol):
    """What an auditor must not forget when it is killed."""

    def enter(self, segment: Segment, drawn: bool) -> SegmentOutcome | None:
        """The segment is next in M's order. Returns when that is durable; the outcome, where it
        was entered and scored before. InputError: another segment was entered in its place."""

    def scored(self, segment: Segment, outcome: SegmentOutcome) -> None:
        """Returns when it is durable."""


@dataclass(frozen=True, slots=True)
class Growth:
    """Explained of what ``link`` brought behind ``since`` bytes of its data: so many Q16 bits
    more may be credited."""

    link: int
    since: int
    q16: int


@dataclass(slots=True)
class Tally:
    """What has been audited so far. Costs in Q16 bits."""

    segments: int = 0
    drawn: int = 0
    tokens: int = 0
    off: int = 0
    audit_q16: int = 0
    squares: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Sums over scored segments of bits², bits · tokens, tokens²."""
    not_scored: dict[str, int] = field(default_factory=dict)
    by_position: dict[int, tuple[int, int]] = field(default_factory=dict)
    worst: list[Worst] = field(default_factory=list)

    @property
    def scored_segments(self) -> int:
        return self.drawn - sum(self.not_scored.values())


class TapeAuditor:
    """One gate's tape against one strong model. ``key``: 32 secret bytes, for the coins."""

    def __init__(
        self,
        scorer: Scorer,
        weak: Mapping[bytes, TokenModel],
        rules: Rules,
        key: bytes,
        alarm: Alarm | None = None,
        on_drawn: Callable[[Drawn], None] = lambda drawn: None,
        memory: AuditMemory | None = None,
        keys: KeyBook | None = None,
    ) -> None:
        """``on_drawn``: told of each drawn segment; for measurements. ``memory``, ``keys``: of
        an auditor that outlives its process."""
        self.scorer = scorer
        self.rules = rules
        self.replay = TapeReplay(weak, keys)
        self.tally = Tally()
        self.alarm = alarm or Alarm()
        self._key = key
        self._on_drawn = on_drawn
        self._memory = memory
        self.experience = Experience()
        self.bound = Bound(rules.share, rules.delta)
        self.exact_q16 = 0  # explained of segments that are always audited
        self.group_q16 = 0  # link cost of the others, rounded down
        self.drawn_q16 = 0  # explained of the drawn ones among them
        self.credit_q16 = 0

    def feed(self, data: bytes) -> None:
        """The tape's next bytes. InputError where the tape breaks its own rules."""
        for record in self.replay.reader.feed(data):
            self.step(record)

    def step(self, record: Record) -> list[Growth]:
        """The tape's next record: what it lets be credited more, and where that lies."""
        checked = self.replay.checked_bits
        found = []
        for segment in self.replay.take(record):
            before = self.credit_q16
            self.take(segment)
            found.append(Growth(segment.link, segment.since, self.credit_q16 - before))
        if self.replay.checked_bits > checked:
            before = self.credit_q16
            self._settle()
            since = getattr(record, "position", 0)
            found.append(Growth(record.link, since, self.credit_q16 - before))
        return [growth for growth in found if growth.q16]

    def take(self, segment: Segment) -> None:
        """Flip the coin, score, account, settle: so what is credited does not depend on how the
        tape was cut up."""
        self.tally.segments += 1
        link_q16 = segment.link_q16
        always = link_q16 + ONE_BIT > self.rules.bound_bits * ONE_BIT
        drawn = always or coin(
            self._key,
            self.replay.reader.boot_nonce,
            segment.link,
            segment.answer,
            segment.index,
            segment.digest,
            self.rules.share,
        )
        known = None if self._memory is None else self._memory.enter(segment, drawn)
        if not always:
            self.group_q16 += link_q16 - segment.coded
        if drawn:
            self._audit(segment, link_q16, always, known)
        self._settle()

    def _audit(
        self, segment: Segment, link_q16: int, always: bool, known: SegmentOutcome | None
    ) -> None:
        self.tally.drawn += 1
        outcome = self._scored(segment) if known is None else known
        if known is None and self._memory is not None:
            self._memory.scored(segment, outcome)
        self._learn(segment, outcome)
        audit_q16 = outcome.audit_q16
        cost_q16 = link_q16 if audit_q16 is None else segment_cost_q16(audit_q16, link_q16)
        self._on_drawn(Drawn(cost_q16, audit_q16, segment.coded, always))
        explained = explained_q16(cost_q16, link_q16, segment.coded)
        if always:
            self.exact_q16 += explained
        else:
            self.drawn_q16 += explained
            self.bound.audited(cost_q16 / (self.rules.bound_bits * ONE_BIT))

    def _settle(self) -> None:
        if not self.alarm.raised:
            self.credit_q16 = max(self.credit_q16, self._explained_q16())

    @property
    def credit_bytes(self) -> int:
        """What may be credited in all. Never less than before: a credit stays valid when the
        bound jumps later. Nothing is added behind an alarm."""
        return credit_bytes(self.credit_q16)

    def bound_bits(self) -> float:
        """The most that the segments in the bound can have cost together, with 1 - delta."""
        return self.bound.total() * self.rules.bound_bits

    @property
    def other_weights(self) -> bool:
        """Hardly a token is explained: other weights, or noise that is not the shared one."""
        return self.tally.tokens >= SWAP_TOKENS and 2 * self.tally.off > self.tally.tokens

    def _explained_q16(self) -> int:
        """Of the checks all. Of the segments in the bound: what the drawn ones alone explain, or
        what the bound leaves of all of them, whichever is more."""
        exact_q16 = self.exact_q16 + self.replay.checked_bits * ONE_BIT
        if self.rules.share == 1:
            return exact_q16 + self.drawn_q16
        left = self.group_q16 - math.ceil(self.bound_bits() * ONE_BIT)
        return exact_q16 + max(self.drawn_q16, left)

    def _scored(self, segment: Segment) -> SegmentOutcome:
        """Not scored, where it cannot be: then it counts with its link cost."""
        try:
            scored = score(segment, self.scorer, self.experience)
        except NarrowsError as error:
            return SegmentOutcome(None, 0, error.message, None)
        self._show(segment, scored)
        return SegmentOutcome(scored.audit_q16, scored.off, "", self.experience.copy())

    def _learn(self, segment: Segment, outcome: SegmentOutcome) -> None:
        """What follows from an outcome alone, so the same when it is remembered."""
        tally = self.tally
        if outcome.learned is not None:
            self.experience = outcome.learned.copy()
        if outcome.audit_q16 is None:
            reasons.count(tally.not_scored, outcome.why)
            return
        tally.tokens += segment.coded
        tally.off += outcome.off
        tally.audit_q16 += outcome.audit_q16
        bits, count = outcome.audit_q16 / ONE_BIT, segment.coded
        more = (bits * bits, bits * count, float(count * count))
        first, cross, second = (old + new for old, new in zip(tally.squares, more, strict=True))
        tally.squares = (first, cross, second)
        self.alarm.observe(bits, count)

    def _show(self, segment: Segment, scored: Scored) -> None:
        """For the report alone."""
        tally = self.tally
        for number, cost in enumerate(scored.costs_q16, segment.start):
            place = min(number // POSITION_TOKENS, MAX_POSITIONS - 1)
            had, total = tally.by_position.get(place, (0, 0))
            tally.by_position[place] = (had + 1, total + cost)
        count = segment.coded
        per_token = scored.audit_q16 / ONE_BIT / max(1, count)
        name = (segment.link, segment.answer, segment.index)
        found = Worst(per_token, count, *name, _prompt_text(segment), scored.costs_q16)
        tally.worst = sorted([*tally.worst, found], key=lambda one: -one.bits_per_token)
        del tally.worst[KEEP_WORST:]


def _prompt_text(segment: Segment) -> str:
    body = segment.request.body
    if isinstance(body.get("prompt"), str):
        return str(body["prompt"])[-200:]
    messages = body.get("messages")
    last = messages[-1] if isinstance(messages, list) and messages else {}
    return message_text(last)[:200] if isinstance(last, dict) else ""
