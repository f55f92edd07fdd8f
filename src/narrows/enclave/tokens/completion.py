"""A completion asked for by token ids and read as token ids (vLLM's ``/v1/completions``)."""

from __future__ import annotations

import codecs
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from narrows.coding.events import (
    OWN_NOISE,
    Event,
    Finish,
    Finished,
    Noise,
    NoiseFamily,
    Tokens,
    Usage,
)
from narrows.coding.tokens.seeds import seed_of
from narrows.enclave.chunks import choices_of, finish_of, read_chunk, reason_of
from narrows.enclave.sse import Malformed
from narrows.models.api import Tokenizer
from narrows.wire.stops import StopFinder

SHAPING = (
    "temperature",
    "top_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "top_k",
    "min_p",
    "logit_bias",
    "min_tokens",
)
"""Parameters that shape the draw and leave the answer's ids what they are."""
ECHO_BYTES_PER_ID = 12
"""A server says the prompt's ids again, in one line."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One completion. ``prompt``: with what was delivered before; ``max_tokens``: of what comes.
    ``key``: None asks for an uncoupled one. ``position``: of its first token. ``salt``: prompts
    that the server has read under another one are not felt by this one; empty for none.
    ``format``: what the server forces on the text, as a chat request says it. ``family``: of the
    noise that the key stands for. ``extra``: what the operator has every request say."""

    prompt: tuple[int, ...]
    max_tokens: int
    shaping: Mapping[str, Any]
    key: bytes | None = None
    position: int = 0
    salt: str = ""
    format: Mapping[str, Any] | None = None
    family: NoiseFamily = NoiseFamily.KEYED
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def noise(self) -> Noise:
        """A server that draws with a seed counts positions from its own prompt's first token,
        and draws at that of the last token that it has read."""
        if self.family is NoiseFamily.KEYED:
            return OWN_NOISE
        return Noise(self.family, len(self.prompt) - self.position - 1)

    @property
    def seed(self) -> int | None:
        """What the server is to draw with; a coupled answer's key decides over the client's."""
        if self.key is None:
            seed: int | None = self.shaping.get("seed")
            return seed
        return None if self.family is NoiseFamily.KEYED else seed_of(self.key)

    def body(self, model: str) -> bytes:
        """The request."""
        # Sent although they are OpenAI's defaults: a server may have its model's instead.
        sent: dict[str, Any] = {"temperature": 1.0, "top_p": 1.0} | dict(self.extra)
        sent |= {name: self.shaping[name] for name in SHAPING if self.shaping.get(name) is not None}
        sent |= {
            "model": model,
            "prompt": self.prompt,
            "max_tokens": self.max_tokens,
            "stream": True,
            "return_token_ids": True,
            "skip_special_tokens": False,
            "spaces_between_special_tokens": False,
        }
        if self.shaping.get("ignore_eos"):
            sent["ignore_eos"] = True
        if self.format:
            sent["response_format"] = self.format
        if self.salt:
            sent["cache_salt"] = self.salt
        if self.seed is not None:
            sent["seed"] = self.seed
        if self.key is not None and self.family is NoiseFamily.KEYED:
            sent["vllm_xargs"] = {
                "narrows_key": self.key.hex(),
                "narrows_position": self.position,
            }
        return json.dumps(sent).encode("ascii")

    @property
    def line_bytes(self) -> int:
        """The longest line that its answer may hold."""
        return (1 << 16) + ECHO_BYTES_PER_ID * len(self.prompt)


class NoTokenIds(Malformed):
    """The server sends text without saying its tokens."""


