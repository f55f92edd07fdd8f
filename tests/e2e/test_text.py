"""What a client gets is exactly what the strong model produced, through real processes."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from e2e.chain import Chain
from e2e.fakes import ScriptedModel

any_text = st.text(
    st.characters() | st.sampled_from("\x00\u0301\U0001f468\u200d\U0001f469\ud83d\udc68\ufffd"),
    max_size=60,
)


def units(text: str) -> bytes:
    """The UTF-16 code units, which is what a JSON string is: a surrogate pair that two pieces
    share and the character that it means are one and the same there."""
    return text.encode("utf-16-le", "surrogatepass")


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Chain, ScriptedModel]]:
    model = ScriptedModel(lambda body: [])
    state: Path = tmp_path_factory.mktemp("echo")
    chain = Chain(state, strong=model.url).start()
    yield chain, model
    chain.stop()
    model.stop()


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(any_text, max_size=5))
def test_any_unicode_in_any_pieces(echo: tuple[Chain, ScriptedModel], pieces: list[str]) -> None:
    chain, model = echo
    model.script = lambda body: pieces
    assert units(chain.ask("x")) == units("".join(pieces))
    streamed = "".join(
        choice.delta.content or "" for chunk in chain.stream("x") for choice in chunk.choices
    )
    assert units(streamed) == units("".join(pieces))


@pytest.mark.parametrize(
    "text",
    ["", "\x00", "a\ud800", "\udfff\ud800", "<|im_end|>", "e\u0301" * 50, "data: [DONE]\n\n"],
)
def test_awkward_texts(echo: tuple[Chain, ScriptedModel], text: str) -> None:
    chain, model = echo
    model.script = lambda body: [text]
    assert chain.ask("x") == text


@pytest.mark.parametrize(
    "length",
    [80_000, pytest.param(1_000_000, marks=[pytest.mark.torture, pytest.mark.timeout(7200)])],
)
def test_a_long_text(echo: tuple[Chain, ScriptedModel], length: int) -> None:
    """The short form too is more than a poll's items, a socket's buffer and several checks."""
    chain, model = echo
    rng = random.Random(5)
    words = ["wide ", "narrow ", "\u017c\u00f3\u0142w ", "\n"]
    text = "".join(rng.choice(words) + rng.randbytes(1).hex() for _ in range(length // 5))[:length]
    assert len(text) == length
    model.script = lambda body: [text[at : at + 5000] for at in range(0, len(text), 5000)]
    stream = chain.client(timeout=280.0).chat.completions.create(  # between two pieces
        model="smollm2-135m-instruct",
        messages=[{"role": "user", "content": "x"}],
        max_tokens=65536,
        stream=True,
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == text
    chain.assert_paid()


def test_status_counts_what_happened(echo: tuple[Chain, ScriptedModel]) -> None:
    chain, model = echo
    model.script = lambda body: ["counted"]
    before = settled_answers(chain)
    chain.ask("x")
    assert settled_answers(chain) == before + 1
    figures = chain.status()
    assert figures["granted_bytes"] == 50_000_000
    assert figures["spent_bytes"] + figures["left_bytes"] == figures["granted_bytes"]
    assert figures["link_bytes"] > 0
    chain.assert_paid()


def settled_answers(chain: Chain) -> int:
    """The count of answers once it has stood still: the edge writes it about once a second."""
    last, since = -1, time.monotonic()
    while time.monotonic() - since < 3.0:
        if (count := chain.status()["answers"]) != last:
            last, since = count, time.monotonic()
        time.sleep(0.1)
    return last
