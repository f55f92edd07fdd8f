"""The model that learns, as a module whose ``forward`` is the loss.

Loss and figures are those of the full vocabulary (see ``classes``). Torch and transformers are
imported with this module, so only training imports it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from narrows.errors import InputError
from narrows.models.checkpoint.source import ModelConfig, SourceModel, TokenizerData, tensor_shapes
from narrows.training.base import hf_config
from narrows.training.classes import TokenClasses
from narrows.training.recipe import StudentShape
from narrows.training.rounded import Rounding


class Student(nn.Module):  # type: ignore[misc]  # torch is not typed here
    """``model``: a causal language model of transformers with ``model`` and ``lm_head``, over
    ``classes.size`` classes, or peft's wrapper of one. ``config``, that of a base which is
    fine-tuned: ``rounding`` then makes the module compute what the packed one will."""

    def __init__(
        self, model: Any, classes: TokenClasses, config: ModelConfig | None = None
    ) -> None:
        super().__init__()
        self.inner, self.classes = model, classes
        self.rounding = None if config is None else Rounding(self.causal, config)
        bias = torch.zeros(classes.size)
        bias[-1] = classes.rare_bias
        self.register_buffer("rare_bias", bias, persistent=False)

    @property
    def causal(self) -> Any:
        """The model without peft's wrapper."""
        wrapped = hasattr(self.inner, "get_base_model")
        return self.inner.get_base_model() if wrapped else self.inner

    def learned(self) -> dict[str, Tensor]:
        """What training changes, by name; all that a checkpoint has to hold."""
        return {n: p.detach() for n, p in self.named_parameters() if p.requires_grad}

    def restore(self, learned: dict[str, Tensor]) -> None:
        """Back to a former ``learned``. InputError: it is of another model."""
        if set(learned) != set(self.learned()):
            raise InputError("the checkpoint is of another model", "use another folder")
        self.load_state_dict(learned, strict=False)

    def forward(self, inputs: Tensor, places: Tensor, targets: Tensor, shares: Tensor) -> Tensor:
        """Nats of each predicted token under its targets [n]."""
        causal = self.causal
        hidden = causal.model(input_ids=inputs, use_cache=False).last_hidden_state
        rows = hidden.reshape(-1, hidden.shape[-1])[places]
        logits = causal.lm_head(rows).float()
        biased = logits + self.rare_bias if self.classes.rare else logits
        norm = torch.logsumexp(biased, dim=-1)
        return shares.sum(-1) * norm - (shares * logits.gather(1, targets)).sum(-1)


def new_student(shape: StudentShape, classes: TokenClasses) -> Student:
    """A Llama of ``shape`` with random weights from torch's generator."""
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM(hf_config(_config(shape, classes.size)))
    with torch.no_grad():
        for layer in model.model.layers:  # residual branches start at nothing
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
    return Student(model, classes)


def to_source(
    state: dict[str, Tensor], shape: StudentShape, classes: TokenClasses, tokenizer: TokenizerData
) -> SourceModel:
    """The trained weights over the full vocabulary, ready for ``models.checkpoint.pack``."""
    from narrows.models.checkpoint.hf import hf_name

    config = _config(shape, len(classes.of_token))
    names = tensor_shapes(config)

    def load(name: str) -> NDArray[np.float32]:
        value = state[f"inner.{hf_name(name)}"].detach().float().cpu().numpy()
        full = classes.expand(value) if name in ("embed", "head") else value
        return np.ascontiguousarray(full.reshape(names[name]), np.float32)

    return SourceModel(config, tokenizer, load, {})


def _config(shape: StudentShape, vocab: int) -> ModelConfig:
    return ModelConfig(
        architecture="llama",
        n_layers=shape.layers,
        d_model=shape.d_model,
        n_heads=shape.heads,
        n_kv_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        d_ff=shape.d_ff,
        vocab_size=vocab,
        rope_theta=shape.rope_theta,
        norm_eps=1e-5,
        tied_embeddings=False,
        qkv_bias=False,
        qk_norm=False,
        context_length=shape.context,
    )
