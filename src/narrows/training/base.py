"""The small model that a fine-tuning starts from: its float32 checkpoint, as a module to train.

Nothing comes from the checkpoint's own code: the weights are read by ``narrows.models``, and the
module is transformers' of that architecture with exactly these sizes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from narrows.errors import ArtifactError, InputError
from narrows.homes import expanded
from narrows.models.artifact import Artifact
from narrows.models.checkpoint.fetch import SMOLLM2_135M, fetch_gguf
from narrows.models.checkpoint.hf import hf_name
from narrows.models.checkpoint.source import ARCHITECTURES, ModelConfig, SourceModel
from narrows.models.registry import load_source
from narrows.training.rounded import ATTENTION


def load_base(base: str) -> SourceModel:
    """The checkpoint of a name (``smollm2-135m``), a Hugging Face folder, a GGUF file, or the
    checkpoint that an artifact was imported from, where that is the built-in one.

    An artifact holds eight-bit weights only: training on from these would round them twice, so
    InputError asks for the checkpoint. Others: ArtifactError, PeerError.
    """
    path = expanded(base)
    if base == SMOLLM2_135M.name:
        return load_source(str(fetch_gguf()))
    if path.is_dir() or _is_gguf(path):
        return load_source(str(path))
    if not path.is_file():
        raise InputError(f"no checkpoint {base!r}", f"a folder, a GGUF file or {SMOLLM2_135M.name}")
    provenance = Artifact.open(path).header.get("provenance")
    known = provenance if isinstance(provenance, dict) else {}
    if known.get("source_sha256") == SMOLLM2_135M.member_sha256:
        return load_source(str(fetch_gguf()))
    raise InputError(
        f"{path.name} holds weights that are rounded already",
        f"give the checkpoint it was made from: {known.get('source', 'not stated')}",
    )


def hf_config(config: ModelConfig) -> Any:
    """The transformers configuration of these sizes."""
    import transformers

    rope: dict[str, Any] = {"rope_type": "default"}
    if (scaling := config.rope_scaling) is not None:
        rope = {"rope_type": "llama3", **vars(scaling)}
        rope["original_max_position_embeddings"] = int(rope.pop("original_max_position"))
    # Transformers 5 reads the one, 4 the other; each ignores what it does not know.
    if int(transformers.__version__.split(".")[0]) >= 5:
        rotary: dict[str, Any] = {"rope_parameters": rope | {"rope_theta": config.rope_theta}}
    else:
        rotary = {"rope_theta": config.rope_theta}
        rotary["rope_scaling"] = rope if config.rope_scaling else None
    kind = getattr(transformers, ARCHITECTURES[config.architecture] + "Config")
    return kind(
        vocab_size=config.vocab_size,
        hidden_size=config.d_model,
        intermediate_size=config.d_ff,
        num_hidden_layers=config.n_layers,
        num_attention_heads=config.n_heads,
        num_key_value_heads=config.n_kv_heads,
        head_dim=config.head_dim,
        max_position_embeddings=config.context_length,
        rms_norm_eps=config.norm_eps,
        tie_word_embeddings=config.tied_embeddings,
        attn_implementation=ATTENTION,
        **rotary,
    )


def hf_model(source: SourceModel) -> Any:
    """The checkpoint as a float32 causal language model of transformers."""
    import transformers

    config = source.config
    kind = getattr(transformers, ARCHITECTURES[config.architecture] + "ForCausalLM")
    model = kind(hf_config(config))
    weights = {hf_name(name): torch.from_numpy(source.tensor(name)) for name in source.tensors()}
    missing, unexpected = model.load_state_dict(weights, strict=False)
    if missing or unexpected:
        raise ArtifactError(f"weights do not fit the module: {[*missing, *unexpected][:4]}")
    return model


def adapted(model: Any, *, method: str, rank: int) -> Any:
    """The module with what is to be learned: everything (``full``), or low-rank updates of
    every matrix inside the layers and the norms (``lora``; the rest is frozen)."""
    if method == "full":
        return model
    from peft import LoraConfig, get_peft_model

    names = [f"{x}_proj" for x in ("q", "k", "v", "o", "gate", "up", "down")]
    wrapped = get_peft_model(model, LoraConfig(r=rank, lora_alpha=rank, target_modules=names))
    for name, parameter in wrapped.named_parameters():
        if "norm" in name:
            parameter.requires_grad_(True)
    return wrapped


def merged_tensor(model: Any, name: str) -> NDArray[np.float32]:
    """One tensor under its canonical name, low-rank update added in float32."""
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    module_name, _, kind = hf_name(name).rpartition(".")
    module = causal.get_submodule(module_name)
    inner = module.get_base_layer() if hasattr(module, "get_base_layer") else module
    value = getattr(inner, kind).float()
    if kind == "weight" and hasattr(module, "get_delta_weight"):
        value = value + module.get_delta_weight("default").float()
    return np.ascontiguousarray(value.detach().cpu().numpy(), np.float32)


def _is_gguf(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(4) == b"GGUF"
