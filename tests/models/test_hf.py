"""A Hugging Face folder: the same checkpoint comes back; lies end in ArtifactError."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

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


def stored(folder: Path, **changes: tuple[str, np.ndarray] | None) -> None:
    """The folder's tensors again in one file, some in another dtype (a name of the format and
    its bytes as an array) or, with None, absent."""
    tensors: dict[str, tuple[str, tuple[int, ...], bytes]] = {}
    for path in sorted(folder.glob("model-*.safetensors")):
        for name, value in load_file(path).items():
            tensors[name] = ("F32", value.shape, value.tobytes())
        path.unlink()
    for key, change in changes.items():
        name = hf_name(key.replace("__", "."))
        shape = tensors.pop(name)[1]
        if change is not None:
            tensors[name] = (change[0], shape, change[1].tobytes())
    header, data = {}, b""
    for name, (dtype, shape, raw) in tensors.items():
        at = [len(data), len(data) + len(raw)]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": at}
        data += raw
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)


def test_every_float_is_read_and_every_other_number_named(tmp_path: Path) -> None:
    source = tiny_source(n_layers=1)
    write_folder(tmp_path, source)
    value = source.tensor("layers.0.up")
    half = (value.view(np.uint32) >> 16).astype(np.uint16)
    name = "layers__0__up"
    for dtype, raw, wanted in (
        ("F64", value.astype(np.float64), value),
        ("F16", value.astype(np.float16), value.astype(np.float16).astype(np.float32)),
        ("BF16", half, (half.astype(np.uint32) << 16).view(np.float32)),
    ):
        write_folder(tmp_path, source)
        stored(tmp_path, **{name: (dtype, raw)})
        assert np.array_equal(load_hf(tmp_path).tensor("layers.0.up"), wanted), dtype
    small = np.zeros(value.shape, np.uint8)
    for dtype in ("F8_E4M3", "F8_E5M2", "I8", "U8"):
        write_folder(tmp_path, source)
        stored(tmp_path, **{name: (dtype, small)})
        with pytest.raises(ArtifactError, match=f"up_proj.weight is stored as {dtype}; quantised"):
            load_hf(tmp_path)
    write_folder(tmp_path, source)
    stored(tmp_path, **{name: ("F64", np.full(value.shape, 1e300))})
    with pytest.raises(ArtifactError, match="infinite"):
        load_hf(tmp_path).tensor("layers.0.up")


def test_which_files_are_the_model(tmp_path: Path) -> None:
    """As transformers reads a folder, or refused: a copy with other names beside the index, the
    index beside one whole file, a shard that is missing, an adapter."""
    source = tiny_source("qwen3", n_layers=1)
    write_folder(tmp_path, source)
    table = {
        name: path.name
        for path in sorted(tmp_path.glob("model-*.safetensors"))
        for name in load_file(path)
    }
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": table}))
    save_file({"tok_embeddings.weight": np.ones((2, 2), np.float32)}, tmp_path / "c.safetensors")
    assert load_hf(tmp_path).config == source.config
    save_file({"w": np.ones((2, 2), np.float32)}, tmp_path / "model.safetensors")
    with pytest.raises(ArtifactError, match=r"index.json is .*reads first is 'model.safetensors'"):
        load_hf(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ArtifactError, match=r"adapter_config\.json"):
        load_hf(tmp_path)
    (tmp_path / "adapter_config.json").unlink()
    (tmp_path / "model-1.safetensors").unlink()
    with pytest.raises(ArtifactError, match=r"names model-1\.safetensors, which is missing"):
        load_hf(tmp_path)


def test_a_head_that_equals_the_tied_embeddings(tmp_path: Path) -> None:
    """Stored although tied: accepted where it is the same, in whichever precision."""
    source = tiny_source(n_layers=1)
    write_folder(tmp_path, source)
    head = source.tensor("embed").astype(np.float64)
    save_file({"lm_head.weight": head}, tmp_path / "model-2.safetensors")
    assert load_hf(tmp_path).config == source.config
    head[-1, -1] += 1
    save_file({"lm_head.weight": head}, tmp_path / "model-2.safetensors")
    with pytest.raises(ArtifactError, match=r"tie_word_embeddings is True, lm_head\.weight is"):
        load_hf(tmp_path)


FILES = {
    "config.json": [
        *("rope_theta", "rope_parameters", "rope_scaling", "rms_norm_eps", "head_dim"),
        *("tie_word_embeddings", "architectures", "model_type", "layer_types", "eos_token_id"),
        *("num_attention_heads", "num_hidden_layers", "vocab_size", "attention_multiplier"),
        *("quantization_config", "sliding_window", "attention_bias", "no_rope_layers"),
    ],
    "tokenizer_config.json": [
        *("eos_token", "bos_token", "chat_template", "added_tokens_decoder", "add_bos_token"),
        *("additional_special_tokens", "extra_special_tokens", "add_prefix_space"),
    ],
    "generation_config.json": ["eos_token_id"],
    "special_tokens_map.json": ["eos_token", "additional_special_tokens"],
    "added_tokens.json": ["<x>"],
    "chat_template.json": ["chat_template"],
    "tokenizer.json": ["added_tokens", "normalizer", "decoder", "model", "post_processor"],
    "model.safetensors.index.json": ["weight_map"],
}
WORDS = ["rope_type", "type", "factor", "content", "name", "template", "default", "llama3", "0"]
WORDS += ["rope_theta", "normalizers", "Sequence", "NFC", "quant_method", "<|im_end|>"]
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 400)
    | st.sampled_from([10**400, 1e300, 0.5, 1.0, ""])
    | st.sampled_from(WORDS),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([(f, k) for f, keys in FILES.items() for k in keys]), VALUES)
def test_any_value_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, place: tuple[str, str], value: object
) -> None:
    """Whatever stands in a file: a checkpoint or an error of ours, nothing else."""
    folder = tmp_path_factory.getbasetemp() / "any_value"
    if not folder.exists():
        folder.mkdir()
        write_folder(folder, tiny_source(n_layers=1))
    path = folder / place[0]
    before = path.read_text() if path.exists() else None
    path.write_text(json.dumps(json.loads(before or "{}") | {place[1]: value}))
    try:
        load_hf(folder)
    except ArtifactError:
        pass
    finally:
        path.unlink() if before is None else path.write_text(before)
