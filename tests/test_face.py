"""What people import first: texts as bytes and back, and the examples, run as they stand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import narrows
from narrows.errors import InputError, LinkError, NarrowsError
from narrows.models.bytemodel import ByteModel

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))
TEXTS = st.lists(st.text(st.characters(), max_size=40), max_size=4)  # surrogates included


@given(TEXTS)
def test_any_texts_come_back(texts: list[str]) -> None:
    assert narrows.decompress(narrows.compress(texts, weak="bytes"), weak="bytes") == texts


@settings(max_examples=10)
@given(TEXTS)
def test_any_texts_come_back_under_the_shipped_model(texts: list[str]) -> None:
    model = _default()
    prompts = [text[:20] for text in texts]
    data = narrows.compress(texts, weak=model, prompts=prompts)
    assert narrows.decompress(data, weak=model, prompts=prompts) == texts


def test_bytes_that_the_vocabulary_lacks_are_no_limit() -> None:
    text = "\x14" * 3000
    model = _default()
    assert narrows.decompress(narrows.compress([text], weak=model), weak=model) == [text]


@given(st.binary(max_size=60))
def test_hostile_bytes_are_texts_or_refused(data: bytes) -> None:
    model = ByteModel()
    for stream in (data, bytes([1]) + model.digest[:4] + data):
        try:
            assert isinstance(narrows.decompress(stream, weak=model), list)
        except NarrowsError as error:
            assert isinstance(error, InputError | LinkError)  # noqa: PT017 - either, nothing else


def test_what_does_not_belong_together_is_refused() -> None:
    data = narrows.compress(["one", "two"], weak="bytes", prompts=["a", "b"])
    with pytest.raises(InputError, match="another weak model"):
        narrows.decompress(data, weak=_default())
    with pytest.raises(InputError, match="prompts for"):
        narrows.decompress(data, weak="bytes", prompts=["a"])
    with pytest.raises(LinkError):
        narrows.decompress(data[:-3], weak="bytes", prompts=["a", "b"])
    with pytest.raises(InputError):
        narrows.compress(["one"], weak="bytes", prompts=[])


def test_every_name_of_the_face_is_there() -> None:
    assert all(callable(getattr(narrows, name)) for name in narrows.__all__)
    with pytest.raises(AttributeError):
        _ = narrows.nothing


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_the_examples_run_as_they_stand(path: Path) -> None:
    done = subprocess.run([sys.executable, path], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


_LOADED: list[object] = []


def _default():  # type: ignore[no-untyped-def]
    if not _LOADED:
        _LOADED.append(narrows.load_model("default", threads=1))
    return _LOADED[0]
