"""Answers of a model of our own to many prompts, in batches: what a weak model learns from.

Sampling is the built-in strong model's (``coding/tokens/sampler.py``), so the text has exactly the
distribution that the weak model will have to predict. With ``top_k`` each token also keeps the
strong model's most likely tokens with their log-probabilities: targets for distillation, which
say more per token than the one that was drawn. They never leave with a weak model.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from narrows.coding.spec import ChatModel
from narrows.coding.tokens.sampler import sample
from narrows.errors import InputError
from narrows.models.api import Logits, Stream, TokenModel

Q16 = 65536


@dataclass(frozen=True, slots=True)
class Sampled:
    """One answer. ``prompt`` and ``answer``: token ids (``answer`` ends with the end token
    unless it was cut). ``top_ids`` uint16/uint32 and ``top_logp`` float16 [len(answer), k],
    natural log of the unscaled model distribution; empty without ``top_k``."""

    name: str
    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    top_ids: NDArray[np.uint32]
    top_logp: NDArray[np.float16]


@dataclass
class _Running:
    name: str
    prompt: tuple[int, ...]
    key: bytes
    stream: Stream
    answer: list[int] = field(default_factory=list)
    ids: list[NDArray[np.uint32]] = field(default_factory=list)
    logp: list[NDArray[np.float16]] = field(default_factory=list)


def sample_answers(
    model: TokenModel,
    prompts: Sequence[Mapping[str, str]],
    *,
    temperature: float = 1.0,
    max_tokens: int = 256,
    max_prompt_tokens: int = 1024,
    batch: int = 64,
    seed: int = 0,
    top_k: int = 0,
) -> Iterator[Sampled]:
    """Answers in order of completion. ``prompts``: rows with ``id`` and ``prompt``; longer
    ones than ``max_prompt_tokens`` are skipped. The same seed gives the same answers,
    whatever the batch."""
    if not isinstance(model, ChatModel):
        raise InputError(f"{model.name} has no chat template")
    waiting = deque(prompts)
    running: list[_Running] = []
    eos = model.tokenizer.eos_ids
    scaled = round(temperature * Q16)

    def pick(job: _Running, logits: Logits) -> Sampled | None:
        token = sample(logits, scaled, Q16, job.key, len(job.answer))
        job.answer.append(token)
        if top_k:
            ids, logp = _top(logits, top_k)
            job.ids.append(ids)
            job.logp.append(logp)
        if token not in eos and len(job.answer) < max_tokens:
            return None
        model.close(job.stream)
        return _finished(job, top_k)

    while waiting or running:
        while waiting and len(running) < batch:
            row = waiting.popleft()
            ids = model.render_chat([{"role": "user", "content": row["prompt"]}])
            if len(ids) > max_prompt_tokens:
                continue
            key = hashlib.sha256(f"{seed}:{row['id']}".encode()).digest()
            job = _Running(row["id"], tuple(ids), key, model.open(ids))
            done = pick(job, model.logits(job.stream))
            if done is None:
                running.append(job)
            else:
                yield done
        if not running:
            break
        rows = model.advance([job.stream for job in running], [job.answer[-1] for job in running])
        still: list[_Running] = []
        for job, logits in zip(running, rows, strict=True):
            done = pick(job, logits)
            if done is None:
                still.append(job)
            else:
                yield done
        running = still


def _top(logits: Logits, k: int) -> tuple[NDArray[np.uint32], NDArray[np.float16]]:
    """The ``k`` most likely ids and their natural log-probabilities."""
    nats = (logits.astype(np.float32) - np.float32(logits.max())) * np.float32(np.log(2) / Q16)
    ids = np.argpartition(-nats, k)[:k]
    return ids.astype(np.uint32), (nats[ids] - np.log(np.exp(nats).sum())).astype(np.float16)


def _finished(job: _Running, top_k: int) -> Sampled:
    shape: Any = (0, top_k)
    ids = np.stack(job.ids) if job.ids else np.zeros(shape, np.uint32)
    logp = np.stack(job.logp) if job.logp else np.zeros(shape, np.float16)
    return Sampled(job.name, job.prompt, tuple(job.answer), ids, logp)
