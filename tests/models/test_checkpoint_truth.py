"""A checkpoint is read as transformers reads it, or refused by naming what it says.

Tiny random models whose answers are sharp (mean entropy at most half of log2 of the
vocabulary: flat logits agree with anything), each setting alone and with every other one. Right
is top-1 >= 0.8 and KL <= 0.05 bits against transformers in float32; for every setting a wrong
value gives 0.5 bits and more, so the check can fail.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from models.tiny import TEMPLATE, tiny_config, tiny_tokenizer_data
from narrows.bench.runtime_quality import float_model
from narrows.errors import ArtifactError
from narrows.models.artifact import Artifact
from narrows.models.checkpoint.hf import hf_name, load_hf
from narrows.models.checkpoint.pack import pack
from narrows.models.checkpoint.source import SourceModel, tensor_shapes
from narrows.models.checkpoint.statements import parse_object
from narrows.models.runtime.runtime import load_runtime

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
load_file = pytest.importorskip("safetensors.torch").load_file

ARCHS = ("llama", "qwen2", "qwen3")
CLASSES = {"llama": "Llama", "qwen2": "Qwen2", "qwen3": "Qwen3"}
TOKENS = [(i * i * 7 + i * 13) % 397 for i in range(1, 193)]
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 16.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}

# Changes of config.json that are read, and what the importer could mistake them for.
RIGHT: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "theta": ({"rope_theta": 40.0}, {"rope_theta": 10000.0}),
    "theta in rope_parameters": (
        {"rope_parameters": {"rope_theta": 40}},
        {"rope_theta": 10000.0},
    ),
    "scaling": ({"rope_scaling": LLAMA3}, {"rope_scaling": None}),
    "scaling in rope_parameters": ({"rope_parameters": LLAMA3}, {"rope_scaling": None}),
    "eps": ({"rms_norm_eps": 0.2}, {"norm_eps": 3.0}),
    "tied": ({"tie_word_embeddings": True}, {"tied_embeddings": False}),
    "head_dim": ({"head_dim": 32}, {"head_dim": 16, "n_heads": 8, "n_kv_heads": 4}),
}
# transformers reads one table of two and forgets what only the other says.
TABLES = ({"scaling"}, {"theta in rope_parameters"})

# What agrees, or changes nothing, and is therefore read.
HARMLESS: dict[str, dict[str, Any]] = {
    "theta twice, as whole and as real": {
        "rope_theta": 40,
        "rope_parameters": {"rope_type": "default", "rope_theta": 40.0},
    },
    "both tables, one old": {
        "rope_theta": 40.0,
        "rope_scaling": LLAMA3 | {"type": "llama3"},
        "rope_parameters": LLAMA3 | {"rope_theta": 40.0},
    },
    "nulls": {"rope_scaling": None, "mlp_bias": None, "logit_scale": 1, "sliding_window": None},
    "linear by one": {"rope_scaling": {"type": "linear", "factor": 1}},
    "an unused buffer": {
        "tensors": {
            "model.layers.0.self_attn.rotary_emb.inv_freq": (
                np.float32(10000.0) ** (-np.arange(8, dtype=np.float32) / 8)
            ),
            "model.embed_tokens.position_ids": np.arange(512)[None],
            "model.layers.0.self_attn.mask": np.ones((1, 1, 4, 4), bool),
        }
    },
}

# What says two things, or what the runtime lacks: the message names it.
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "two thetas": (
        {"rope_theta": 500.0, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
        r"rope_theta is 500.0, rope_parameters.rope_theta is 10000.0",
    ),
    "two scalings": (
        {"rope_scaling": LLAMA3, "rope_parameters": LLAMA3 | {"factor": 8.0}},
        "rope_parameters.factor is 8.0, rope_scaling.factor is 16.0",
    ),
    "two types": (
        {"rope_scaling": LLAMA3 | {"type": "yarn"}},
        "rope_scaling.rope_type is 'llama3', rope_scaling.type is 'yarn'",
    ),
    "factor without type": (
        {"rope_scaling": {"factor": 4.0}},
        "rope_scaling.factor is 4.0, rope_scaling.rope_type is 'absent'",
    ),
    "factor of default": (
        {"rope_parameters": {"rope_type": "default", "factor": 4.0}},
        "rope_parameters.factor is 4.0, rope_parameters.rope_type is 'default'",
    ),
    "linear": ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_type = 'linear'"),
    "yarn": ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "rope_type = 'yarn'"),
    "by layer type": (
        {"rope_parameters": {"full_attention": {"rope_theta": 1e4}}},
        "rope_parameters.full_attention",
    ),
    "lengths": (
        {"rope_scaling": LLAMA3, "original_max_position_embeddings": 64},
        "original_max_position_embeddings is 32, original_max_position_embeddings is 64",
    ),
    "attention factor": (
        {"rope_scaling": LLAMA3 | {"attention_factor": 1.5}},
        "attention_factor = 1.5",
    ),
    "part of the head": ({"partial_rotary_factor": 0.5}, "partial_rotary_factor = 0.5"),
    "part of the head, inside": (
        {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}},
        "partial_rotary_factor = 0.5",
    ),
    "another head beside tied": (
        {
            "tie_word_embeddings": True,
            "tensors": {"lm_head.weight": np.ones((tiny_config().vocab_size, 64), np.float32)},
        },
        "tie_word_embeddings is True, lm_head.weight is 'stored",
    ),
    "tied as a word": ({"tie_word_embeddings": "false"}, "tie_word_embeddings is 'false'"),
    "window": ({"use_sliding_window": True, "sliding_window": 8}, "use_sliding_window = True"),
    "layer types": ({"layer_types": ["sliding_attention"] * 2}, "layer_types"),
    "mlp bias": ({"mlp_bias": True}, "mlp_bias = True"),
    "activation": ({"hidden_act": "gelu"}, "hidden_act = 'gelu'"),
    "soft cap": ({"final_logit_softcapping": 30.0}, "final_logit_softcapping = 30.0"),
    "attention soft cap": ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping = 50.0"),
    "attention scale": ({"query_pre_attn_scalar": 64}, "query_pre_attn_scalar = 64"),
    "another class": (
        {"architectures": ["MistralForCausalLM"]},
        r"model_type is .*, architectures is \['MistralForCausalLM'\]",
    ),
    "quantised": ({"quantization_config": {"quant_method": "fp8"}}, "quantization_config.*fp8"),
    "eps as a word": ({"rms_norm_eps": "1e-5"}, "rms_norm_eps is '1e-5', not a number"),
    "frequencies of another theta": (
        {
            "tensors": {
                "model.layers.0.self_attn.rotary_emb.inv_freq": (
                    np.float32(77.0) ** (-np.arange(8, dtype=np.float32) / 8)
                )
            }
        },
        "rope_theta is .*rotary_emb.inv_freq is",
    ),
    "one more bias": (
        {"tensors": {"model.layers.0.self_attn.o_proj.bias": np.ones(64, np.float32)}},
        "o_proj.bias is stored",
    ),
    "one more layer": (
        {"tensors": {"model.layers.2.mlp.up_proj.weight": np.ones((96, 64), np.float32)}},
        "layers.2.mlp.up_proj.weight is stored",
    ),
    "one layer too few": ({"num_hidden_layers": 3}, "is missing: config.json says 3 layers"),
}


def base(arch: str) -> dict[str, Any]:
    return {
        "architectures": [f"{CLASSES[arch]}ForCausalLM"],
        "model_type": arch,
        "num_hidden_layers": 2,
        "hidden_size": 64,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "intermediate_size": 96,
        "vocab_size": tiny_config().vocab_size,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 512,
        "eos_token_id": 2,
    }


@functools.cache
def weights(arch: str, head_dim: int, tied: bool) -> dict[str, np.ndarray]:
    """Attention looks at few places and matters; the head is sharp."""
    config = tiny_config(arch, head_dim=head_dim, tied_embeddings=tied)
    rng = np.random.default_rng(5)
    found = {}
    for name, shape in tensor_shapes(config).items():
        kind = name.rsplit(".", 1)[-1]
        gain = {"q": 1.6, "k": 1.6, "o": 3.0, "v": 2.0, "down": 0.5, "head": 3.8}.get(kind, 1.0)
        if kind == "embed":
            value = rng.standard_normal(shape) * (0.4 if tied else 0.6)
        elif kind.endswith("norm"):
            value = (1.5 if kind in ("q_norm", "k_norm") else 1.0) + 0.2 * rng.standard_normal(
                shape
            )
        elif kind.endswith("bias"):
            value = rng.standard_normal(shape)
        else:
            value = gain * rng.standard_normal(shape) * shape[-1] ** -0.5
        if name != "head" or not tied:
            found[hf_name(name)] = value.astype(np.float32)
    return found


def write(folder: Path, arch: str, *changes: dict[str, Any], **tensors: np.ndarray) -> None:
    config = base(arch)
    for change in changes:
        for key, value in change.items():
            if key != "tensors":
                both = isinstance(value, dict) and isinstance(config.get(key), dict)
                config[key] = config[key] | value if both else value
    folder.mkdir(exist_ok=True)
    config = {key: value for key, value in config.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text(tiny_tokenizer_data().json_text)
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    tied = config.get("tie_word_embeddings") is True
    stored = weights(arch, config["head_dim"], tied) | tensors
    for change in changes:
        stored = stored | change.get("tensors", {})
    save_file(stored, folder / "model.safetensors")


def theirs(folder: Path) -> np.ndarray:
    """What transformers makes of the folder (its loader without the progress bars)."""
    config = transformers.AutoConfig.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    missing, extra = model.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
    model.tie_weights()
    assert not extra
    assert set(missing) <= {"lm_head.weight"}
    assert not missing or config.tie_word_embeddings
    return log2_shares(model)


def log2_shares(model: Any) -> np.ndarray:
    with torch.no_grad():
        logits = model.eval()(torch.tensor([TOKENS])).logits[0].double()
    return torch.log_softmax(logits, -1).numpy() / np.log(2)


def exact(source: SourceModel, folder: Path) -> np.ndarray:
    """What the artifact's runtime says."""
    path = folder / "m.narrows"
    pack(source, path, name="m", threads=1)
    model = load_runtime(Artifact.open(path), threads=1, kv_bytes=16 << 20)
    stream = model.open(TOKENS[:1])
    first = np.array(model.logits(stream))[None]
    rest = model.extend(stream, TOKENS[1:])
    bits = np.concatenate([first, rest]).astype(np.float64) / 65536
    return (
        bits
        - np.log2(np.exp2(bits - bits.max(-1, keepdims=True)).sum(-1, keepdims=True))
        - (bits.max(-1, keepdims=True))
    )


