"""A Hugging Face checkpoint (folder or hub id) as a ``SourceModel``. Nothing is executed:
JSON and safetensors only, sizes bounded before reading, shapes checked against the config."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from narrows.errors import ArtifactError, InputError, PeerError
from narrows.models.checkpoint.gguf_blocks import bf16_to_float32
from narrows.models.checkpoint.hf_config import model_config
from narrows.models.checkpoint.hf_tokenizer import tokenizer_data
from narrows.models.checkpoint.safetensors_files import (
    StoredRow,
    check_index,
    choose_safetensors,
    read_safetensors,
)
from narrows.models.checkpoint.source import (
    ModelConfig,
    SourceModel,
    llama3_divisors,
    tensor_shapes,
)
from narrows.models.checkpoint.statements import read_json, two_statements

_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_ROWS_AT_ONCE = 4096
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
# Float buffers that models compute for themselves and once stored.
_BUFFERS = re.compile(r"(^|\.)(rotary_emb\.(cos_cached|sin_cached)|masked_bias)$")
_INV_FREQ = re.compile(r"(^|\.)rotary_emb\.inv_freq$")
_FLOATS = re.compile("B?F|C64")


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
    """The checkpoint in a folder. ArtifactError: malformed, unknown or unsupported, or two of
    its statements differ."""
    raw = read_json(folder / "config.json")
    config = model_config(raw)
    table = _tensor_table(folder)
    names = {name: hf_name(name) for name in tensor_shapes(config)}
    if config.tied_embeddings:
        names["head"] = hf_name("embed")
    for name, shape in tensor_shapes(config).items():
        _check_row(names[name], table.get(names[name]), shape, config)
    _check_tied(config, table)
    _check_unused(config, table, set(names.values()))

    def load(name: str) -> NDArray[np.float32]:
        return _read(table[names[name]])

    metadata = {"name": folder.resolve().name, "source": folder.resolve().name}
    return SourceModel(config, tokenizer_data(folder, raw), load, metadata)


def _tensor_table(folder: Path) -> dict[str, StoredRow]:
    if (folder / "adapter_config.json").exists():
        raise ArtifactError(
            f"{folder.name} holds adapter_config.json: an adapter changes the weights beside it",
            "merge the adapter into the weights first",
        )
    chosen = choose_safetensors(folder)
    single = folder / "model.safetensors"
    if chosen.index is not None and single in chosen.left_out:
        raise two_statements(
            (chosen.index.name, [path.name for path in chosen.files[:2]]),
            ("the file that transformers reads first", single.name),
        )
    if not chosen.files:
        raise ArtifactError(f"{folder.name} has no safetensors files")
    table: dict[str, StoredRow] = {}
    for path in chosen.files:
        for row in read_safetensors(path):
            if row.name in table:
                raise ArtifactError(f"tensor {row.name:.80} is in two files")
            table[row.name] = row
    if chosen.index is not None:
        check_index(chosen.index, table.values())
    return table


def _check_row(
    name: str, row: StoredRow | None, shape: tuple[int, ...], config: ModelConfig
) -> None:
    if row is None:
        tied = ", and tie_word_embeddings is false" if name == _FIXED["head"] else ""
        raise ArtifactError(
            f"tensor {name} is missing: config.json says {config.n_layers} layers of "
            f"{config.architecture}{tied}"
        )
    if row.shape != shape:
        raise ArtifactError(f"tensor {name} is {row.shape}, expected {shape}")
    if row.dtype not in _DTYPES:
        raise ArtifactError(
            f"tensor {name} is stored as {row.dtype}; quantised weights are not read",
            f"read: {', '.join(_DTYPES)}",
        )


def _check_tied(config: ModelConfig, table: Mapping[str, StoredRow]) -> None:
    head = table.get(_FIXED["head"])
    if not config.tied_embeddings or head is None:
        return
    if not _equal(head, table[_FIXED["embed"]]):
        stored = f"stored apart from {_FIXED['embed']} and another"
        raise two_statements(("tie_word_embeddings", True), (_FIXED["head"], stored))


def _equal(left: StoredRow, right: StoredRow) -> bool:
    if left.shape != right.shape or left.dtype not in _DTYPES:
        return False
    steps = range(0, left.shape[0], _ROWS_AT_ONCE)
    return all(np.array_equal(_read(left, start), _read(right, start)) for start in steps)


def _check_unused(config: ModelConfig, table: Mapping[str, StoredRow], used: set[str]) -> None:
    """What the model does not read is a buffer that says nothing new, or the checkpoint is of
    another model. ArtifactError names the tensor."""
    for name, row in table.items():
        if name in used or name == _FIXED["head"] or _BUFFERS.search(name):
            continue
        if _INV_FREQ.search(name):
            _check_frequencies(config, row)
        elif _FLOATS.match(row.dtype) or name.endswith(("weight", "bias")):
            raise ArtifactError(
                f"tensor {name:.80} is stored, and a {config.architecture} model of "
                f"{config.n_layers} layers as config.json says has none"
            )


def _check_frequencies(config: ModelConfig, row: StoredRow) -> None:
    """Old checkpoints store the rope frequencies that their settings made."""
    pairs = config.head_dim // 2
    powers = np.arange(pairs) / pairs
    wanted = config.rope_theta**-powers
    if config.rope_scaling is not None:
        wanted /= llama3_divisors(config.rope_scaling, config.rope_theta, config.head_dim)
    stored = _read(row) if row.dtype in _DTYPES and row.shape == (pairs,) else None
    # 16-bit formats keep three digits, and float16 nothing below 6e-8.
    if stored is None or not np.allclose(stored, wanted, rtol=5e-3, atol=1e-7):
        shown = "other frequencies" if stored is not None else f"{row.dtype} {row.shape}"
        raise two_statements(("rope_theta", config.rope_theta), (row.name, shown))


def _read(row: StoredRow, start: int | None = None) -> NDArray[np.float32]:
    """A tensor, or _ROWS_AT_ONCE of its rows from ``start``."""
    kind = np.dtype(_DTYPES[row.dtype])
    shape, offset = row.shape, row.start
    if start is not None:
        shape = (min(_ROWS_AT_ONCE, shape[0] - start), *shape[1:])
        offset += start * math.prod(shape[1:]) * kind.itemsize
    raw = np.fromfile(row.path, kind, math.prod(shape), offset=offset)
    if raw.size != math.prod(shape):
        raise ArtifactError(f"{row.path.name} changed while it was read")
    with np.errstate(over="ignore"):  # what leaves float32 is refused as infinite
        value = bf16_to_float32(raw) if row.dtype == "BF16" else raw.astype(np.float32)
    return value.reshape(shape)
