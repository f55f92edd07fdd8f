"""Byte-exact BPE on the ``tokenizers`` library.

Only byte-level BPE is accepted: there every token is a fixed byte string and text survives
encoding unchanged. Of a ``tokenizer.json`` we use the vocabulary, the merges and the
pre-tokenizer. Normalizers (Qwen's NFC; an import refuses any other) and post-processors would
change the text and are left out; added tokens are handled here, so no text can become one by
accident. An added token that merges make too, and that is not special, is ordinary text.

Invariants
- ``encode(data)``: the ids' bytes concatenate to ``data`` exactly; none is in ``special_ids``.
  Valid UTF-8 goes through BPE; other bytes become their byte tokens one by one.
- A byte without a token is InputError, never a dropped character. (SmolLM2 lacks the
  bytes 04 06 13 14 16 1d, c0 c1 f1 f2 and f5 to ff: six control characters, the unassigned
  planes 4 to 11 and what UTF-8 never holds.)
- Work is linear in the input: text goes to the library in chunks of at most CHUNK characters,
  cut between an ASCII letter or digit and a space where there is one (no pre-tokenizer in use
  keeps those together, so the ids are the library's own), else wherever the limit falls.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

import tokenizers

from narrows.errors import ArtifactError, InputError
from narrows.models.artifact import Artifact, canonical_json

MAX_TEXT_BYTES = 1 << 26
MAX_JSON_BYTES = 1 << 26
TOKENIZER_TENSOR = "tokenizer.json"  # where an artifact keeps the text, uint8
CHUNK = 8192  # characters; a cut is looked for in the second half

_FORMAT = "narrows byte-level bpe 1"
_CUT = re.compile(r"[A-Za-z0-9](?= )")
_INVALID = re.compile("([\udc80-\udcff]+)")
_PRE_TOKENIZERS = ("ByteLevel", "Digits", "Split")


@functools.cache
def _byte_letters() -> tuple[str, ...]:
    """The letter that stands for each byte in a byte-level vocabulary (GPT-2): printable
    Latin-1 stands for itself, the rest for U+0100 and on, in order."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    letters, spare = [], 0x100
    for byte in range(256):
        letters.append(chr(byte if byte in printable else spare))
        spare += byte not in printable
    return tuple(letters)


def _literal(token: str) -> bytes | None:
    """The bytes of a vocabulary entry, None where it is not byte-level."""
    try:
        return bytes(map(_letter_bytes().__getitem__, token))
    except KeyError:
        return None


@functools.cache
def _letter_bytes() -> dict[str, int]:
    return {letter: byte for byte, letter in enumerate(_byte_letters())}


