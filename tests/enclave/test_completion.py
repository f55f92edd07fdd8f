"""A completion read as token ids: what is taken, what is held back, what is malformed."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enclave.strong_folder import write_folder
from narrows.coding.events import Event, Finish, Finished, Tokens, Usage
from narrows.coding.tokens import noise
from narrows.enclave.chunks import ServerError
from narrows.enclave.sse import Malformed
from narrows.enclave.tokens import luck
from narrows.enclave.tokens.completion import Asked, CompletionReader, NoTokenIds
from narrows.enclave.tokens.strong import StrongText
from narrows.errors import ArtifactError
from narrows.models.api import Tokenizer

KEY = bytes(range(32))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return StrongText(write_folder(tmp_path_factory.mktemp("strong"))).tokenizer


def chunk(ids: object = (), finish: object = None, **fields: object) -> bytes:
    choice: dict[str, object] = {"index": 0, "text": "", "finish_reason": finish} | fields
    if ids is not None:
        choice["token_ids"] = list(ids) if isinstance(ids, tuple) else ids
    return json.dumps({"choices": [choice]}).encode()


def reader(tokenizer: Tokenizer, **fields: Any) -> CompletionReader:
    asked = fields.pop("asked", Asked((1, 5, 6), 8, {}))
    return CompletionReader(asked, tokenizer, **({"max_bytes": 1000} | fields))


def read(one: CompletionReader, *chunks: bytes) -> list[Event]:
    return [event for data in chunks for event in one.chunk(data)] + one.end()


def test_the_end_of_text_is_no_token_wherever_it_comes(tokenizer: Tokenizer) -> None:
    end = [Usage(3, 2), Finished(Finish.STOP)]
    both = [Tokens((7, 8)), *end]
    assert read(reader(tokenizer), chunk((7, 8, 2), "stop")) == both
    assert read(reader(tokenizer), chunk((7, 8, 2)), chunk((), "stop")) == both
    assert read(reader(tokenizer), chunk((7, 8)), chunk((2,)), chunk((), "stop")) == both
    assert read(reader(tokenizer), chunk((7, 8)), chunk(None, "stop")) == both
    only = [Usage(3, 0), Finished(Finish.STOP)]
    assert read(reader(tokenizer), chunk((0,), "stop")) == only


def test_an_id_of_an_end_in_mid_answer_stays(tokenizer: Tokenizer) -> None:
    """The server counts it, and so does the noise's position."""
    events = read(reader(tokenizer), chunk((7, 2)), chunk((8, 0)), chunk((), "length"))
    assert events == [
        Tokens((7,)),
        Tokens((2, 8)),
        Tokens((0,)),
        Usage(3, 4),
        Finished(Finish.LENGTH),
    ]


def test_what_was_delivered_before_counts_for_stops_and_usage(tokenizer: Tokenizer) -> None:
    word = tokenizer.encode(b"gate")
    asked = Asked((1, 5, *word[:-1]), 8, {}, KEY, len(word) - 1)
    one = reader(tokenizer, asked=asked, stops=("gate",), before=tuple(word[:-1]))
    events = read(one, chunk((word[-1], 9, 9)))
    assert one.stopped
    assert events == [Tokens((word[-1],)), Usage(2, len(word)), Finished(Finish.STOP)]


def test_the_request_says_all_that_a_server_may_have_its_own_default_for() -> None:
    shaping = {"temperature": 0.5, "stop": ["x"], "tools": [1], "seed": 4, "max_tokens": 9}
    body = json.loads(Asked((1, 2), 7, shaping, KEY, 3).body("m"))
    assert body == {
        "model": "m",
        "prompt": [1, 2],
        "max_tokens": 7,
        "temperature": 0.5,
        "top_p": 1.0,
        "stream": True,
        "return_token_ids": True,
        "skip_special_tokens": False,
        "spaces_between_special_tokens": False,
        "vllm_xargs": {"narrows_key": KEY.hex(), "narrows_position": 3},
    }
    plain = json.loads(Asked((1,), 1, shaping).body("m"))
    assert "vllm_xargs" not in plain
    assert plain["seed"] == 4


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b"[" * 100_000,
        b'{"choices": 5}',
        b'{"choices": [5]}',
        b'{"choices": [{}, {}]}',
        b'{"choices": [{"delta": {"content": "a"}}]}',
        b'{"choices": [{"index": 0, "text": "no ids"}]}',
        chunk(5),
        chunk("abc"),
        chunk({"a": 1}),
        chunk([1.0]),
        chunk([True]),
        chunk(["1"]),
        chunk([None]),
        chunk([-1]),
        chunk([1 << 70]),
        chunk([400]),
        chunk([[1]]),
        chunk((), 5),
        chunk((), ["stop"]),
        chunk((7,), text=5),
        chunk((7,), prompt_token_ids=[1, 5]),
        chunk((7,), prompt_token_ids="1,5,6"),
        chunk((7,) * 9),
        chunk((7,), text="x" * 2000),
    ],
)
def test_what_is_no_completion_is_malformed(tokenizer: Tokenizer, data: bytes) -> None:
    with pytest.raises(Malformed):
        reader(tokenizer).chunk(data)


