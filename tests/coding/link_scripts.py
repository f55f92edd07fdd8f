"""Scripts of link vectors: what is put into an encoder, when, and what comes of it.

Steps: ["request", row, max_tokens], ["open", number, coding] or
["open", number, coding, noise family, its start], ["put", number, event], ["poll", ms],
["later", ms] (a poll so long after the last one), ["repeat", times, steps]. A number below 0 counts
back from the last request. In costs and events a pair [what, times] stands for so many.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import cycle, groupby
from typing import Any

from narrows.coding.events import (
    OWN_NOISE,
    AnswerSpec,
    Channel,
    Coding,
    Event,
    Failed,
    Failure,
    Finish,
    Finished,
    Noise,
    NoiseFamily,
    Switch,
    Text,
    Tokens,
    Usage,
)
from narrows.coding.link.decoder import LinkDecoder
from narrows.coding.link.encoder import LinkEncoder
from narrows.coding.link.options import LinkOptions
from narrows.coding.tokens.choice import CodingChoice
from narrows.measure.replay import ReplayCode, ReplayModel

Vector = dict[str, Any]


def event(words: list[Any]) -> Event:
    kind, *rest = words
    if kind == "tokens":
        return Tokens(tuple(rest))
    if kind == "text":
        return Text(bytes.fromhex(rest[0]))
    if kind == "switch":
        return Switch(Channel[rest[0]])
    if kind == "usage":
        return Usage(*rest)
    return Finished(Finish[rest[0]]) if kind == "finished" else Failed(Failure[rest[0]])


def said(number: int, event: Event) -> str:
    """As the vectors have it: narrows' own noise goes without saying."""
    return f"{number} {event!r}".replace(f", noise={OWN_NOISE!r}", "")


def spread(items: list[Any]) -> list[Any]:
    """Pairs [what, times] as so many."""
    pairs = [item if isinstance(item, list) else [item, 1] for item in items]
    return [what for what, times in pairs for _ in range(times)]


def gathered(items: list[str]) -> list[Any]:
    runs = [(what, len(list(same))) for what, same in groupby(items)]
    return [what if times == 1 else [what, times] for what, times in runs]


def digest(events: list[str]) -> str:
    """In the place of very many events: their lines' SHA-256."""
    return hashlib.sha256("\n".join(events).encode()).hexdigest()


def as_pinned(vector: Vector, events: list[str]) -> bool:
    if "events" in vector:
        return events == spread(vector["events"])
    return digest(events) == str(vector["events_sha256"])


def costs(vector: Vector) -> list[list[float]]:
    return [spread(row) for row in vector["costs"]]


def steps(script: list[list[Any]]) -> Iterator[list[Any]]:
    for name, *rest in script:
        if name == "repeat":
            for _ in range(rest[0]):
                yield from steps(rest[1])
        else:
            yield [name, *rest]


def specs(vector: Vector) -> list[AnswerSpec]:
    return [AnswerSpec((r[0],), r[1]) for name, *r in steps(vector["steps"]) if name == "request"]


def every_32nd() -> CodingChoice:
    """A choice that tries the other coding for each 32nd answer: it rests for 16 of them."""
    draws = cycle([0.5] * 15 + [0.0])
    return CodingChoice(lambda: next(draws))


def replay(vector: Vector) -> tuple[bytes, list[str]]:
    """The encoder's bytes, and what the decoder makes of them."""
    options = LinkOptions.from_wire(vector["options"])
    encoder = LinkEncoder(ReplayModel(costs(vector)), options, ReplayCode, choice=every_32nd())
    decoder = LinkDecoder(ReplayModel(costs(vector)), options, ReplayCode)
    sent, events, now_ms, requested = b"", [], 0.0, 0
    for name, *rest in steps(vector["steps"]):
        if name == "request":
            spec = AnswerSpec((rest[0],), rest[1])
            assert encoder.request(spec) == decoder.request(spec) == requested
            requested += 1
            continue
        number = rest[0] + requested if rest[0] < 0 else rest[0]
        if name == "open":
            family, start = rest[2:] or (1, 0)
            encoder.open(number, Coding[rest[1]], Noise(NoiseFamily(family), start))
        elif name == "put":
            encoder.put(number, event(rest[1]))
        else:
            now_ms = rest[0] if name == "poll" else now_ms + rest[0]
            data = encoder.poll(now_ms)
            sent += data
            events += [said(number, which) for number, which in decoder.feed(data)]
    return sent, events