def kl_bits(truth: np.ndarray, other: np.ndarray) -> float:
    return float((np.exp2(truth) * (truth - other)).sum(-1).mean())


def top_1(truth: np.ndarray, other: np.ndarray) -> float:
    return float((truth.argmax(-1) == other.argmax(-1)).mean())


def entropy_bits(truth: np.ndarray) -> float:
    return float(-(np.exp2(truth) * truth).sum(-1).mean())


def mistaken(source: SourceModel, changes: dict[str, Any]) -> SourceModel:
    """The same weights under wrong settings."""
    config = dataclasses.replace(source.config, **changes)
    shapes = tensor_shapes(config)
    other = np.random.default_rng(9).standard_normal(shapes["head"]).astype(np.float32) / 3

    def load(name: str) -> np.ndarray:
        if name == "head" and "tied_embeddings" in changes:
            return other
        return source.tensor(name)[: shapes[name][0]]

    return SourceModel(config, source.tokenizer, load)


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # two threads over such matrices wait for each other
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", RIGHT)
@pytest.mark.parametrize("arch", ARCHS)
def test_each_setting_is_read_as_transformers_reads_it(
    tmp_path: Path, arch: str, name: str
) -> None:
    change, wrong = RIGHT[name]
    write(tmp_path, arch, change)
    truth, source = theirs(tmp_path), load_hf(tmp_path)
    assert entropy_bits(truth) <= np.log2(truth.shape[1]) / 2
    ours = exact(source, tmp_path)
    assert kl_bits(truth, ours) <= 0.05
    assert top_1(truth, ours) >= 0.8
    assert kl_bits(truth, log2_shares(float_model(mistaken(source, wrong)))) >= 0.5


