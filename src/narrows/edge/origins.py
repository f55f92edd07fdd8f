"""Origins of web pages, as browsers send them: which ones an edge may be told to serve."""

from __future__ import annotations

import re
from collections.abc import Sequence

ANY_ORIGIN = "*"
MAX_ORIGINS = 64
_ORIGIN = re.compile(
    r"[a-z][a-z0-9+.-]{0,30}://([a-z0-9._-]{1,253}|\[[0-9a-f:.]{2,45}\])(:\d{1,5})?"
)
_USUAL_PORTS = {"http": ":80", "https": ":443"}


def origin_problems(origins: Sequence[str]) -> list[str]:
    """A line for each of ``origins`` that no browser sends, and for a list that says too much."""
    if len(origins) > MAX_ORIGINS:
        return [f"cors_origins takes {MAX_ORIGINS} origins at most"]
    problems = []
    for origin in origins:
        usual = _USUAL_PORTS.get(origin.partition("://")[0])
        if origin != ANY_ORIGIN and not _ORIGIN.fullmatch(origin):
            problems.append(
                f"cors_origins: {origin[:100]!r} is no origin, as in https://chat.example or "
                "http://localhost:3000 (lower case, no path, no slash at the end)"
            )
        elif usual is not None and origin.endswith(usual):
            problems.append(f"cors_origins: {origin[:100]!r}: browsers leave out {usual}")
    if ANY_ORIGIN in origins and len(origins) > 1:
        problems.append("cors_origins: '*' stands alone")
    return problems
