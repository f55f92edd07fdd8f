"""What a model server's error means: its status and words as one of the link's codes."""

from __future__ import annotations

import re

from narrows.coding.events import Failure

_OVERFLOW = re.compile(
    r"context_length_exceeded|exceed_context_size"  # codes of OpenAI and llama.cpp
    r"|maximum context length|maximum model length"  # OpenAI, vLLM, SGLang
    r"|longer than the model.{0,3}s context length|maximum allowed length"  # SGLang
    r"|available context size|context size (?:was |has been )?exceeded"  # llama.cpp
    r"|too long to fit into the model|prompt is too long|must have less than \d+ tokens"
    r"|`?inputs`? tokens \+ `?max_new_tokens`? must be",
    re.IGNORECASE,
)
_OPERATORS = (401, 402, 403, 404, 405, 407)
"""A wrong key, path or model name: no request will do better until an operator acts."""


def failure_of(status: int, words: str) -> Failure:
    """``status`` 0: said inside a stream, without one."""
    if status in (0, 400, 413, 422, 500) and _OVERFLOW.search(words):
        return Failure.PROMPT_TOO_LONG
    if status == 0:
        return Failure.UPSTREAM_MALFORMED
    if status in (429, 503):
        return Failure.OVERLOADED
    if status in _OPERATORS or status < 400:
        return Failure.INTERNAL
    return Failure.UPSTREAM_REJECTED if status < 500 else Failure.UPSTREAM_REFUSED
