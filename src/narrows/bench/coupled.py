"""Coupled coding against the entropies: what ``narrows bench coupled`` measures.

The strong model answers fixed prompts at T = 1 with shared noise; its tokens are coded under a
weak model, coupled and plain, adaptation included, answer after answer as on one link. The
default weak model is the strong one with its layers' weights rounded to 5 bits: by whole rows
in the first ``coarse`` layers, by groups of columns in the others, ``coarse`` searched until
the divergence lies between 0.38 and 0.46 bits a token.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from narrows.coding.events import AnswerSpec, Coding
from narrows.coding.tokens.calibrate import Calibration
from narrows.coding.tokens.code import TokenCode
from narrows.coding.tokens.sampler import sample
from narrows.errors import InputError
from narrows.models.api import TokenModel
from narrows.models.checkpoint.source import SourceModel
from narrows.models.registry import load_model

QUESTIONS = (
    "Write a short story about a lighthouse keeper who finds a letter.",
    "Explain to a child how a refrigerator works.",
    "Give me three ideas for a weekend project with wood.",
    "What causes the seasons on Earth?",
    "Write a polite email that asks for a later deadline.",
    "Describe Lisbon to a traveller.",
    "How do I make bread without yeast?",
    "What is the difference between a list and a tuple in Python?",
    "Tell me about the history of the bicycle.",
    "Why do cats purr?",
    "Give advice to someone who starts a new job.",
    "How does a sailing boat go against the wind?",
    "Write a poem about rain on a tin roof.",
    "What should I look for when I buy a used car?",
    "Explain what a hash table is.",
    "Describe the life of a honey bee.",
    "Suggest a menu for a dinner with four friends.",
    "What makes a good neighbour?",
    "How are mountains formed?",
    "Invent a game that needs only paper and a pencil.",
)
"""What models are asked, one sentence each: fixed, so that runs compare."""
PROMPTS = QUESTIONS[:8]
KL_RANGE = (0.38, 0.46)
_GROUP = 288
_ONE = 65536
Say = Callable[[str], None]


@dataclass
class SampledAnswer:
    """One answer of the strong model: ``logits`` int32 rows, one per token."""

    prompt: list[int]
    key: bytes
    tokens: list[int]
    logits: list[NDArray[np.int32]]


def render(model: TokenModel, prompt: str) -> list[int]:
    chat = getattr(model, "render_chat", None)
    if chat is None:
        raise InputError(f"{model.name} has no chat template")
    ids: list[int] = list(chat([{"role": "user", "content": prompt}]))
    return ids


def generate(model: TokenModel, length: int, temperature: int) -> list[SampledAnswer]:
    """Every prompt answered in one batch, ``length`` tokens or to the end of the answer."""
    answers = [
        SampledAnswer(render(model, text), bytes([n]) * 32, [], [])
        for n, text in enumerate(PROMPTS)
    ]
    streams = [model.open(answer.prompt) for answer in answers]
    rows = [model.logits(stream).copy() for stream in streams]
    live = list(range(len(answers)))
    for position in range(length):
        picked = []
        for n in live:
            token = sample(rows[n], temperature, _ONE, answers[n].key, position)
            answers[n].tokens.append(token)
            answers[n].logits.append(rows[n])
            picked.append(token)
        pairs = [(n, t) for n, t in zip(live, picked, strict=True)]
        pairs = [(n, t) for n, t in pairs if t not in model.tokenizer.eos_ids]
        live = [n for n, _ in pairs]
        if not live or position == length - 1:
            break
        stepped = model.advance([streams[n] for n in live], [t for _, t in pairs])
        for n, row in zip(live, stepped, strict=True):
            rows[n] = row.copy()
    for stream in streams:
        model.close(stream)
    return answers


def rows_of(model: TokenModel, answer: SampledAnswer) -> Iterator[NDArray[np.int32]]:
    """The model's logits before each token of the answer; each row holds until the next."""
    stream = model.open(answer.prompt)
    yield model.logits(stream)
    for start in range(0, len(answer.tokens) - 1, 128):
        yield from model.extend(stream, answer.tokens[start : start + 128])
    model.close(stream)


def log2_p(logits: NDArray[np.int32]) -> NDArray[np.float64]:
    x = (logits.astype(np.float64) - float(logits.max())) / _ONE
    return np.asarray(x - np.log2(np.exp2(x).sum()))


def divergence(answers: list[SampledAnswer], weak: TokenModel) -> tuple[float, float, float]:
    """(H, CE, KL) in bits a token, means over all positions."""
    entropy = cross = 0.0
    count = 0
    for answer in answers:
        for strong_row, weak_row in zip(answer.logits, rows_of(weak, answer), strict=False):
            log_p = log2_p(strong_row)
            p = np.exp2(log_p)
            entropy -= float(p @ log_p)
            cross -= float(p @ log2_p(weak_row))
            count += 1
    return entropy / count, cross / count, (cross - entropy) / count


