"""Model servers that draw with a seed and no plugin: vLLM's second runner and SGLang, in turn.

    python seed_servers.py FOLDER VOCAB_SIZE     says its port

``model`` says how it draws and how it says ids (``MODES``); ``GET /seen`` gives the requests. The
hash is written again and the noise is floating point as the engines have it, so that nothing of
what narrows codes with is used. Logits as in ``fake_vllm``.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import numpy as np
from aiohttp import web

from enclave.fake_vllm import CONTEXT, EOS, logits_of, run, say, stream
from narrows.models.text.tokenizer import BpeTokenizer

MODES = ("vllm", "sglang", "other-seed", "sglang-native", "no-seed", "refuses")
_random = np.random.default_rng()


def hashes(blocks: list[Any]) -> np.ndarray:
    """MurmurHash3, 32 bits, of 32-bit blocks, the last one being many."""
    low = np.uint64(0xFFFFFFFF)
    h = np.zeros(1, np.uint64)
    for block in blocks:
        k = np.uint64(block) * np.uint64(0xCC9E2D51) & low
        k = (k << np.uint64(15) | k >> np.uint64(17)) & low
        h = h ^ (k * np.uint64(0x1B873593) & low)
        h = (h << np.uint64(13) | h >> np.uint64(19)) & low
        h = h * np.uint64(5) + np.uint64(0xE6546B64) & low
    h = h ^ np.uint64(4 * len(blocks))
    h = (h ^ h >> np.uint64(16)) * np.uint64(0x85EBCA6B) & low
    h = (h ^ h >> np.uint64(13)) * np.uint64(0xC2B2AE35) & low
    return h ^ h >> np.uint64(16)


def drawn(row: np.ndarray, kind: str, seed: int, position: int, shape: dict[str, Any]) -> int:
    """What such an engine samples. ``position``: of the last token that it has read."""
    scaled = row.astype(np.float64) / shape["temperature"]
    p = np.exp(scaled - scaled.max())
    p /= p.sum()
    order = np.argsort(-p, kind="stable")
    kept = order[np.cumsum(p[order]) - p[order] <= shape["top_p"]]
    blocks = [seed % 2**32, seed >> 32, position]
    by_rank = kind == "sglang" and shape["top_p"] < 1
    names = range(len(kept)) if by_rank else kept
    h = hashes([*blocks, np.array(names, np.uint64)]).astype(np.float64)
    with np.errstate(divide="ignore"):
        if kind == "vllm":
            g = -np.log(-np.log1p(-(h + 0.5) / 2**32))
        else:
            g = -np.log(np.clip(-np.log(h / (2**32 - 1)), 2.0**-32, 1e308))
        return int(kept[np.argmax(np.log(p[kept]) + g)])


class Server:
    def __init__(self, tokenizer: BpeTokenizer) -> None:
        self.tokenizer = tokenizer
        self.seen: list[dict[str, Any]] = []

    async def models(self, request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": m, "max_model_len": CONTEXT} for m in MODES]})

    async def told(self, request: web.Request) -> web.Response:
        return web.json_response(self.seen)

    async def chat(self, request: web.Request) -> web.StreamResponse:
        response = await stream(request)
        for delta, reason in (({"content": "as text"}, None), ({}, "stop")):
            choice = {"index": 0, "delta": delta, "finish_reason": reason}
            await say(response, {"choices": [choice]})
        await response.write(b"data: [DONE]\n\n")
        return response

    async def completions(self, request: web.Request) -> web.StreamResponse:
        """As vLLM and newer SGLang have it; an older SGLang streams text alone."""
        body = await request.json()
        mode = body["model"]
        self.seen.append({"path": "completions"} | body)
        if mode == "refuses" and "seed" in body:
            return web.json_response({"error": {"message": "no seeds"}}, status=400)
        response = await stream(request)
        shape = {"max": body["max_tokens"], "seed": body.get("seed"), **body}
        for k, (token, said, ends) in enumerate(self.tokens(body["prompt"], mode, shape)):
            choice = {"index": 0, "text": said, "finish_reason": ends, "token_ids": [token]}
            if k == 0:
                choice["prompt_token_ids"] = body["prompt"]
            if mode.startswith("sglang-"):
                del choice["token_ids"]
            await say(response, {"choices": [choice]})
        await response.write(b"data: [DONE]\n\n")
        return response

    async def generate(self, request: web.Request) -> web.StreamResponse:
        """SGLang's own, where it is not told to stream parts."""
        body = await request.json()
        params = body["sampling_params"]
        self.seen.append({"path": "generate"} | body)
        response = await stream(request)
        shape = {"max": params["max_new_tokens"], "seed": params.get("sampling_seed"), **params}
        ids: list[int] = []
        text = ""
        for token, said, ends in self.tokens(body["input_ids"], "sglang-native", shape):
            ids.append(token)
            text += said
            meta = {
                "completion_tokens": len(ids),
                "prompt_tokens": len(body["input_ids"]),
                "finish_reason": {"type": ends} if ends else None,
            }
            await say(response, {"text": text, "output_ids": ids, "meta_info": meta})
        await response.write(b"data: [DONE]\n\n")
        return response

    def tokens(self, prompt: list[int], mode: str, shape: dict[str, Any]) -> Any:
        kind = "vllm" if mode in ("vllm", "other-seed", "refuses") else "sglang"
        seed = shape["seed"]
        if seed is not None and mode == "other-seed":
            seed ^= 1
        out: list[int] = []
        while len(out) < shape["max"]:
            row = logits_of([*prompt, *out], self.tokenizer.vocab_size)
            if shape["temperature"] < 1e-5:
                token = int(row.argmax())
            elif seed is None or mode == "no-seed":
                token = drawn(row, kind, int(_random.integers(2**62)), 0, shape)
            else:
                token = drawn(row, kind, seed, len(prompt) + len(out) - 1, shape)
            out.append(token)
            over = token in EOS and not shape.get("ignore_eos")
            said = self.tokenizer.token_bytes(token).decode("utf-8", "replace")
            ends = "stop" if over else "length" if len(out) == shape["max"] else None
            yield token, "" if over else said, ends
            if over:
                return


async def main(path: Path, vocab_size: int) -> None:
    path = path / "tokenizer.json" if path.is_dir() else path
    server = Server(BpeTokenizer(path.read_text(), vocab_size=vocab_size, eos_ids=EOS))
    app = web.Application()
    app.router.add_get("/v1/models", server.models)
    app.router.add_post("/v1/completions", server.completions)
    app.router.add_post("/v1/chat/completions", server.chat)
    app.router.add_post("/generate", server.generate)
    app.router.add_get("/seen", server.told)
    await run(app)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
