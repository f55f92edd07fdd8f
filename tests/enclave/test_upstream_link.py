"""A server's token ids over the enclave's real link, decoded by a real decoder."""

from __future__ import annotations

import asyncio
from pathlib import Path

from enclave.strong_folder import seen, serving, write_folder
from enclave.test_session import Edge
from enclave.test_upstream_tokens import MESSAGES, expected, ids
from models.models import artifact_path
from narrows.coding.events import Coding, Finish, Finished, Opened, Text
from narrows.enclave.config import EnclaveConfig, UpstreamConfig
from narrows.enclave.models import make_backend
from narrows.enclave.server import EnclaveServer
from narrows.enclave.tokens.strong import StrongText
from narrows.models.bytemodel import ByteModel
from narrows.models.registry import load_model
from narrows.models.shelf.shelf import Shelf
from narrows.wire.messages import Cancel, Greeting, Request

KEY = bytes(range(32))


def request(max_tokens: int, resume: tuple[int, ...] = (), **body: object) -> Request:
    whole = {"messages": MESSAGES, "max_tokens": max_tokens, "temperature": 1.0} | body
    return Request("00" * 16, whole, KEY.hex(), resume=list(resume))


def test_ids_cross_the_link_unchanged(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "strong")
    strong = StrongText(folder)
    outside, weak = (load_model(artifact_path("llama"), threads=1) for _ in range(2))
    shelf = Shelf.of([weak, ByteModel()])

    async def check(url: str) -> None:
        upstream = UpstreamConfig(url, "holds", folder=folder, tokens="required")
        config = EnclaveConfig(listen="127.0.0.1:0", upstream=upstream)
        server = EnclaveServer(config, make_backend(config, shelf), shelf)
        port = await server.start()
        edge = Edge(*await asyncio.open_connection("127.0.0.1", port), outside)
        other = Edge(*await asyncio.open_connection("127.0.0.1", port))
        try:
            want = expected(strong, 60)
            edge.send(
                edge.hello(),
                request(60),
                request(5, stop=["\x00none\x00"]),
                request(60, tuple(want[:4])),
                request(300, temperature=0),
            )
            assert await edge.reader.readexactly(2) == bytes([Greeting.OK, 0])
            await edge.until(lambda: len(ids(edge.events[3])) > 2)
            edge.send(Cancel(3))
            await edge.until(lambda: all(map(edge.ended, range(4))))
            assert ids(edge.events[0]) == want
            assert ids(edge.events[1]) == want[:5]
            assert ids(edge.events[2]) == want[4:]
            codings = [edge.events[number][0] for number in range(4)]
            assert codings == [Opened(Coding.COUPLED)] * 3 + [Opened(Coding.PLAIN)]
            assert edge.events[3][-1] == Finished(Finish.CANCELLED)
            async with asyncio.timeout(60):  # the server may hear of it later than the edge
                while "aborted" not in [row["end"] for row in seen(url)]:
                    await asyncio.sleep(0.01)
            other.send(other.hello(), request(60))
            await other.reader.readexactly(2)
            await other.until(lambda: other.ended(0))
            assert other.text(0) == "as text"
            assert isinstance(other.events[0][1], Text)
        finally:
            edge.writer.close()
            other.writer.close()
            await server.stop()

    with serving(folder) as url:
        asyncio.run(check(url))
