"""Tiny models with random weights, for tests: quick to make, every architecture."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from narrows.models.checkpoint.source import (
    ModelConfig,
    RopeScaling,
    SourceModel,
    TokenizerData,
    tensor_shapes,
)

SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n'"
    " + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_TEXT = """
The gate counts every byte that leaves, and the ledger writes it down before it is sent.
A weak model predicts what the strong model says; what it predicts well costs few bits.
In 1948 Shannon measured the entropy of printed English: about 1.3 bits for each letter.
Weights are huge and answers are small, so the way out may be narrow: 12,345 bytes a day.
def encode(tokens): return [coder.put(token) for token in tokens]  # one coder for the link
""".strip().splitlines()


@functools.cache
def tiny_tokenizer_json(vocab_size: int = 400) -> str:
    """A byte-level BPE ``tokenizer.json`` with all 256 bytes; specials are ids 0, 1, 2."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        show_progress=False,
        special_tokens=[AddedToken(text, special=True) for text in SPECIALS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    tokenizer.train_from_iterator(_TEXT, trainer)
    return tokenizer.to_str()


@functools.cache
def tiny_tokenizer_data(vocab_size: int = 400) -> TokenizerData:
    return TokenizerData(
        json_text=tiny_tokenizer_json(vocab_size),
        eos_ids=(0, 2),
        chat_template=TEMPLATE,
        bos_token=SPECIALS[1],
        eos_token=SPECIALS[2],
    )


def tiny_config(arch: str = "llama", **changes: Any) -> ModelConfig:
    """Two layers, four query heads over two key-value heads."""
    vocab_size = changes.pop("vocab_size", None)
    if vocab_size is None:
        vocab_size = Tokenizer.from_str(tiny_tokenizer_json()).get_vocab_size()
    values: dict[str, Any] = {
        "architecture": arch,
        "n_layers": 2,
        "d_model": 64,
        "n_heads": 4,
        "n_kv_heads": 2,
        "head_dim": 16,
        "d_ff": 96,
        "vocab_size": vocab_size,
        "rope_theta": 10000.0,
        "norm_eps": 1e-5,
        "tied_embeddings": arch != "qwen3",
        "qkv_bias": arch == "qwen2",
        "qk_norm": arch == "qwen3",
        "context_length": 512,
        "rope_scaling": None,
    }
    return ModelConfig(**(values | changes))


LLAMA3_SCALING = RopeScaling(8.0, 1.0, 4.0, 128.0)


def tiny_source(arch: str = "llama", *, seed: int = 1, **changes: Any) -> SourceModel:
    """Random weights of a plausible size; ``changes`` go to the config."""
    config = tiny_config(arch, **changes)
    rng = np.random.default_rng(seed)
    tensors: dict[str, NDArray[np.float32]] = {}
    for name, shape in tensor_shapes(config).items():
        kind = name.rsplit(".", 1)[-1]
        if kind.endswith("norm"):
            value = 1.0 + 0.2 * rng.standard_normal(shape)
        elif kind.endswith("bias"):
            value = 0.2 * rng.standard_normal(shape)
        else:
            value = rng.standard_normal(shape) * shape[-1] ** -0.5
        tensors[name] = value.astype(np.float32)
    if config.tied_embeddings:
        tensors["head"] = tensors["embed"]
    return SourceModel(
        config=config,
        tokenizer=tiny_tokenizer_data(),
        loader=tensors.__getitem__,
        metadata={"name": f"tiny-{arch}", "license": "none"},
    )
