"""A Hugging Face folder: the same checkpoint comes back; lies end in ArtifactError."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from models.tiny import LLAMA3_SCALING, TEMPLATE, tiny_source
from narrows.errors import ArtifactError
from narrows.models.checkpoint.hf import hf_name, load_hf
from narrows.models.checkpoint.source import SourceModel


def write_folder(folder: Path, source: SourceModel) -> None:
    c = source.config
    config = {
        "model_type": c.architecture,
        "num_hidden_layers": c.n_layers,
        "hidden_size": c.d_model,
        "num_attention_heads": c.n_heads,
        "num_key_value_heads": c.n_kv_heads,
        "head_dim": c.head_dim,
        "intermediate_size": c.d_ff,
        "vocab_size": c.vocab_size,
        "rope_theta": c.rope_theta,
        "rms_norm_eps": c.norm_eps,
        "tie_word_embeddings": c.tied_embeddings,
        "max_position_embeddings": c.context_length,
        "eos_token_id": [0, 2],
    }
    if c.rope_scaling is not None:
        values = dict(vars(c.rope_scaling))
        values["original_max_position_embeddings"] = values.pop("original_max_position")
        config["rope_scaling"] = {"rope_type": "llama3"} | values
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text(source.tokenizer.json_text)
    chat = {"chat_template": TEMPLATE, "eos_token": {"content": "<|im_end|>"}}
    (folder / "tokenizer_config.json").write_text(json.dumps(chat))
    names = [n for n in source.tensors() if n != "head" or not c.tied_embeddings]
    half = len(names) // 2
    for i, part in enumerate((names[:half], names[half:])):
        tensors = {hf_name(n): source.tensor(n) for n in part}
        save_file(tensors, folder / f"model-{i}.safetensors")


@pytest.mark.parametrize("arch", ["llama", "qwen2", "qwen3"])
def test_a_checkpoint_comes_back(tmp_path: Path, arch: str) -> None:
    source = tiny_source(arch, rope_scaling=LLAMA3_SCALING if arch == "llama" else None)
    write_folder(tmp_path, source)
    loaded = load_hf(tmp_path)
    assert loaded.config == source.config
    assert (loaded.tokenizer.eos_ids, loaded.tokenizer.eos_token) == ((0, 2), "<|im_end|>")
    assert loaded.tokenizer.chat_template == TEMPLATE
    for name in source.tensors():
        assert np.array_equal(loaded.tensor(name), source.tensor(name)), name


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_damaged_safetensors(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.getbasetemp() / "fuzz_hf"
    if not folder.exists():
        folder.mkdir()
        write_folder(folder, tiny_source(n_layers=1))
        (folder / "whole").write_bytes((folder / "model-0.safetensors").read_bytes())
    good = (folder / "whole").read_bytes()
    head = 8 + int.from_bytes(good[:8], "little")
    target = folder / "model-0.safetensors"
    if data.draw(st.booleans()):
        target.write_bytes(good[: data.draw(st.integers(0, len(good) - 1))])
        with pytest.raises(ArtifactError):
            load_hf(folder)
        return
    at = data.draw(st.integers(0, head - 1))
    target.write_bytes(
        good[:at] + bytes([good[at] ^ data.draw(st.integers(1, 255))]) + good[at + 1 :]
    )
    try:
        source = load_hf(folder)
        for name in source.tensors():
            source.tensor(name)
    except ArtifactError:
        return


def test_an_impossible_shape_without_elements_is_refused(tmp_path: Path) -> None:
    write_folder(tmp_path, tiny_source(n_layers=1))
    target = tmp_path / "model-0.safetensors"
    whole = target.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])
    empty = {"dtype": "F32", "shape": [0, 1 << 39, 1 << 39, 1 << 39], "data_offsets": [0, 0]}
    text = json.dumps(header | {next(iter(header)): empty}).encode()
    target.write_bytes(len(text).to_bytes(8, "little") + text + whole[8 + length :])
    with pytest.raises(ArtifactError, match="impossible shape"):
        load_hf(tmp_path)
