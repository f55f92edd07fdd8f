"""A model server as vLLM is one, in a process of its own, drawing with narrows-vllm.

    python fake_vllm.py FOLDER VOCAB_SIZE     says its port

The ``model`` of a request says how the server behaves (``MODES``); the model called ``switch``
behaves as the last ``POST /switch`` said, the one called ``holds`` couples and waits behind its
``HELD`` th token for the client to go. Its logits follow from the last three tokens, so that
a test knows them too (``logits_of``); where the prompt holds a script (``templates.scripted``), it
says that. ``GET /seen``: every request so far, and how it ended. ``POST /tokenize`` renders with
jinja2 alone, on another day than narrows.
"""

from __future__ import annotations

import asyncio
import base64
import codecs
import hashlib
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jinja2
import numpy as np
from aiohttp import web
from tokenizers import Tokenizer

from narrows.models.text.tokenizer import BpeTokenizer
from narrows_vllm.fields import coupling
from narrows_vllm.pick import Shape, pick

MODES = (
    "coupled",
    "ignores",
    "wrong-key",
    "no-ids",
    "other-words",
    "refuses-key",
    "other-prompt",
    "other-template",
    "no-formats",
)
EOS = (0, 2)
HELD = 100  # more than a probe asks for
CONTEXT = 512
LONG = ("m", "hermes", "qwen3", "begun", "llama3", "other-template", "no-formats")
LONG_CONTEXT = 8192
_random = np.random.default_rng()


def logits_of(history: list[int], vocab_size: int, eos: float = 4.0) -> np.ndarray:
    """float32 [vocab_size]: what follows ``history``. ``eos``: the logit of its end."""
    seed = int.from_bytes(hashlib.sha256(str(history[-3:]).encode()).digest()[:8], "big")
    row = (np.random.default_rng(seed).standard_normal(vocab_size) * 2).astype(np.float32)
    row[list(EOS)] = -np.inf
    row[EOS[1]] = eos
    return row


def context(model: str) -> int:
    """Tokens of a prompt and its answer."""
    return LONG_CONTEXT if model in LONG else CONTEXT


def script_in(text: str) -> list[Any] | None:
    """The last script in a text: what is said as a completion, and the deltas of a chat."""
    found = re.findall(r"\[\[([A-Za-z0-9+/=]+)\]\]", text)
    return json.loads(base64.b64decode(found[-1])) if found else None


