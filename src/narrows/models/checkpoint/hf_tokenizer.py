"""The tokenizer of a Hugging Face folder, with its end tokens and chat template.

- **Ends.** config.json, generation_config.json and tokenizer_config.json often name different
  end tokens of one model, each a true one: all of them count, and the usual ones that the
  tokenizer calls special. A GGUF file of the same model gives the same set.
- **Template.** In whichever place it stands; two places must agree.
- **Added tokens.** What tokenizer_config.json says of them must be what tokenizer.json says.
- **Text is not changed.** A normalizer is refused, except NFC, which changes nothing in text
  that is NFC already; it is left out, since a decoder must give back the bytes that came.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from narrows.errors import ArtifactError
from narrows.models.checkpoint.hf_config import whole
from narrows.models.checkpoint.source import TokenizerData
from narrows.models.checkpoint.statements import (
    END_TEXTS,
    Statement,
    agreed,
    read_json,
    two_statements,
)
from narrows.models.text.chat import MAX_TEMPLATE_CHARACTERS, PLAIN_WITH_BOS
from narrows.models.text.tokenizer import added_tokens

_TOKENIZER_CONFIG, _SPECIALS = "tokenizer_config.json", "special_tokens_map.json"
_TEXT_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "added_tokens.json",
    "chat_template.json",
    "chat_template.jinja",
    _TOKENIZER_CONFIG,
    _SPECIALS,
)
_MAX_SIZE = 1 << 24  # of a vocabulary or context that is only looked at
_Added = dict[str, tuple[int, bool]]


def text_files(folder: Path) -> list[Path]:
    """What ``load_hf_text`` reads, as far as it is there."""
    return [path for name in _TEXT_FILES if (path := folder / name).exists()]


def load_hf_text(folder: Path) -> tuple[TokenizerData, int, int]:
    """Tokenizer, rows of the vocabulary and longest context of the checkpoint in a folder, whose
    architecture need not be one of ours and whose weights are not looked at. ArtifactError."""
    raw = read_json(folder / "config.json")
    sizes: list[int] = []
    for name in ("vocab_size", "max_position_embeddings"):
        number = whole(raw, name)
        if not 1 <= number <= _MAX_SIZE:
            raise ArtifactError(f"config.json: {name} is {number!r:.40}, not 1..{_MAX_SIZE}")
        sizes.append(number)
    return tokenizer_data(folder, raw), sizes[0], sizes[1]


def tokenizer_data(folder: Path, config: Mapping[str, Any]) -> TokenizerData:
    """Everything an artifact keeps of the tokenizer; ``config`` is config.json's content.
    ArtifactError: malformed, unsupported, or two statements differ."""
    content = read_json(folder / "tokenizer.json")
    said = {name: _optional(folder / name) for name in (_TOKENIZER_CONFIG, _SPECIALS)}
    _check_pipeline(content)
    if said[_TOKENIZER_CONFIG].get("add_prefix_space"):
        raise ArtifactError(f"{_TOKENIZER_CONFIG}: add_prefix_space changes text: not supported")
    added = _added(content, whole(config, "vocab_size"))
    _check_added(folder, added, said)
    vocab = _vocabulary(content) | {text: number for text, (number, _) in added.items()}
    texts = {name: _token_text(said, name, vocab) for name in ("bos", "eos")}
    generation = _optional(folder / "generation_config.json")
    files = {"config.json": config, "generation_config.json": generation} | said
    ends = {number for name, file in files.items() for number in _end_ids(name, file, config)}
    ends |= {vocab[text] for text in _said_texts(said, "eos")}
    ends |= {added[text][0] for text in END_TEXTS if added.get(text, (0, False))[1]}
    if not ends:
        raise ArtifactError("the checkpoint names no end-of-text token")
    template = _template(folder, said[_TOKENIZER_CONFIG])
    _check_names(template, said)
    if not template and _adds_bos(content, said[_TOKENIZER_CONFIG], texts["bos"]):
        template = PLAIN_WITH_BOS
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return TokenizerData(text, tuple(sorted(ends)), template, texts["bos"], texts["eos"])


def _optional(path: Path) -> dict[str, Any]:
    return read_json(path) if path.exists() else {}


def _check_pipeline(content: Mapping[str, Any]) -> None:
    """Steps around the BPE: none may change text, the decoder must undo the byte letters."""
    for kind in _kinds(content.get("normalizer"), "normalizers"):
        if kind != "NFC":
            raise ArtifactError(
                f"tokenizer.json: the normalizer {kind!r:.40} changes text, which is not supported"
            )
    decoder = content.get("decoder")
    if decoder is not None and "ByteLevel" not in _kinds(decoder, "decoders"):
        raise ArtifactError("tokenizer.json: the decoder is not byte-level")


def _kinds(node: object, parts: str) -> list[str]:
    """Types of a step and of those it is made of, one level deep."""
    if node is None:
        return []
    row = node if isinstance(node, dict) else {}
    inner = row.get(parts) if row.get("type") == "Sequence" else [row]
    rows = [part if isinstance(part, dict) else {} for part in _items(inner, parts)]
    return [str(part.get("type")) for part in rows]


def _vocabulary(content: Mapping[str, Any]) -> dict[str, int]:
    model = content.get("model")
    vocab = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(vocab, dict) or any(type(number) is not int for number in vocab.values()):
        raise ArtifactError("tokenizer.json has no vocabulary")
    return vocab


def _added(content: Mapping[str, Any], vocab_size: int) -> _Added:
    added = added_tokens(content, vocab_size)
    for row in content.get("added_tokens") or []:
        for flag in ("lstrip", "rstrip", "single_word"):
            if row.get(flag):
                raise ArtifactError(
                    f"tokenizer.json: added token {row['content']!r:.40} has {flag}, "
                    "which is not supported"
                )
    return added


def _check_added(folder: Path, added: _Added, said: Mapping[str, Mapping[str, Any]]) -> None:
    """Other files may repeat tokenizer.json's added tokens; they may not have others."""

    def check(place: str, text: object, number: object, special: object) -> None:
        if not isinstance(text, str) or text not in added:
            raise two_statements((place, text), ("tokenizer.json", "without this added token"))
        mine = added[text]
        for name, value, theirs in (("id", mine[0], number), ("special", mine[1], special)):
            if theirs is not None and theirs != value:
                raise two_statements(
                    (f"{place}: {name} of {text!r:.40}", theirs), ("that in tokenizer.json", value)
                )

    table = said[_TOKENIZER_CONFIG].get("added_tokens_decoder") or {}
    if not isinstance(table, dict):
        raise ArtifactError(f"{_TOKENIZER_CONFIG}: added_tokens_decoder is {table!r:.40}")
    for key, row in table.items():
        fields = row if isinstance(row, dict) else {}
        number = int(key) if key.isdecimal() and len(key) < 10 else key
        special = fields.get("special", False)
        check(f"{_TOKENIZER_CONFIG}: added_tokens_decoder", fields.get("content"), number, special)
    for text, number in _optional(folder / "added_tokens.json").items():
        check("added_tokens.json", text, number, None)
    for name, file in said.items():
        for key in ("additional_special_tokens", "extra_special_tokens"):
            value = file.get(key)
            value = list(value.values()) if isinstance(value, dict) else value
            for item in _items(value, f"{name}: {key}"):
                check(f"{name}: {key}", _content(item), None, True)