def code(answers: list[SampledAnswer], weak: TokenModel, coding: Coding, temperature: int) -> float:
    """Bits of all answers, one after the other with one calibration."""
    calibration = Calibration()
    bits = 0.0
    for answer in answers:
        spec = AnswerSpec(
            tuple(answer.prompt), len(answer.tokens), temperature, noise_key=answer.key
        )
        one = TokenCode(spec, coding, weak.vocab_size, calibration)
        for token, row in zip(answer.tokens, rows_of(weak, answer), strict=False):
            one.prepare(row)
            bits += one.cost_bits(token)
            one.update(token)
        one.close()
    return bits


def five_bits(source: SourceModel, coarse: int) -> SourceModel:
    """The same checkpoint, matrices of its layers rounded to 31 levels per row or group."""

    def load(name: str) -> NDArray[np.float32]:
        value = source.loader(name)
        layer = next((int(part) for part in name.split(".") if part.isdigit()), None)
        if value.ndim != 2 or layer is None:
            return value
        width = value.shape[1]
        group = width if layer < coarse or width % _GROUP else _GROUP
        blocks = value.reshape(len(value), width // group, group)
        scale = np.abs(blocks).max(axis=2, keepdims=True) / np.float32(15)
        scale[scale == 0] = 1
        rounded = np.rint(blocks / scale) * scale
        return np.asarray(rounded.reshape(value.shape), np.float32)

    return dataclasses.replace(source, loader=load)


def five_bit_model(answers: list[SampledAnswer], folder: Path, say: Say) -> TokenModel:
    """The model of ``five_bit_file``."""
    return load_model(five_bit_file(answers, folder, say))


def five_bit_file(answers: list[SampledAnswer], folder: Path, say: Say) -> Path:
    """Search ``coarse``, and write the artifact into ``folder``; raises InputError where no
    choice reaches the range."""
    from narrows.models.checkpoint.fetch import fetch_gguf
    from narrows.models.checkpoint.gguf_model import load_gguf
    from narrows.models.checkpoint.pack import pack

    source = load_gguf(fetch_gguf())
    low, high = 0, source.config.n_layers
    coarse = high // 2
    for _ in range(5):
        path = folder / f"five-bits-{coarse}.narrows"
        pack(five_bits(source, coarse), path, name=f"five bits, {coarse} layers by rows")
        weak = load_model(path)
        kl = divergence(answers, weak)[2]
        say(f"5-bit weights, {coarse} layers by rows: KL {kl:.3f} bits/token")
        if KL_RANGE[0] <= kl <= KL_RANGE[1]:
            return path
        if kl < KL_RANGE[0]:
            low = coarse
        else:
            high = coarse
        coarse = high if high - low == 1 and kl < KL_RANGE[0] else (low + high) // 2
    raise InputError(f"no 5-bit rounding gives a KL in {KL_RANGE}")


def utf8_bytes(model: TokenModel, answers: list[SampledAnswer]) -> int:
    special = model.tokenizer.special_ids
    return sum(
        len(model.tokenizer.token_bytes(t)) for a in answers for t in a.tokens if t not in special
    )


def measure(weak_name: str | None, tokens: int, say: Say) -> dict[str, Any]:
    """About ``tokens`` tokens at T = 1 and a quarter of that at T = 0."""
    strong = load_model("smollm2-135m")
    length = max(8, tokens // len(PROMPTS))
    say(f"{strong.name} answers {len(PROMPTS)} prompts")
    answers = generate(strong, length, _ONE)
    with tempfile.TemporaryDirectory() as folder:
        if weak_name is None:
            weak = five_bit_model(answers, Path(folder), say)
        else:
            weak = load_model(weak_name)
        if weak.tokenizer.digest != strong.tokenizer.digest:
            raise InputError(f"{weak.name} has another vocabulary than {strong.name}")
        say("coding")
        entropy, cross, kl = divergence(answers, weak)
        count = sum(len(a.tokens) for a in answers)
        coupled = code(answers, weak, Coding.COUPLED, _ONE) / count
        plain = code(answers, weak, Coding.PLAIN, _ONE) / count
        greedy = generate(strong, max(8, length // 4), 0)
        greedy_count = sum(len(a.tokens) for a in greedy)
        sharp = code(greedy, weak, Coding.PLAIN, 0) / greedy_count
        as_warm = code(greedy, weak, Coding.PLAIN, _ONE) / greedy_count
    size = utf8_bytes(strong, answers)
    return {
        "strong": strong.name,
        "weak": weak.name,
        "tokens": count,
        "utf8_bytes": size,
        "H": round(entropy, 4),
        "CE": round(cross, 4),
        "KL": round(kl, 4),
        "coupled_bits": round(coupled, 4),
        "plain_bits": round(plain, 4),
        "coupled_over_KL": round(coupled / kl, 3) if kl > 0 else None,
        "coupled_over_CE": round(coupled / cross, 3),
        "ratio_coupled": round(8 * size / (coupled * count), 2),
        "ratio_plain": round(8 * size / (plain * count), 2),
        "greedy_tokens": greedy_count,
        "greedy_bits": round(sharp, 4),
        "greedy_bits_as_T1": round(as_warm, 4),
        "greedy_ratio": round(8 * utf8_bytes(strong, greedy) / (sharp * greedy_count), 2),
    }
