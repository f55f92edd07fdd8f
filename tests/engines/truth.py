"""What a coupled server must draw, worked out apart from it and from its plugin.

Logits come from transformers in float32; penalties, temperature, min_p, top_k and top_p are
written down here as vLLM documents them, and the noise as docs/coupled.md does.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from narrows.coding.tokens import noise

Row = NDArray[np.float64]
_TAIL = 2**32 - 2**20


@functools.cache
def _model(folder: Path) -> Any:
    import torch
    import transformers

    torch.set_num_threads(2)
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def logits(folder: Path, prompt: Sequence[int], out: Sequence[int]) -> Row:
    """float64 [len(out) + 1, vocabulary]: before each token of ``out``, and behind the last."""
    import torch

    with torch.inference_mode():
        rows = _model(folder)(torch.tensor([[*prompt, *out]])).logits[0, len(prompt) - 1 :]
    return np.asarray(rows.numpy(), np.float64)


def shaped(
    row: Row,
    prompt: Sequence[int],
    out: Sequence[int],
    *,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    presence_penalty: float = 0.0,
    frequency_penalty: float = 0.0,
) -> Row:
    """log p of the next token behind ``prompt`` and ``out``; -inf where it is not kept."""
    x = row.copy()
    seen = np.array(sorted({*prompt, *out}), np.intp)
    x[seen] = np.where(x[seen] > 0, x[seen] / repetition_penalty, x[seen] * repetition_penalty)
    counts = np.bincount(np.array(out, np.intp), minlength=len(x))
    x -= frequency_penalty * counts + presence_penalty * (counts > 0)
    x /= temperature
    if min_p > 0:
        x[x < x.max() + math.log(min_p)] = -np.inf
    if top_k > 0:
        x[x < np.sort(x)[-top_k]] = -np.inf
    p = np.exp(x - x.max())
    if top_p < 1:
        order = np.argsort(-p, kind="stable")
        mass = np.cumsum(p[order]) / p.sum()
        x[order[int(np.searchsorted(mass, top_p)) + 1 :]] = -np.inf
        p = np.exp(x - x.max())
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(p) - math.log(p.sum()))


def drawn(log_p: Row, key: bytes, position: int) -> int:
    """The token that the key chooses: the Gumbel maximum over what is kept."""
    row = noise.noise_row(key, position)
    words = np.zeros(noise.padded(len(log_p)), np.uint32)
    noise.words(row, words)
    words = words[: len(log_p)]
    with np.errstate(divide="ignore"):
        about = log_p - np.log(-np.log((words + 0.5) / 2**32))
    late = np.flatnonzero((words >= _TAIL) & np.isfinite(log_p))  # their noise has more bits
    near = np.union1d(np.argpartition(-about, 64)[:64], late)
    exact = [int(noise.token_noise(row, int(i), words[i])) / 2**24 for i in near]
    return int(near[(log_p[near] / math.log(2) + np.array(exact)).argmax()])
