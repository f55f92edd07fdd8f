"""A real edge and a real enclave before a server that draws with a seed: coupled and exact."""

from __future__ import annotations

from pathlib import Path

from edge.harness import Rig
from enclave.fake_vllm import EOS, logits_of
from enclave.seed_servers import drawn
from enclave.strong_folder import VOCAB, seen, serving, write_folder
from models.models import artifact_path
from narrows.enclave.config import EnclaveConfig, UpstreamConfig
from narrows.enclave.models import make_backend
from narrows.enclave.server import EnclaveServer
from narrows.enclave.tokens.backend import TokenBackend
from narrows.models.registry import load_model
from narrows.models.shelf.shelf import Shelf


class SeedEnclave:
    """On the rig's loop, in the place of its enclave."""

    def __init__(self, url: str, folder: Path) -> None:
        self._config = EnclaveConfig(
            listen="127.0.0.1:0",
            upstream=UpstreamConfig(url, "vllm", folder=folder, tokens="required"),
        )
        self.port = 0

    async def start(self) -> None:
        shelf = Shelf.of([load_model(artifact_path("llama"), threads=1)])
        backend = make_backend(self._config, shelf)
        assert isinstance(backend, TokenBackend)
        self.backend = backend
        self._server = EnclaveServer(self._config, backend, shelf)
        self.port = await self._server.start()

    async def stop(self) -> None:
        await self._server.stop()


def test_an_answer_of_a_seed_is_coupled_and_exact(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "strong")
    with serving(folder, "seed_servers.py") as url:
        weak = load_model(artifact_path("llama"), threads=1)
        rig = Rig(tmp_path / "edge", real=True, models=[weak])
        rig.enclave = SeedEnclave(url, folder)
        with rig:
            said = rig.ask(max_tokens=25, temperature=1.0, seed=77).choices[0].message.content
            assert rig.enclave.backend.figures()["answers_coupled"] == 1
            row = seen(url)[-1]
            prompt, out = row["prompt"], []
            while len(out) < 25:
                logits = logits_of([*prompt, *out], VOCAB)
                at = len(prompt) + len(out) - 1
                token = drawn(logits, "vllm", row["seed"], at, row)
                if token in EOS:
                    break
                out.append(token)
            words = b"".join(map(weak.tokenizer.token_bytes, out))
            assert said == words.decode("utf-8", "replace")
            assert row["seed"] != 77
