"""The built-in strong model as the folder that other engines serve: float32 safetensors.

python tests/engines/make_folder.py FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from narrows.models.checkpoint.fetch import fetch_gguf
from narrows.models.checkpoint.gguf_model import load_gguf
from narrows.models.checkpoint.hf import hf_name
from narrows.models.checkpoint.source import tensor_shapes


def make_folder(folder: Path) -> Path:
    """Write it, unless it is there."""
    if (folder / "config.json").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    source = load_gguf(fetch_gguf())
    config, words = source.config, source.tokenizer
    tensors = {
        hf_name(name): np.ascontiguousarray(source.loader(name), np.float32)
        for name in tensor_shapes(config)
        if name != "head" or not config.tied_embeddings
    }
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    end = max(words.eos_ids)
    files: dict[str, dict[str, Any]] = {
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": words.bos_token,
            "eos_token": words.eos_token,
            "chat_template": words.chat_template,
            "model_max_length": config.context_length,
            "clean_up_tokenization_spaces": False,
        },
        "generation_config.json": {"eos_token_id": list(words.eos_ids)},
        "config.json": {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "torch_dtype": "float32",
            "hidden_act": "silu",
            "hidden_size": config.d_model,
            "intermediate_size": config.d_ff,
            "num_hidden_layers": config.n_layers,
            "num_attention_heads": config.n_heads,
            "num_key_value_heads": config.n_kv_heads,
            "head_dim": config.head_dim,
            "vocab_size": config.vocab_size,
            "max_position_embeddings": config.context_length,
            "rope_theta": config.rope_theta,
            "rms_norm_eps": config.norm_eps,
            "tie_word_embeddings": config.tied_embeddings,
            "attention_bias": False,
            "mlp_bias": False,
            "eos_token_id": end,
        },
    }
    (folder / "tokenizer.json").write_text(words.json_text)
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=1))
    return folder


if __name__ == "__main__":
    make_folder(Path(sys.argv[1]))