def _items(value: object, place: str) -> list[Any]:
    if value is not None and not isinstance(value, list):
        raise ArtifactError(f"{place} is {value!r:.40}, no list")
    return value or []


def _content(value: object) -> object:
    return value.get("content") if isinstance(value, dict) else value


def _said_texts(said: Mapping[str, Mapping[str, Any]], name: str) -> Iterator[str]:
    for _, text in _texts(said, name):
        if text is not None:
            yield text


def _texts(said: Mapping[str, Mapping[str, Any]], name: str) -> Iterator[Statement]:
    for file, content in said.items():
        text = _content(content.get(f"{name}_token"))
        if text is not None and not isinstance(text, str):
            raise ArtifactError(f"{file}: {name}_token is {text!r:.40}")
        yield f"{file}: {name}_token", text or None


def _token_text(said: Mapping[str, Mapping[str, Any]], name: str, vocab: Mapping[str, int]) -> str:
    """What the chat template sees. A text that is no token is refused."""
    for place, text in _texts(said, name):
        if text is not None and text not in vocab:
            raise ArtifactError(f"{place} is {text!r:.40}, which tokenizer.json lacks")
    return agreed(_texts(said, name)) or ""


def _end_ids(name: str, file: Mapping[str, Any], config: Mapping[str, Any]) -> list[int]:
    value = file.get("eos_token_id")
    ids = value if isinstance(value, list) else [] if value is None else [value]
    size = config.get("vocab_size")
    for number in ids:
        if type(number) is not int or type(size) is not int or not 0 <= number < size:
            raise ArtifactError(
                f"{name}: eos_token_id is {value!r:.80}, config.json: vocab_size is {size!r:.40}"
            )
    return ids


def _template(folder: Path, said: Mapping[str, Any]) -> str:
    other = _optional(folder / "chat_template.json")
    places: list[Statement] = [
        (f"{_TOKENIZER_CONFIG}: chat_template", _named(said.get("chat_template"))),
        ("chat_template.json: chat_template", _named(other.get("chat_template"))),
    ]
    path = folder / "chat_template.jinja"
    if path.exists():
        try:
            with path.open("rb") as file:
                text = file.read(4 * MAX_TEMPLATE_CHARACTERS + 1).decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ArtifactError(f"cannot read {path.name}: {error!s:.120}") from error
        places.append((path.name, text))
    # Jinja drops one line end at the end of a template, and editors add one.
    return agreed((place, text and text.removesuffix("\n")) for place, text in places) or ""


def _check_names(template: str, said: Mapping[str, Mapping[str, Any]]) -> None:
    """An artifact keeps bos_token and eos_token; a template that writes another would miss it."""
    for name in ("pad", "unk", "sep", "cls", "mask"):
        for place, text in _texts(said, name):
            if text is not None and re.search(rf"\b{name}_token\b", template):
                raise ArtifactError(
                    f"the chat template uses {name}_token, which is not supported; {place} "
                    f"is {text!r:.40}"
                )


def _named(value: object) -> str | None:
    """The template itself, or the one called ``default`` of several."""
    if isinstance(value, list):
        rows = [row for row in value if isinstance(row, dict) and row.get("name") == "default"]
        if len(rows) != 1:
            raise ArtifactError("of several chat templates none or two are called 'default'")
        value = rows[0].get("template")
    if value is not None and not isinstance(value, str):
        raise ArtifactError(f"the chat template is {value!r:.40}, no text")
    return value


def _adds_bos(content: Mapping[str, Any], said: Mapping[str, Any], bos: str) -> bool:
    """Whether the tokenizer starts every text with ``bos``."""
    post = json.dumps(content.get("post_processor"))
    makes = bool(bos) and json.dumps({"id": bos, "type_id": 0}) in post
    flag = said.get("add_bos_token")
    if makes and flag is False:
        raise two_statements(
            (f"{_TOKENIZER_CONFIG}: add_bos_token", False),
            ("tokenizer.json: post_processor", f"adds {bos}"),
        )
    return bool(bos) and (makes or flag is True)
