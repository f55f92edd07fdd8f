"""The runtime's promise: the same integers whatever the way, and bounds that hold."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.models import VARIANTS, artifact_path, rewritten, runtime_of
from narrows.bench.runtime_exact import cut, run_way
from narrows.errors import ArtifactError, InputError
from narrows.models.artifact import Artifact
from narrows.models.runtime.kv import window_start
from narrows.models.runtime.runtime import Runtime, conformance_digest, load_runtime


def tokens_of(count: int, seed: int, vocab: int) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(vocab) for _ in range(count)]


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_way_of_feeding_gives_the_reference_integers(variant: str) -> None:
    fast = runtime_of(variant)
    sequences = cut(tokens_of(500, 3, fast.vocab_size), 4)
    wanted = run_way(runtime_of(variant, backend="reference"), sequences, "prefill")
    for way in ("prefill", "chunked", "fork", "batch:1", "batch:3"):
        assert run_way(fast, sequences, way) == wanted, way
    assert run_way(runtime_of(variant, threads=2), sequences, "batch:3") == wanted
    assert run_way(runtime_of(variant, threads=3), sequences, "chunked") == wanted


def test_wide_activations_agree_too(tmp_path: Path) -> None:
    products = ["qkv", "o", "gate_up", "down", "head"]
    for wide in (products, ["o", "head"]):
        artifact = rewritten("qwen2", tmp_path, {"wide": wide})
        runtimes = [
            load_runtime(artifact, threads=threads, kv_bytes=16 << 20, backend=backend)
            for threads, backend in ((1, "numba"), (2, "numba"), (1, "reference"))
        ]
        assert len({runtime.numerics for runtime in runtimes}) == 1


@pytest.mark.slow
def test_a_generic_processor_computes_the_same() -> None:
    program = (
        "import sys; from pathlib import Path\n"
        "from narrows.models.artifact import Artifact\n"
        "from narrows.models.runtime.runtime import load_runtime\n"
        "model = load_runtime(Artifact.open(Path(sys.argv[1])), threads=1, kv_bytes=1 << 24)\n"
        "print(model.backend, model.numerics.hex())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(artifact_path("qwen3"))],
        env=os.environ | {"NUMBA_CPU_NAME": "generic"},
        capture_output=True,
        text=True,
        check=True,
    )
    backend, digest = done.stdout.split()
    assert backend == "numba-portable"
    assert digest == runtime_of("qwen3").numerics.hex()


def test_a_processor_whose_products_are_not_exact_runs_the_reference(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("narrows.models.runtime.matmul.probe", lambda: False)
    monkeypatch.setattr("narrows.models.runtime.fast.probe", lambda: False)
    slow = runtime_of("qwen2")
    assert slow.backend == "reference"
    with pytest.raises(ArtifactError, match="not exact"):
        runtime_of("qwen2", backend="numba")
    monkeypatch.undo()
    assert runtime_of("qwen2").numerics == slow.numerics


def test_altered_integers_are_refused(tmp_path: Path) -> None:
    old = Artifact.open(artifact_path("llama"))
    header = dict(old.header) | {"conformance": "00" * 32}
    tampered = Artifact(old.path, header, list(old._entries.values()), old._data, old.digest)
    with pytest.raises(ArtifactError, match="other integers"):
        load_runtime(tampered, threads=1, kv_bytes=16 << 20)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"version": 999}, "version"),
        ({"hidden": 1 << 20}, "hidden"),
        ({"hidden": 68}, "tensor"),
        ({"heads": 3}, "multiple"),
        ({"max_context": 1 << 20}, "max_context"),
        ({"norm_eps": 0.0}, "epsilon"),
        ({"wide": ["q"]}, "wide"),
        ({"layers": True}, "malformed"),
        ({"rope_scaling": {}}, "malformed"),
        ({"rope_base": 0.5}, "rope base"),
    ],
)
def test_headers_that_lie(header: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=message):
        load_runtime(rewritten("llama", tmp_path, header), threads=1, kv_bytes=16 << 20)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("layers.0.qkv.scale", np.nan),
        ("layers.0.down.scale", np.inf),
        ("head.scale", -1.0),
        ("embed.scale", 1e9),
        ("layers.1.o", -128),
    ],
)
def test_tensors_outside_the_proven_ranges(name: str, value: float, tmp_path: Path) -> None:
    tensor = Artifact.open(artifact_path("llama")).tensor(name).copy()
    tensor.flat[5] = value
    with pytest.raises(ArtifactError, match=name):
        load_runtime(rewritten("llama", tmp_path, {}, **{name: tensor}), threads=1)


def test_token_ids_and_streams_are_checked() -> None:
    model = runtime_of("llama")
    for bad in (-1, model.vocab_size):
        with pytest.raises(InputError, match="outside"):
            model.open([bad])
        stream = model.open([1])
        with pytest.raises(InputError, match="outside"):
            model.extend(stream, [1, bad])
        with pytest.raises(InputError, match="outside"):
            model.advance([stream], [bad])
        assert stream.length == 1
    with pytest.raises(InputError, match="at least one"):
        model.open([])
    with pytest.raises(InputError, match="twice"):
        model.advance([stream, stream], [1, 1])
    model.close(stream)
    model.close(stream)
    with pytest.raises(InputError, match="closed"):
        model.logits(stream)


def small(pages: int) -> Runtime:
    from narrows.models.runtime.fast import page_bytes
    from narrows.models.runtime.numerics import shape_from_header

    header = Artifact.open(artifact_path("llama")).header
    return runtime_of("llama", kv_bytes=pages * page_bytes(shape_from_header(header)))


def test_memory_is_bounded_and_a_refusal_changes_nothing() -> None:
    model = small(5)
    tokens = tokens_of(400, 5, model.vocab_size)
    a = model.open(tokens[:100])
    b = model.open(tokens[200:300])
    before = model.logits(b).copy()
    with pytest.raises(InputError, match="full"):
        model.extend(b, tokens[300:400] + tokens[:100])
    assert b.length == 100
    assert np.array_equal(model.logits(b), before)
    with pytest.raises(InputError, match="full"):
        model.open(tokens[100:300])
    model.close(a)
    grown = model.extend(b, tokens[300:350]).copy()
    fresh = runtime_of("llama")
    whole = fresh.open(tokens[200:350])
    assert np.array_equal(grown[-1], fresh.logits(whole))


def test_shared_prefixes_are_reused_and_given_back() -> None:
    model = small(12)
    system = tokens_of(200, 7, model.vocab_size)
    streams = [model.open([*system, i]) for i in range(6)]  # 3 shared pages, 1 of each
    wanted = runtime_of("llama")
    for i, stream in enumerate(streams):
        assert np.array_equal(model.logits(stream), wanted.logits(wanted.open([*system, i])))
        model.close(stream)
    assert model.free_pages == 12


def test_a_prefix_is_shared_within_a_scope_and_with_no_other() -> None:
    model = small(12)
    system = tokens_of(200, 7, model.vocab_size)  # 3 full pages and a part
    pages = []
    for scope in (1, 1, 2):
        before = model.free_pages
        model.open(system, scope)
        pages.append(before - model.free_pages)
    assert pages == [4, 1, 4]
    with pytest.raises(InputError, match="scope"):
        model.open(system, -1)


def test_the_window_slides_alike_whatever_the_way() -> None:
    model = runtime_of("llama")
    context = model.max_context
    tokens = tokens_of(2 * context, 11, model.vocab_size)
    stream = model.open(tokens[:1])
    whole = model.extend(stream, tokens[1:]).copy()
    reference = runtime_of("llama", backend="reference")
    for index in (context - 1, context, context + 1, context + context // 2, 2 * context - 1):
        start = window_start(index, context)
        assert np.array_equal(whole[index - 1], model.logits(model.open(tokens[: index + 1])))
        window = reference.open(tokens[start : index + 1])
        assert np.array_equal(whole[index - 1], reference.logits(window))
    stepped = model.open(tokens[: context - 1])
    for index in range(context - 1, context + 3):
        row = model.advance([stepped], [tokens[index]])[0]
        assert np.array_equal(row, whole[index - 1])


def test_window_rule_keeps_between_half_and_all() -> None:
    for context in (128, 512):
        for index in range(5 * context):
            kept = index - window_start(index, context)
            assert kept < context
            assert kept >= min(index, context // 2)


_OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["open", "step", "extend", "fork", "close", "logits"]),
        st.integers(0, 7),
        st.integers(1, 90),
    ),
    max_size=25,
)


@settings(max_examples=40, deadline=None)
@given(_OPERATIONS, st.integers(0, 2**31))
def test_any_order_of_calls_equals_a_fresh_model(
    operations: list[tuple[str, int, int]], seed: int
) -> None:
    model, oracle = _pair()
    rng = random.Random(seed)
    live: list[tuple[object, list[int]]] = []
    for what, pick, size in operations:
        fresh = [rng.randrange(6) for _ in range(size)]  # few ids: prefixes coincide
        if what == "open" or not live:
            live.append((model.open(fresh), fresh))
            continue
        stream, history = live[pick % len(live)]
        if what == "step":
            some = live[: 1 + pick % len(live)]
            model.advance([s for s, _ in some], fresh[:1] * len(some))  # type: ignore[misc]
            for _, past in some:
                past.append(fresh[0])
        elif what == "extend":
            model.extend(stream, fresh)  # type: ignore[arg-type]
            history.extend(fresh)
        elif what == "fork":
            live.append((model.fork(stream), list(history)))  # type: ignore[arg-type]
        elif what == "close":
            model.close(stream)  # type: ignore[arg-type]
            live.remove((stream, history))
    for stream, history in live:
        got = model.logits(stream)  # type: ignore[arg-type]
        fresh_stream = oracle.open(history)
        assert np.array_equal(got, oracle.logits(fresh_stream))
        oracle.close(fresh_stream)
        model.close(stream)  # type: ignore[arg-type]
    assert model.free_pages == model._pool.pages


def _pair() -> tuple[Runtime, Runtime]:
    if not _MODELS:
        _MODELS.extend([runtime_of("llama"), runtime_of("llama")])
    return _MODELS[0], _MODELS[1]


_MODELS: list[Runtime] = []


def test_the_conformance_digest_is_a_function_of_the_model_alone() -> None:
    model = runtime_of("qwen2")
    stream = model.open(tokens_of(90, 1, model.vocab_size))
    assert conformance_digest(model) == model.numerics
    model.close(stream)


@pytest.mark.parametrize("from_end", [1000, 200, 20, -10])
def test_a_prompt_and_a_sliding_window_read_in_parts_give_the_same_integers(from_end: int) -> None:
    model = runtime_of("llama")
    length = max(model.max_context - from_end, 1)
    tokens = tokens_of(length, 5, model.vocab_size)
    whole, parts = model.open(tokens), model.open(tokens, lazy=True)
    assert parts.length == length
    for token in tokens_of(40, 6, model.vocab_size):
        left = model.catch_up(parts, 0)
        while left:
            now = model.catch_up(parts, 7)
            assert now == max(left - 7, 0)
            left = now
        wanted = model.logits(whole).copy()
        assert np.array_equal(model.logits(parts), wanted)
        wanted = model.advance([whole], [token]).copy()
        assert np.array_equal(model.advance([parts], [token]), wanted)
    model.close(whole)
    model.close(parts)


def test_what_is_left_to_read_is_read_by_whoever_needs_it() -> None:
    model = runtime_of("llama")
    tokens = tokens_of(150, 8, model.vocab_size)
    whole = model.open(tokens)
    wanted = model.logits(whole).copy()
    lazy = [model.open(tokens, lazy=True) for _ in range(3)]
    model.catch_up(lazy[0], 10)
    assert np.array_equal(model.logits(lazy[0]), wanted)
    assert np.array_equal(model.logits(model.fork(lazy[1])), wanted)
    assert np.array_equal(model.extend(lazy[2], [3, 4]), model.extend(whole, [3, 4]).copy())
