"""Who recomputes the strong model: one interface, and the exact runtime behind it.

A scorer gives logits; what they cost is the charge's affair (``scoring.py``). Logits are int32,
Q16 log2 units, as of ``models/api.py``; the sampler's processors (temperature, top_p, noise)
are applied to them by the audit code in the sampler's own order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from narrows.coding.spec import ChatModel, strong_prompt
from narrows.errors import InputError
from narrows.models.api import Logits, TokenModel

PLAIN_FIELDS = frozenset(
    {"messages", "max_tokens", "temperature", "top_p", "stop", "seed", "markup", "reasoning"}
)
"""Fields of a request that decide a token in no way but those that the audit code applies."""
CHUNK_TOKENS = 128


class Scorer(Protocol):
    """The strong model's weights, template and tokenizer, as the enrolment pins them."""

    @property
    def name(self) -> str: ...

    @property
    def digest(self) -> bytes:
        """Names weights, template and tokenizer (32 bytes)."""

    @property
    def vocabulary(self) -> bytes:
        """The tokenizer's digest: that of links whose tokens it can score."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def max_context(self) -> int:
        """Tokens of prompt and answer together that it can score."""

    def prompt(self, body: Mapping[str, Any]) -> list[int]:
        """What the strong model reads before the answer. InputError: it cannot know."""

    def rows(self, context: Sequence[int], tokens: Sequence[int]) -> Iterator[Logits]:
        """The logits before each of ``tokens``, which follow ``context`` (at least one token).
        Each row holds until the next is asked for."""


def check_fields(body: Mapping[str, Any]) -> None:
    """InputError where a request holds what no scorer here can apply."""
    if any(value and name not in PLAIN_FIELDS for name, value in body.items()):
        raise InputError("the scorer cannot apply a field of the request")


class RuntimeScorer:
    """The project's exact runtime: the integers of the enclave that serves with it, by prefill."""

    def __init__(self, model: TokenModel) -> None:
        if not isinstance(model, ChatModel):
            raise InputError(f"{model.name} has no chat template")
        self._model: TokenModel = model
        self.name = model.name
        self.digest = model.digest
        self.vocabulary = model.tokenizer.digest
        self.vocab_size = model.vocab_size
        self.max_context = model.max_context

    def prompt(self, body: Mapping[str, Any]) -> list[int]:
        check_fields({name: said for name, said in body.items() if name != "prompt"})
        return strong_prompt(self._model, body)

    def rows(self, context: Sequence[int], tokens: Sequence[int]) -> Iterator[Logits]:
        stream = self._model.open(context)
        try:
            yield self._model.logits(stream)
            for start in range(0, len(tokens) - 1, CHUNK_TOKENS):
                part = tokens[start : min(start + CHUNK_TOKENS, len(tokens) - 1)]
                yield from self._model.extend(stream, part)
        finally:
            self._model.close(stream)
