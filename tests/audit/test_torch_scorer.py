"""transformers as a scorer: near the exact runtime, and of the same noise."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch", reason="the torch scorer needs torch: pip install 'narrows[train]'")
pytest.importorskip("transformers", reason="the torch scorer needs transformers")

import torch

from audit.rig import KEY, auditor, strong, weak
from models.tiny import tiny_source
from narrows.audit.auditor import Rules, TapeAuditor
from narrows.audit.code import ONE_BIT
from narrows.audit.scorer import RuntimeScorer
from narrows.audit.torch_scorer import TorchScorer, digest_of, to_q16
from narrows.bench.audit.server import serve_torch
from narrows.bench.audit.tape import make_requests, tape_of
from narrows.errors import InputError
from narrows.models.text.chat import ChatRenderer
from narrows.models.text.tokenizer import BpeTokenizer
from narrows.training.base import hf_model


@pytest.fixture(scope="module")
def scorer() -> TorchScorer:
    torch.set_num_threads(1)  # tiny products: threads that wait for each other cost more
    source = tiny_source(seed=1)
    data = source.tokenizer
    tokenizer = BpeTokenizer(
        data.json_text, vocab_size=source.config.vocab_size, eos_ids=data.eos_ids
    )
    chat = ChatRenderer(
        data.chat_template, tokenizer, bos_token=data.bos_token, eos_token=data.eos_token
    )
    module = hf_model(source)
    module.set_attn_implementation("sdpa")
    return TorchScorer(module.eval(), tokenizer, chat, "tiny", digest_of(source))


def test_rows_follow_the_same_tokens_as_the_runtime(scorer: TorchScorer) -> None:
    exact = RuntimeScorer(strong())
    body = {"messages": [{"role": "user", "content": "hello"}]}
    context, tokens = scorer.prompt(body), [5, 9, 200, 31]
    assert context == exact.prompt(body)
    mine = [row.copy() for row in scorer.rows(context, tokens)]
    other = [row.copy() for row in exact.rows(context, tokens)]
    assert len(mine) == len(other) == len(tokens)
    for a, b in zip(mine, other, strict=True):
        assert a.dtype == np.int32
        apart = (a - a.max()) - (b - b.max())
        assert np.abs(apart).max() < 0.3 * 65536  # eight-bit weights in the runtime


def test_a_prompt_is_what_a_model_server_makes_of_it(scorer: TorchScorer) -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    whole = {"messages": [{"role": "user", "content": "a\nb"}]}
    tool = {"type": "function", "function": {"name": "f"}}
    assert scorer.prompt({"messages": [{"role": "user", "content": parts}]}) == scorer.prompt(whole)
    assert scorer.prompt(whole | {"tools": [tool], "reasoning_effort": "low"})
    with pytest.raises(InputError):
        scorer.prompt(whole | {"tools": [tool], "tool_choice": "required"})


def test_logits_become_log2_units() -> None:
    rows = to_q16(torch.tensor([[0.0, np.log(2.0), -1e9]]))
    assert rows.tolist() == [[-65536, 0, -(1 << 29)]]


def test_bfloat16_that_serves_is_explained_by_float32(scorer: TorchScorer) -> None:
    """A real server with cache and batch; what rounding changes is what stays charged."""
    requests = make_requests(["one", "one", "two"], 60, 1.0, 1.0)
    module = hf_model(tiny_source(seed=1)).eval().to(torch.bfloat16)
    module.set_attn_implementation("sdpa")
    played = serve_torch(scorer, module, requests)
    one = TapeAuditor(scorer, {weak().digest: weak()}, Rules(), KEY)
    one.feed(tape_of(weak(), played))
    bits = one.tally.audit_q16 / ONE_BIT / one.tally.tokens
    assert one.tally.tokens > 100
    assert one.tally.off < 0.1 * one.tally.tokens
    assert bits < 0.5
    assert not one.other_weights
    same = auditor(model=strong())  # and the exact runtime is another arithmetic, of these weights
    same.feed(tape_of(weak(), played))
    assert not same.other_weights


def test_a_digest_names_weights_and_template() -> None:
    assert digest_of(tiny_source(seed=1)) == digest_of(tiny_source(seed=1))
    assert digest_of(tiny_source(seed=1)) != digest_of(tiny_source(seed=2))
