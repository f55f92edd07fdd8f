"""Training examples: a prompt, its answer, and perhaps what a teacher thought of each token.

A shard is one ``.npz`` file of sampled answers: ``ids`` (names), ``prompt`` and ``answer``
(token ids, end to end), ``prompt_length`` and ``answer_length``, ``top_ids`` and ``top_logp``
[sum of answer_length, k]. An example is in the dev split or in the training split by the hash of
its rendered prompt, so no prompt is ever in both, whichever file or day it comes from.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from narrows.coding.spec import ChatModel
from narrows.durable import replacing
from narrows.errors import InputError
from narrows.models.api import Tokenizer
from narrows.rows import messages_of, read_rows
from narrows.training.corpus.sample import Sampled

_ARRAYS = ("ids", "prompt", "prompt_length", "answer", "answer_length", "top_ids", "top_logp")


@dataclass(frozen=True, slots=True)
class Example:
    """``prompt``, ``answer`` int32; ``top_ids`` int32 and ``top_logp`` float16
    [len(answer), k], natural log-probabilities; k = 0 where no teacher was asked."""

    name: str
    prompt: NDArray[np.int32]
    answer: NDArray[np.int32]
    top_ids: NDArray[np.int32]
    top_logp: NDArray[np.float16]

    @property
    def tokens(self) -> int:
        return len(self.prompt) + len(self.answer)


def is_dev(prompt: NDArray[np.int32] | Sequence[int], dev_percent: float) -> bool:
    """Whether a rendered prompt belongs to the dev split: a property of the prompt alone."""
    data = np.asarray(prompt, "<u4").tobytes()
    value = int.from_bytes(hashlib.sha256(b"narrows dev split" + data).digest()[:8], "big")
    return value < dev_percent / 100 * 2.0**64


def write_shard(path: Path, answers: Sequence[Sampled]) -> None:
    """Write ``answers`` so that a reader sees the whole file or none."""
    if not answers:
        raise InputError("a shard needs at least one answer")
    with replacing(path) as file:
        np.savez(
            file,
            ids=np.array([a.name for a in answers]),
            prompt=np.concatenate([np.asarray(a.prompt, np.uint32) for a in answers]),
            prompt_length=np.array([len(a.prompt) for a in answers], np.int64),
            answer=np.concatenate([np.asarray(a.answer, np.uint32) for a in answers]),
            answer_length=np.array([len(a.answer) for a in answers], np.int64),
            top_ids=np.concatenate([a.top_ids for a in answers]),
            top_logp=np.concatenate([a.top_logp for a in answers]),
        )


def read_shard(path: Path, *, vocab: int) -> list[Example]:
    """The examples of one shard. InputError: damaged, or with tokens outside ``vocab``."""
    try:
        with np.load(path, allow_pickle=False) as file:
            a = {name: file[name] for name in _ARRAYS}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, EOFError) as error:
        raise InputError(f"{path.name} is no shard of sampled answers: {error!s:.100}") from error
    n, tokens = len(a["ids"]), len(a["answer"])
    lengths = (a["prompt_length"], a["answer_length"])
    shaped = (
        all(len(x) == n and x.dtype == np.int64 and bool((x > 0).all()) for x in lengths)
        and (int(lengths[0].sum()), int(lengths[1].sum())) == (len(a["prompt"]), tokens)
        and a["top_ids"].shape == a["top_logp"].shape
        and a["top_ids"].ndim == 2
        and len(a["top_ids"]) == tokens
    )
    if not shaped:
        raise InputError(f"{path.name}: its arrays do not fit each other")
    for name in ("prompt", "answer", "top_ids"):
        if a[name].size and not 0 <= int(a[name].min()) <= int(a[name].max()) < vocab:
            raise InputError(f"{path.name}: a token id of {name} is outside 0..{vocab - 1}")
        a[name] = a[name].astype(np.int32)
    starts = np.cumsum(lengths[0])[:-1], np.cumsum(lengths[1])[:-1]
    rows = zip(
        a["ids"],
        np.split(a["prompt"], starts[0]),
        np.split(a["answer"], starts[1]),
        np.split(a["top_ids"], starts[1]),
        np.split(a["top_logp"].astype(np.float16), starts[1]),
        strict=True,
    )
    return [Example(str(name), *rest) for name, *rest in rows]


def read_answers(path: Path, model: ChatModel, tokenizer: Tokenizer, end: int) -> list[Example]:
    """The rows of a JSONL file with ``prompt`` and ``response`` in the model's tokens, each
    answer ended by ``end``. InputError names the line that is wrong."""
    examples = []
    for number, row in enumerate(read_rows(path), 1):
        if not row["response"]:
            continue
        prompt = model.render_chat(messages_of(row))
        try:
            answer = [*tokenizer.encode(row["response"].encode("utf-8", "surrogatepass")), end]
        except InputError as error:
            raise InputError(f"{path.name}:{number}: {error.message}", error.remedy) from error
        examples.append(plain_example(f"{path.stem}:{number}", prompt, answer))
    return examples


def plain_example(name: str, prompt: Sequence[int], answer: Sequence[int]) -> Example:
    """An example without a teacher's distributions."""
    shape = (len(answer), 0)
    return Example(
        name,
        np.asarray(prompt, np.int32),
        np.asarray(answer, np.int32),
        np.zeros(shape, np.int32),
        np.zeros(shape, np.float16),
    )
