"""What an audit found, as one JSON object and as text for people."""

from __future__ import annotations

import math
from typing import Any

from narrows.audit.auditor import POSITION_TOKENS, Tally, TapeAuditor
from narrows.audit.code import ONE_BIT

CONFIDENCE_95 = 1.645


def upper_95(tally: Tally) -> float:
    """Upper 95 % limit of unexplained bits a token: a ratio estimate over segments, normal."""
    count, tokens = tally.scored_segments, tally.tokens
    if count < 2 or not tokens:
        return math.inf
    bits = tally.audit_q16 / ONE_BIT
    ratio = bits / tokens
    first, cross, second = tally.squares
    spread = max(0.0, first - 2 * ratio * cross + ratio * ratio * second) / (count - 1)
    return ratio + CONFIDENCE_95 * math.sqrt(spread * count) / tokens


def state_of(auditor: TapeAuditor) -> str:
    """One word for status and people: what the charges say of the enclave."""
    if auditor.other_weights:
        return "other weights or other noise"
    if auditor.alarm.raised:
        return "alarm"
    return "explained" if auditor.tally.tokens else "nothing scored"


def report(auditor: TapeAuditor) -> dict[str, Any]:
    """Bits are floats, rounded for people; ``credit_bytes`` is what may be credited."""
    tally, replay = auditor.tally, auditor.replay
    tokens = max(1, tally.tokens)
    raw_bits = 8 * replay.paid_bytes
    upper = upper_95(tally)
    return {
        "state": state_of(auditor),
        "scorer": auditor.scorer.name,
        "scorer_digest": auditor.scorer.digest.hex(),
        "share": auditor.rules.share,
        "segments": tally.segments,
        "drawn": tally.drawn,
        "tokens": tally.tokens,
        "off_argmax": round(tally.off / tokens, 6),
        "unexplained_bits": round(tally.audit_q16 / ONE_BIT / tokens, 5),
        "unexplained_bits_upper_95": None if math.isinf(upper) else round(upper, 5),
        "raw_bits": raw_bits,
        "bits_by_kind": {kind: round(bits, 1) for kind, bits in replay.bits.items()}
        | {"time and the gate's own": 8 * (replay.paid_bytes - replay.data_bytes)},
        "credit_bytes": auditor.credit_bytes,
        "net_over_raw": round(1 - 8 * auditor.credit_bytes / raw_bits, 4) if raw_bits else None,
        "bound_bits": round(auditor.bound_bits(), 1),
        "not_scored": dict(tally.not_scored),
        "link_faults": dict(replay.faults),
        "tape_pending_bytes": replay.reader.pending_bytes,
        "alarm": auditor.alarm.raised,
        "evidence_bits": round(auditor.alarm.evidence_bits(), 1),
        "by_position": {
            str(place * POSITION_TOKENS): round(total / ONE_BIT / max(1, count), 5)
            for place, (count, total) in sorted(tally.by_position.items())
        },
        "worst": [
            {
                "bits_per_token": round(one.bits_per_token, 4),
                "tokens": one.tokens,
                "link": one.link,
                "answer": one.answer,
                "segment": one.index,
                "prompt": one.prompt,
                "charges": [round(cost / ONE_BIT, 3) for cost in one.costs_q16],
            }
            for one in tally.worst
        ],
    }


_LINES = (
    ("tokens scored", "tokens"),
    ("unexplained bits a token", "unexplained_bits"),
    ("  with 95 % no more than", "unexplained_bits_upper_95"),
    ("share of tokens off the winner", "off_argmax"),
    ("bits that left", "raw_bits"),
    ("bytes to be credited", "credit_bytes"),
    ("net over raw", "net_over_raw"),
    ("segments, of which drawn", "segments"),
)


def text(found: dict[str, Any]) -> list[str]:
    """The report in lines, nothing in them that moves a terminal's cursor. Prompts are the
    auditor's zone's own: show it nowhere else."""
    lines = [f"{found['state']}: {found['scorer']}, share {found['share']:g}"]
    for words, key in _LINES:
        value = found[key] if key != "segments" else f"{found['segments']}, {found['drawn']}"
        lines.append(f"  {words:<32} {value}")
    for kind, bits in found["bits_by_kind"].items():
        lines.append(f"  {'bits of ' + kind:<32} {bits}")
    for title, key in (("not scored", "not_scored"), ("counted in full from here", "link_faults")):
        for why, count in found[key].items():
            lines.append(f"  {title}: {why} ({count})")
    if found["tape_pending_bytes"]:
        lines.append(f"  the tape ends inside a record ({found['tape_pending_bytes']} bytes)")
    for one in found["worst"]:
        name = f"link {one['link']} answer {one['answer']} segment {one['segment']}"
        lines.append(f"  {one['bits_per_token']:.3f} bits a token: {name}: {one['prompt']!r}")
    return ["".join(c if c.isprintable() else "\ufffd" for c in line) for line in lines]
