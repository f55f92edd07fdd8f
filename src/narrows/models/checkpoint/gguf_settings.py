"""Which settings of a GGUF file may stand there: every key that could change a number is read,
has the value that changes nothing, or is refused by name.

llama.cpp gives some absent keys a meaning (a rope factor without its type scales linearly), so
what is absent is checked against what is there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from narrows.errors import ArtifactError
from narrows.models.checkpoint.source import ARCHITECTURES, ModelConfig
from narrows.models.checkpoint.statements import same, two_statements

# Below the architecture's name; ``gguf_model`` reads them.
_READ = {
    "context_length",
    "embedding_length",
    "block_count",
    "feed_forward_length",
    "vocab_size",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.layer_norm_rms_epsilon",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scaling.type",
    "rope.scaling.original_context_length",  # used by yarn alone, and yarn is refused
    "rope.scaling.finetuned",  # said, never used
}
# Values that change nothing; llama.cpp takes a factor of 0 for none.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "rope.scaling.factor": (0, 1),
    "rope.scale_linear": (0, 1),
    "rope.scaling.attn_factor": (1,),
    "attention.causal": (True,),
    "attention.max_alibi_bias": (0,),
    "attention.clamp_kqv": (0,),
    "attention.sliding_window": (0,),
    "attn_logit_softcapping": (0,),
    "final_logit_softcapping": (0,),
    "logit_scale": (0, 1),
    "residual_scale": (0, 1),
    "embedding_scale": (0, 1),
    "expert_count": (0,),
    "expert_used_count": (0,),
    "nextn_predict_layers": (0,),
    "pooling_type": (0,),
    "tensor_data_layout": ("Meta AI original pth",),
}
_GENERAL = {"general.type": "model", "general.quantization_version": 2}

# What the tokenizer is made from, and what says nothing about a chat.
_TOKENIZER = {
    "tokenizer.huggingface.json",
    "tokenizer.chat_template",
    "tokenizer.chat_templates",
    "tokenizer.ggml.model",
    "tokenizer.ggml.pre",
    "tokenizer.ggml.tokens",
    "tokenizer.ggml.token_type",
    "tokenizer.ggml.token_type_count",
    "tokenizer.ggml.scores",
    "tokenizer.ggml.merges",
    "tokenizer.ggml.add_bos_token",
    "tokenizer.ggml.add_eos_token",
    "tokenizer.ggml.add_sep_token",
}
_TOKENIZER_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "tokenizer.ggml.add_space_prefix": (False,),
    "tokenizer.ggml.remove_extra_whitespaces": (False,),
}


def check_settings(metadata: Mapping[str, Any], config: ModelConfig) -> None:
    """ArtifactError names the key that the runtime does not follow, or two that differ."""
    arch = config.architecture
    for key, only in _GENERAL.items():
        if not same(metadata.get(key, only), only):
            raise ArtifactError(f"GGUF key {key} is {metadata[key]!r:.40}, not {only!r}")
    _check_rope(metadata, arch)
    for key, value in metadata.items():
        prefix, _, name = key.partition(".")
        if prefix in ARCHITECTURES and prefix != arch:
            raise two_statements((key, value), ("general.architecture", arch))
        if prefix == arch:
            _check_model_key(key, name, value, config)
        elif prefix == "tokenizer":
            _check_tokenizer_key(key, value)
    _check_parts(config)


def _check_rope(metadata: Mapping[str, Any], arch: str) -> None:
    """A factor that changes something is refused with the type that it has or lacks."""
    kind = metadata.get(f"{arch}.rope.scaling.type")
    for name in ("rope.scaling.factor", "rope.scale_linear"):
        factor = metadata.get(f"{arch}.{name}", 1)
        if not any(same(factor, only) for only in _NEUTRAL[name]):
            said = "absent (llama.cpp then scales linearly)" if kind is None else kind
            raise two_statements((f"{arch}.{name}", factor), (f"{arch}.rope.scaling.type", said))
    if kind not in (None, "none", "linear"):
        raise ArtifactError(f"GGUF key {arch}.rope.scaling.type is {kind!r:.40}: not supported")


def _check_model_key(key: str, name: str, value: Any, config: ModelConfig) -> None:
    if name in _READ:
        return
    neutral = _NEUTRAL.get(name, ())
    if name == "attention.scale":
        root = config.head_dim**-0.5
        neutral = (0, value if isinstance(value, float) and math.isclose(value, root) else 0)
    if name == "attention.sliding_window" and type(value) is int and value >= config.context_length:
        return
    if not any(same(value, only) for only in neutral):
        raise ArtifactError(f"GGUF key {key} = {value!r:.40} is not supported")


def _check_tokenizer_key(key: str, value: Any) -> None:
    if key in _TOKENIZER or key.startswith("tokenizer.chat_template."):
        return
    if key.startswith("tokenizer.ggml.") and key.endswith("_token_id"):
        return
    if not any(same(value, only) for only in _TOKENIZER_NEUTRAL.get(key, ())):
        raise ArtifactError(f"GGUF key {key} = {value!r:.40} is not supported")


def _check_parts(config: ModelConfig) -> None:
    """llama.cpp goes by the architecture: Qwen2 has biases, Qwen3 norms of q and k, Llama may
    have biases."""
    arch = config.architecture
    if (config.qkv_bias, config.qk_norm) not in {
        "llama": [(False, False), (True, False)],
        "qwen2": [(True, False)],
        "qwen3": [(False, True)],
    }.get(arch, []):
        stored = [
            f"{'with' if there else 'without'} {what}"
            for there, what in ((config.qkv_bias, "attn_q.bias"), (config.qk_norm, "attn_q_norm"))
        ]
        raise two_statements(("general.architecture", arch), ("the tensors", ", ".join(stored)))
