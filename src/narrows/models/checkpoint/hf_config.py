"""``config.json`` as a ``ModelConfig``: what it means to transformers, or refused.

Three rules
- A setting that stands in two places (``rope_theta`` and ``rope_parameters.rope_theta``,
  ``rope_scaling`` and ``rope_parameters``) says the same in both.
- A setting that changes the numbers and that the runtime lacks is refused by name, unless its
  value is the one that changes nothing.
- What is absent has the value that transformers gives it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from narrows.errors import ArtifactError
from narrows.models.checkpoint.source import ARCHITECTURES, ModelConfig, RopeScaling
from narrows.models.checkpoint.statements import agreed, same, two_statements

_THETA = 10000.0
_QWEN3_HEAD_DIM = 128  # what transformers takes where a Qwen3 config has none

# The values of each setting that change nothing; absent and null change nothing either.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu", "swish"),
    "hidden_activation": ("silu", "swish"),
    "mlp_bias": (False,),
    "partial_rotary_factor": (1,),
    "rotary_pct": (1,),
    "rope_interleaved": (False,),
    "rope_interleave": (False,),
    "rope_local_base_freq": (),
    "use_sliding_window": (False,),
    "use_mrope": (False,),
    "logit_scale": (1,),
    "logits_scaling": (1,),
    "attn_logit_softcapping": (),
    "final_logit_softcapping": (),
    "logit_softcap": (),
    "embedding_multiplier": (1,),
    "residual_multiplier": (1,),
    "scale_emb": (1,),
    "scale_depth": (),
    "clip_qkv": (),
    "alibi": (False,),
    "attn_temperature_tuning": (False,),
    "is_causal": (True,),
    "use_bidirectional_attention": (False,),
    "no_rope_layers": ([],),
    "no_rope_layer_interval": (0,),
    "num_experts": (0,),
    "num_local_experts": (0,),
    "n_routed_experts": (0,),
    "text_config": (),
    "compression_config": (),
}
_LLAMA3 = ("factor", "low_freq_factor", "high_freq_factor")
_ORIGINAL = "original_max_position_embeddings"


def model_config(raw: Mapping[str, Any]) -> ModelConfig:
    """The configuration. ArtifactError: a setting is missing, malformed, unknown to the
    runtime, or said in two ways."""
    arch = raw.get("model_type")
    if not isinstance(arch, str):
        raise ArtifactError(f"config.json: model_type is {arch!r:.40}")
    config = _sizes(raw, arch)
    _check_neutral(raw)
    _check_architecture(raw, arch, config)
    return config


def _sizes(raw: Mapping[str, Any], arch: str) -> ModelConfig:
    heads = whole(raw, "num_attention_heads")
    hidden = whole(raw, "hidden_size")
    default = _QWEN3_HEAD_DIM if arch == "qwen3" else hidden // max(1, heads)
    context = whole(raw, "max_position_embeddings")
    theta, scaling = _rope(raw)
    return ModelConfig(
        architecture=arch,
        n_layers=whole(raw, "num_hidden_layers"),
        d_model=hidden,
        n_heads=heads,
        n_kv_heads=whole(raw, "num_key_value_heads", heads),
        head_dim=whole(raw, "head_dim", default),
        d_ff=whole(raw, "intermediate_size"),
        vocab_size=whole(raw, "vocab_size"),
        rope_theta=theta,
        norm_eps=_number("config.json: rms_norm_eps", raw.get("rms_norm_eps")),
        tied_embeddings=_truth(raw, "tie_word_embeddings"),
        qkv_bias=arch == "qwen2",
        qk_norm=arch == "qwen3",
        context_length=context,
        rope_scaling=scaling,
    )


def whole(raw: Mapping[str, Any], key: str, default: int | None = None) -> int:
    """A whole number of config.json, ``default`` where it is absent. ArtifactError."""
    value = raw.get(key)
    if value is None and default is not None:
        return default
    if type(value) is not int:
        raise ArtifactError(f"config.json: {key} is {value!r:.40}, not a whole number")
    return value


def _number(place: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ArtifactError(f"{place} is {value!r:.40}, not a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ArtifactError(f"{place} is {value!r:.40}, not finite")
    return number


def _truth(raw: Mapping[str, Any], key: str) -> bool:
    value = raw.get(key)
    if value is not None and not isinstance(value, bool):
        raise ArtifactError(f"config.json: {key} is {value!r:.40}, neither true nor false")
    return value is True


def _rope(raw: Mapping[str, Any]) -> tuple[float, RopeScaling | None]:
    tables = {key: _rope_table(raw, key) for key in ("rope_parameters", "rope_scaling")}
    tables = {key: table for key, table in tables.items() if table}
    places = [("rope_theta", raw.get("rope_theta"))]
    places += [(f"{key}.rope_theta", table.get("rope_theta")) for key, table in tables.items()]
    theta = agreed(places)
    if len(tables) == 2:
        _same_tables(tables, theta)
    key, table = next(iter(tables.items()), ("rope_scaling", {}))
    scaling = _scaling(key, table, raw.get(_ORIGINAL))
    return _number("rope_theta", _THETA if theta is None else theta), scaling


def _rope_table(raw: Mapping[str, Any], key: str) -> dict[str, Any]:
    """One of the two tables, without nulls and with its type under one name."""
    value = raw.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ArtifactError(f"config.json: {key} is {value!r:.40}, no table")
    table = {name: said for name, said in value.items() if said is not None}
    kind = agreed((f"{key}.{name}", table.pop(name, None)) for name in ("rope_type", "type"))
    return table if kind is None else table | {"rope_type": kind}


def _same_tables(tables: Mapping[str, Mapping[str, Any]], theta: Any) -> None:
    """transformers reads one of two tables and forgets the other: both must say everything."""
    (first, left), (second, right) = tables.items()
    for name in sorted({*left, *right}):
        absent = {"rope_theta": theta, "rope_type": "default"}.get(name)
        ours, theirs = left.get(name, absent), right.get(name, absent)
        if not same(ours, theirs):
            raise two_statements((f"{first}.{name}", ours), (f"{second}.{name}", theirs))


def _scaling(key: str, table: Mapping[str, Any], original: Any) -> RopeScaling | None:
    kind = table.get("rope_type", "default")
    left = {name: value for name, value in table.items() if name not in ("rope_type", "rope_theta")}
    for name, neutral in (("partial_rotary_factor", 1), ("attention_factor", 1)):
        if name in left and not same(left.pop(name), neutral):
            raise ArtifactError(f"config.json: {key}.{name} = {table[name]!r:.40} is not supported")
    if kind == "linear" and same(left.get("factor"), 1):
        kind = "default"
    if kind == "default":
        if same(left.get("factor"), 1):
            left.pop("factor")
        for name, value in left.items():
            place = (f"{key}.rope_type", table.get("rope_type", "absent"))
            raise two_statements((f"{key}.{name}", value), place)
        return None
    if kind != "llama3":
        raise ArtifactError(f"config.json: {key}.rope_type = {kind!r:.40} is not supported")
    length = agreed([(f"{key}.{_ORIGINAL}", left.pop(_ORIGINAL, None)), (_ORIGINAL, original)])
    factor, low, high = (
        _number(f"config.json: {key}.{name}", left.pop(name, None)) for name in _LLAMA3
    )
    for name, value in left.items():
        raise ArtifactError(f"config.json: {key}.{name} = {value!r:.40} is not supported")
    return RopeScaling(factor, low, high, _number(f"config.json: {key}.{_ORIGINAL}", length))


def _check_neutral(raw: Mapping[str, Any]) -> None:
    quantised = raw.get("quantization_config")
    if quantised is not None:
        method = quantised.get("quant_method") if isinstance(quantised, dict) else quantised
        raise ArtifactError(
            f"config.json: quantization_config says the weights are quantised ({method!r:.40}), "
            "which is not supported",
            "import the checkpoint in 16 or 32 bits",
        )
    for key, neutral in _NEUTRAL.items():
        value = raw.get(key)
        if value is not None and not any(same(value, only) for only in neutral):
            raise ArtifactError(f"config.json: {key} = {value!r:.40} is not supported")


def _check_architecture(raw: Mapping[str, Any], arch: str, config: ModelConfig) -> None:
    """Settings whose neutral value depends on the architecture or on the sizes."""
    classes = raw.get("architectures")
    meant = f"{ARCHITECTURES[arch]}ForCausalLM"
    if classes and classes != [meant]:
        raise two_statements(("model_type", arch), ("architectures", classes))
    # Qwen2 has these biases whatever the setting says; the others have none.
    if raw.get("attention_bias") not in (None, arch == "qwen2"):
        if arch == "qwen2":
            stored = ("the tensors of every Qwen2 model", "q, k and v biases")
            raise two_statements(("attention_bias", raw["attention_bias"]), stored)
        value = raw["attention_bias"]
        raise ArtifactError(f"config.json: attention_bias = {value!r:.40} is not supported")
    for key in ("use_qk_norm", "qk_norm", "qk_layernorm"):
        if raw.get(key) not in (None, config.qk_norm):
            raise two_statements((key, raw[key]), ("model_type", arch))
    exact = {"attention_multiplier": config.head_dim**-0.5}
    exact |= {"query_pre_attn_scalar": config.head_dim, "rotary_dim": config.head_dim}
    for key, value in exact.items():
        said = raw.get(key)
        if said is not None and not math.isclose(_number(f"config.json: {key}", said), value):
            raise ArtifactError(f"config.json: {key} = {said!r:.40} is not supported")
    kinds = raw.get("layer_types")
    if kinds is not None and kinds != ["full_attention"] * config.n_layers:
        raise ArtifactError(f"config.json: layer_types = {kinds!r:.80} is not supported")
    # Qwen uses its window only where use_sliding_window says so; for Llama readers disagree.
    window = raw.get("sliding_window")
    if arch == "llama" and window is not None and not _covers(window, config.context_length):
        raise ArtifactError(f"config.json: sliding_window = {window!r:.40} is not supported")


def _covers(window: object, context: int) -> bool:
    return type(window) is int and window >= context
