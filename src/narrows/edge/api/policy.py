"""What would widen the way out is refused here, with its reason and its price in bytes.

For comparison: the text of an answer costs about a quarter of a byte a token under a fitting
weak model. Prices are what the cheapest sensible encoding would put on the link.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from narrows.edge.problems import ApiError

LOGPROB_BYTES = 4  # a 16-bit value and a token id
EMBEDDING_DIMENSIONS = 1536
EMBEDDING_VALUE_BYTES = 2
IMAGE_SIDE_PIXELS = 1024
IMAGE_BITS_PER_PIXEL = 1.5
SPEECH_BYTES_PER_S = 4000  # 32 kbit/s
SPEECH_CHARS_PER_S = 15
PICTURE_ANSWER_BYTES_PER_TOKEN = 2


def _refuse(what: str, reason: str, price_bytes: int, param: str | None) -> ApiError:
    message = f"{what} cannot leave: {reason} (at least {price_bytes:,} bytes for this request)."
    return ApiError(
        403, "egress_policy", message, kind="egress_policy", param=param, price_bytes=price_bytes
    )


def _count(value: object, default: int, upper: int) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return min(value, upper)
    return default


def refuse_logprobs(max_tokens: int, top: object) -> ApiError:
    price = max_tokens * (1 + _count(top, 0, 20)) * LOGPROB_BYTES
    reason = "they are the model's own numbers, which no weak model predicts"
    return _refuse("Log probabilities", reason, price, "logprobs")


def refuse_echo(prompt_bytes: int) -> ApiError:
    reason = "the client has it, and inside it would be an answer of its length"
    return _refuse("The prompt's echo", reason, max(1, prompt_bytes), "echo")


def refuse_image_input(max_tokens: int) -> ApiError:
    price = max_tokens * PICTURE_ANSWER_BYTES_PER_TOKEN
    reason = (
        "the weak model reads text only and would code them without their context, which the "
        "operator of this edge does not allow"
    )
    return _refuse("Answers about pictures, sound or files", reason, price, "messages")


def refuse_audio_output(max_tokens: int) -> ApiError:
    price = max_tokens * 4 // SPEECH_CHARS_PER_S * SPEECH_BYTES_PER_S
    return _refuse("Audio", "sound does not compress to what it says", price, "modalities")


def refuse_endpoint(path: str, body: Mapping[str, Any]) -> ApiError | None:
    """The refusal of an endpoint that is nothing but wide output, or None for other paths."""
    if path == "/v1/embeddings":
        values = _count(body.get("dimensions"), EMBEDDING_DIMENSIONS, 1 << 16)
        items = body.get("input")
        vectors = len(items) if isinstance(items, list) and items else 1
        price = vectors * values * EMBEDDING_VALUE_BYTES
        return _refuse("Embeddings", "vectors of the model's own numbers", price, None)
    if path.startswith("/v1/images/"):
        pixels = _count(body.get("n"), 1, 10) * IMAGE_SIDE_PIXELS**2
        price = int(pixels * IMAGE_BITS_PER_PIXEL / 8)
        return _refuse("Images", "a picture is megabits that no weak model predicts", price, None)
    if path.startswith("/v1/audio/"):
        text = body.get("input")
        seconds = len(text) / SPEECH_CHARS_PER_S if isinstance(text, str) else 60.0
        price = max(1, round(seconds * SPEECH_BYTES_PER_S))
        return _refuse("Audio", "sound does not compress to what it says", price, None)
    return None
