"""From examples to the arrays of a training step.

A batch is a group of examples of similar length, padded on the right: with causal attention what
stands on the right changes nothing on the left, so no mask is needed. Order and grouping are a
function of (seed, epoch, examples) alone; a resumed run repeats them.

Each predicted token has a weight and a list of (class, share) targets. Without a teacher the list
is the token itself. With one it is the teacher's k most likely tokens, and the token itself only
where it lies outside of these: over the teacher's draws that is the exact cross-entropy, with
far less noise than one drawn token has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from narrows.errors import InputError
from narrows.training.classes import TokenClasses
from narrows.training.corpus.examples import Example

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class TrainingBatch:
    """``inputs`` [rows, length] classes; ``places`` [n] flat indices into it whose next token
    is predicted; ``targets`` and ``shares`` [n, m]; ``weights`` [n]; ``tokens``:
    how many of them are of answers."""

    inputs: Ints
    places: Ints
    targets: Ints
    shares: Floats
    weights: Floats
    tokens: int

    @property
    def arrays(self) -> tuple[Ints, Ints, Ints, Floats]:
        """What ``Student.forward`` takes."""
        return self.inputs, self.places, self.targets, self.shares


def windows(example: Example, *, max_prompt: int, max_tokens: int) -> list[Example]:
    """The example in pieces of at most ``max_tokens`` ids, prompt and answer together; every
    token of the answer is in exactly one of them.

    The first has the last ``max_prompt`` ids of the prompt. Where the answer goes on, the next
    has the ``max_prompt`` ids before it as its prompt, of the answer so far where that is long
    enough: on the link, too, it stands before. InputError: no room for an answer.
    """
    if max_prompt >= max_tokens:
        raise InputError(f"max_prompt {max_prompt} leaves no room in max_tokens {max_tokens}")
    whole = np.concatenate([example.prompt, example.answer])
    start = len(example.prompt)
    parts: list[Example] = []
    while start < len(whole) or not parts:
        prompt = whole[max(0, start - max_prompt) : start]
        end = min(len(whole), start + max_tokens - len(prompt))
        part = slice(start - len(example.prompt), end - len(example.prompt))
        top = example.top_ids[part], example.top_logp[part]
        parts.append(Example(example.name, prompt, example.answer[part], *top))
        start = end
    return parts


def groups(
    examples: Sequence[Example], *, batch_tokens: int, seed: int, epoch: int
) -> list[list[Example]]:
    """All examples once, in groups of at most ``batch_tokens`` padded tokens (or of one)."""
    random = np.random.default_rng([seed, epoch])
    lengths = np.array([e.tokens for e in examples])
    # Near-sorted: the noise keeps a group's company from being the same in every epoch.
    order = np.argsort(lengths * random.uniform(0.85, 1.15, len(examples)), kind="stable")
    result: list[list[Example]] = []
    current: list[Example] = []
    longest = 0
    for index in order:
        example = examples[index]
        longest = max(longest, example.tokens)
        if current and longest * (len(current) + 1) > batch_tokens:
            result.append(current)
            current, longest = [], example.tokens
        current.append(example)
    if current:
        result.append(current)
    return [result[i] for i in random.permutation(len(result))]


def collate(
    group: Sequence[Example], classes: TokenClasses, *, prompt_weight: float, distil: bool
) -> TrainingBatch:
    """One step's arrays. Prompt tokens count ``prompt_weight`` (0: not predicted at all)."""
    length = max(e.tokens for e in group) - 1
    inputs = np.zeros((len(group), length), np.int64)
    width = 1 + max((e.top_ids.shape[1] for e in group), default=0) * distil
    places, targets, shares, weights = [], [], [], []
    for row, example in enumerate(group):
        ids = classes.of_token[np.concatenate([example.prompt, example.answer])]
        inputs[row, : len(ids) - 1] = ids[:-1]
        first = 0 if prompt_weight else len(example.prompt) - 1
        places.append(row * length + np.arange(first, len(ids) - 1))
        weight = np.ones(len(ids) - 1 - first, np.float32)
        weight[: len(example.prompt) - 1 - first] = prompt_weight
        weights.append(weight)
        target = np.zeros((len(weight), width), np.int64)
        share = np.zeros((len(weight), width), np.float32)
        target[:, 0], share[:, 0] = ids[first + 1 :], 1.0
        if distil and example.top_ids.shape[1]:
            k, tail = example.top_ids.shape[1], slice(len(weight) - len(example.answer), None)
            target[tail, 1 : k + 1] = classes.of_token[example.top_ids]
            share[tail, 1 : k + 1] = np.exp(example.top_logp.astype(np.float32))
            share[tail, 0] = ~(example.top_ids == example.answer[:, None]).any(axis=1)
        targets.append(target)
        shares.append(share)
    return TrainingBatch(
        inputs,
        np.concatenate(places).astype(np.int64),
        np.concatenate(targets),
        np.concatenate(shares),
        np.concatenate(weights),
        sum(len(e.answer) for e in group),
    )
