"""Real roles, a real tape: what an auditor decodes is what the edge handed out."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from e2e.chain import Chain
from e2e.fakes import ScriptedModel
from narrows.audit.replay import TapeReplay
from narrows.deploy.config import load_config
from narrows.deploy.local import to_toml
from narrows.gate.tape.config import TapeConfig
from narrows.models.registry import load_model
from narrows.wire.spool import SpoolReader
from narrows.wire.spool.file import new_key


@pytest.mark.slow  # four processes
def test_the_tape_replays_to_the_bytes_of_the_link(tmp_path: Path) -> None:
    private, public = new_key()
    model = ScriptedModel(lambda body: ["an answer to ", body["messages"][-1]["content"]])
    chain = Chain(tmp_path / "state", strong=model.url)
    config = load_config(chain.config_path)
    tape = TapeConfig(tmp_path / "spool", public.hex(), ("answers",))
    gate = dataclasses.replace(config.gate, tape=tape)
    chain.config_path.write_text(to_toml(dataclasses.replace(config, gate=gate)))
    try:
        chain.start()
        texts = [chain.ask(f"question {number}") for number in range(3)]
        assert chain.status()["gate_tape"]["state"] == "copying"
    finally:
        chain.stop()
        model.stop()
    reader = SpoolReader(tmp_path / "spool", private)
    (nonce,) = reader.chapters()
    weak = load_model("bytes")
    replay = TapeReplay({weak.digest: weak})
    said, offset = b"", 0
    while data := reader.read(nonce, offset):
        offset += len(data)
        for segment in replay.feed(data):
            said += b"".join(map(weak.tokenizer.token_bytes, segment.tokens))
    replay.close()
    assert reader.ended(nonce)
    assert replay.faults == {}
    assert replay.data_bytes == chain.wire.outward_bytes > 0
    assert replay.paid_bytes >= replay.data_bytes
    assert texts == [f"an answer to question {number}" for number in range(3)]
    assert all(text.encode() in said for text in texts)
