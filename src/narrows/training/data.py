"""What a run trains on and what it is measured with.

Sampled shards are looked for again at every epoch, so a sampler may go on while training runs.
The dev examples are chosen once, from the shards that are there first, in the order of their
prompts' hashes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from narrows.errors import InputError
from narrows.training.batches import groups, windows
from narrows.training.corpus.examples import Example, is_dev, read_shard
from narrows.training.recipe import Recipe


class TrainingData:
    """``shards``: a folder of sampled answers (None: no such); ``text``: examples of answer
    files; ``token_bytes``: length in bytes of each token of an answer."""

    def __init__(
        self,
        recipe: Recipe,
        *,
        shards: Path | None,
        text: Sequence[Example],
        vocab: int,
        byte_length: Callable[[Sequence[int]], int],
    ) -> None:
        self._recipe, self._folder, self._vocab = recipe, shards, vocab
        self._cache: dict[str, list[Example]] = {}
        self._text, held = self._split(text)
        for name in self._names():
            held += self._load(name)[1]
        sampled = [parts for parts in held if parts[0].top_ids.shape[1]] or held
        sampled.sort(key=lambda parts: hashlib.sha256(parts[0].prompt.tobytes()).digest())
        self.dev = [part for parts in sampled[: recipe.dev_examples] for part in parts]
        if not self.dev:
            raise InputError("no example is in the dev split", "give more data or dev_percent")
        self.dev_groups = groups(self.dev, batch_tokens=recipe.batch_tokens, seed=0, epoch=0)
        self.dev_bytes = sum(byte_length(e.answer.tolist()) for e in self.dev)

    def _names(self) -> list[str]:
        return sorted(p.name for p in self._folder.glob("[!.]*.npz")) if self._folder else []

    def _split(self, examples: Sequence[Example]) -> tuple[list[Example], list[list[Example]]]:
        """(train, dev): by the whole prompt; an answer's windows in dev stay together, since
        they count as one of ``dev_examples``."""
        train: list[Example] = []
        dev: list[list[Example]] = []
        r = self._recipe
        for example in examples:
            parts = windows(example, max_prompt=r.max_prompt, max_tokens=r.max_tokens)
            if is_dev(example.prompt, r.dev_percent):
                dev.append(parts)
            else:
                train += parts
        return train, dev

    def _load(self, name: str) -> tuple[list[Example], list[list[Example]]]:
        if self._folder is None:
            raise InputError("a run without shards was asked for one")
        train, dev = self._split(read_shard(self._folder / name, vocab=self._vocab))
        self._cache[name] = train
        return train, dev

    def epoch(self, files: list[str] | None, with_text: bool) -> tuple[list[Example], list[str]]:
        """The examples of an epoch and the shards they come from. ``files``: those of an epoch
        that is resumed; None reads what is there now. Text joins where it is wanted, or where
        there is nothing else."""
        resumed = files is not None
        names = files if files is not None else self._names()
        text = "+text" in names if resumed else with_text or not names
        names = [n for n in names if n != "+text"]
        examples = [e for n in names for e in self._cache.get(n) or self._load(n)[0]]
        if text:
            examples += self._text
            names = [*names, "+text"]
        if not examples:
            raise InputError("no example is left to train on")
        return examples, names

    def mass(self) -> NDArray[np.float64]:
        """How much each token is expected to occur in answers [vocab]: the teacher's
        probabilities where it was asked, counts elsewhere; prompts count a tenth."""
        mass = np.zeros(self._vocab)
        examples, _ = self.epoch(None, with_text=True)
        for e in examples:
            np.add.at(mass, e.answer, 1.0)
            np.add.at(mass, e.prompt, 0.1)
            np.add.at(mass, e.top_ids.ravel(), np.exp(e.top_logp.astype(np.float64)).ravel())
        return mass
