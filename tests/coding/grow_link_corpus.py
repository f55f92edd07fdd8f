"""Write data/link_corpus anew: one hostile stream per kind of refusal, found by mutation.

    PYTHONPATH=tests python -m coding.grow_link_corpus [--seed 1] [--tries 6000]

Needed where a change of the coded probabilities gives old streams another meaning; the test of
the corpus compares each file's name with the refusal, so that it says when. Fewer kinds than
before are an error: raise --tries. A minute or two.
"""

from __future__ import annotations

import argparse
import random
import sys
from dataclasses import replace

from coding.link_fakes import Pair
from coding.test_hostile_link import CORPUS, LIMITS, MAX_TOKENS, honest_stream, hostile, kind_of
from narrows.coding.events import (
    AnswerSpec,
    Channel,
    Coding,
    Finish,
    Finished,
    Switch,
    Tokens,
    Usage,
)
from narrows.coding.link import items, source
from narrows.coding.link.options import LinkOptions


def mutated(rnd: random.Random) -> bytes:
    if rnd.random() < 0.01:
        return bytes([255]) * rnd.randrange(1, 60)  # above every interval's end
    longer = 2 * MAX_TOKENS if rnd.random() < 0.2 else MAX_TOKENS
    stream = bytearray(honest_stream(rnd.randrange(12), longer))
    for _ in range(rnd.randrange(1, 4)):
        at = rnd.randrange(len(stream))
        stream[at] ^= 1 << rnd.randrange(8)
        if rnd.random() < 0.3:
            stream[at:at] = rnd.randbytes(rnd.randrange(1, 6))
        if rnd.random() < 0.3:
            del stream[at + 1 :]
            stream += rnd.randbytes(rnd.randrange(1, 120))
    return bytes(stream)


def forged() -> dict[str, bytes]:
    """Refusals that changed bytes hardly reach: an encoder without the limit writes them."""
    loose = Pair(LinkOptions(limits=replace(LIMITS, max_switches=1024)), piece=1 << 20)
    wide = Pair(LinkOptions(limits=LIMITS), piece=1 << 20)
    limit = items.USAGE_LIMIT
    items.USAGE_LIMIT = source.USAGE_LIMIT = limit + 1
    try:
        for pair in (loose, wide):
            pair.request(AnswerSpec((1, 2), MAX_TOKENS))
            pair.encoder.open(0, Coding.PLAIN)
            pair.encoder.put(0, Tokens((3,)))
        for _ in range(LIMITS.max_switches + 1):
            loose.encoder.put(0, Switch(Channel.TOOL_NAME))
        wide.encoder.put(0, Usage(2, limit))
        for pair in (loose, wide):
            pair.encoder.put(0, Finished(Finish.STOP))
            pair.settle(0.0)
    finally:
        items.USAGE_LIMIT = source.USAGE_LIMIT = limit
    return {kind_of(hostile(bytes(p.sent), 1)[1]): bytes(p.sent) for p in (loose, wide)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tries", type=int, default=6_000)
    args = parser.parse_args()
    rnd = random.Random(args.seed)
    found = {f"accepted-honest-{seed}": (0, honest_stream(seed)) for seed in (0, 1)}
    found |= {kind: (0, data) for kind, data in forged().items()}
    for _ in range(args.tries):
        data = mutated(rnd)
        events, error = hostile(data, 1)
        kind = kind_of(error)
        # The one that gets furthest before it is refused.
        if len(events) > found.get(kind, (-1, b""))[0]:
            found[kind] = len(events), data
    lost = {path.stem for path in CORPUS.glob("*.bin")} - set(found)
    for kind, (events_before, data) in sorted(found.items()):
        print(f"{kind}: {len(data)} bytes, {events_before} events before it")
    if lost:
        print(f"not found again: {', '.join(sorted(lost))}", file=sys.stderr)
        return 1
    for kind, (_, data) in found.items():
        (CORPUS / f"{kind}.bin").write_bytes(data)
    return 0


if __name__ == "__main__":
    sys.exit(main())
