"""Bits per byte of answers: the exact runtime, and the float32 model it was made from."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from narrows.errors import InputError
from narrows.models.checkpoint.source import ARCHITECTURES, SourceModel
from narrows.models.distribution import frequencies
from narrows.models.served import ServedModel
from narrows.rows import some_rows

MAX_TOKENS = 2048  # of prompt and answer: bounds the float32 model's memory
Progress = Callable[[int, int], None]

# Used where no file of answers is given: enough to run every measurement, not to judge by.
_SAMPLES = [
    (
        "Explain what an arithmetic coder does.",
        "An arithmetic coder turns a sequence of symbols into one number between zero and one. "
        "It starts with the whole interval and, for each symbol, keeps only the part that "
        "belongs to it; likely symbols have wide parts and cost few bits. The decoder follows "
        "the same steps, so both sides must agree on every probability exactly.\n\n"
        "For example, a symbol with probability 1/2 halves the interval and costs one bit, "
        "while one with probability 15/16 costs less than a tenth of a bit.",
    ),
    (
        "Write a Python function that counts the words of a text.",
        "```python\nfrom collections import Counter\n\n\ndef count_words(text: str) -> Counter:\n"
        '    """Return how often each word occurs, ignoring case."""\n'
        "    return Counter(text.lower().split())\n```\n\n"
        "Call it with a string: `count_words('the cat and the dog')` returns a counter in "
        "which 'the' has the value 2 and every other word the value 1.",
    ),
    (
        "What should I check before a long bicycle tour?",
        "1. **Tyres**: pressure, cuts, and a spare tube.\n2. **Brakes**: pads and cables.\n"
        "3. **Chain**: clean and oiled.\n4. **Lights**: charged, front and rear.\n"
        "5. **Luggage**: balanced on both sides.\n\nTake water, something to eat, and a pump. "
        "A short ride the day before shows what was forgotten.",
    ),
]


@dataclass(frozen=True)
class RecordedAnswer:
    """``prompt`` and ``tokens`` as ids; ``size_bytes`` of the text that the tokens stand for."""

    prompt: list[int]
    tokens: list[int]
    size_bytes: int


def read_answers(path: Path | None, count: int, model: ServedModel) -> list[RecordedAnswer]:
    """Up to ``count`` answers, evenly spread over the file. Raises InputError.

    Lines are JSON objects with ``prompt`` and ``response``. Answers are cut where prompt and
    answer pass MAX_TOKENS; longer prompts are left out.
    """
    pairs = _SAMPLES if path is None else [(r["prompt"], r["response"]) for r in some_rows(path)]
    spread = [
        pairs[i * len(pairs) // min(count, len(pairs))] for i in range(min(count, len(pairs)))
    ]
    answers = []
    for prompt, response in spread:
        ids = model.render_chat([{"role": "user", "content": prompt}])
        try:
            tokens = model.tokenizer.encode(response.encode("utf-8"))[: MAX_TOKENS - len(ids)]
        except InputError:
            continue  # a byte that the vocabulary lacks
        if tokens and len(ids) < MAX_TOKENS // 2:
            size_bytes = sum(len(model.tokenizer.token_bytes(token)) for token in tokens)
            answers.append(RecordedAnswer(ids, tokens, size_bytes))
    if not answers:
        raise InputError("no usable answers")
    return answers


def exact_bits(model: ServedModel, answers: list[RecordedAnswer], progress: Progress) -> float:
    """Sum of -log2(share / 2**32) over all answer tokens, prompts as context."""
    bits = 0.0
    for done, answer in enumerate(answers):
        progress(done, len(answers))
        stream = model.open(answer.prompt)
        bits += _cost(model.logits(stream)[None], answer.tokens[:1])
        for at in range(0, len(answer.tokens) - 1, 256):
            chunk = answer.tokens[at : min(at + 256, len(answer.tokens) - 1)]
            bits += _cost(model.extend(stream, chunk), answer.tokens[at + 1 : at + 1 + len(chunk)])
        model.close(stream)
    return bits


def _cost(rows: np.ndarray[Any, np.dtype[np.int32]], tokens: list[int]) -> float:
    return sum(
        32 - math.log2(int(frequencies(row)[token]))
        for row, token in zip(rows, tokens, strict=True)
    )


def float_bits(
    source: SourceModel, answers: list[RecordedAnswer], threads: int, progress: Progress
) -> float:
    """The same sum under transformers in float32 with ``source``'s weights."""
    import torch

    torch.set_num_threads(threads)
    model = float_model(source)
    bits = 0.0
    with torch.no_grad():
        for done, answer in enumerate(answers):
            progress(done, len(answers))
            ids = torch.tensor([(answer.prompt + answer.tokens)[:-1]])
            hidden = model.model(input_ids=ids).last_hidden_state[0, len(answer.prompt) - 1 :]
            for at in range(0, len(answer.tokens), 256):
                logits = model.lm_head(hidden[at : at + 256])
                wanted = torch.tensor(answer.tokens[at : at + 256])
                nats = torch.nn.functional.cross_entropy(logits, wanted, reduction="none")
                bits += float(nats.double().sum()) / math.log(2)
    return bits


