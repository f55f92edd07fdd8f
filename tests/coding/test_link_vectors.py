"""The wire format, pinned: streams of a model with fixed shares, in data/link_vectors.json.

A vector's script is replayed and must give its bytes; its bytes are decoded and must give its
events. The token code is replaced by fixed shares, so that these change with the link's format
alone (the token code has its own vectors). ``write_link_vectors.py`` makes them.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from coding.link_scripts import Vector, as_pinned, replay

PATH = Path(__file__).parent / "data" / "link_vectors.json"
VECTORS: list[Vector] = json.loads(PATH.read_text())


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_the_bytes_and_events_are_pinned(vector: Vector) -> None:
    sent, events = replay(vector)
    assert sent.hex() == vector["bytes"]
    assert as_pinned(vector, events)


def test_the_page_shows_the_first_one() -> None:
    page = (Path(__file__).parents[2] / "docs" / "link-format.md").read_text()
    assert f"`{VECTORS[0]['bytes']}`" in page
