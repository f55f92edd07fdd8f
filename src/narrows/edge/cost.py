"""What an answer took of the budget, as its edge measures it."""

from __future__ import annotations

from collections.abc import Sequence

from narrows.coding.kept import BYTES_PER_TOKEN
from narrows.edge.answer import EdgeAnswer
from narrows.edge.dialects.dialect import LinkCost


def mode_of(answer: EdgeAnswer) -> str:
    """What was done to send less of it."""
    done = {"local": answer.local, "kept": answer.kept_tokens > 0, "concise": answer.concise}
    return "+".join(mode for mode, is_so in done.items() if is_so) or "plain"


def saved_bytes(answer: EdgeAnswer) -> int:
    """What its text would have been, less what it took; 0 at least."""
    whole_bytes = answer.text_bytes + BYTES_PER_TOKEN * answer.kept_tokens
    return max(0, whole_bytes - round(answer.bits / 8))


def total_cost(answers: Sequence[EdgeAnswer]) -> LinkCost:
    """Of a reply's answers together; where they differ, the words of each, in order."""
    codings = dict.fromkeys("none" if one.local else one.coding.name.lower() for one in answers)
    modes = dict.fromkeys(mode for one in answers for mode in mode_of(one).split("+"))
    return LinkCost(
        round(sum(answer.bits for answer in answers) / 8),
        "+".join(codings),
        "+".join(modes),
        sum(map(saved_bytes, answers)),
    )