def test_an_answer_counts_once_against_its_limit(tokenizer: Tokenizer) -> None:
    ids = tuple(tokenizer.encode(b"gate"))
    reader(tokenizer, max_bytes=4).chunk(chunk(ids, text="gate"))
    for said, text in ((ids, ""), ((), "gate")):
        with pytest.raises(Malformed, match="longer than the limit"):
            reader(tokenizer, max_bytes=3).chunk(chunk(said, text=text))


def test_ends_that_are_none(tokenizer: Tokenizer) -> None:
    assert read(reader(tokenizer), chunk((7,))) == [Tokens((7,))]
    with pytest.raises(Malformed):
        reader(tokenizer).end()
    with pytest.raises(ServerError):
        read(reader(tokenizer), chunk((7,), "abort"))
    with pytest.raises(ServerError):
        reader(tokenizer).chunk(b'{"error": {"message": "x"}}')
    with pytest.raises(NoTokenIds):
        reader(tokenizer).chunk(chunk(None, text="a"))
    assert read(reader(tokenizer), chunk((7,), "length", prompt_token_ids=[1, 5, 6]))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(st.sampled_from([0, 2, 5, 7, 99]), max_size=4), max_size=5))
def test_however_ids_are_cut_into_chunks_they_are_the_same(
    tokenizer: Tokenizer, parts: list[list[int]]
) -> None:
    whole = [token for part in parts for token in part]
    asked = Asked((1,), 100, {})
    for finish in ("length", "stop"):
        events = read(
            reader(tokenizer, asked=asked), *map(chunk, map(tuple, parts)), chunk((), finish)
        )
        got = [i for event in events if isinstance(event, Tokens) for i in event.ids]
        ended = finish == "stop" and bool(whole) and whole[-1] in (0, 2)
        assert got == (whole[:-1] if ended else whole)
        assert events[-2] == Usage(1, len(got))


def test_surprise_is_exp_1_without_the_key_and_odds_are_gammas(tokenizer: Tokenizer) -> None:
    rng = np.random.default_rng(3)
    drawn = [int(i) for i in rng.integers(0, 50_000, 4000)]
    values = [luck.surprise(KEY, n, token) for n, token in enumerate(drawn)]
    assert abs(np.mean(values) - 1) < 5 / 4000**0.5
    assert abs(np.var(values) - 1) < 0.25
    assert luck.total(KEY, 7, drawn[7:9]) == pytest.approx(sum(values[7:9]))
    row = noise.noise_row(KEY, 5)
    words = np.empty(noise.padded(3000), np.uint32)
    noise.words(row, words)
    best = int(words[:3000].argmax())
    assert luck.surprise(KEY, 5, best) == max(luck.surprise(KEY, 5, i) for i in range(3000))
    assert luck.odds(1, 3.0) == pytest.approx(math.exp(-3))
    assert luck.odds(3, 2.0) == pytest.approx(math.exp(-2) * (1 + 2 + 2))
    assert luck.odds(0, 5.0) == luck.odds(5, 0.0) == 1.0
    assert luck.odds(64, 64 * 3.5) < 1e-9
    assert 0.4 < luck.odds(50_000, 50_000.0) < 0.6
    assert luck.odds(65_536, 1e7) == 0.0


def test_windows_sag_once_each_and_grow_when_a_probe_clears_them() -> None:
    said: list[tuple[int, float]] = []
    running = luck.Running(lambda count, sum_: said.append((count, sum_)))
    rng = np.random.default_rng(4)
    tokens = [int(i) for i in rng.integers(0, 50_000, luck.WINDOW_TOKENS)]
    running.watch(KEY, 0, tokens[:-1])
    assert not said
    running.watch(KEY, len(tokens) - 1, tokens[-1:])
    assert said == [(len(tokens), pytest.approx(luck.total(KEY, 0, tokens)))]
    running.cleared()
    running.watch(KEY, 0, tokens)
    assert len(said) == 1
    lucky = [max(range(16), key=lambda i, n=n: luck.surprise(KEY, n, i)) for n in range(300)]
    running.restart()
    running.watch(KEY, 0, lucky)
    assert len(said) == 1


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_folder_without_its_files_is_refused(tmp_path: Path, name: str) -> None:
    folder = write_folder(tmp_path)
    (folder / name).write_text("{}")
    with pytest.raises(ArtifactError):
        StrongText(folder)


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("", {}),
        ("", {"add_bos_token": True}),
        ("{{ raise_exception('no') }}", {}),
        ("{{ messages.nothing.there }}", {}),
    ],
)
def test_a_folder_without_a_template_that_can_be_used_is_refused(
    tmp_path: Path, template: str, said: dict[str, bool]
) -> None:
    with pytest.raises(ArtifactError, match="template"):
        StrongText(write_folder(tmp_path, template=template, **said))
