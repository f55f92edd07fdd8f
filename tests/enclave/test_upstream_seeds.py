"""Servers without a plugin that draw with a seed: probed, coupled over a real link, refused."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from enclave.fake_vllm import EOS, logits_of
from enclave.seed_servers import drawn, hashes
from enclave.strong_folder import VOCAB, seen, serving
from enclave.test_session import OPTIONS, Edge
from enclave.test_upstream_tokens import KEY, MESSAGES, Case, ids, run
from models.models import artifact_path
from narrows.coding.events import Coding, Finish, Finished, Noise, NoiseFamily, Opened
from narrows.coding.link.decoder import LinkDecoder
from narrows.coding.link.options import LinkOptions
from narrows.coding.tokens.seeds import seed_of
from narrows.enclave.config import EnclaveConfig, UpstreamConfig
from narrows.enclave.models import make_backend
from narrows.enclave.server import EnclaveServer
from narrows.enclave.sse import Malformed
from narrows.enclave.tokens.completion import Asked, CompletionReader, NoTokenIds
from narrows.enclave.tokens.dialect import NativeReader, native_body
from narrows.enclave.tokens.luck import Running, total
from narrows.enclave.tokens.strong import StrongText
from narrows.errors import PeerError
from narrows.models.registry import load_model
from narrows.models.shelf.shelf import Shelf
from narrows.wire.messages import PROTOCOL, Greeting, Hello, Request, WeakOffer

VLLM, SGLANG = NoiseFamily.SEED_VLLM, NoiseFamily.SEED_SGLANG
ALL = LinkOptions(max_hold_ms=20, round_hold_ms=0, noise=4)


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    with serving(folder, "seed_servers.py") as url:
        yield url


def expected(
    strong: StrongText, kind: str, key: bytes, count: int, top_p: float = 1.0
) -> list[int]:
    """What an engine of that kind says with the key's seed, up to its end."""
    prompt, out = strong.chat.render(MESSAGES), []
    shape = {"temperature": 1.0, "top_p": top_p}
    while len(out) < count:
        row = logits_of([*prompt, *out], VOCAB)
        token = drawn(row, kind, seed_of(key), len(prompt) + len(out) - 1, shape)
        if token in EOS:
            break
        out.append(token)
    return out


def test_the_fake_engines_hash_is_the_real_ones() -> None:
    file = Path(__file__).parents[1] / "coding" / "data" / "seed_vectors.json"
    vectors = json.loads(file.read_text())
    tokens = np.array(vectors["tokens"], np.uint64)
    for case in vectors["rows"]:
        seed = case["seed"]
        got = hashes([seed % 2**32, seed >> 32, case["position"], tokens])
        assert got.tolist() == case["words"]


@pytest.mark.parametrize(
    ("mode", "noise", "family", "native", "why"),
    [
        ("vllm", "auto", VLLM, False, "seeds as vLLM draws"),
        ("vllm", "seed-vllm", VLLM, False, "seeds as vLLM draws"),
        ("sglang", "auto", SGLANG, False, "seeds as SGLang draws"),
        ("sglang-native", "auto", SGLANG, True, "seeds as SGLang draws"),
        ("vllm", "seed-sglang", None, False, "draws without the seed"),
        ("vllm", "narrows", None, False, "is narrows-vllm there"),
        ("sglang-native", "narrows", None, True, "takes no key"),
        ("other-seed", "auto", None, False, "draws without the seed"),
        ("no-seed", "auto", None, False, "draws without the seed"),
        ("refuses", "auto", None, False, "refuses the seed"),
        ("refuses", "seed-vllm", None, False, "refuses the seed"),
    ],
)
def test_the_probe_finds_the_noise(
    url: str,
    strong: StrongText,
    mode: str,
    noise: str,
    family: NoiseFamily | None,
    native: bool,
    why: str,
) -> None:
    async def check(case: Case) -> None:
        verdict = case.standing.now
        assert (verdict.ids, verdict.reached, verdict.native) == (True, True, native)
        assert verdict.coupled == (family is not None)
        assert why in verdict.why
        if family:
            assert verdict.family is family
        body = {"max_tokens": 6, "seed": 5}  # the client's own
        events = await case.answer(**body)
        prompt = strong.chat.render(MESSAGES)
        coupled = Opened(Coding.COUPLED, Noise(family or VLLM, len(prompt) - 1))
        refused = mode == "refuses"  # also the client's
        assert events[0] == (coupled if family else Opened(Coding.PLAIN))
        assert isinstance(events[-1], Finished) or refused
        row = seen(url)[-1]
        asked = row["sampling_params"].get("sampling_seed") if native else row.get("seed")
        assert asked == (seed_of(KEY) if family else 5)
        assert "vllm_xargs" not in row

    before = len(seen(url))
    run(Case(url, mode, strong, noise=noise), check)
    assert len(seen(url)) - before <= 8  # two keys, each way; one answer


