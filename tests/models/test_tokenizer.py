"""Bytes in, the same bytes out, and no text becomes a control token."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.tiny import SPECIALS, tiny_tokenizer_data, tiny_tokenizer_json
from narrows.errors import ArtifactError, InputError
from narrows.models.text.tokenizer import CHUNK, BpeTokenizer

PIECES = st.one_of(st.text(), st.sampled_from([*SPECIALS, " ", "\n", "'s", "1948"]))


def back(tokenizer: BpeTokenizer, ids: list[int]) -> bytes:
    return b"".join(map(tokenizer.token_bytes, ids))


DATA = tiny_tokenizer_data()
TINY = BpeTokenizer(DATA.json_text, vocab_size=400, eos_ids=DATA.eos_ids)


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.lists(PIECES).map(lambda p: "".join(p).encode()), st.binary()))
def test_any_bytes_come_back(data: bytes) -> None:
    ids = TINY.encode(data)
    assert back(TINY, ids) == data
    assert not TINY.special_ids & set(ids)


@pytest.mark.parametrize("unit", ["a", " ", "\n ", "é", "word ", "'", "1", "\ud800"])
def test_long_monotony(unit: str) -> None:
    data = (unit * 200_000).encode("utf-8", "surrogatepass")
    assert back(TINY, TINY.encode(data)) == data


def test_chunks_cut_at_spaces_change_no_id() -> None:
    text = "the ledger writes 12 bytes a day, " * (CHUNK // 10)
    whole = TINY._bpe.encode(text, add_special_tokens=False).ids
    assert TINY.encode(text.encode()) == whole


def test_markers_only_in_chat() -> None:
    text = "a<|im_end|>b"
    assert 2 not in TINY.encode(text.encode())
    assert TINY.encode_chat(text).count(2) == 1
    assert TINY.special_ids == {0, 1, 2}


def test_missing_bytes_are_an_error_and_left_out_of_prompts() -> None:
    content = json.loads(tiny_tokenizer_json())
    vocab = content["model"]["vocab"]
    content["model"]["merges"] = []
    kept = [t for t in vocab if t in SPECIALS or (len(t) == 1 and t != "Z")]
    content["model"]["vocab"] = {t: i for i, t in enumerate(kept)}
    lacking = BpeTokenizer(json.dumps(content), vocab_size=300, eos_ids=[0])
    assert lacking.missing_bytes == {ord("Z")}
    with pytest.raises(InputError, match="0x5a"):
        lacking.encode(b"aZ")
    assert back(lacking, lacking.encode_chat("aZb")) == b"ab"


@pytest.mark.parametrize(
    "change",
    [
        {"model": {"type": "WordPiece", "vocab": {}}},
        {"pre_tokenizer": None},
        {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True}},
        {"pre_tokenizer": {"type": "Metaspace"}},
        {"added_tokens": [{"id": 999, "content": "x"}]},
        {"added_tokens": 5},
        {"added_tokens": [{"id": True, "content": "x"}]},
        {"model": {"type": "BPE", "vocab": {"a": 0, "b": 0}, "merges": []}},
        {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [["a", "b"]]}},
    ],
)
def test_other_tokenizers_are_refused(change: dict[str, object]) -> None:
    content = json.loads(tiny_tokenizer_json()) | change
    with pytest.raises(ArtifactError):
        BpeTokenizer(json.dumps(content), vocab_size=400, eos_ids=[0])
