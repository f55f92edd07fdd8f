"""One segment's audit cost: the strong model's rows through the audit code."""

from __future__ import annotations

from dataclasses import dataclass

from narrows.audit.code import AuditCode, Experience
from narrows.audit.scorer import Scorer
from narrows.audit.segments import Segment
from narrows.coding.events import NoiseFamily
from narrows.errors import InputError


@dataclass(frozen=True, slots=True)
class Scored:
    """``costs_q16``: by token of the segment, 0 where the link's token code carried none.
    ``off``: tokens that are not the recomputed winner."""

    costs_q16: tuple[int, ...]
    off: int

    @property
    def audit_q16(self) -> int:
        return sum(self.costs_q16)


def score(segment: Segment, scorer: Scorer, experience: Experience) -> Scored:
    """NarrowsError: this segment cannot be scored, and why. ``experience`` learns where it can."""
    if segment.why is not None:
        raise InputError(segment.why)
    if segment.vocabulary != scorer.vocabulary:
        raise InputError("the link's vocabulary is not the strong model's")
    prompt = scorer.prompt(segment.request.body)
    noise = segment.spec.noise
    if noise.family is not NoiseFamily.KEYED and noise.start != len(prompt) - 1:
        # Where a seed's noise starts follows from the prompt; the enclave has no choice in it.
        raise InputError("noise that starts elsewhere than behind the prompt")
    length = len(prompt) + segment.start
    if not 1 <= length <= scorer.max_context - len(segment.tokens):
        raise InputError("longer than the scorer's context")
    return _score(segment, scorer, [*prompt, *segment.before], experience)


def _score(segment: Segment, scorer: Scorer, context: list[int], experience: Experience) -> Scored:
    spec = segment.spec
    greedy = spec.temperature == 0
    learned = experience.start(greedy)
    code = AuditCode(
        scorer.vocab_size, spec.temperature, spec.top_p, spec.noise_key, learned, spec.noise
    )
    costs: list[int] = []
    off = 0
    position = segment.start
    rows = scorer.rows(context, segment.tokens)
    for token, link_q16, row in zip(segment.tokens, segment.costs_q16, rows, strict=True):
        if link_q16:
            code.prepare(row, position)
            costs.append(code.cost_q16(token))
            off += token != code.winner
            code.update(token)
        else:
            costs.append(0)
        position += 1
    experience.absorb(greedy, learned, len(costs))
    return Scored(tuple(costs), off)