class BpeTokenizer:
    """``narrows.models.api.Tokenizer`` over a ``tokenizer.json``.

    ``vocab_size``: rows of the model's embedding; ids beyond the vocabulary are special and
    have no bytes. ``eos_ids``: what ends an answer. Raises ArtifactError: not byte-level BPE.
    """

    def __init__(self, json_text: str, *, vocab_size: int, eos_ids: Iterable[int]) -> None:
        if len(json_text) > MAX_JSON_BYTES:
            raise ArtifactError("the tokenizer is larger than any may be")
        content = _parse(json_text)
        self._vocab_size = vocab_size
        self._added = added_tokens(content, vocab_size)
        plain = _plain_bpe(content, self._added)
        vocab = plain["model"]["vocab"]
        plain_text = canonical_json(plain)
        self._bpe = _library_tokenizer(plain_text)
        self._bytes = _table(vocab, self._added, vocab_size)
        self._byte_ids = [vocab.get(letter) for letter in _byte_letters()]
        self._missing = frozenset(b for b, i in enumerate(self._byte_ids) if i is None)
        self._special = frozenset(range(vocab_size)) - frozenset(vocab.values())
        self._eos = frozenset(eos_ids)
        if not self._eos <= frozenset(range(vocab_size)):
            raise ArtifactError("an end-of-text id is outside the vocabulary")
        self.control_tokens = tuple(sorted(t for t, (_, special) in self._added.items() if special))
        self._markers = _alternation(self._added) if self._added else None
        self._digest = hashlib.sha256(
            canonical_json(
                {
                    "format": _FORMAT,
                    "bpe": hashlib.sha256(plain_text).hexdigest(),
                    "added": {text: list(row) for text, row in self._added.items()},
                    "eos": sorted(self._eos),
                    "vocab_size": vocab_size,
                }
            )
        ).digest()

    @classmethod
    def from_artifact(cls, artifact: Artifact) -> BpeTokenizer:
        """The tokenizer inside an artifact, made there by ``pack``. Raises ArtifactError."""
        raw = artifact.tensor(TOKENIZER_TENSOR)
        eos_ids, numerics = artifact.header.get("eos_ids"), artifact.header.get("numerics")
        vocab_size = numerics.get("vocab") if isinstance(numerics, dict) else None
        if type(vocab_size) is not int or not 1 <= vocab_size <= 1 << 20:
            raise ArtifactError(f"{artifact.path.name} has no size of its vocabulary")
        if not isinstance(eos_ids, list) or not all(type(i) is int for i in eos_ids):
            raise ArtifactError(f"{artifact.path.name} does not say which ids end an answer")
        try:
            text = raw.tobytes().decode("utf-8")
        except UnicodeDecodeError as error:
            raise ArtifactError("the tokenizer is not UTF-8") from error
        return cls(text, vocab_size=vocab_size, eos_ids=eos_ids)

    @property
    def digest(self) -> bytes:
        return self._digest

    @property
    def vocab_size(self) -> int:
        return self._vocab_size

    @property
    def special_ids(self) -> frozenset[int]:
        return self._special

    @property
    def eos_ids(self) -> frozenset[int]:
        return self._eos

    @property
    def missing_bytes(self) -> frozenset[int]:
        """Bytes that no token sequence can spell."""
        return self._missing

    def token_bytes(self, token: int) -> bytes:
        if not 0 <= token < self._vocab_size:
            raise InputError(f"token id {token} is outside 0..{self._vocab_size - 1}")
        return self._bytes[token]

    def encode(self, data: bytes) -> list[int]:
        if len(data) > MAX_TEXT_BYTES:
            raise InputError(f"a text of {len(data)} bytes; {MAX_TEXT_BYTES} are taken")
        if self._missing and (lacking := self._missing.intersection(data)):
            raise InputError(f"the vocabulary has no token for byte 0x{min(lacking):02x}")
        ids: list[int] = []
        for i, part in enumerate(_INVALID.split(data.decode("utf-8", "surrogateescape"))):
            if i % 2:
                ids.extend(self._spell(part.encode("utf-8", "surrogateescape")))
            else:
                for chunk in _chunks(part):
                    ids.extend(self._bpe.encode(chunk, add_special_tokens=False).ids)
        if b"".join([self._bytes[i] for i in ids]) != data:
            raise InputError("the tokenizer does not give this text back")
        return ids

    def encode_chat(self, text: str, *, guard: str = "") -> list[int]:
        """Ids of a rendered prompt: added tokens become their ids, the rest is plain text,
        from which ``guard`` is taken out after the markers have been found.

        Whoever calls this vouches for every marker in ``text`` (see ``chat``). Bytes without
        a token are left out: a prompt conditions the model, nothing is rebuilt from it."""
        ids: list[int] = []
        parts = [text] if self._markers is None else self._markers.split(text)
        for i, part in enumerate(parts):
            if i % 2:
                ids.append(self._added[part][0])
            elif part:
                plain = part.replace(guard, "") if guard else part
                data = plain.encode("utf-8", "surrogatepass")
                ids.extend(self.encode(data.translate(None, bytes(self._missing))))
        return ids

    def _spell(self, data: bytes) -> Iterator[int]:
        for byte in data:
            number = self._byte_ids[byte]
            if number is None:
                raise InputError(f"the vocabulary has no token for byte 0x{byte:02x}")
            yield number


