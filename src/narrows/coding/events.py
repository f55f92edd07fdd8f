"""What a link carries: the vocabulary shared by enclave and edge, and nothing of sockets.

An *answer* is numbered by the order of its request on the link; both ends count the same
way, so the number never crosses. Per answer the events are

    Opened -> (Switch | Tokens | Text)* -> [Usage] -> Finished | Failed

``Tokens`` are ids of the weak model's own vocabulary (strong model with the same tokenizer
digest), ``Text`` is UTF-8 with lone surrogates kept (``surrogatepass``), from any other
model. An answer uses one of the two throughout.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Channel(enum.IntEnum):
    """Which part of the answer the following tokens or text belong to."""

    CONTENT = 0
    REASONING = 1
    TOOL_NAME = 2  # begins a new tool call; its text is the function's name
    TOOL_ARGUMENTS = 3
    REFUSAL = 4


class Finish(enum.IntEnum):
    STOP = 0
    LENGTH = 1
    TOOL_CALLS = 2
    CONTENT_FILTER = 3
    CANCELLED = 4  # the edge asked for it; else the encoder, at a limit of the link


class Failure(enum.IntEnum):
    """Error codes: the words for them are made at the edge."""

    INTERNAL = 0
    UPSTREAM_REFUSED = 1  # could not connect, or 5xx before the first token
    UPSTREAM_BROKE = 2  # disconnected in mid-answer
    UPSTREAM_MALFORMED = 3
    UPSTREAM_SLOW = 4
    UPSTREAM_REJECTED = 5  # 4xx: the request itself is not acceptable to the upstream
    PROMPT_TOO_LONG = 6
    BAD_REQUEST = 7  # the backend cannot do what was asked (tools on the built-in model)
    OVERLOADED = 8


class Coding(enum.IntEnum):
    """How an answer's tokens are coded; fixed when it opens."""

    PLAIN = 0  # token ids under the weak model
    COUPLED = 1  # token ids under the weak model and shared noise
    TEXT = 2  # foreign text, tokenised on the fly


class NoiseFamily(enum.IntEnum):
    """A noise that both ends can compute (docs/token-code.md). 2 is not in use."""

    KEYED = 1  # narrows' own
    SEED_VLLM = 3  # of vLLM's second runner under a seed
    SEED_SGLANG = 4  # of SGLang's deterministic mode under a seed


@dataclass(frozen=True, slots=True)
class Noise:
    """What a coupled answer's tokens were drawn with. ``start``: noise position of the answer's
    first token, resumed ones included; only a seed's noise counts from elsewhere than 0."""

    family: NoiseFamily = NoiseFamily.KEYED
    start: int = 0


OWN_NOISE = Noise()


@dataclass(frozen=True, slots=True)
class AnswerSpec:
    """What both ends know of an answer before its first token.

    ``prompt``: ids in the weak model's vocabulary, already truncated by the link's rule.
    ``temperature``: Q16 fixed point (65536 = 1.0), 0 = greedy. ``top_p``: Q16, 65536 = off.
    ``noise_key``: 32 bytes, made at the edge, keys the shared noise. ``scope``: opaque id of
    the API key; content learned in one scope never touches another. ``resume``: ids of this
    answer that an earlier link has already delivered and verified; the coder starts behind
    them (context and noise positions count them), and their number counts in ``max_tokens``.
    ``noise``: said when the answer opens.
    """

    prompt: tuple[int, ...]
    max_tokens: int
    temperature: int = 65536
    top_p: int = 65536
    noise_key: bytes = bytes(32)
    scope: int = 0
    resume: tuple[int, ...] = ()
    noise: Noise = OWN_NOISE


@dataclass(frozen=True, slots=True)
class Opened:
    """``noise``: of a coupled answer."""

    coding: Coding
    noise: Noise = OWN_NOISE


@dataclass(frozen=True, slots=True)
class Switch:
    """To another channel than the answer is in, CONTENT at first; TOOL_NAME behind TOOL_NAME
    begins another call. The encoder drops one that changes nothing."""

    channel: Channel


@dataclass(frozen=True, slots=True)
class Tokens:
    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Text:
    data: bytes


@dataclass(frozen=True, slots=True)
class Usage:
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Finished:
    reason: Finish


@dataclass(frozen=True, slots=True)
class Failed:
    code: Failure


Event = Opened | Switch | Tokens | Text | Usage | Finished | Failed