class SeedEdge(Edge):
    """Knows every noise."""

    def __init__(self, *wire: Any) -> None:
        super().__init__(*wire)
        self.decoder = LinkDecoder(self.model, ALL)

    def hello(self, digest: bytes | None = None, numerics: bytes | None = None) -> Hello:
        offer = WeakOffer(self.model.digest.hex(), self.model.numerics.hex())
        return Hello(PROTOCOL, [offer], ALL.to_wire())


def asked(key: bytes, tokens: int, resume: tuple[int, ...] = (), **body: object) -> Request:
    whole = {"messages": MESSAGES, "max_tokens": tokens, "temperature": 1.0} | body
    return Request("00" * 16, whole, key.hex(), resume=list(resume))


@pytest.mark.parametrize(
    ("mode", "kind", "family"),
    [("vllm", "vllm", VLLM), ("sglang", "sglang", SGLANG), ("sglang-native", "sglang", SGLANG)],
)
def test_answers_drawn_with_a_seed_cross_coupled(
    url: str, strong: StrongText, folder: Path, mode: str, kind: str, family: NoiseFamily
) -> None:
    outside, weak = (load_model(artifact_path("llama"), threads=1) for _ in range(2))
    shelf = Shelf.of([weak])
    upstream = UpstreamConfig(url, mode, folder=folder, tokens="required")
    config = EnclaveConfig(listen="127.0.0.1:0", upstream=upstream)
    keys = (bytes([k]) * 32 for k in range(99))
    key = next(key for key in keys if len(expected(strong, kind, key, 20)) == 20)
    want = expected(strong, kind, key, 40)
    coupled = Opened(Coding.COUPLED, Noise(family, len(strong.chat.render(MESSAGES)) - 1))

    async def check() -> None:
        server = EnclaveServer(config, make_backend(config, shelf), shelf)
        port = await server.start()
        edge = SeedEdge(*await asyncio.open_connection("127.0.0.1", port), outside)
        other = Edge(*await asyncio.open_connection("127.0.0.1", port), outside)
        try:
            edge.send(
                edge.hello(),
                asked(key, 40),
                asked(key, 40, tuple(want[:7])),
                asked(key, 30, top_p=0.6),
                asked(key, 10, temperature=0),
            )
            assert await edge.reader.readexactly(2) == bytes([Greeting.OK, 0])
            await edge.until(lambda: all(map(edge.ended, range(4))))
            assert ids(edge.events[0]) == want
            assert ids(edge.events[1]) == want[7:]
            plain = Opened(Coding.PLAIN)
            shaped = coupled if family is VLLM else plain  # by rank, not by id
            opened = [edge.events[number][0] for number in range(4)]
            assert opened == [coupled, coupled, shaped, plain]
            if family is VLLM:
                assert ids(edge.events[2]) == expected(strong, kind, key, 30, 0.6)
            other.send(other.hello(), asked(key, 40))  # knows narrows' own noise alone
            await other.reader.readexactly(2)
            await other.until(lambda: other.ended(0))
            assert other.events[0][0] == plain
            assert ids(other.events[0]) == want
        finally:
            edge.writer.close()
            other.writer.close()
            await server.stop()

    assert OPTIONS.noise == 1
    asyncio.run(check())


def test_required_refuses_a_server_of_another_seed(url: str, strong: StrongText) -> None:
    async def start() -> None:
        case = Case(url, "other-seed", strong, tokens="required", folder=Path("."))
        try:
            await case.backend.start()
        finally:
            await case.backend.close()

    with pytest.raises(PeerError, match="draws without the seed"):
        asyncio.run(start())


@pytest.mark.parametrize("family", [VLLM, SGLANG])
def test_the_running_test_knows_each_noise(family: NoiseFamily) -> None:
    kind = "vllm" if family is VLLM else "sglang"
    sagged: list[int] = []
    running = Running(lambda count, sum_: sagged.append(count))
    rng = np.random.default_rng(3)
    rows = [rng.standard_normal(300).astype(np.float32) for _ in range(256)]
    shape = {"temperature": 1.0, "top_p": 1.0}
    tokens = [drawn(row, kind, seed_of(KEY), 20 + k, shape) for k, row in enumerate(rows)]
    assert total(KEY, 0, tokens, Noise(family, 20)) / 256 > 3
    running.watch(KEY, 0, tokens, Noise(family, 20))
    assert not sagged
    running.watch(KEY, 0, tokens, Noise(family, 21))
    assert sagged == [256]


# -- SGLang's own way, chunk by chunk ------------------------------------------------------