class CompletionReader:
    """One completion's chunks in order. ``before``: tokens of the answer that were delivered
    earlier; ``stops``: its stop strings; ``keep_text``: keep the server's own text, in ``text``.
    ``Malformed`` for what is no such completion, more tokens than were asked for, or more than
    ``max_bytes`` of text.

    The end-of-text id that ends an answer is no token of it. It may come ahead of the word that
    it was the end, so such an id is held until something follows."""

    def __init__(
        self,
        asked: Asked,
        tokenizer: Tokenizer,
        *,
        max_bytes: int,
        stops: tuple[str, ...] = (),
        before: tuple[int, ...] = (),
        keep_text: bool = False,
    ) -> None:
        self.asked = asked
        self._tokenizer = tokenizer
        self._left_tokens = asked.max_tokens
        self._left_bytes = self._left_text = max_bytes
        self._held: int | None = None
        self._reason: str | None = None
        self._finder = StopFinder(stops)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._empty = True
        self.keeps_text = keep_text
        self.tokens: list[int] = []
        self.text: list[str] = []
        for token in before:
            self._watch(token)

    @property
    def stopped(self) -> bool:
        """Whether a stop string is there: nothing after it is read."""
        return self._finder.stopped

    def chunk(self, payload: bytes) -> list[Event]:
        """The events of one chunk. Raises ``Malformed`` and ``ServerError``."""
        return self.read(read_chunk(payload))

    def read(self, data: Mapping[str, Any]) -> list[Event]:
        """The same of a chunk that is taken apart."""
        self._empty = False
        fresh: list[int] = []
        for choice in choices_of(data):
            self._check_echo(choice)
            fresh += self._take(self._ids(choice))
            self._reason = self._reason or reason_of(choice)
        self.tokens += fresh
        return [Tokens(tuple(fresh))] if fresh else []

    def end(self) -> list[Event]:
        """The events behind the last chunk; none where the server did not say how it ends."""
        if self.stopped:
            return [self._usage(), Finished(Finish.STOP)]
        if self._empty:
            raise Malformed("a stream without an event")
        if self._reason is None:
            return []
        finish = finish_of(self._reason)
        last: list[Event] = []
        if self._held is not None and finish is not Finish.STOP:
            self.tokens.append(self._held)
            last.append(Tokens((self._held,)))
        self._held = None
        return [*last, self._usage(), Finished(finish)]

    def _usage(self) -> Usage:
        return Usage(
            len(self.asked.prompt) - self.asked.position,
            self.asked.position + len(self.tokens),
        )

    def _check_echo(self, choice: Mapping[str, Any]) -> None:
        echo = choice.get("prompt_token_ids")
        if echo is not None and echo != list(self.asked.prompt):
            raise Malformed("the server read another prompt than it was sent")

    def _ids(self, choice: Mapping[str, Any]) -> list[int]:
        ids, text = choice.get("token_ids"), choice.get("text")
        if text is not None and not isinstance(text, str):
            raise Malformed("text is not a string")
        if ids is None:
            if text or "text" not in choice:
                raise NoTokenIds("a chunk without token ids")
            return []
        size = self._tokenizer.vocab_size
        if not isinstance(ids, list) or not all(type(i) is int and 0 <= i < size for i in ids):
            raise Malformed("token ids that the vocabulary does not have")
        self._left_tokens -= len(ids)
        self._left_bytes -= sum(len(self._tokenizer.token_bytes(i)) for i in ids)
        self._left_text -= len(text or "")  # the same answer again: a limit of its own
        if min(self._left_tokens, self._left_bytes, self._left_text) < 0:
            raise Malformed("the answer is longer than the limit")
        if self.keeps_text:
            self.text.append(text or "")
        return ids

    def _take(self, ids: list[int]) -> list[int]:
        """``ids`` behind the held one, up to where the answer stops."""
        fresh: list[int] = []
        waiting = ids if self._held is None else [self._held, *ids]
        self._held = None
        for place, token in enumerate(waiting):
            if self.stopped:
                break
            if token in self._tokenizer.eos_ids and place + 1 == len(waiting):
                self._held = token
                break
            fresh.append(token)
            self._watch(token)
        return fresh

    def _watch(self, token: int) -> None:
        self._finder.feed(self._decoder.decode(self._tokenizer.token_bytes(token)))
