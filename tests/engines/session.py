"""One short fixed run of the enclave's own code on a model server, over real links.

Everything that is random in the enclave comes from ``coins``, so the same server gives the same
requests, to the byte, and the same answers.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import math
from pathlib import Path
from typing import Any

from enclave.test_session import OPTIONS, Edge
from narrows.coding.events import Coding, Finished, Opened, Tokens
from narrows.coding.link.decoder import LinkDecoder
from narrows.coding.link.ends import DecoderPort
from narrows.enclave.chunks import ServerError
from narrows.enclave.config import EnclaveConfig, UpstreamConfig
from narrows.enclave.modelserver import ModelServer
from narrows.enclave.server import EnclaveServer
from narrows.enclave.tokens.backend import TokenBackend
from narrows.enclave.tokens.completion import Asked, CompletionReader
from narrows.enclave.tokens.probe import ServerProbe
from narrows.enclave.tokens.standing import Standing
from narrows.enclave.tokens.strong import StrongText
from narrows.models.artifact import Artifact
from narrows.models.bytemodel import ByteModel
from narrows.models.registry import load_model, resolve
from narrows.models.shelf.shelf import Shelf
from narrows.models.text.tokenizer import TOKENIZER_TENSOR, BpeTokenizer
from narrows.wire.messages import Greeting, Request

MODEL = "m"
WEAK = "default"
CONTEXT = 8192  # what the folder says; the server says its own
CUT = 11  # tokens that were delivered before the link was lost

_ASKED: tuple[tuple[str, dict[str, Any]], ...] = (
    ("Why is the sky blue?", {"max_tokens": 40}),
    ("Name three rivers.", {"max_tokens": 32, "temperature": 0.7, "top_p": 0.9}),
    (
        "Tell a story about a gate.",
        {"max_tokens": 32, "presence_penalty": 0.5, "frequency_penalty": 0.3},
    ),
    ("Greet me in German, Polish and Japanese.", {"max_tokens": 32, "stop": ["\n", "."]}),
    ("What is two and two?", {"max_tokens": 12, "temperature": 0.0}),
)


def text_folder(folder: Path) -> Path:
    """What the enclave reads of the built-in strong model's folder, made from the shipped weak
    model, which has its tokenizer and its template."""
    artifact = Artifact.open(resolve(WEAK))
    chat = artifact.header["chat"]
    words = BpeTokenizer.from_artifact(artifact)
    files = {
        "config.json": {"vocab_size": words.vocab_size, "max_position_embeddings": CONTEXT},
        "generation_config.json": {"eos_token_id": sorted(words.eos_ids)},
        "tokenizer_config.json": {
            "bos_token": chat["bos_token"],
            "eos_token": chat["eos_token"],
            "chat_template": chat["template"],
        },
    }
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    (folder / "tokenizer.json").write_bytes(artifact.tensor(TOKENIZER_TENSOR).tobytes())
    return folder


class _Account(DecoderPort):
    """Keeps what the tokens took."""

    bits = 0.0

    def _account(self, kind: str, share: int) -> None:
        if kind == "tokens":
            self.bits += 32 - math.log2(share)


class _Far(Edge):
    """A link's far end that knows what its answers took."""

    def __init__(self, *wire: Any) -> None:
        super().__init__(*wire)
        self.ports: list[_Account] = []

        def port(wait: Any) -> _Account:
            self.ports.append(_Account(wait))
            return self.ports[-1]

        self.decoder = LinkDecoder(self.model, OPTIONS, make_port=port)

    async def greet(self) -> None:
        self.send(self.hello())
        assert await self.reader.readexactly(2) == bytes([Greeting.OK, 0])

    async def ask(
        self, question: str, key: bytes, resume: tuple[int, ...] = (), **body: Any
    ) -> dict[str, Any]:
        """One answer, alone on the link, as the far end has it."""
        number, before = len(self.events), self.ports[0].bits
        whole = {"messages": [{"role": "user", "content": question}], "temperature": 1.0} | body
        self.send(Request("00" * 16, whole, key.hex(), resume=list(resume)))
        await self.until(lambda: self.ended(number))
        events = self.events[number]
        opened, last = events[0], events[-1]
        assert isinstance(opened, Opened)
        assert isinstance(last, Finished), last
        return {
            "coding": opened.coding.name,
            "ids": [i for event in events if isinstance(event, Tokens) for i in event.ids],
            "text": self.text(number) if opened.coding is Coding.TEXT else "",
            "finish": last.reason.name,
            "bits": round(self.ports[0].bits - before, 6),
        }


async def hold(url: str, folder: Path) -> list[dict[str, Any]]:
    """The run; its answers in order, the refused one as the words of the refusal."""
    calls = itertools.count(1)

    def coins(size: int) -> bytes:
        return next(calls).to_bytes(size, "big")

    upstream = UpstreamConfig(url, MODEL, folder=folder, tokens="required")
    config = EnclaveConfig(listen="127.0.0.1:0", upstream=upstream)
    strong, server = StrongText(folder), ModelServer(upstream)
    standing = Standing(ServerProbe(server, upstream, strong, coins))
    backend = TokenBackend(upstream, server, strong, standing, coins)
    inside, outside = (load_model(WEAK, threads=1) for _ in range(2))
    enclave = EnclaveServer(config, backend, Shelf.of([inside, ByteModel()]))
    links: list[_Far] = []

    async def link(model: Any) -> _Far:
        links.append(_Far(*await asyncio.open_connection("127.0.0.1", port), model))
        await links[-1].greet()
        return links[-1]

    try:
        port = await enclave.start()
        edge = await link(outside)
        answers = [
            await edge.ask(question, bytes([n]) * 32, **body)
            for n, (question, body) in enumerate(_ASKED)
        ]
        lost = tuple(answers[0]["ids"][:CUT])
        again = await link(outside)  # behind a link that broke
        answers.append(await again.ask(_ASKED[0][0], bytes(32), lost, **_ASKED[0][1]))
        other = await link(ByteModel())  # whose weak model has another tokenizer
        answers.append(await other.ask(_ASKED[1][0], bytes(32), max_tokens=24))
        answers.append({"refused": await _refused(server, strong)})
    finally:
        for far in links:
            far.writer.close()
        async with asyncio.timeout(60):
            while enclave.figures()["links"]:
                await asyncio.sleep(0.01)
        await enclave.stop()
    return answers


async def _refused(server: ModelServer, strong: StrongText) -> str:
    """What the server says to a position that cannot be."""
    asked = Asked((1, 2, 3), 4, {}, bytes(32), 1 << 40)
    reader = CompletionReader(asked, strong.tokenizer, max_bytes=1 << 16)
    try:
        async for _ in server.events("/completions", asked.body(MODEL), reader):
            pass
    except ServerError as error:
        return f"{error.failure.name}: {error}"
    return "taken"
