"""A strong model, as the enclave's link driver sees it.

``Backend.generate`` yields the events of one answer in the order of ``coding/events.py``:

    Opened -> (Switch | Tokens | Text)* -> [Usage] -> Finished | Failed

and always ends with ``Finished`` or ``Failed``, whatever the model or server behind it does:
a backend turns every failure of its own into a code, in bounded time. Closing the generator
(the client has gone, or the answer passed a limit of the link) must stop the work behind it at
once. Events in another order end this answer as INTERNAL, and no other one.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from narrows.coding.events import Event, Failed, Failure, Finish, Finished
from narrows.models.api import Tokenizer

DEFAULT_MAX_TOKENS = 16384
"""Of an answer whose request sets no limit."""


@dataclass(frozen=True, slots=True)
class BackendRequest:
    """What a backend may know of a request. ``body`` is OpenAI's chat request as the edge
    reduced it; ``noise_key`` (32 bytes) drives sampling; ``resume`` are tokens of this very
    answer that an earlier link has delivered; ``scope``: whose request it is, so that nothing
    cached for one is felt by another; ``tokenizer``: digest of the link's weak model's."""

    body: Mapping[str, Any]
    noise_key: bytes
    resume: tuple[int, ...] = ()
    scope: int = 0
    tokenizer: bytes = b""


class Backend(Protocol):
    """A source of answers."""

    @property
    def tokenizer(self) -> Tokenizer | None:
        """Vocabulary of the ``Tokens`` it yields; None where it yields ``Text``."""

    def generate(self, request: BackendRequest) -> AsyncGenerator[Event, None]: ...

    async def close(self) -> None: ...


@runtime_checkable
class Attended(Protocol):
    """A backend with work of its own beside answers."""

    async def start(self) -> None:
        """Before the first link. Raises NarrowsError where the enclave must not serve."""

    def figures(self) -> Mapping[str, float]:
        """What telemetry reports of it."""


def tokens_left(request: BackendRequest, room: int) -> int:
    """How many tokens may still come; none below 1. What the request allows is the whole answer,
    whatever of it has been delivered. ``room``: what the model's context has left."""
    wanted = request.body.get("max_tokens")
    whole = DEFAULT_MAX_TOKENS if wanted is None else int(wanted)
    return min(room, whole - len(request.resume))


def without_room(request: BackendRequest) -> Finished | Failed:
    """How an answer ends that may have no token more. A resumed one may have had all of its
    tokens, and lost its end alone."""
    return Finished(Finish.LENGTH) if request.resume else Failed(Failure.PROMPT_TOO_LONG)


def stop_strings(body: Mapping[str, Any]) -> list[str]:
    """The request's stop strings, whether given as one or as a list."""
    stop = body.get("stop") or []
    return [stop] if isinstance(stop, str) else [str(item) for item in stop]