def _chunks(text: str) -> Iterator[str]:
    start = 0
    while len(text) - start > CHUNK:
        cut = _CUT.search(text, start + CHUNK // 2, start + CHUNK)
        stop = cut.end() if cut else start + CHUNK
        yield text[start:stop]
        start = stop
    if start < len(text):
        yield text[start:]


def _parse(json_text: str) -> dict[str, Any]:
    try:
        content = json.loads(json_text)
    except (ValueError, RecursionError) as error:
        raise ArtifactError("the tokenizer is no JSON") from error
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        raise ArtifactError("the tokenizer has no model")
    return content


def added_tokens(content: Mapping[str, Any], vocab_size: int) -> dict[str, tuple[int, bool]]:
    """Text to (id, whether it is special) of the added tokens in a ``tokenizer.json``'s
    ``content``. ArtifactError: malformed, an id outside the vocabulary or there twice."""
    rows = content.get("added_tokens") or []
    added: dict[str, tuple[int, bool]] = {}
    for row in rows if isinstance(rows, list) else [None]:
        match row:
            case {"id": int(number), "content": str(text), **rest} if (
                text and type(number) is int and 0 <= number < vocab_size
            ):
                added[text] = (number, rest.get("special") is True)
            case _:
                raise ArtifactError(f"the tokenizer has a malformed added token: {row!r:.120}")
    if len({number for number, _ in added.values()}) != len(rows):
        raise ArtifactError("two added tokens share an id or a text")
    return added


def _pre_tokenizers(node: object) -> Iterator[dict[str, Any]]:
    match node:
        case {"type": "Sequence", "pretokenizers": list(parts)}:
            for part in parts:
                if isinstance(part, dict) and part.get("type") == "Sequence":
                    raise ArtifactError("the tokenizer nests pre-tokenizers")
                yield from _pre_tokenizers(part)
        case {"type": str(kind)} if kind in _PRE_TOKENIZERS:
            yield cast(dict[str, Any], node)
        case _:
            raise ArtifactError(f"the tokenizer's pre-tokenizer is not byte-level: {node!r:.120}")


def _library_tokenizer(plain_text: bytes) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_str(plain_text.decode("ascii"))
    except Exception as error:
        raise ArtifactError(f"the tokenizer cannot be used: {error!s:.200}") from error


def _plain_bpe(content: dict[str, Any], added: dict[str, tuple[int, bool]]) -> dict[str, Any]:
    """The ``tokenizer.json`` without added tokens and without anything that changes text.

    An added token that the vocabulary has too: one that is not special and that merges make is
    ordinary text as well and stays; any other leaves the vocabulary, with its merges."""
    model = content["model"]
    steps = list(_pre_tokenizers(content.get("pre_tokenizer")))
    if steps[-1]["type"] != "ByteLevel" or any(step.get("add_prefix_space") for step in steps):
        raise ArtifactError("the tokenizer's pre-tokenizer adds text or is not byte-level")
    if any(step["type"] == "Split" and step.get("behavior") != "Isolated" for step in steps):
        raise ArtifactError("the tokenizer's pre-tokenizer drops or joins text")
    unwanted = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback")
    if model.get("type") != "BPE" or any(model.get(key) for key in unwanted):
        raise ArtifactError("the tokenizer is not a plain byte-level BPE")
    vocab = model.get("vocab")
    if not isinstance(vocab, dict) or not all(type(i) is int for i in vocab.values()):
        raise ArtifactError("the tokenizer's vocabulary is malformed")
    for text, (number, _) in added.items():
        if vocab.get(text, number) != number:
            raise ArtifactError(
                f"the tokenizer says two things: added token {text!r:.40} is id {number}, "
                f"in the vocabulary {vocab[text]}"
            )
    merges = [_pair(merge) for merge in model.get("merges") or []]
    made = {left + right for left, right in merges}
    apart = {text for text, (_, special) in added.items() if special or text not in made}
    vocab = {token: i for token, i in vocab.items() if token not in apart}
    kept = [pair for pair in merges if not apart & {*pair, "".join(pair)}]
    if len(kept) != len(merges):
        model = model | {"merges": [list(pair) for pair in kept]}
    return {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": None,
        "post_processor": None,
        "decoder": None,
        "pre_tokenizer": content["pre_tokenizer"],
        "model": model | {"vocab": vocab, "unk_token": None},
    }


def _pair(merge: object) -> tuple[str, str]:
    parts = merge.split(" ") if isinstance(merge, str) else merge
    match parts:
        case [str(left), str(right)]:
            return left, right
    raise ArtifactError(f"the tokenizer has a malformed merge: {merge!r:.80}")


def _table(
    vocab: dict[str, int], added: dict[str, tuple[int, bool]], vocab_size: int
) -> list[bytes]:
    """Bytes of every id; empty where an id means nothing."""
    table: list[bytes | None] = [None] * vocab_size
    rows = [(i, _literal(token)) for token, i in vocab.items()]
    for text, (i, _) in added.items():
        if text not in vocab:
            rows.append((i, text.encode("utf-8", "surrogatepass")))
    for i, value in rows:
        if not 0 <= i < vocab_size:
            raise ArtifactError(f"token id {i} is outside the embedding of {vocab_size} rows")
        if table[i] is not None:
            raise ArtifactError(f"token id {i} stands for two texts")
        if value is None:
            raise ArtifactError(f"token {i} is not made of bytes")
        table[i] = value
    return [value or b"" for value in table]


def _alternation(texts: Iterable[str]) -> re.Pattern[str]:
    """Matches any of the texts, the longest first."""
    ordered = sorted(texts, key=lambda text: (-len(text), text))
    return re.compile("(" + "|".join(re.escape(text) for text in ordered) + ")")
