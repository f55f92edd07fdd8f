"""A Hugging Face checkpoint (folder or hub id) as a ``SourceModel``. Nothing is executed:
JSON and safetensors only, sizes bounded before reading, shapes checked against the config."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from narrows.errors import ArtifactError, InputError, PeerError
from narrows.models.checkpoint.gguf_blocks import bf16_to_float32
from narrows.models.checkpoint.source import (
    ModelConfig,
    RopeScaling,
    SourceModel,
    TokenizerData,
    tensor_shapes,
)

MAX_JSON_BYTES = 1 << 26
MAX_ELEMENTS = 1 << 36
MAX_CONTEXT = 1 << 24
_DTYPES = {"F32": 4, "F16": 2, "BF16": 2}
_TEXT_FILES = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "generation_config.json",
    "chat_template.jinja",
)
_PARTS = {
    "attn_norm": "input_layernorm.weight",
    "ffn_norm": "post_attention_layernorm.weight",
    **{x: f"self_attn.{x}_proj.weight" for x in "qkvo"},
    **{f"{x}_bias": f"self_attn.{x}_proj.bias" for x in "qkv"},
    **{f"{x}_norm": f"self_attn.{x}_norm.weight" for x in "qk"},
    **{x: f"mlp.{x}_proj.weight" for x in ("gate", "up", "down")},
}
_FIXED = {
    "embed": "model.embed_tokens.weight",
    "final_norm": "model.norm.weight",
    "head": "lm_head.weight",
}


def hf_name(name: str) -> str:
    """Canonical tensor name to the Hugging Face one."""
    if name in _FIXED:
        return _FIXED[name]
    _, layer, part = name.split(".")
    return f"model.layers.{layer}.{_PARTS[part]}"


def load_hub(model_id: str) -> SourceModel:
    """Download a checkpoint from the hub. PeerError: no network or no such model."""
    try:
        import huggingface_hub
    except ImportError as error:
        raise InputError(
            f"no file or folder {model_id!r}; a hub id needs huggingface_hub",
            "pip install huggingface_hub",
        ) from error
    try:
        folder = huggingface_hub.snapshot_download(
            model_id, allow_patterns=["*.json", "*.safetensors", "*.jinja"]
        )
    except Exception as error:
        raise PeerError(f"cannot get {model_id!r} from the hub: {error!s:.200}") from error
    return load_hf(Path(folder))


def load_hf(folder: Path) -> SourceModel:
    """The checkpoint in a folder. ArtifactError: malformed, unknown or unsupported."""
    raw = _json(folder / "config.json")
    config = _config(raw)
    table = _tensor_table(folder)
    for name, shape in tensor_shapes(config).items():
        stored = "embed" if name == "head" and config.tied_embeddings else name
        row = table.get(hf_name(stored))
        if row is None or row[2] != shape:
            got = "missing" if row is None else row[2]
            raise ArtifactError(f"tensor {hf_name(stored)} is {got}, expected {shape}")

    def load(name: str) -> NDArray[np.float32]:
        stored = "embed" if name == "head" and config.tied_embeddings else name
        return _read(*table[hf_name(stored)])

    metadata = {"name": folder.resolve().name, "source": folder.resolve().name}
    return SourceModel(config, _tokenizer(folder, raw), load, metadata)


def text_files(folder: Path) -> list[Path]:
    """What ``load_hf_text`` reads, as far as it is there."""
    return [path for name in _TEXT_FILES if (path := folder / name).exists()]


def load_hf_text(folder: Path) -> tuple[TokenizerData, int, int]:
    """Tokenizer, rows of the vocabulary and longest context of the checkpoint in a folder, whose
    architecture need not be one of ours and whose weights are not looked at. ArtifactError."""
    raw = _json(folder / "config.json")
    vocab_size, context = raw.get("vocab_size"), raw.get("max_position_embeddings")
    for number, what in ((vocab_size, "vocab_size"), (context, "max_position_embeddings")):
        if type(number) is not int or not 1 <= number <= MAX_CONTEXT:
            raise ArtifactError(f"config.json: {what} is {number!r:.40}")
    return _tokenizer(folder, raw), int(vocab_size or 0), int(context or 0)


def _json(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_JSON_BYTES + 1)
        value = json.loads(data) if len(data) <= MAX_JSON_BYTES else None
    except (OSError, ValueError, RecursionError) as error:
        raise ArtifactError(f"cannot read {path.name}: {error!s:.120}") from error
    if not isinstance(value, dict):
        raise ArtifactError(f"{path.name} is too large or no JSON object")
    return value


def _config(raw: Mapping[str, Any]) -> ModelConfig:
    arch = raw.get("model_type")
    refused = {"attention_bias": False, "mlp_bias": False, "use_sliding_window": False}
    refused |= {"partial_rotary_factor": 1.0, "hidden_act": "silu"}  # type: ignore[dict-item]  # one table of mixed values
    for key, only in refused.items():
        if raw.get(key, only) not in (only, None):
            raise ArtifactError(f"config.json: {key} = {raw[key]!r:.40} is not supported")
    rope = raw.get("rope_parameters") or {}
    scaling = raw.get("rope_scaling") or rope
    try:
        theta = float(raw.get("rope_theta") or rope.get("rope_theta") or 10000.0)
        heads = raw["num_attention_heads"]
        return ModelConfig(
            architecture=str(arch),
            n_layers=raw["num_hidden_layers"],
            d_model=raw["hidden_size"],
            n_heads=heads,
            n_kv_heads=raw.get("num_key_value_heads") or heads,
            head_dim=raw.get("head_dim") or raw["hidden_size"] // heads,
            d_ff=raw["intermediate_size"],
            vocab_size=raw["vocab_size"],
            rope_theta=theta,
            norm_eps=float(raw["rms_norm_eps"]),
            tied_embeddings=raw.get("tie_word_embeddings", False) is True,
            qkv_bias=arch == "qwen2",
            qk_norm=arch == "qwen3",
            context_length=raw["max_position_embeddings"],
            rope_scaling=_scaling(scaling),
        )
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        raise ArtifactError(f"config.json is malformed: {error!r:.120}") from error


def _scaling(raw: Mapping[str, Any]) -> RopeScaling | None:
    kind = raw.get("rope_type", raw.get("type", "default"))
    if kind == "default":
        return None
    if kind != "llama3":
        raise ArtifactError(f"rope scaling {kind!r:.40} is not supported")
    keys = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    return RopeScaling(*(float(raw[key]) for key in keys))


_Row = tuple[Path, str, tuple[int, ...], int]


def _tensor_table(folder: Path) -> dict[str, _Row]:
    files = sorted(folder.glob("*.safetensors"))
    if not 1 <= len(files) <= 1024:
        raise ArtifactError(f"{folder.name} has {len(files)} safetensors files")
    table: dict[str, _Row] = {}
    for path in files:
        for name, row in _safetensors(path).items():
            if name in table:
                raise ArtifactError(f"tensor {name:.80} is in two files")
            table[name] = row
    return table


def _safetensors(path: Path) -> dict[str, _Row]:
    """Header of one file: 8 bytes of length, JSON, then data; every extent checked."""
    with path.open("rb") as file:
        size = path.stat().st_size
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(MAX_JSON_BYTES, size - 8):
            raise ArtifactError(f"{path.name} is truncated or lies about its header")
        text = file.read(length)
    try:
        header = json.loads(text)
        header.pop("__metadata__", None)
        rows = {name: _row(path, size, 8 + length, value) for name, value in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ArtifactError(f"{path.name}: malformed header: {error!r:.120}") from error
    end = 8 + length
    for _, dtype, shape, start in sorted(rows.values(), key=lambda row: row[3]):
        if start < end:
            raise ArtifactError(f"{path.name}: tensors overlap")
        end = start + math.prod(shape) * _DTYPES[dtype]
    return rows


def _row(path: Path, size: int, base: int, value: Mapping[str, Any]) -> _Row:
    dtype, shape = value["dtype"], tuple(value["shape"])
    start, stop = value["data_offsets"]
    if any(type(n) is not int or n < 0 for n in (*shape, start, stop)) or len(shape) > 4:
        raise ValueError("impossible shape or offsets")
    if math.prod(n or 1 for n in shape) > MAX_ELEMENTS:  # numpy multiplies what is not 0, too
        raise ValueError("impossible shape")
    if stop - start != math.prod(shape) * _DTYPES[dtype] or base + stop > size:
        raise ValueError("a tensor's bytes do not fit its shape or the file")
    return path, dtype, shape, base + start


def _read(path: Path, dtype: str, shape: tuple[int, ...], start: int) -> NDArray[np.float32]:
    kind = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}[dtype]
    raw = np.fromfile(path, kind, math.prod(shape), offset=start)
    if raw.size != math.prod(shape):
        raise ArtifactError(f"{path.name} changed while it was read")
    value = bf16_to_float32(raw) if dtype == "BF16" else raw.astype(np.float32)
    return value.reshape(shape)


def _tokenizer(folder: Path, config: Mapping[str, Any]) -> TokenizerData:
    path = folder / "tokenizer.json"
    text = json.dumps(_json(path), ensure_ascii=False, separators=(",", ":"))
    extra: dict[str, Any] = {}
    for name in ("tokenizer_config.json", "generation_config.json"):
        if (folder / name).exists():
            extra |= _json(folder / name)
    eos = extra.get("eos_token_id", config.get("eos_token_id"))
    ids = eos if isinstance(eos, list) else [eos]
    if not ids or any(type(i) is not int for i in ids):
        raise ArtifactError("the checkpoint names no end-of-text token")
    template = extra.get("chat_template") or ""
    if isinstance(template, list):
        named = {t.get("name"): t.get("template") for t in template if isinstance(t, dict)}
        template = named.get("default") or ""
    jinja = folder / "chat_template.jinja"
    if jinja.exists() and jinja.stat().st_size <= 1 << 20:
        template = jinja.read_text("utf-8")
    return TokenizerData(
        text,
        tuple(sorted(set(map(int, ids)))),
        str(template),
        _text(extra, "bos"),
        _text(extra, "eos"),
    )


def _text(extra: Mapping[str, Any], name: str) -> str:
    value = extra.get(f"{name}_token") or ""
    return str(value.get("content", "")) if isinstance(value, dict) else str(value)