def native(strong: StrongText, max_tokens: int = 10, **more: Any) -> NativeReader:
    reader = CompletionReader(
        Asked((1, 5, 6), max_tokens, {}), strong.tokenizer, max_bytes=10_000, **more
    )
    return NativeReader(reader)


def chunk(ids: list[int], count: int, text: str = "", ends: object = None) -> bytes:
    meta = {"completion_tokens": count, "finish_reason": ends}
    return json.dumps({"text": text, "output_ids": ids, "meta_info": meta}).encode()


def test_whole_and_partial_chunks_are_the_same_answer(strong: StrongText) -> None:
    said = [strong.tokenizer.token_bytes(i).decode("utf-8", "replace") for i in (60, 61, 62)]
    whole = [chunk([60], 1, said[0]), chunk([60, 61, 62], 3, "".join(said)), chunk([60, 61, 62], 3)]
    parts = [chunk([60], 1, said[0]), chunk([61, 62], 3, "".join(said)), chunk([], 3)]
    for chunks in (whole, parts):
        reader = native(strong, keep_text=True)
        events = [e for payload in chunks[:2] for e in reader.chunk(payload)]
        assert ids(events) == [60, 61, 62]
        assert reader._reader.text[-1] == "".join(said)  # as these servers say it: all so far
        ended = json.loads(chunks[2]) | {"text": "".join(said)}
        ended["meta_info"]["finish_reason"] = {"type": "length", "length": 3}
        assert reader.chunk(json.dumps(ended).encode()) == []
        assert reader.end()[-1] == Finished(Finish.LENGTH)


def test_text_that_repeats_what_came_so_far_is_not_lost(strong: StrongText) -> None:
    reader = native(strong, keep_text=True)
    for payload in (chunk([60], 1, "ha"), chunk([61], 2, "ha"), chunk([62], 3, "!")):
        reader.chunk(payload)
    assert "".join(reader._reader.text) == "haha!"


def test_text_that_nobody_compares_is_not_counted_with_every_chunk(strong: StrongText) -> None:
    reader = native(strong, max_tokens=40)
    for count in range(1, 40):
        reader.chunk(chunk([60] * count, count, "x" * 500 * count))


def test_the_end_token_is_no_token_of_the_answer(strong: StrongText) -> None:
    reader = native(strong)
    reader.chunk(chunk([60], 1))
    assert reader.chunk(chunk([60, EOS[1]], 2, ends={"type": "stop", "matched": EOS[1]})) == []
    assert reader.end()[-1] == Finished(Finish.STOP)


@pytest.mark.parametrize(
    "payload",
    [
        b'{"text": "", "output_ids": null, "meta_info": {"completion_tokens": 1}}',
        b'{"text": "", "output_ids": [5], "meta_info": {}}',
        b'{"text": "", "output_ids": [5], "meta_info": {"completion_tokens": true}}',
        b'{"text": "", "output_ids": [5], "meta_info": 7}',
        b'{"text": "x"}',
        chunk([5], 2),
        chunk([5], -1),
        chunk([60] * 11, 11),
        chunk([1 << 40], 1),
        b'{"text": 5, "output_ids": [5], "meta_info": {"completion_tokens": 1}}',
        chunk([60], 1, ends={"type": ["stop"]}),
    ],
)
def test_chunks_that_are_none_end_the_answer(strong: StrongText, payload: bytes) -> None:
    with pytest.raises(Malformed):
        native(strong).chunk(payload)


def test_a_count_that_falls_is_malformed(strong: StrongText) -> None:
    reader = native(strong)
    reader.chunk(chunk([60, 61], 2))
    with pytest.raises(Malformed):
        reader.chunk(chunk([60], 1))
    assert issubclass(NoTokenIds, Malformed)


def test_the_native_request(strong: StrongText) -> None:
    shaping = {"temperature": 0.7, "seed": 9, "presence_penalty": 0.5, "stop": "x"}
    plain = json.loads(native_body(Asked((3, 4), 20, shaping, salt="s")))
    assert plain == {
        "input_ids": [3, 4],
        "stream": True,
        "extra_key": "s",
        "sampling_params": {
            "temperature": 0.7,
            "top_p": 1.0,
            "presence_penalty": 0.5,
            "max_new_tokens": 20,
            "skip_special_tokens": False,
            "spaces_between_special_tokens": False,
            "sampling_seed": 9,
        },
    }
    keyed = json.loads(native_body(Asked((3, 4), 20, shaping, KEY, 1, family=SGLANG)))
    assert keyed["sampling_params"]["sampling_seed"] == seed_of(KEY)
    assert Asked((3, 4), 20, shaping, KEY, 1, family=SGLANG).noise == Noise(SGLANG, 0)
