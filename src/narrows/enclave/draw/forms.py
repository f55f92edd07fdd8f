"""Forms that the built-in model's answers are forced into: JSON, a regular expression, a choice.

The grammar library (llguidance) says which tokens may come next. What it is given is an
outsider's: sizes are bounded before it, and its work by its own limits on fuel, rows and states,
in the enclave and nowhere else.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import llguidance
import numpy as np
from numpy.typing import NDArray

from narrows.enclave.parameters import forced_form
from narrows.errors import InputError
from narrows.models.api import Tokenizer
from narrows.wire.parameters import schema_wrong

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

FORM_FIELDS = (
    "guided_json",
    "guided_regex",
    "guided_choice",
    "structured_outputs",
    "json_schema",
    "regex",
)
MAX_CHARS = 32_768
MAX_VALUES = 4096
"""Of a schema here, and ``MAX_CHARS`` of all that one request forces: the library's work grows
with the square of an object's properties."""
COMPACT: JsonCompileOptions = {"whitespace_flexible": False, "lenient": False}
_CALL_MARKS = (b"<tool_call>", b"</tool_call>")
"""Tokens that a forced call is written with, whether or not a vocabulary calls them special."""
_ANY_OBJECT = {"type": "object"}


class FormMaker:
    """Forms over one vocabulary, which is handed to the library at the first of them. Any
    thread."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._lock = threading.Lock()
        self._words: llguidance.LLTokenizer | None = None

    def form(self, body: Mapping[str, Any], calls: str | None = None) -> JsonOrWords | None:
        """What a request forces on its answer; None where it forces nothing. ``calls``: what it
        forces on calls of tools, as Lark (``calling.py``). InputError: what it asks for is
        malformed, too large, or none that is known here."""
        grammar = _grammar(body)
        if grammar is None and calls is not None:
            grammar = llguidance.LLMatcher.grammar_from_lark(calls)
        if grammar is None:
            return None
        limits = llguidance.LLParserLimits(
            max_items_in_row=2000,
            initial_lexer_fuel=1_000_000,
            step_lexer_fuel=200_000,
            step_max_items=50_000,
            max_lexer_states=10_000,
            max_grammar_size=100_000,
            precompute_large_lexemes=False,
            verbose_errors=False,
        )
        matcher = llguidance.LLMatcher(self._library(), grammar, log_level=0, limits=limits)
        return JsonOrWords(matcher, self._tokenizer.vocab_size)

    def _library(self) -> llguidance.LLTokenizer:
        with self._lock:
            if self._words is None:
                words = llguidance.TokenizerWrapper(_Vocabulary(self._tokenizer))
                ends = sorted(self._tokenizer.eos_ids)
                self._words = llguidance.LLTokenizer(words, eos_token=ends)
            return self._words


class JsonOrWords:
    """A ``TokenForm`` of one answer."""

    def __init__(self, matcher: llguidance.LLMatcher, vocab_size: int) -> None:
        self._matcher = matcher
        self._size = vocab_size
        self._check()

    def allowed(self) -> NDArray[np.bool_]:
        words = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        self._check()
        bits = np.unpackbits(words, count=self._size, bitorder="little")
        return bits.astype(np.bool_)

    def took(self, token: int) -> None:
        self._matcher.consume_token(token)
        self._check()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise InputError(f"the forced form: {self._matcher.get_error()[:300]}")


class _Vocabulary:
    """The tokenizer as the library reads it."""

    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._encode = tokenizer.encode
        self.eos_token_id = min(tokenizer.eos_ids)
        self.tokens = [tokenizer.token_bytes(token) for token in range(tokenizer.vocab_size)]
        text = (id_ for id_ in tokenizer.special_ids if self.tokens[id_] in _CALL_MARKS)
        self.special_token_ids = sorted(tokenizer.special_ids - set(text))

    def __call__(self, text: bytes | str) -> list[int]:
        return self._encode(text if isinstance(text, bytes) else text.encode())


def _grammar(body: Mapping[str, Any]) -> str | None:
    wanted = _wanted(body)
    if wanted is None:
        return None
    kind, value = wanted
    try:
        if kind == "json":
            if found := schema_wrong(value, MAX_CHARS, MAX_VALUES):
                raise InputError(f"a JSON schema {found.what}")
            text = json.dumps(value)
            return llguidance.LLMatcher.grammar_from_json_schema(text, overrides=COMPACT)
        if kind == "regex":
            return llguidance.LLMatcher.grammar_from_regex(value)
        if kind == "choice":
            words = " | ".join(json.dumps(one, ensure_ascii=False) for one in value)
            return llguidance.LLMatcher.grammar_from_lark(f"start: {words}")
    except ValueError as error:
        raise InputError(f"the forced form cannot be read: {error}") from error
    raise InputError(f"the built-in model knows no grammar of kind {kind}")


def _wanted(body: Mapping[str, Any]) -> tuple[str, Any] | None:
    forced = forced_form(body)
    if forced is not None:
        kind, value, _ = forced
        return ("json", _ANY_OBJECT) if kind == "json_object" else (kind, value)
    said = body.get("response_format")
    if not said:
        return None
    named = said.get("type") if isinstance(said, Mapping) else None
    if named == "json_object":
        return "json", said.get("schema") or _ANY_OBJECT
    inner = said.get("json_schema") if named == "json_schema" else None
    if not isinstance(inner, Mapping):
        raise InputError("response_format is none that is known here")
    schema = inner.get("schema")
    return "json", _ANY_OBJECT if schema is None else schema
