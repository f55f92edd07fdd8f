"""Training that knows the exact runtime's rounding (docs/numerics.md).

While ``enabled``, the module computes what the packed model will: weights in int8 with a scale
per row, activations in int8 with a scale per token, both in the rotated bases of the import.
Gradients pass as if nothing were rounded (straight through), so what is learned stays float32,
at a place where rounding hurts little.

Invariant: rounding happens in a rotated basis and is turned back at once, so the module around
it needs no change. Rotations are orthogonal, so a straight-through gradient is the identity
here too, and only the error has to be computed, without gradient.

Attention weights are left alone: the runtime gives them 16 bits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from narrows.models.checkpoint.quantize import hadamard_matrix, rotation_norm
from narrows.models.checkpoint.source import ModelConfig
from narrows.models.runtime.numerics import FFN_ROTATION, power_of_two_block

ATTENTION = "narrows"  # what a model's attn_implementation must be
_LIMIT = 127.0


class Rotation:
    """Rows times an orthonormal matrix, in blocks of its size: that of the import for the
    residual stream (``size`` its width), or a Hadamard matrix (``size`` a power of two)."""

    def __init__(self, size: int) -> None:
        matrix = torch.from_numpy(hadamard_matrix(size)).float() / rotation_norm(size) ** 0.5
        self._on = {matrix.device: matrix}

    def turn(self, rows: Tensor) -> Tensor:
        return self._product(rows, self._matrix(rows.device))

    def back(self, rows: Tensor) -> Tensor:
        return self._product(rows, self._matrix(rows.device).T)

    def _matrix(self, device: torch.device) -> Tensor:
        if device not in self._on:
            self._on[device] = next(iter(self._on.values())).to(device)
        return self._on[device]

    @staticmethod
    def _product(rows: Tensor, matrix: Tensor) -> Tensor:
        return (rows.reshape(-1, len(matrix)) @ matrix).reshape(rows.shape)


class Rounding:
    """Installs itself in ``causal``, a transformers Llama, Qwen2 or Qwen3 with ``ATTENTION``
    (low-rank layers of peft included). Call ``refresh`` after every change of the
    weights while ``enabled``."""

    def __init__(self, causal: Any, config: ModelConfig) -> None:
        self.enabled = False
        self._errors: dict[Any, Tensor] = {}
        self._refreshers: list[Callable[[], None]] = []
        state = Rotation(config.d_model)
        head = Rotation(power_of_two_block(config.head_dim, config.head_dim))
        ffn = Rotation(power_of_two_block(config.d_ff, FFN_ROTATION))
        self._after(causal.model.embed_tokens, state)
        for layer in causal.model.layers:
            attention, mlp = layer.self_attn, layer.mlp
            self._before(layer.input_layernorm, state)
            self._before(layer.post_attention_layernorm, state)
            attention.rounding = _Heads(self, head)
            for kind in ("q", "k", "v"):
                module = getattr(attention, f"{kind}_proj")
                rows = head if kind == "v" else None
                self._weight(module, layer.input_layernorm, state, rows)
            self._before(attention.o_proj, head)
            self._weight(attention.o_proj, None, head, state)
            for kind in ("gate", "up"):
                module = getattr(mlp, f"{kind}_proj")
                self._weight(module, layer.post_attention_layernorm, state, None)
            self._before(mlp.down_proj, ffn)
            self._weight(mlp.down_proj, None, ffn, state)
        self._before(causal.model.norm, state)
        self._weight(causal.lm_head, causal.model.norm, state, None)

    @torch.no_grad()
    def refresh(self) -> None:
        """Round the weights as they are now."""
        for refresher in self._refreshers:
            refresher()

    def _before(self, module: Any, rotation: Rotation) -> None:
        def hook(_: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...] | None:
            if not self.enabled:
                return None
            return (_straight(arguments[0], rotation), *arguments[1:])

        module.register_forward_pre_hook(hook)

    def _after(self, module: Any, rotation: Rotation) -> None:
        def hook(_: Any, __: Any, output: Tensor) -> Tensor | None:
            return _straight(output, rotation) if self.enabled else None

        module.register_forward_hook(hook)

    def _weight(self, module: Any, norm: Any, columns: Rotation, rows: Rotation | None) -> None:
        """Round ``module``'s weight: columns and rows rotated, the norm before it folded in."""
        layer = module.get_base_layer() if hasattr(module, "get_base_layer") else module

        def refresh() -> None:
            weight = layer.weight.detach().float()
            if hasattr(module, "get_delta_weight"):
                weight = weight + module.get_delta_weight("default").float()
            fold = torch.ones(1, device=weight.device) if norm is None else norm.weight.float()
            wide = columns.turn(weight * fold)
            wide = wide if rows is None else rows.turn(wide.T).T
            small = _round(wide) - wide
            small = small if rows is None else rows.back(small.T).T
            error = columns.back(small) / torch.where(fold == 0, 1.0, fold)
            self._errors[layer] = error

        def forward(value: Tensor) -> Tensor:
            weight = layer.weight + self._errors[layer] if self.enabled else layer.weight
            return functional.linear(value, weight, layer.bias)

        self._refreshers.append(refresh)
        layer.forward = forward


def _round(value: Tensor) -> Tensor:
    """Every row (last axis) in int8 steps of its own scale."""
    step = value.abs().amax(-1, keepdim=True).clamp_min(1e-12) / _LIMIT
    return torch.round(value / step) * step


def _straight(value: Tensor, rotation: Rotation) -> Tensor:
    """``value`` with its rows rounded in the rotated basis; the gradient of the identity."""
    with torch.no_grad(), torch.autocast(value.device.type, enabled=False):
        wide = rotation.turn(value.detach().float())
        error = rotation.back(_round(wide) - wide).to(value.dtype)
    return value + error


@dataclass(frozen=True)
class _Heads:
    """What an attention module needs to round its queries, keys and values."""

    rounding: Rounding
    rotation: Rotation


def _attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **options: Any
) -> Any:
    """Torch's own attention, on rounded heads where rounding is on."""
    heads: _Heads | None = getattr(module, "rounding", None)
    if heads is not None and heads.rounding.enabled:
        query, key, value = (_straight(x, heads.rotation) for x in (query, key, value))
    return sdpa_attention_forward(module, query, key, value, mask, **options)


AttentionInterface.register(ATTENTION, _attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
