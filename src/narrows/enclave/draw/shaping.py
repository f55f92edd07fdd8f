"""What a request's parameters make of the built-in model's logits before a token is drawn.

Order, as in vLLM: repetition penalty, frequency and presence penalty, bias; then what may not
come (a forced form, ends that must wait); then min_p and top_k, at the answer's temperature; the
sampler's own top_p follows, over what is left. Logits stay integers, so an answer that goes on
after a lost link is the same again. The draw is a Gumbel argmax of what comes out: coupled
coding needs no more. No auditor replays it (docs/audit.md).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from narrows.coding.tokens.sampler import inverse_q16
from narrows.errors import InputError
from narrows.models.api import Logits
from narrows.wire.parameters import PARAMETERS

_Q16 = 1 << 16
_LOG2_E = math.log2(math.e)
_MOST = (1 << 30) - 1
_NEVER = -(1 << 29)
"""Against a best logit of 0: 8,192 bits, where no temperature and no noise reaches."""
_HEEDED = (
    "repetition_penalty",
    "repeat_penalty",
    "frequency_penalty",
    "presence_penalty",
    "logit_bias",
    "top_k",
    "min_p",
    "min_tokens",
    "ignore_eos",
    "stop_token_ids",
)


class TokenForm(Protocol):
    """A form that the answer is forced into (``forms.py``)."""

    def allowed(self) -> NDArray[np.bool_]:
        """By token: whether it may come next. InputError: it cannot be worked out."""

    def took(self, token: int) -> None:
        """``token`` has come. InputError: it may not."""


class Shaping:
    """Of one answer. ``body``: checked by ``check_fields_of``; ``prompt``: what the model reads
    before it; ``ends``: tokens that end an answer. InputError: the vocabulary has no such id, or
    two parameters leave no token."""

    def __init__(
        self,
        body: Mapping[str, Any],
        prompt: Sequence[int],
        vocab_size: int,
        ends: frozenset[int],
        temperature_q16: int,
        form: TokenForm | None = None,
    ) -> None:
        said = {name: body[name] for name in _HEEDED if body.get(name) is not None}
        self._form = form
        self._size = vocab_size
        self._inverse = inverse_q16(temperature_q16) if temperature_q16 else 0
        penalty = said.get("repetition_penalty", said.get("repeat_penalty", 1))
        self._repetition = max(1, round(penalty * _Q16))
        self._frequency = _from_nats(said.get("frequency_penalty", 0))
        self._presence = _from_nats(said.get("presence_penalty", 0))
        self._bias = [
            (self._known(int(name), "logit_bias"), _from_nats(bias))
            for name, bias in said.get("logit_bias", {}).items()
        ]
        self._top_k = max(0, said.get("top_k", 0))
        min_p = said.get("min_p", 0)
        self._depth = math.floor(-math.log2(min_p) * _Q16) if min_p > 0 else -1
        self._least = said.get("min_tokens", 0)
        stops = {self._known(one, "stop_token_ids") for one in said.get("stop_token_ids", ())}
        ignore = said.get("ignore_eos", False)
        self.ends = frozenset(stops if ignore else stops | ends)
        if form is not None and (ignore or self._least):
            raise InputError("ignore_eos and min_tokens do not go with a forced form")
        self._ends = np.array(sorted(self.ends), np.int64)
        self._never = np.array(sorted(ends) if ignore else [], np.int64)
        self._counts = np.zeros(vocab_size, np.int64)
        self._met = np.zeros(vocab_size, np.bool_)
        if self._repetition != _Q16:
            self._met[np.array(prompt, np.int64)] = True

    @property
    def idle(self) -> bool:
        """Whether it changes nothing of any draw."""
        changes = (
            self._form is not None,
            self._repetition != _Q16,
            self._frequency,
            self._presence,
            self._bias,
            self._top_k,
            self._depth >= 0,
            self._least,
            len(self._never),
        )
        return not any(changes)

    def shaped(self, logits: Logits, position: int) -> Logits:
        """The logits to draw the token at ``position`` of the answer from. InputError: no token
        may come."""
        values = logits.astype(np.int64)
        if self._repetition != _Q16:
            met = values[self._met]
            larger, smaller = (met << 16) // self._repetition, (met * self._repetition) >> 16
            values[self._met] = np.where(met > 0, larger, smaller)
        if self._frequency or self._presence:
            values -= self._counts * self._frequency + (self._counts > 0) * self._presence
        for token, bias in self._bias:
            values[token] += bias
        values = np.clip(values, -_MOST, _MOST)
        kept = np.ones(self._size, np.bool_) if self._form is None else self._form.allowed()
        kept[self._never] = False
        if position < self._least:
            kept[self._ends] = False
        if not kept.any():
            raise InputError("no token may come next")
        top = int(values[kept].max())
        if self._depth >= 0 and self._inverse:
            kept &= ((top - values) * self._inverse) >> 16 <= self._depth
        if 0 < self._top_k < np.count_nonzero(kept):
            kept &= self._best(values, kept)
        shaped = np.where(kept, np.maximum(values - top, _NEVER), _NEVER)
        return shaped.astype(np.int32)

    def took(self, token: int) -> None:
        """``token`` has come. InputError: the forced form does not have it there."""
        self._counts[token] += 1
        self._met[token] = True
        if self._form is not None:
            self._form.took(token)

    def _best(self, values: NDArray[np.int64], kept: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """The ``top_k`` highest of ``kept``; of equals, those of the lower ids."""
        ranked = np.where(kept, values, -(1 << 40))
        least = int(np.partition(ranked, -self._top_k)[-self._top_k])
        best = ranked > least
        equal = np.flatnonzero(ranked == least)
        best[equal[: self._top_k - np.count_nonzero(best)]] = True
        return best

    def _known(self, token: int, name: str) -> int:
        if token >= self._size:
            raise InputError(f"{name}: the vocabulary has no token {token}")
        return token


def check_heeded(body: Mapping[str, Any], forms: Sequence[str]) -> None:
    """InputError where a request has a parameter that the built-in model does not heed.
    ``forms``: those that force a form which it knows."""
    # It does not reason: no effort is too small for that.
    heeded = {*_HEEDED, *forms, "reasoning_effort"}
    for name in body.keys() & PARAMETERS.keys() - heeded:
        if body[name] is not None and not PARAMETERS[name].is_neutral(body[name]):
            raise InputError(f"the built-in model does not heed {name}")


def _from_nats(value: float) -> int:
    return round(value * _LOG2_E * _Q16)
