"""GGUF: values equal to the reference decoder's bit for bit; lies end in ArtifactError."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.tiny import TEMPLATE, tiny_source
from narrows.errors import ArtifactError
from narrows.models.checkpoint.gguf import read_gguf
from narrows.models.checkpoint.gguf_blocks import ENCODINGS
from narrows.models.checkpoint.gguf_model import gguf_name, load_gguf
from narrows.models.checkpoint.source import RopeScaling, SourceModel, llama3_divisors


def interleaved(value: np.ndarray, head_dim: int) -> np.ndarray:
    halves = value.reshape(-1, 2, head_dim // 2, *value.shape[1:])
    return halves.swapaxes(1, 2).reshape(value.shape)


def write_gguf(
    path: Path,
    source: SourceModel,
    pre: str = "gpt-2",
    *,
    unused: int = 0,
    **keys: bool | int | float | str,
) -> None:
    """The last ``unused`` tokens only fill up the rows. ``keys`` are written too, with ``__``
    for a dot."""
    c = source.config
    w = gguf.GGUFWriter(path, c.architecture)
    for key, value in keys.items():
        add = {bool: w.add_bool, int: w.add_uint32, float: w.add_float32, str: w.add_string}
        add[type(value)](key.replace("__", "."), value)
    w.add_block_count(c.n_layers)
    w.add_context_length(c.context_length)
    w.add_embedding_length(c.d_model)
    w.add_feed_forward_length(c.d_ff)
    w.add_head_count(c.n_heads)
    w.add_head_count_kv(c.n_kv_heads)
    w.add_key_length(c.head_dim)
    w.add_value_length(c.head_dim)
    w.add_rope_freq_base(c.rope_theta)
    w.add_layer_norm_rms_eps(c.norm_eps)
    model = json.loads(source.tokenizer.json_text)["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre(pre)
    w.add_token_list(tokens)
    w.add_token_types([3] * 3 + [1] * (len(tokens) - 3 - unused) + [5] * unused)
    w.add_token_merges([" ".join(pair) for pair in model["merges"]])
    if "tokenizer__ggml__eos_token_id" not in keys:
        w.add_eos_token_id(2)
    w.add_chat_template(TEMPLATE)
    for name in source.tensors():
        if name == "head" and c.tied_embeddings:
            continue
        value = source.tensor(name)
        if c.architecture == "llama" and name.rsplit(".")[-1] in ("q", "k"):
            value = interleaved(value, c.head_dim)
        w.add_tensor(gguf_name(name), value)
    if c.rope_scaling is not None:
        divisors = llama3_divisors(c.rope_scaling, c.rope_theta, c.head_dim)
        w.add_tensor("rope_freqs.weight", divisors.astype(np.float32))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


@pytest.mark.parametrize("arch", ["llama", "qwen2", "qwen3"])
def test_a_checkpoint_comes_back(tmp_path: Path, arch: str) -> None:
    source = tiny_source(arch)
    write_gguf(tmp_path / "m.gguf", source)
    loaded = load_gguf(tmp_path / "m.gguf")
    assert loaded.config == source.config
    assert loaded.tokenizer.eos_ids == (0, 2)
    for name in source.tensors():
        assert np.array_equal(loaded.tensor(name), source.tensor(name)), name


@pytest.mark.parametrize(
    ("arch", "scaling", "message"),
    [
        ("llama", RopeScaling(32.0, 1.0, 4.0, 8192.0), ""),
        ("llama", RopeScaling(32.0, 1.0, 4.0, 4096.0), "not that of a Llama 3 model"),
        ("qwen2", RopeScaling(32.0, 1.0, 4.0, 8192.0), "rope_freqs.weight"),
    ],
)
def test_rope_divisors_are_llama_3s_or_refused(
    tmp_path: Path, arch: str, scaling: RopeScaling, message: str
) -> None:
    source = tiny_source(arch, rope_scaling=scaling, rope_theta=500000.0)
    write_gguf(tmp_path / "m.gguf", source)
    if message:
        with pytest.raises(ArtifactError, match=message):
            load_gguf(tmp_path / "m.gguf")
    else:
        assert load_gguf(tmp_path / "m.gguf").config == source.config


def test_unknown_pre_tokenizer_and_infinite_weights(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", tiny_source(), pre="martian")
    with pytest.raises(ArtifactError, match="martian"):
        load_gguf(tmp_path / "m.gguf")
    source = tiny_source()
    write_gguf(tmp_path / "n.gguf", source)
    at = read_gguf(tmp_path / "n.gguf").tensors["blk.1.ffn_up.weight"].offset
    data = bytearray((tmp_path / "n.gguf").read_bytes())
    data[at : at + 4] = np.float32(np.inf).tobytes()
    (tmp_path / "n.gguf").write_bytes(data)
    with pytest.raises(ArtifactError, match="NaN or infinite"):
        load_gguf(tmp_path / "n.gguf").tensor("layers.1.up")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"llama__rope__scaling__factor": 4.0},
            r"llama.rope.scaling.factor is 4.0, llama.rope.scaling.type is 'absent",
        ),
        (
            {"llama__rope__scaling__factor": 4.0, "llama__rope__scaling__type": "none"},
            r"llama.rope.scaling.factor is 4.0, llama.rope.scaling.type is 'none'",
        ),
        ({"llama__rope__scale_linear": 4.0}, r"llama.rope.scale_linear is 4.0"),
        ({"llama__rope__scaling__type": "yarn"}, r"rope.scaling.type is 'yarn'"),
        ({"llama__rope__scaling__attn_factor": 2.0}, r"attn_factor = 2.0"),
        ({"llama__rope__freq_base_swa": 1e4}, r"rope.freq_base_swa"),
        ({"llama__rope__dimension_count": 8}, r"rope.dimension_count differs"),
        ({"llama__attention__scale": 0.5}, r"attention.scale = 0.5"),
        ({"llama__attention__sliding_window": 64}, r"attention.sliding_window = 64"),
        ({"llama__attention__layer_norm_epsilon": 1e-5}, r"attention.layer_norm_epsilon"),
        ({"llama__attention__causal": False}, r"attention.causal = False"),
        ({"llama__final_logit_softcapping": 30.0}, r"final_logit_softcapping = 30.0"),
        ({"llama__logit_scale": 0.5}, r"logit_scale = 0.5"),
        ({"llama__expert_count": 8}, r"expert_count = 8"),
        ({"llama__martian": 1}, r"llama.martian = 1"),
        ({"llama__vocab_size": 399}, r"vocab_size is 399, rows of token_embd.weight is 4"),
        ({"qwen2__rope__freq_base": 1e6}, r"qwen2.rope.freq_base is .*architecture is 'llama'"),
        ({"general__quantization_version": 1}, r"quantization_version is 1"),
        ({"general__type": "adapter"}, r"general.type is 'adapter'"),
        ({"tokenizer__ggml__add_space_prefix": True}, r"add_space_prefix = True"),
        ({"tokenizer__ggml__precompiled_charsmap": "x"}, r"precompiled_charsmap"),
        ({"tokenizer__ggml__normalizer__lowercase": True}, r"normalizer.lowercase = True"),
    ],
)
def test_a_setting_that_is_not_followed_is_refused(
    tmp_path: Path, keys: dict[str, bool | int | float | str], message: str
) -> None:
    write_gguf(tmp_path / "m.gguf", tiny_source(), **keys)
    with pytest.raises(ArtifactError, match=message):
        load_gguf(tmp_path / "m.gguf")


def test_settings_that_change_nothing(tmp_path: Path) -> None:
    source = tiny_source()
    write_gguf(
        tmp_path / "m.gguf",
        source,
        llama__rope__scaling__type="linear",
        llama__rope__scaling__factor=1.0,
        llama__attention__scale=0.25,
        llama__logit_scale=0.0,
        llama__expert_count=0,
        llama__attention__sliding_window=512,
        llama__vocab_size=source.config.vocab_size,
        general__quantization_version=2,
        tokenizer__ggml__add_space_prefix=False,
    )
    assert load_gguf(tmp_path / "m.gguf").config == source.config


@pytest.mark.parametrize(
    ("arch", "changes"),
    [
        ("qwen2", {"qkv_bias": False}),
        ("qwen3", {"qk_norm": False}),
        ("llama", {"qk_norm": True}),
        ("qwen3", {"qkv_bias": True}),
    ],
)
def test_tensors_of_another_architecture(
    tmp_path: Path, arch: str, changes: dict[str, bool]
) -> None:
    write_gguf(tmp_path / "m.gguf", tiny_source(arch, **changes))
    with pytest.raises(ArtifactError, match=f"general.architecture is '{arch}', the tensors is"):
        load_gguf(tmp_path / "m.gguf")


@pytest.mark.parametrize("kind", [0, 1, 2, 3, 6, 7, 8, 12, 13, 14, 30])
def test_decoding_equals_the_reference(kind: int) -> None:
    encoding = ENCODINGS[kind]
    shape = (400, encoding.block_bytes)
    raw = np.random.default_rng(kind).integers(0, 256, shape, dtype=np.uint8)
    with np.errstate(all="ignore"):
        want = gguf.dequantize(raw.reshape(1, -1), gguf.GGMLQuantizationType(kind)).ravel()
        got = encoding.decode(raw).ravel()
    nan = np.isnan(want)
    assert np.array_equal(nan, np.isnan(got))
    assert np.array_equal(got[~nan].view(np.uint32), want[~nan].view(np.uint32))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damage_is_refused_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.gguf"
    whole = path.with_suffix(".whole")
    if not whole.exists():
        write_gguf(whole, tiny_source(n_layers=1))
    good = whole.read_bytes()
    head = min(info.offset for info in read_gguf(whole).tensors.values())
    bad = bytearray(good)
    if data.draw(st.booleans()):
        bad = bad[: data.draw(st.integers(0, len(good) - 1))]
        path.write_bytes(bad)
        with pytest.raises(ArtifactError):
            load_gguf(path)
        return
    at = data.draw(st.integers(0, head - 8))
    lie = data.draw(
        st.sampled_from([b"\xff" * 8, b"\0" * 8, b"\xff\xff\xff\x7f", b"\x01", b"\x80"])
    )
    bad[at : at + len(lie)] = lie
    path.write_bytes(bad)
    try:
        source = load_gguf(path)
        for name in source.tensors():
            source.tensor(name)
    except ArtifactError:
        return
