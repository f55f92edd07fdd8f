"""Real answers as traffic for a link: what is measured, and what weak models are compared on."""

from __future__ import annotations

from typing import Any

from narrows.coding.events import AnswerSpec, Coding
from narrows.coding.spec import render_prompt
from narrows.measure.run import Replayed
from narrows.models.api import TokenModel
from narrows.rows import messages_of

_BIG = 1 << 20


def replay_answer(model: TokenModel, row: dict[str, Any]) -> Replayed:
    """A row as traffic: foreign text in pieces of a weak-model token, or given token ids."""
    prompt = tuple(render_prompt(model, messages_of(row)))
    spec = AnswerSpec(prompt, _BIG)
    if isinstance(row.get("tokens"), list):
        return Replayed(spec, Coding.PLAIN, tuple(int(token) for token in row["tokens"]))
    text = row["response"].encode("utf-8", "surrogatepass")
    token_bytes = model.tokenizer.token_bytes
    pieces = tuple(token_bytes(token) for token in model.tokenizer.encode(text))
    return Replayed(spec, Coding.TEXT, pieces)