@pytest.mark.parametrize("arch", ARCHS)
def test_two_settings_together(tmp_path: Path, arch: str) -> None:
    read = 0
    for one, two in itertools.combinations(RIGHT, 2):
        write(tmp_path, arch, RIGHT[one][0], RIGHT[two][0])
        if {one, two} & TABLES[0] and {one, two} & TABLES[1]:
            with pytest.raises(ArtifactError, match="says two things"):
                load_hf(tmp_path)
            continue
        source = load_hf(tmp_path)
        truth, ours = theirs(tmp_path), log2_shares(float_model(source))
        assert kl_bits(truth, ours) <= 0.05, (one, two)
        assert top_1(truth, ours) >= 0.8, (one, two)
        read += 1
    assert read == 20


@pytest.mark.parametrize("name", HARMLESS)
@pytest.mark.parametrize("arch", ARCHS)
def test_what_agrees_is_read(tmp_path: Path, arch: str, name: str) -> None:
    write(tmp_path, arch, HARMLESS[name])
    plain = tmp_path / "plain"
    write(plain, arch, {k: v for k, v in HARMLESS[name].items() if k != "tensors"})
    assert kl_bits(theirs(plain), log2_shares(float_model(load_hf(tmp_path)))) <= 0.05


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("arch", ARCHS)
def test_what_says_two_things_is_refused(tmp_path: Path, arch: str, name: str) -> None:
    change, message = REFUSED[name]
    write(tmp_path, arch, change)
    with pytest.raises(ArtifactError, match=message):
        load_hf(tmp_path)