def float_model(source: SourceModel) -> Any:
    """A transformers model in float32 with the tensors of ``source``."""
    import torch
    import transformers

    c = source.config
    kind = ARCHITECTURES[c.architecture]
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": c.rope_theta}
    if c.rope_scaling is not None:
        rope |= {
            "rope_type": "llama3",
            "factor": c.rope_scaling.factor,
            "low_freq_factor": c.rope_scaling.low_freq_factor,
            "high_freq_factor": c.rope_scaling.high_freq_factor,
            "original_max_position_embeddings": int(c.rope_scaling.original_max_position),
        }
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=c.vocab_size,
        hidden_size=c.d_model,
        intermediate_size=c.d_ff,
        num_hidden_layers=c.n_layers,
        num_attention_heads=c.n_heads,
        num_key_value_heads=c.n_kv_heads,
        head_dim=c.head_dim,
        rms_norm_eps=c.norm_eps,
        rope_parameters=rope,
        max_position_embeddings=c.context_length,
        tie_word_embeddings=False,
        attention_bias=False,
    )
    model = getattr(transformers, f"{kind}ForCausalLM")(config).float().eval()
    state = {
        "model.embed_tokens.weight": source.tensor("embed"),
        "model.norm.weight": source.tensor("final_norm"),
        "lm_head.weight": source.tensor("head"),
    }
    for n in range(c.n_layers):
        for ours, theirs in _LAYER_NAMES.items():
            name = f"layers.{n}.{ours}"
            if name in source.tensors():
                state[f"model.layers.{n}.{theirs}"] = source.tensor(name)
    missing, unexpected = model.load_state_dict(
        {name: torch.from_numpy(value.copy()) for name, value in state.items()}, strict=False
    )
    if missing or unexpected:
        raise InputError(f"transformers expects other tensors: {missing} {unexpected}")
    return model


_LAYER_NAMES = {
    "attn_norm": "input_layernorm.weight",
    "ffn_norm": "post_attention_layernorm.weight",
    "q": "self_attn.q_proj.weight",
    "k": "self_attn.k_proj.weight",
    "v": "self_attn.v_proj.weight",
    "o": "self_attn.o_proj.weight",
    "q_bias": "self_attn.q_proj.bias",
    "k_bias": "self_attn.k_proj.bias",
    "v_bias": "self_attn.v_proj.bias",
    "q_norm": "self_attn.q_norm.weight",
    "k_norm": "self_attn.k_norm.weight",
    "gate": "mlp.gate_proj.weight",
    "up": "mlp.up_proj.weight",
    "down": "mlp.down_proj.weight",
}
