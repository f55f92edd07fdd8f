"""A checkpoint as it was before quantisation: float32 tensors under canonical names.

Conventions, whatever the file had
- Matrices are [out, in]; ``embed`` is [vocab, d_model]; ``head`` exists even where the
  embeddings are tied (then it equals ``embed``).
- Rope pairs are those of Hugging Face: element i of a head turns with element
  i + head_dim / 2. GGUF files of the llama architecture interleave them; their q and k rows
  are put back on import.
- No weight is NaN or infinite.

Names: ``embed``, ``layers.N.`` + ``attn_norm q k v o q_bias k_bias v_bias q_norm k_norm
ffn_norm gate up down``, ``final_norm``, ``head``. Biases exist where ``qkv_bias``, q_norm and
k_norm where ``qk_norm``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from narrows.errors import ArtifactError

# As config.json and GGUF files call it: what its classes in transformers begin with.
ARCHITECTURES = {
    "llama": "Llama",
    "qwen2": "Qwen2",
    "qwen3": "Qwen3",
}

Shape = tuple[int, ...]
TensorLoader = Callable[[str], NDArray[np.float32]]

# (low, high), both allowed. They bound what an import may allocate, long before any matrix is
# read; the runtime has tighter bounds of its own.
_BOUNDS = {
    "n_layers": (1, 512),
    "d_model": (1, 1 << 16),
    "n_heads": (1, 1024),
    "n_kv_heads": (1, 1024),
    "head_dim": (2, 1024),
    "d_ff": (1, 1 << 18),
    "vocab_size": (2, 1 << 20),
    "context_length": (1, 1 << 26),
}


@dataclass(frozen=True)
class RopeScaling:
    """Llama 3's stretching of the long rope wavelengths."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position: float

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not (math.isfinite(value) and value > 0):
                raise ArtifactError(f"rope scaling: {name} is {value}")
        if self.high_freq_factor <= self.low_freq_factor:
            raise ArtifactError("rope scaling: high_freq_factor is not above low_freq_factor")


@dataclass(frozen=True)
class ModelConfig:
    """Sizes and constants of a transformer; ArtifactError where they cannot be meant."""

    architecture: str
    n_layers: int
    d_model: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    d_ff: int
    vocab_size: int
    rope_theta: float
    norm_eps: float
    tied_embeddings: bool
    qkv_bias: bool
    qk_norm: bool
    context_length: int
    rope_scaling: RopeScaling | None = None

    def __post_init__(self) -> None:
        if self.architecture not in ARCHITECTURES:
            raise ArtifactError(
                f"architecture {self.architecture!r} is not supported",
                "supported: " + ", ".join(ARCHITECTURES),
            )
        for name, (low, high) in _BOUNDS.items():
            value = getattr(self, name)
            if type(value) is not int or not low <= value <= high:
                raise ArtifactError(f"{name} is {value!r}, outside {low}..{high}")
        if self.n_heads % self.n_kv_heads:
            raise ArtifactError(f"{self.n_heads} heads over {self.n_kv_heads} key-value heads")
        if self.head_dim % 2:
            raise ArtifactError(f"head_dim {self.head_dim} is odd")
        for name in ("rope_theta", "norm_eps"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ArtifactError(f"{name} is {value!r}")

    @property
    def q_rows(self) -> int:
        return self.n_heads * self.head_dim

    @property
    def kv_rows(self) -> int:
        return self.n_kv_heads * self.head_dim

    @property
    def parameters(self) -> int:
        """Weights, tied ones counted once."""
        total = sum(math.prod(shape) for shape in tensor_shapes(self).values())
        return total - self.vocab_size * self.d_model * self.tied_embeddings


def tensor_shapes(config: ModelConfig) -> dict[str, Shape]:
    """Canonical name to shape, in the order of computation."""
    d, kv = config.d_model, config.kv_rows
    layer: dict[str, Shape] = {
        "attn_norm": (d,),
        "q": (config.q_rows, d),
        "k": (kv, d),
        "v": (kv, d),
        "o": (d, config.q_rows),
        "ffn_norm": (d,),
        "gate": (config.d_ff, d),
        "up": (config.d_ff, d),
        "down": (d, config.d_ff),
    }
    if config.qkv_bias:
        layer |= {"q_bias": (config.q_rows,), "k_bias": (kv,), "v_bias": (kv,)}
    if config.qk_norm:
        layer |= {"q_norm": (config.head_dim,), "k_norm": (config.head_dim,)}
    shapes: dict[str, Shape] = {"embed": (config.vocab_size, d)}
    for n in range(config.n_layers):
        shapes |= {f"layers.{n}.{name}": shape for name, shape in layer.items()}
    return shapes | {"final_norm": (d,), "head": (config.vocab_size, d)}


def llama3_divisors(scaling: RopeScaling, theta: float, head_dim: int) -> NDArray[np.float64]:
    """What each rope frequency is divided by, float64 [head_dim / 2] (Llama 3.1 model card)."""
    wavelength = 2 * np.pi * theta ** (np.arange(0, head_dim, 2) / head_dim)
    turns = scaling.original_max_position / wavelength
    span = scaling.high_freq_factor - scaling.low_freq_factor
    smooth = np.clip((turns - scaling.low_freq_factor) / span, 0, 1)
    return np.asarray(1 / ((1 - smooth) / scaling.factor + smooth))


@dataclass(frozen=True)
class TokenizerData:
    """What an artifact keeps of a tokenizer. ``json_text`` is a ``tokenizer.json``;
    ``bos_token`` and ``eos_token`` are what the chat template sees under these names."""

    json_text: str
    eos_ids: tuple[int, ...]
    chat_template: str = ""
    bos_token: str = ""
    eos_token: str = ""


@dataclass(frozen=True)
class SourceModel:
    """The float32 truth of a checkpoint. ``loader`` reads one tensor; ``metadata`` says where
    it is from (``name``, ``license``, ``source``, ``source_sha256`` where known)."""

    config: ModelConfig
    tokenizer: TokenizerData
    loader: TensorLoader
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def tensor(self, name: str) -> NDArray[np.float32]:
        """One tensor, read now and not kept. ArtifactError: unknown, wrong shape, not finite."""
        expected = tensor_shapes(self.config).get(name)
        if expected is None:
            raise ArtifactError(f"this model has no tensor {name!r}")
        value = self.loader(name)
        if value.dtype != np.float32 or value.shape != expected:
            raise ArtifactError(f"tensor {name} is {value.dtype} {value.shape}, not {expected}")
        # One reduction instead of a mask as large as the tensor: NaN and infinities survive a
        # sum of magnitudes in float64, which finite float32 values cannot overflow.
        if not np.isfinite(np.sum(np.abs(value), dtype=np.float64)):
            raise ArtifactError(f"tensor {name} holds NaN or infinite weights")
        return np.ascontiguousarray(value)

    def tensors(self) -> list[str]:
        return list(tensor_shapes(self.config))