@pytest.mark.parametrize("name", REFUSED)
def test_no_second_setting_hides_it(tmp_path: Path, name: str) -> None:
    """Every refusal stays one beside every other setting."""
    for other, _ in RIGHT.values():
        if REFUSED[name][0].keys() & other.keys():
            continue  # the same setting: no pair
        write(tmp_path, "llama", REFUSED[name][0] | other, REFUSED[name][0])
        with pytest.raises(ArtifactError):
            load_hf(tmp_path)


def test_what_depends_on_the_architecture(tmp_path: Path) -> None:
    """Qwen2 has biases whatever attention_bias says, Qwen3 heads of 128 where none is said, and
    a window that is not used is no window; Llama's window is read by some and not by others."""
    refused = [
        ("qwen2", {"attention_bias": False}, "attention_bias is False"),
        ("qwen3", {"attention_bias": True}, "attention_bias = True"),
        ("llama", {"attention_bias": True}, "attention_bias = True"),
        ("llama", {"sliding_window": 8}, "sliding_window = 8"),
        ("qwen3", {"use_qk_norm": False}, "use_qk_norm is False, model_type is 'qwen3'"),
    ]
    for arch, change, message in refused:
        write(tmp_path, arch, change)
        with pytest.raises(ArtifactError, match=message):
            load_hf(tmp_path)
    for arch in ("qwen2", "qwen3"):
        write(tmp_path, arch, {"sliding_window": 8, "use_sliding_window": False})
        assert kl_bits(theirs(tmp_path), log2_shares(float_model(load_hf(tmp_path)))) <= 0.05
    write(tmp_path, "qwen3", {"head_dim": 128})
    config = json.loads((tmp_path / "config.json").read_text())
    del config["head_dim"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert kl_bits(theirs(tmp_path), log2_shares(float_model(load_hf(tmp_path)))) <= 0.05


def test_a_key_twice_is_two_statements(tmp_path: Path) -> None:
    write(tmp_path, "llama")
    text = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(text[:-1] + ', "rms_norm_eps": 0.1}')
    with pytest.raises(ArtifactError, match="key 'rms_norm_eps' twice"):
        load_hf(tmp_path)


def test_a_key_twice_among_many_is_found() -> None:
    """In one pass over the keys: counting each anew would take hours here."""
    rows = [f'"k{number}":0' for number in range(200_000)]
    data = ("{" + ",".join([*rows, '"k199999":1']) + "}").encode()
    with pytest.raises(ArtifactError, match="key 'k199999' twice"):
        parse_object(data, "config.json")
