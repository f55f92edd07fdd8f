"""Texts as bytes and back, under a weak model: the link's own coder, without a link.

    data = compress(["The sky is blue."], weak="default", prompts=["What colour is the sky?"])
    texts = decompress(data, weak="default", prompts=["What colour is the sky?"])

Form of ``data``: byte 1 (version), the first 4 bytes of the model's SHA-256 digest, the number of
texts (LEB128), and one coded stream (docs/link-format.md) of TEXT answers in order. Whoever
decodes needs the same model and the same prompts; a check in the stream notices other ones.
Arithmetic coding of tokens under a language model: Delétang et al., "Language Modeling Is
Compression" (2023), equation 2; what a link adds is in docs/coupled.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from narrows.coding.events import AnswerSpec, Coding, Finish, Finished, Text
from narrows.coding.link.decoder import LinkDecoder
from narrows.coding.link.encoder import LinkEncoder
from narrows.coding.link.options import LinkLimits, LinkOptions
from narrows.coding.spec import MAX_ANSWER_TOKENS, render_prompt
from narrows.errors import InputError, LinkError
from narrows.models.api import TokenModel
from narrows.models.registry import load_model

VERSION = 1
DIGEST_BYTES = 4
MAX_TEXTS = 1 << 20
MAX_TEXT_BYTES = 1 << 24
SLICE_BYTES = 1 << 12

# Given to both ends: bytes that the vocabulary lacks are rare in a link and may be many here.
_OPTIONS = LinkOptions(limits=LinkLimits(max_switches=1 << 20))


def compress(
    texts: Sequence[str],
    *,
    weak: str | Path | TokenModel = "default",
    prompts: Sequence[str] | None = None,
) -> bytes:
    """``texts`` (any Unicode, lone surrogates too; at most 16 MiB each) as bytes.

    ``weak``: a name, an artifact file, or a loaded model. ``prompts``: what each text answers, as
    context; one for each text, or None. Raises InputError where a text or the number of prompts
    is wrong.
    """
    model = _model(weak)
    specs = _specs(model, len(texts), prompts)
    encoder = LinkEncoder(model, _OPTIONS)
    out = bytearray([VERSION]) + model.digest[:DIGEST_BYTES] + _leb128(len(texts))
    now_ms = 0.0
    for text, spec in zip(texts, specs, strict=True):
        data = text.encode("utf-8", "surrogatepass")
        if len(data) > MAX_TEXT_BYTES:
            raise InputError(f"a text of {len(data)} bytes is longer than {MAX_TEXT_BYTES}")
        number = encoder.request(spec)
        encoder.open(number, Coding.TEXT)
        if data:
            encoder.put(number, Text(data))
        encoder.put(number, Finished(Finish.STOP))
        due: float | None = now_ms
        while due is not None:
            now_ms = max(now_ms, due)
            out += encoder.poll(now_ms)
            due = encoder.next_poll_ms(now_ms)
    return bytes(out)


def decompress(
    data: bytes,
    *,
    weak: str | Path | TokenModel = "default",
    prompts: Sequence[str] | None = None,
) -> list[str]:
    """The texts of ``compress``, given the same model and prompts.

    Raises InputError where ``data`` is of another form, model or number of prompts, LinkError
    where its coded stream is damaged, cut, or was made with other prompts.
    """
    model = _model(weak)
    if len(data) < 1 + DIGEST_BYTES or data[0] != VERSION:
        raise InputError("these bytes are not of narrows.compress")
    if data[1 : 1 + DIGEST_BYTES] != model.digest[:DIGEST_BYTES]:
        raise InputError(
            "compressed under another weak model", "give the one that it was made with"
        )
    count, at = _read_leb128(data, 1 + DIGEST_BYTES)
    decoder = LinkDecoder(model, _OPTIONS)
    parts: list[list[bytes]] = [[] for _ in range(count)]
    ended = 0
    try:
        for spec in _specs(model, count, prompts):
            decoder.request(spec)
        for start in range(at, len(data), SLICE_BYTES):
            for number, event in decoder.feed(data[start : start + SLICE_BYTES]):
                if isinstance(event, Text):
                    parts[number].append(event.data)
                ended += isinstance(event, Finished)
    finally:
        decoder.close()
    if ended != count:
        raise LinkError(f"the stream ends after {ended} of {count} texts")
    try:
        return [b"".join(part).decode("utf-8", "surrogatepass") for part in parts]
    except UnicodeDecodeError as error:
        raise LinkError("a text of the stream is not UTF-8") from error


def _model(weak: str | Path | TokenModel) -> TokenModel:
    return load_model(weak) if isinstance(weak, str | Path) else weak


def _specs(model: TokenModel, count: int, prompts: Sequence[str] | None) -> list[AnswerSpec]:
    if count > MAX_TEXTS:
        raise InputError(f"{count} texts are more than {MAX_TEXTS}")
    if prompts is None:
        start = (min(model.tokenizer.eos_ids),)  # as between two documents of its training
        return [AnswerSpec(start, MAX_ANSWER_TOKENS)] * count
    if len(prompts) != count:
        raise InputError(f"{len(prompts)} prompts for {count} texts")
    return [
        AnswerSpec(
            tuple(render_prompt(model, [{"role": "user", "content": prompt}])), MAX_ANSWER_TOKENS
        )
        for prompt in prompts
    ]


def _leb128(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_leb128(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for index in range(3):
        if at + index >= len(data):
            break
        value |= (data[at + index] & 0x7F) << (7 * index)
        if data[at + index] < 0x80:
            if index and not data[at + index]:
                break  # one number, one spelling
            if value > MAX_TEXTS:
                break
            return value, at + index + 1
    raise InputError("these bytes are not of narrows.compress")
