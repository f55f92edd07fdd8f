"""The tokenizer in GGUF metadata, written as the ``tokenizer.json`` that means the same."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from narrows.errors import ArtifactError
from narrows.models.checkpoint.source import TokenizerData
from narrows.models.checkpoint.statements import END_TEXTS
from narrows.models.text.chat import PLAIN_WITH_BOS

_CONTROL, _USER_DEFINED, _UNUSED = 3, 4, 5
_TYPES = range(1, 7)

_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")


def _byte_level(use_regex: bool) -> dict[str, Any]:
    return {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": use_regex,
    }


def _split(pattern: str) -> list[dict[str, Any]]:
    regex = {
        "type": "Split",
        "pattern": {"Regex": pattern},
        "behavior": "Isolated",
        "invert": False,
    }
    return [regex, _byte_level(False)]


_PRE_TOKENIZERS: dict[str, list[dict[str, Any]]] = {
    "gpt-2": [_byte_level(True)],
    "smollm": [{"type": "Digits", "individual_digits": True}, _byte_level(True)],
    "llama-bpe": _split(_LLAMA3),
    "qwen2": _split(_QWEN2),
}
_WHOLE_WORDS = ("llama-bpe",)  # a word that is a token needs no merges
_ADD_BOS = ("llama-bpe",)  # llama.cpp's default where the file does not say


def tokenizer_data(metadata: Mapping[str, Any], vocab_size: int) -> TokenizerData:
    """ArtifactError: no byte-level BPE, unknown pre-tokenizer, tables of the wrong shape."""
    kind = metadata.get("tokenizer.ggml.model")
    if kind != "gpt2":
        raise ArtifactError(
            f"tokenizer {kind!r:.80} is not supported", "only byte-level BPE ('gpt2') is exact"
        )
    pre = metadata.get("tokenizer.ggml.pre")
    if pre not in _PRE_TOKENIZERS:
        known = ", ".join(_PRE_TOKENIZERS)
        raise ArtifactError(f"unknown pre-tokenizer {pre!r:.80}", f"known: {known}")
    tokens = _strings(metadata, "tokenizer.ggml.tokens")
    if len(tokens) != vocab_size or len(set(tokens)) != len(tokens):
        raise ArtifactError(f"{len(tokens)} tokens (some maybe twice) for {vocab_size} embeddings")
    types = metadata.get("tokenizer.ggml.token_type", [1] * len(tokens))
    if not isinstance(types, list) or len(types) != len(tokens):
        raise ArtifactError("token types and tokens differ in number")
    if any(type(kind) is not int or kind not in _TYPES for kind in types):
        raise ArtifactError("a token has an unknown type")
    unused = {i for i, kind in enumerate(types) if kind == _UNUSED}  # names of empty rows
    control = {i for i, kind in enumerate(types) if kind == _CONTROL}
    eos = _end_ids(metadata, tokens, control)
    added = [
        {
            "id": i,
            "content": tokens[i],
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": i in control,
        }
        for i, kind in enumerate(types)
        if kind in (_CONTROL, _USER_DEFINED)
    ]
    steps = _PRE_TOKENIZERS[pre]
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": steps[0]
        if len(steps) == 1
        else {"type": "Sequence", "pretokenizers": steps},
        "post_processor": None,
        "decoder": _byte_level(True),
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": pre in _WHOLE_WORDS,
            "vocab": {token: i for i, token in enumerate(tokens) if i not in unused},
            "merges": _merges(metadata),
        },
    }
    bos = _token_text(metadata, "bos", tokens)
    return TokenizerData(
        json_text=json.dumps(content, ensure_ascii=False, separators=(",", ":")),
        eos_ids=tuple(sorted(eos)),
        chat_template=_template(metadata, bos, pre),
        bos_token=bos,
        eos_token=_token_text(metadata, "eos", tokens),
    )


def _template(metadata: Mapping[str, Any], bos: str, pre: str) -> str:
    """The chat template, or plain lines behind the token that every text of the model has."""
    template = metadata.get("tokenizer.chat_template")
    if template is None and metadata.get("tokenizer.chat_templates"):
        raise ArtifactError("of several chat templates none is tokenizer.chat_template")
    if template is not None and not isinstance(template, str):
        raise ArtifactError(f"tokenizer.chat_template is {template!r:.40}, no text")
    adds_bos = metadata.get("tokenizer.ggml.add_bos_token", pre in _ADD_BOS)
    if not isinstance(adds_bos, bool):
        raise ArtifactError(f"tokenizer.ggml.add_bos_token is {adds_bos!r:.40}")
    if template or not (bos and adds_bos):
        return template or ""
    return PLAIN_WITH_BOS


def _strings(metadata: Mapping[str, Any], key: str) -> list[str]:
    value = metadata.get(key)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ArtifactError(f"GGUF key {key} is not a list of strings")
    return value


def _merges(metadata: Mapping[str, Any]) -> list[list[str]]:
    pairs = [merge.split(" ") for merge in _strings(metadata, "tokenizer.ggml.merges")]
    if any(len(pair) != 2 for pair in pairs):
        raise ArtifactError("a BPE merge is not a pair")
    return pairs


def _id(metadata: Mapping[str, Any], name: str, count: int) -> int | None:
    value = metadata.get(f"tokenizer.ggml.{name}_token_id")
    if value is None:
        return None
    if type(value) is not int or not 0 <= value < count:
        raise ArtifactError(f"the {name} token id {value!r:.40} is not in the vocabulary")
    return value


def _token_text(metadata: Mapping[str, Any], name: str, tokens: list[str]) -> str:
    number = _id(metadata, name, len(tokens))
    return "" if number is None else tokens[number]


def _end_ids(metadata: Mapping[str, Any], tokens: list[str], control: set[int]) -> set[int]:
    named = {_id(metadata, name, len(tokens)) for name in ("eos", "eot", "eom")}
    known = {i for i in control if tokens[i] in END_TEXTS}
    ends = {i for i in named if i is not None} | known
    if not ends:
        raise ArtifactError("the file names no end-of-text token")
    return ends
