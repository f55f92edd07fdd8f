"""The wire format, pinned: streams of a model with fixed shares, in data/link_vectors.json.

A vector's script is replayed and must give its bytes; its bytes are decoded and must give its
events. The token code is replaced by fixed shares, so that these change with the link's format
alone (the token code has its own vectors).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from narrows.coding.events import (
    AnswerSpec,
    Channel,
    Coding,
    Event,
    Failed,
    Failure,
    Finish,
    Finished,
    Switch,
    Text,
    Tokens,
    Usage,
)
from narrows.coding.link.decoder import LinkDecoder
from narrows.coding.link.encoder import LinkEncoder
from narrows.coding.link.options import LinkOptions
from narrows.measure.replay import ReplayCode, ReplayModel

PATH = Path(__file__).parent / "data" / "link_vectors.json"
VECTORS: list[dict[str, Any]] = json.loads(PATH.read_text())


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


def replay(vector: dict[str, Any]) -> tuple[bytes, list[str]]:
    """``steps``: ["request"], ["open", number, coding], ["put", number, event], ["poll", ms]."""
    model = ReplayModel(vector["costs"])
    options = LinkOptions.from_wire(vector["options"])
    encoder = LinkEncoder(model, options, ReplayCode)
    decoder = LinkDecoder(ReplayModel(vector["costs"]), options, ReplayCode)
    sent, events = b"", []
    for name, *rest in vector["steps"]:
        if name == "request":
            spec = AnswerSpec((rest[0],), rest[1])
            assert encoder.request(spec) == decoder.request(spec)
        elif name == "open":
            encoder.open(rest[0], Coding[rest[1]])
        elif name == "put":
            encoder.put(rest[0], event(rest[1]))
        else:
            data = encoder.poll(rest[0])
            sent += data
            events += [f"{number} {which!r}" for number, which in decoder.feed(data)]
    return sent, events


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_the_bytes_and_events_are_pinned(vector: dict[str, Any]) -> None:
    sent, events = replay(vector)
    assert sent.hex() == vector["bytes"]
    assert events == vector["events"]


def test_the_page_shows_the_first_one() -> None:
    page = (Path(__file__).parents[2] / "docs" / "link-format.md").read_text()
    assert f"`{VECTORS[0]['bytes']}`" in page
