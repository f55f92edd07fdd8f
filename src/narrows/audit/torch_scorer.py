"""The strong model through transformers: for servers whose arithmetic is not the exact runtime's.

One prefill a segment, in float32 unless told otherwise. Its logits differ from a server's in
bfloat16 by what rounding does: a few tokens in a hundred are then not the recomputed winner, and
the audit code charges what that leaves open. The noise is the sampler's own, to the last bit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from narrows.audit.scorer import check_fields
from narrows.errors import InputError
from narrows.models.api import Logits
from narrows.models.checkpoint.source import SourceModel
from narrows.models.text.chat import ChatRenderer
from narrows.models.text.served import (
    PROMPT_FIELDS,
    served_messages,
    served_tools,
    template_variables,
)
from narrows.models.text.tokenizer import BpeTokenizer
from narrows.training.base import hf_model, load_base

LOG2_E = 1.4426950408889634
_DEEPEST_Q16 = -(1 << 29)


def to_q16(logits: torch.Tensor) -> Logits:
    """Natural logits [..., vocab] as int32 in Q16 log2 units, the best of each row 0."""
    wide = logits.float().cpu().numpy().astype(np.float64)
    under = (wide - wide.max(axis=-1, keepdims=True)) * (LOG2_E * 65536)
    return np.asarray(np.rint(np.maximum(under, _DEEPEST_Q16)), np.int32)


class TorchScorer:
    """``module``: a causal model of transformers in evaluation mode, on any device. ``digest``
    names weights, tokenizer and template (32 bytes), as ``digest_of`` does."""

    def __init__(
        self, module: Any, tokenizer: BpeTokenizer, renderer: ChatRenderer, name: str, digest: bytes
    ) -> None:
        self.module = module
        self._renderer = renderer
        self.tokenizer = tokenizer
        self.name = name
        self.digest = digest
        self.vocabulary = tokenizer.digest
        self.vocab_size = tokenizer.vocab_size
        self.parameters = sum(int(one.numel()) for one in module.parameters())
        self.max_context = int(module.config.max_position_embeddings)

    def prompt(self, body: Mapping[str, Any]) -> list[int]:
        check_fields({name: body[name] for name in body if name not in PROMPT_FIELDS})
        if "messages" not in body:
            raise InputError("what a server puts before a prompt that is no chat is not known")
        return self._renderer.render(
            served_messages(body["messages"]),
            tools=served_tools(body.get("tools") or ()),
            variables=template_variables(body),
        )

    def rows(self, context: Sequence[int], tokens: Sequence[int]) -> Iterator[Logits]:
        ids = torch.tensor([[*context, *tokens[:-1]]], device=self.module.device)
        try:
            with torch.inference_mode():
                found = self.module(input_ids=ids, use_cache=False, logits_to_keep=len(tokens))
        except RuntimeError as error:  # out of memory, say: this answer alone is not scored
            raise InputError(f"the model failed on an answer: {error}") from error
        yield from to_q16(found.logits[0, :, : self.vocab_size])


def digest_of(source: SourceModel) -> bytes:
    """SHA-256 over all tensors of a checkpoint, its tokenizer and its template."""
    whole = hashlib.sha256(b"narrows checkpoint 1")
    for name in source.tensors():
        whole.update(name.encode() + b"\0" + source.tensor(name).tobytes())
    tokenizer = source.tokenizer
    for text in (tokenizer.json_text, tokenizer.chat_template, repr(tokenizer.eos_ids)):
        whole.update(hashlib.sha256(text.encode()).digest())
    return whole.digest()


def load_torch(
    name: str, dtype: torch.dtype = torch.float32, device: str | None = None
) -> TorchScorer:
    """The checkpoint of a name (``smollm2-135m``), a Hugging Face folder or a GGUF file, on a GPU
    where there is one. InputError, ArtifactError, PeerError."""
    source = load_base(name)
    data = source.tokenizer
    size = source.config.vocab_size
    tokenizer = BpeTokenizer(data.json_text, vocab_size=size, eos_ids=data.eos_ids)
    renderer = ChatRenderer(
        data.chat_template, tokenizer, bos_token=data.bos_token, eos_token=data.eos_token
    )
    module = hf_model(source)
    module.set_attn_implementation("sdpa")
    place = device or ("cuda" if torch.cuda.is_available() else "cpu")
    module = module.to(device=place, dtype=dtype).eval()
    return TorchScorer(module, tokenizer, renderer, str(name), digest_of(source))