class Server:
    def __init__(self, tokenizer: BpeTokenizer, folder: Path) -> None:
        self.tokenizer = tokenizer
        self.whole = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.folder = folder
        self.mode = "coupled"
        self.seen: list[dict[str, Any]] = []

    async def models(self, request: web.Request) -> web.Response:
        rows = [
            {"id": name, "max_model_len": context(name)}
            for name in (*MODES, *LONG, "switch", "holds")
        ]
        return web.json_response({"data": rows})

    async def switch(self, request: web.Request) -> web.Response:
        self.mode = (await request.read()).decode()
        return web.Response()

    async def told(self, request: web.Request) -> web.Response:
        return web.json_response(self.seen)

    def template(self, model: str) -> jinja2.Template:
        """Of the folder beside the server's own that is called as the model; its own else."""
        beside = self.folder.parent / model / "tokenizer_config.json"
        own = self.folder / "tokenizer_config.json"
        said = json.loads((beside if beside.exists() else own).read_text())
        env = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
        env.filters["tojson"] = lambda value, indent=None: json.dumps(
            value, ensure_ascii=False, indent=indent
        )
        env.globals["strftime_now"] = lambda pattern: "28 Nov 2026"
        return env.from_string(said["chat_template"])

    async def tokenize(self, request: web.Request) -> web.Response:
        body = await request.json()
        messages = []
        for message in body["messages"]:
            one = {"role": message["role"], "content": message.get("content") or ""}
            for call in message.get("tool_calls", []):
                function = call["function"]
                arguments = json.loads(function["arguments"])
                call = call | {"function": function | {"arguments": arguments}}
                one.setdefault("tool_calls", []).append(call)
            messages.append(message | one)
        tools = []
        for tool in body.get("tools", []):
            function = {name: tool["function"].get(name) for name in ("name", "description")}
            function["parameters"] = tool["function"].get("parameters")
            tools.append({"type": "function", "function": function})
        text = self.template(body["model"]).render(
            messages=messages,
            tools=tools or None,
            add_generation_prompt=True,
            **body.get("chat_template_kwargs", {}),
        )
        if body["model"] == "other-template":
            text = text.replace("You may call", "Call")
        ids = self.whole.encode(text, add_special_tokens=False).ids
        return web.json_response({"tokens": ids, "count": len(ids), "max_model_len": CONTEXT})

    async def chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        row = {"path": "chat", "tools": "tools" in body, "end": ""}
        self.seen.append(row | {"kwargs": body.get("chat_template_kwargs"), "body": body})
        response = await stream(request)
        script = script_in(json.dumps(body["messages"]))
        deltas = script[1] if script else [{"content": "as text"}]
        called = any("tool_calls" in delta for delta in deltas)
        for part in (*deltas, {}):
            reason = None if part else "tool_calls" if called else "stop"
            choice = {"index": 0, "delta": part, "finish_reason": reason}
            await say(response, {"choices": [choice]})
        await response.write(b"data: [DONE]\n\n")
        return response

    async def completions(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        mode = self.mode if body["model"] == "switch" else body["model"]
        row = {"path": "completions", "end": "", **{k: v for k, v in body.items() if k != "model"}}
        self.seen.append(row)
        if mode == "down":
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        if mode == "bad-gateway":
            return web.json_response({"error": {"message": "it starts"}}, status=502)
        if mode == "refuses-key" and "vllm_xargs" in body:
            return web.json_response({"error": {"message": "no such field"}}, status=400)
        if len(body["prompt"]) + body["max_tokens"] > context(mode):
            words = f"This model's maximum context length is {context(mode)} tokens."
            return web.json_response({"error": {"message": words}}, status=400)
        response = await stream(request)
        try:
            row["end"] = await self.generate(response, mode, body)
        except (ConnectionError, asyncio.CancelledError):
            row["end"] = "aborted"
            raise
        await response.write(b"data: [DONE]\n\n")
        return response

    async def generate(self, response: web.StreamResponse, mode: str, body: dict[str, Any]) -> str:
        params = SimpleNamespace(
            extra_args=body.get("vllm_xargs"),
            temperature=body["temperature"],
            top_p=body["top_p"],
        )
        asked = coupling(params)
        prompt, out = body["prompt"], []
        script = self.script(body, mode)
        begun = 0 if script is None else spoken(prompt, script)
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        while len(out) < body["max_tokens"]:
            row = logits_of([*prompt, *out], self.tokenizer.vocab_size, body.get("eos", 4.0))
            if script is not None:
                row[:] = -1000.0
                row[script[begun + len(out)]] = 0.0
            if body["temperature"] == 0:
                token = int(row.argmax())
            elif asked is None or mode in ("ignores", "refuses-key"):
                p = np.exp((row - row.max()).astype(np.float64) / body["temperature"])
                token = int(_random.choice(len(row), p=p / p.sum()))
            else:
                key = hashlib.sha256(asked.key).digest() if mode == "wrong-key" else asked.key
                shape = Shape(body["temperature"], body["top_p"])
                found = pick(row, key, asked.start + len(out), shape)
                assert found is not None
                token = found
            out.append(token)
            over = token in EOS and not body.get("ignore_eos")
            said = self.tokenizer.token_bytes((token + 7) % 300 if mode == "other-words" else token)
            choice: dict[str, Any] = {"index": 0, "text": "" if over else decoder.decode(said)}
            if mode != "no-ids":
                choice["token_ids"] = [token]
            if len(out) == 1:
                choice["prompt_token_ids"] = [1, *prompt] if mode == "other-prompt" else prompt
            ends = "stop" if over else "length" if len(out) == body["max_tokens"] else None
            await say(response, {"choices": [choice | {"finish_reason": ends}]})
            if over:
                return "stop"
            if mode == "holds" and len(out) == HELD:
                await asyncio.Event().wait()
            if not body.get("ignore_eos"):
                await asyncio.sleep(0.001)
        return "length"

    def script(self, body: dict[str, Any], mode: str) -> list[int] | None:
        """The ids that are said, whatever the logits."""
        form = body.get("response_format")
        text = b"".join(map(self.tokenizer.token_bytes, body["prompt"])).decode("utf-8", "replace")
        found = script_in(text)
        said = None if found is None else found[0]
        if form is not None and mode != "no-formats":
            schema = form.get("json_schema", {}).get("schema", {})
            said = json.dumps(schema["enum"][0]) if "enum" in schema else '{"forced": true}'
        if said is None:
            return None
        return [*self.whole.encode(said, add_special_tokens=False).ids, EOS[1]]


def spoken(prompt: list[int], script: list[int]) -> int:
    """How much of a script the prompt ends with: who goes on has said it already."""
    sizes = range(min(len(prompt), len(script) - 1), 0, -1)
    return next((size for size in sizes if prompt[-size:] == script[:size]), 0)


async def stream(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    return response


async def say(response: web.StreamResponse, chunk: dict[str, Any]) -> None:
    await response.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")


async def run(app: web.Application) -> None:
    """Print the port and serve until killed."""
    runner = web.AppRunner(app, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(site._server.sockets[0].getsockname()[1], flush=True)  # type: ignore[union-attr]
    await asyncio.Event().wait()


async def main(folder: Path, vocab_size: int) -> None:
    text = (folder / "tokenizer.json").read_text()
    server = Server(BpeTokenizer(text, vocab_size=vocab_size, eos_ids=EOS), folder)
    app = web.Application()
    app.router.add_get("/v1/models", server.models)
    app.router.add_post("/v1/completions", server.completions)
    app.router.add_post("/v1/chat/completions", server.chat)
    app.router.add_post("/tokenize", server.tokenize)
    app.router.add_post("/switch", server.switch)
    app.router.add_get("/seen", server.told)
    await run(app)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
