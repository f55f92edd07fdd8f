"""What one answer does wrong fails that answer; the others on its link stay whole."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from e2e.chain import Chain
from e2e.fakes import HOLD, Piece, ScriptedModel


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Chain, ScriptedModel]]:
    model = ScriptedModel(lambda body: [])
    state: Path = tmp_path_factory.mktemp("one")
    chain = Chain(state, strong=model.url, weak="default").start()
    yield chain, model
    chain.stop()
    model.stop()


def call(index: int) -> dict[str, Any]:
    function = {"name": "f", "arguments": "{}"}
    return {"tool_calls": [{"index": index, "id": f"c{index}", "function": function}]}


def alternation(_: int) -> list[Piece]:
    return [{"reasoning_content": "a"}, {"content": "b"}]


HARMFUL: list[tuple[list[Piece], set[str]]] = [
    (["\x14" * 1025], {"answer_over_limit"}),
    # The edge takes 128 calls, the link 512: whichever sees it first.
    ([call(index) for index in range(513)], {"answer_over_limit", "upstream_malformed"}),
    ([piece for n in range(700) for piece in alternation(n)], {"answer_over_limit"}),
    (["much more than was asked for " * 400, *["and on "] * 2000], {"answer_over_limit"}),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("pieces", "codes"), HARMFUL)
def test_the_answer_beside_it_is_whole(
    served: tuple[Chain, ScriptedModel], pieces: list[Piece], codes: set[str], stream: bool
) -> None:
    chain, model = served
    model.released.clear()
    model.script = lambda body: (
        pieces if body["messages"][-1]["content"] == "harm" else ["before, ", HOLD, "and behind"]
    )
    beside = iter(chain.stream("innocent"))
    text = next(beside).choices[0].delta.content or ""
    ask = ask_streamed if stream else ask_whole
    with pytest.raises(openai.APIError) as failed:
        ask(chain)
    assert failed.value.code in codes
    if isinstance(failed.value, openai.APIStatusError):
        assert failed.value.response.headers["x-should-retry"] == "false"
    model.released.set()
    text += "".join(chunk.choices[0].delta.content or "" for chunk in beside)
    assert text == "before, and behind"
    assert [role.process.poll() for role in chain.roles.values()] == [None] * len(chain.roles)


def ask_whole(chain: Chain) -> None:
    chain.ask("harm", max_tokens=20)


def ask_streamed(chain: Chain) -> None:
    list(chain.stream("harm", max_tokens=20))
