"""Two ways to a completion by ids: ``/v1/completions`` that says ``token_ids``, and SGLang's own.

vLLM says ids under ``/v1``, and so does SGLang since it knows ``return_token_ids``. Before that
only its ``/generate``, beside ``/v1``, does. There a chunk holds all of the answer so far, or,
with ``--stream-output``, what is new: ``completion_tokens`` tells which.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from narrows.coding.events import Event
from narrows.enclave.chunks import read_chunk
from narrows.enclave.modelserver import ModelServer
from narrows.enclave.sse import Malformed
from narrows.enclave.tokens.completion import (
    ECHO_BYTES_PER_ID,
    SHAPING,
    Asked,
    CompletionReader,
    NoTokenIds,
)

_TEXT_BYTES_PER_ID = 64


def completion(
    server: ModelServer, model: str, asked: Asked, reader: CompletionReader, native: bool
) -> AsyncGenerator[Event, None]:
    """The answer's events. ``native``: by SGLang's ``/generate``, which takes no narrows key."""
    if not native:
        return server.events("/completions", asked.body(model), reader, line_bytes=asked.line_bytes)
    line_bytes = asked.line_bytes + (ECHO_BYTES_PER_ID + _TEXT_BYTES_PER_ID) * asked.max_tokens
    body = native_body(asked)
    return server.events(
        "/generate", body, NativeReader(reader), line_bytes=line_bytes, beside=True
    )


def native_body(asked: Asked) -> bytes:
    """The request as ``/generate`` takes it."""
    params: dict[str, Any] = {"temperature": 1.0, "top_p": 1.0}
    params |= {name: asked.shaping[name] for name in SHAPING if asked.shaping.get(name) is not None}
    if (least := params.pop("min_tokens", None)) is not None:
        params["min_new_tokens"] = least
    params |= {
        "max_new_tokens": asked.max_tokens,
        "skip_special_tokens": False,
        "spaces_between_special_tokens": False,
    }
    if asked.shaping.get("ignore_eos"):
        params["ignore_eos"] = True
    if asked.seed is not None:
        params["sampling_seed"] = asked.seed
    sent: dict[str, Any] = {"input_ids": asked.prompt, "sampling_params": params, "stream": True}
    if asked.salt:
        sent["extra_key"] = asked.salt
    return json.dumps(sent).encode("ascii")


class NativeReader:
    """Chunks of ``/generate`` for a ``CompletionReader``."""

    def __init__(self, reader: CompletionReader) -> None:
        self._reader = reader
        self._seen = 0

    @property
    def stopped(self) -> bool:
        return self._reader.stopped

    def chunk(self, payload: bytes) -> list[Event]:
        """Raises as ``CompletionReader.chunk``."""
        data = read_chunk(payload)
        said = data.get("meta_info")
        meta: Mapping[str, Any] = said if isinstance(said, dict) else {}
        choice = {
            "text": self._text(data.get("text")),
            "token_ids": self._fresh_ids(data.get("output_ids"), meta.get("completion_tokens")),
            "finish_reason": _reason(meta.get("finish_reason")),
        }
        return self._reader.read({"choices": [choice]})

    def end(self) -> list[Event]:
        return self._reader.end()

    def _fresh_ids(self, ids: object, count: object) -> list[Any]:
        if not isinstance(ids, list) or type(count) is not int:
            raise NoTokenIds("a chunk without its ids, or without their number")
        fresh = count - self._seen
        if not 0 <= fresh <= len(ids):
            raise Malformed("a chunk that counts other tokens than it holds")
        self._seen = count
        return ids[len(ids) - fresh :]

    def _text(self, text: object) -> str:
        """All of it so far or what is new: both are read where somebody compares it, and where
        nobody does it is not counted again with every chunk."""
        if not isinstance(text, str):
            raise Malformed("text is not a string")
        return text if self._reader.keeps_text else ""


def _reason(said: object) -> object:
    return said.get("type") if isinstance(said, dict) else said
