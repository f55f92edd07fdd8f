"""The inward half of a link: what the edge tells the enclave, in the clear, uncounted.

    edge -> enclave   Hello, then any number of Request and Cancel, each one frame
    enclave -> edge   a greeting of exactly two bytes, then the coded stream and nothing else

A frame is a 4-byte big-endian length and that many bytes of JSON. The edge speaks first, so
the greeting answers a Hello: one byte of ``Greeting``, one byte of the index, in the edge's
list, of the weak model that both ends have. Inbound bytes are not limited by the budget, but
an enclave must survive a broken edge: frames are bounded, unknown fields refused.

Requests are numbered by their order on the link, on both sides, without saying so.
"""

from __future__ import annotations

import enum
import json
from typing import Any

import msgspec

from narrows.errors import LinkError

PROTOCOL = 1
MAX_FRAME_BYTES = 16 << 20
_LENGTH_BYTES = 4


class Greeting(enum.IntEnum):
    """First byte that an enclave sends."""

    OK = 0x4E
    BAD_HELLO = 1
    PROTOCOL_UNKNOWN = 2
    NO_COMMON_MODEL = 3
    NUMERICS_DIFFER = 4  # same artifact, other integers: one of the machines is wrong
    OVERLOADED = 5


class WeakOffer(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A weak model that the edge has. ``digest`` names the artifact, ``numerics`` is the
    conformance vector that the edge's own machine computed; both 64 hex digits."""

    digest: str
    numerics: str


class Hello(msgspec.Struct, tag="hello", forbid_unknown_fields=True, frozen=True):
    """Opens a link. ``weak``: newest first, at most 16. ``options``: the link options that
    both coders must share, as ``LinkOptions`` fields."""

    protocol: int
    weak: list[WeakOffer]
    options: dict[str, int] = {}


class Request(msgspec.Struct, tag="request", forbid_unknown_fields=True, frozen=True):
    """One answer wanted.

    ``uid``: 32 hex digits, random, made at the edge: names the answer across links.
    ``body``: the chat-completion request, already checked and reduced by the edge to the
    fields a backend may see (messages, or prompt, a text; max_tokens, temperature, top_p, stop,
    tools, ...).
    ``noise_key``: 64 hex digits, keys sampling and coupled coding. ``scope``: id of the API
    key. ``resume``: weak-model ids already delivered and verified on an earlier link.
    """

    uid: str
    body: dict[str, Any]
    noise_key: str
    scope: int = 0
    resume: list[int] = []


class Cancel(msgspec.Struct, tag="cancel", forbid_unknown_fields=True, frozen=True):
    """The client of answer ``number`` (order of requests on this link) has gone away."""

    number: int


Message = Hello | Request | Cancel


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _decode(body: bytes) -> Message:
    # The standard library's JSON, not msgspec's: prompts may hold lone surrogate escapes,
    # which are text to a chat client and must reach both weak models alike.
    try:
        message: Message = msgspec.convert(json.loads(body, parse_constant=_no_constant), Message)
    except (ValueError, RecursionError, msgspec.ValidationError) as error:
        raise LinkError(f"malformed message: {error}") from error
    return message


def encode_frame(message: Message) -> bytes:
    """Length and JSON; raises LinkError where the frame would exceed MAX_FRAME_BYTES."""
    body = json.dumps(msgspec.to_builtins(message), separators=(",", ":")).encode("ascii")
    if len(body) > MAX_FRAME_BYTES:
        raise LinkError(f"a message of {len(body)} bytes exceeds {MAX_FRAME_BYTES}")
    return len(body).to_bytes(_LENGTH_BYTES, "big") + body


class FrameReader:
    """Cuts a byte stream into messages. Holds at most one frame: 4 bytes + MAX_FRAME_BYTES."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Message]:
        """The messages that ``data`` completes. Raises LinkError on anything malformed."""
        self._buffer += data
        messages: list[Message] = []
        start = 0
        while len(self._buffer) - start >= _LENGTH_BYTES:
            length = int.from_bytes(self._buffer[start : start + _LENGTH_BYTES], "big")
            if length > MAX_FRAME_BYTES:
                raise LinkError(f"a frame of {length} bytes exceeds {MAX_FRAME_BYTES}")
            end = start + _LENGTH_BYTES + length
            if len(self._buffer) < end:
                break
            messages.append(_decode(bytes(self._buffer[start + _LENGTH_BYTES : end])))
            start = end
        del self._buffer[:start]
        return messages
