"""The byte model: the same integers by every path, a code that any byte has, and a pin."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from narrows.errors import InputError
from narrows.models.api import TokenModel
from narrows.models.bytemodel import END, ByteModel, ByteTokenizer
from narrows.models.distribution import frequencies

MODEL = ByteModel()
TEXT = b"The cat sat on the mat; the cat sat on the hat. \xf0\x9f\x90\x88\x00\xff" * 3


def bits(model: TokenModel, prompt: bytes, answer: bytes) -> float:
    stream = model.open(list(prompt))
    total, logits = 0.0, model.logits(stream)
    for byte in answer:
        total += 32 - np.log2(float(frequencies(logits)[byte]))
        logits = model.advance([stream], [byte])[0]
    return total


def test_prefill_steps_batches_and_forks_agree() -> None:
    whole = MODEL.open(list(TEXT[:10]))
    rows = MODEL.extend(whole, list(TEXT[10:90]))
    one, other = MODEL.open(list(TEXT[:10])), MODEL.open([1, 2, 3])
    for n, byte in enumerate(TEXT[10:90]):
        if n == 40:
            twin = MODEL.fork(one)
            MODEL.advance([one], [7])
            one = twin
        got = MODEL.advance([other, one], [n % 257, byte])
        assert (got[1] == rows[n]).all(), n
    assert (MODEL.logits(one) == MODEL.logits(whole)).all()
    assert one.length == whole.length == 90


def test_fresh_models_agree() -> None:
    again = ByteModel()
    assert again.digest == MODEL.digest
    assert again.numerics == MODEL.numerics
    expected = "dac3f780d2b86541dcc54adac289f90ad9fdf5efc5b05507a7a3aef014e5d640"
    assert MODEL.numerics.hex() == expected


def test_it_learns_from_prompt_and_answer() -> None:
    prompt = b"Remember: zqxjkvbw 7391 zqxjkvbw."
    assert bits(MODEL, prompt, b"zqxjkvbw 7391") < 0.6 * bits(MODEL, b"Hello.", b"zqxjkvbw 7391")
    long = b"the same words again and again; " * 20
    assert bits(MODEL, b"\n", long) < len(long)  # below one bit a byte


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, END), min_size=1, max_size=60))
def test_any_history_leaves_every_byte_possible(tokens: list[int]) -> None:
    stream = MODEL.open(tokens)
    logits = MODEL.logits(stream)
    assert logits.dtype == np.int32
    assert logits.max() <= 0
    assert logits.min() > -90 * 65536
    shares = frequencies(logits)
    assert shares.min() >= 1
    assert int(shares.sum(dtype=np.uint64)) == 2**32


def test_bytes_out_of_range_are_refused() -> None:
    for tokens in ([], [-1], [257]):
        with pytest.raises(InputError):
            MODEL.open(tokens)
    stream = MODEL.open([1])
    with pytest.raises(InputError):
        MODEL.advance([stream], [300])
    MODEL.close(stream)
    MODEL.close(stream)


def test_tokenizer_is_the_identity() -> None:
    tokenizer = ByteTokenizer()
    assert tokenizer.encode(TEXT) == list(TEXT)
    assert b"".join(map(tokenizer.token_bytes, tokenizer.encode(TEXT))) == TEXT
    with pytest.raises(InputError):
        tokenizer.token_bytes(258)
