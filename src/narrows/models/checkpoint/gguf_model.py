"""From a GGUF file to a ``SourceModel``: configuration, names, rope order, tokenizer."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from narrows.errors import ArtifactError
from narrows.models.checkpoint.gguf import GgufFile, read_gguf
from narrows.models.checkpoint.gguf_settings import check_settings
from narrows.models.checkpoint.gguf_tokenizer import tokenizer_data
from narrows.models.checkpoint.source import (
    ModelConfig,
    RopeScaling,
    SourceModel,
    llama3_divisors,
    tensor_shapes,
)
from narrows.models.checkpoint.statements import two_statements

_LAYER_NAMES = {
    "attn_norm": "attn_norm.weight",
    "q": "attn_q.weight",
    "k": "attn_k.weight",
    "v": "attn_v.weight",
    "o": "attn_output.weight",
    "q_bias": "attn_q.bias",
    "k_bias": "attn_k.bias",
    "v_bias": "attn_v.bias",
    "q_norm": "attn_q_norm.weight",
    "k_norm": "attn_k_norm.weight",
    "ffn_norm": "ffn_norm.weight",
    "gate": "ffn_gate.weight",
    "up": "ffn_up.weight",
    "down": "ffn_down.weight",
}
_ROPE_FREQS = "rope_freqs.weight"
_METADATA = ("general.name", "general.license", "general.organization", "general.basename")


def gguf_name(name: str) -> str:
    """Canonical tensor name to the GGUF one: ``layers.3.q`` is ``blk.3.attn_q.weight``."""
    fixed = {"embed": "token_embd.weight", "final_norm": "output_norm.weight"}
    if name == "head":
        return "output.weight"
    if name in fixed:
        return fixed[name]
    _, layer, part = name.split(".")
    return f"blk.{layer}.{_LAYER_NAMES[part]}"


def load_gguf(path: Path) -> SourceModel:
    """The checkpoint in a GGUF file. ArtifactError: malformed, unknown or unsupported."""
    file = read_gguf(path)
    config = _config(file)
    check_settings(file.metadata, config)
    _check_tensors(file, config)

    def load(name: str) -> NDArray[np.float32]:
        if name == "head" and config.tied_embeddings:
            return file.read(gguf_name("embed"))
        value = file.read(gguf_name(name))
        if config.architecture == "llama" and re.search(r"\.[qk](_bias)?$", name):
            return half_rotation_order(value, config.head_dim)
        return value

    metadata = {
        key.removeprefix("general."): file.metadata[key]
        for key in _METADATA
        if isinstance(file.metadata.get(key), str)
    }
    metadata = {"name": path.stem, "source": path.name} | metadata
    return SourceModel(config, tokenizer_data(file.metadata, config.vocab_size), load, metadata)


def half_rotation_order(value: NDArray[np.float32], head_dim: int) -> NDArray[np.float32]:
    """Rows of q or k from interleaved rope pairs (2i, 2i+1) to halves (i, i + head_dim/2)."""
    heads = value.shape[0] // head_dim
    pairs = value.reshape(heads, head_dim // 2, 2, -1)
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(value.shape)


def _number(metadata: Mapping[str, Any], key: str, kind: type, default: Any = None) -> Any:
    value = metadata.get(key, default)
    if type(value) is not kind:
        raise ArtifactError(f"GGUF key {key} is {value!r:.80}, not a {kind.__name__}")
    return value


def _config(file: GgufFile) -> ModelConfig:
    meta = file.metadata
    arch = _number(meta, "general.architecture", str)
    if _number(meta, "split.count", int, 0) > 1:
        raise ArtifactError("one part of a split GGUF file", "join the parts: llama-gguf-split")
    embed = file.tensors.get("token_embd.weight")
    if embed is None or len(embed.shape) != 2:
        raise ArtifactError(f"{file.path.name} has no token embeddings")
    d_model = _number(meta, f"{arch}.embedding_length", int)
    heads = _number(meta, f"{arch}.attention.head_count", int)
    if heads < 1:
        raise ArtifactError(f"{heads} attention heads")
    head_dim = _number(meta, f"{arch}.attention.key_length", int, d_model // heads)
    for key in ("attention.value_length", "rope.dimension_count"):
        if _number(meta, f"{arch}.{key}", int, head_dim) != head_dim:
            raise ArtifactError(f"{arch}.{key} differs from the {head_dim} of a head")
    rows = embed.shape[0]
    said = _number(meta, f"{arch}.vocab_size", int, rows)
    if said != rows:
        raise two_statements((f"{arch}.vocab_size", said), ("rows of token_embd.weight", rows))
    theta = _number(meta, f"{arch}.rope.freq_base", float, 10000.0)
    return ModelConfig(
        architecture=arch,
        n_layers=_number(meta, f"{arch}.block_count", int),
        d_model=d_model,
        n_heads=heads,
        n_kv_heads=_number(meta, f"{arch}.attention.head_count_kv", int, heads),
        head_dim=head_dim,
        d_ff=_number(meta, f"{arch}.feed_forward_length", int),
        vocab_size=rows,
        rope_theta=theta,
        norm_eps=_short(_number(meta, f"{arch}.attention.layer_norm_rms_epsilon", float)),
        tied_embeddings="output.weight" not in file.tensors,
        qkv_bias="blk.0.attn_q.bias" in file.tensors,
        qk_norm="blk.0.attn_q_norm.weight" in file.tensors,
        context_length=_number(meta, f"{arch}.context_length", int),
        rope_scaling=_rope_scaling(file, theta, head_dim) if arch == "llama" else None,
    )


def _short(value: float) -> float:
    """The shortest decimal that is this float32: 1e-05, not 9.999999747378752e-06."""
    return float(str(np.float32(value)))


def _rope_scaling(file: GgufFile, theta: float, head_dim: int) -> RopeScaling | None:
    """GGUF stores a divisor for each frequency, made from Llama 3's four parameters. All
    Llama 3 models share three of them; the largest divisor is the fourth. Others are refused.
    """
    if _ROPE_FREQS not in file.tensors:
        return None
    if head_dim < 2 or file.tensors[_ROPE_FREQS].shape != (head_dim // 2,):
        raise ArtifactError(f"{_ROPE_FREQS} has another shape than one divisor a pair")
    divisors = file.read(_ROPE_FREQS)
    if not np.all(np.isfinite(divisors)) or not np.all(divisors >= 1):
        raise ArtifactError(f"{_ROPE_FREQS} holds impossible divisors")
    scaling = RopeScaling(float(divisors.max()), 1.0, 4.0, 8192.0)
    if not np.allclose(divisors, llama3_divisors(scaling, theta, head_dim), rtol=1e-4):
        raise ArtifactError(f"{_ROPE_FREQS} is not that of a Llama 3 model")
    return scaling


def _check_tensors(file: GgufFile, config: ModelConfig) -> None:
    """Every tensor that the model needs has its shape; there is no other one."""
    expected = {gguf_name(name): shape for name, shape in tensor_shapes(config).items()}
    if config.tied_embeddings:
        del expected["output.weight"]
    for name, shape in expected.items():
        info = file.tensors.get(name)
        if info is None or info.shape != shape:
            got = "missing" if info is None else f"{info.shape}"
            raise ArtifactError(f"{file.path.name}: tensor {name} is {got}, expected {shape}")
    unknown = set(file.tensors) - set(expected)
    if config.rope_scaling is not None:
        unknown.discard(_ROPE_FREQS)
    if unknown:
        shown = json.dumps(sorted(unknown)[:4])
        raise ArtifactError(f"{file.path.name} has tensors that this architecture lacks: {shown}")
