"""The prompts of a completion request: texts, or token ids that are read back to text here.

Ids are the weak model's, the one vocabulary that the edge knows. Inward goes text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from narrows.edge.config import EdgeLimits
from narrows.edge.link.upkeep import LinkClient
from narrows.edge.problems import bad_request, too_long
from narrows.models.api import TokenModel


async def completion_prompts(
    value: object, limits: EdgeLimits, link: LinkClient
) -> tuple[str, ...]:
    """At least one, however they came. Raises ``ApiError``."""
    if value is None:
        raise bad_request("prompt is missing.", "prompt", "missing_required_parameter")
    if isinstance(value, str):
        return _bounded([value], limits)
    if isinstance(value, list) and value:
        if _all_ids(value):
            return _bounded(await _texts([value], limits, link), limits)
        if len(value) > limits.prompts:
            raise bad_request(f"prompt must hold {limits.prompts} prompts at most.", "prompt")
        if all(isinstance(one, str) for one in value):
            return _bounded(cast(list[str], value), limits)
        if all(isinstance(one, list) and one and _all_ids(one) for one in value):
            return _bounded(await _texts(value, limits, link), limits)
    message = "prompt must be a string, a list of strings, token ids, or lists of token ids."
    raise bad_request(message, "prompt", "invalid_type")


async def _texts(
    prompts: Sequence[Sequence[int]], limits: EdgeLimits, link: LinkClient
) -> list[str]:
    if sum(map(len, prompts)) > limits.prompt_bytes:
        raise too_long(f"The prompts have more than {limits.prompt_bytes:,} tokens.")
    return await link.with_weak(lambda model: _read(model, prompts, limits.prompt_bytes))


def _read(model: TokenModel, prompts: Sequence[Sequence[int]], most_bytes: int) -> list[str]:
    texts: list[str] = []
    for ids in prompts:
        texts.append(id_text(model, ids, most_bytes))
        most_bytes -= len(texts[-1])  # less than its bytes at most: the rest is counted exactly
    return texts


def id_text(model: TokenModel, ids: Sequence[int], most_bytes: int) -> str:
    """What token ids of the weak model say. ``ApiError`` where they say nothing, or more."""
    if not all(0 <= token < model.vocab_size for token in ids):
        message = (
            f"prompt has ids beyond the {model.vocab_size:,} that this edge can read; send text."
        )
        raise bad_request(message, "prompt")
    data = bytearray()
    for token in ids:
        data += model.tokenizer.token_bytes(token)
        if len(data) > most_bytes:
            raise too_long(f"A prompt has more than {most_bytes:,} bytes of text.")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        message = "prompt has ids that are no text in this edge's vocabulary; send text."
        raise bad_request(message, "prompt") from error


def _all_ids(value: list[object]) -> bool:
    return all(isinstance(one, int) and not isinstance(one, bool) for one in value)


def _bounded(prompts: list[str], limits: EdgeLimits) -> tuple[str, ...]:
    size_bytes = sum(len(one.encode("utf-8", "surrogatepass")) for one in prompts)
    if size_bytes > limits.prompt_bytes:
        raise too_long(
            f"The prompts have {size_bytes:,} bytes of text; {limits.prompt_bytes:,} are accepted."
        )
    return tuple(prompts)
