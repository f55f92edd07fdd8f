"""Two enclaves, two ports of a gate and two lineages' budgets behind one edge."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from e2e.chain import Chain
from e2e.fakes import ScriptedModel
from narrows.cli.status import collect
from narrows.deploy.config import Config, load_config
from narrows.deploy.local import to_toml
from narrows.edge.config import EdgeConfig
from narrows.edge.model_table import ModelEntry
from narrows.enclave.config import UpstreamConfig
from narrows.ledger.changes import sign_change
from narrows.ledger.keys import load_private
from narrows.ledger.ledger import Ledger
from narrows.ledger.limits import Limits
from narrows.ledger.office.admin import apply_change
from narrows.ledger.office.propose import budget_document
from narrows.ledger.office.setup import open_witness
from narrows.ledger.stores.place import OPERATOR, LedgerPlace
from ports import free_port

SMALL_BYTES = 600


def give_budget(state: Path, lineage: str, budget_bytes: int) -> None:
    """A second lineage, with one account of its name, signed by the demonstration's operator."""
    place = LedgerPlace(state)
    operator = load_private(place.folder / "operators" / "demo.key")
    ledger = Ledger.open(place, witness=open_witness(state), gate=OPERATOR)
    try:
        accounts = {lineage: Limits(None)}
        limits = Limits(budget_bytes)
        document = budget_document(ledger.state(), lineage, limits, accounts, ledger.now_ms())
        apply_change(ledger, document, [sign_change(document, operator)])
    finally:
        ledger.close()


class TwoChains(Chain):
    """``big`` on the demonstration's port and account, ``small`` on another of each."""

    def __init__(self, state: Path, big: str, small: str) -> None:
        super().__init__(state, strong=big)
        give_budget(state, "small", SMALL_BYTES)
        config = load_config(self.config_path)
        port, second = free_port(), free_port()
        (answers,) = config.gate.ports
        more = dataclasses.replace(
            answers, name="small", account="small", listen_port=port, enclave_port=second
        )
        default = EdgeConfig()
        edge = dataclasses.replace(
            config.edge,
            model_name=default.model_name,
            gate_port=default.gate_port,
            link_wait_s=0.5,
            probe=True,
            models=(
                ModelEntry("big", config.edge.gate_port, "answers", aliases=("b",)),
                ModelEntry("small", port, "small", context_tokens=4096),
            ),
        )
        gate = dataclasses.replace(config.gate, ports=(answers, more))
        self.config_path.write_text(to_toml(dataclasses.replace(config, edge=edge, gate=gate)))
        enclave = dataclasses.replace(
            config.enclave,
            listen=f"127.0.0.1:{second}",
            upstream=UpstreamConfig(url=small, model="m"),
        )
        self.second_path = state / "second.toml"
        self.second_path.write_text(to_toml(Config(enclave, config.gate, default)))

    def begin_second(self) -> None:
        arguments = ["enclave", "--config", str(self.second_path)]
        self.roles["second"] = self.supervisor.start("second", arguments)

    def standing(self) -> dict[str, str]:
        health: dict[str, Any] = httpx2.get(f"http://127.0.0.1:{self.api_port}/healthz").json()
        return {name: one["status"] for name, one in health["models"].items()}

    def wait(self, **standing: str) -> None:
        end = time.monotonic() + 60
        while self.standing() != standing:
            assert time.monotonic() < end, self.standing()
            time.sleep(0.1)

    def says(self, model: str) -> str:
        return self.ask("hi", model=model)


@pytest.fixture
def two(tmp_path: Path, model: ScriptedModel) -> Any:
    other = ScriptedModel(
        lambda body: (
            ["I am small"]
            if len(body["messages"][0]["content"]) < 4
            else ["".join(chr(0x4E00 + n) for n in range(100))]
        )
    )
    model.script = lambda body: ["I am big"]
    chain = TwoChains(tmp_path, model.url, other.url)
    chain.begin_second()
    chain.start()
    yield chain
    chain.stop()
    other.stop()


def spend(two: TwoChains) -> None:
    for _ in range(SMALL_BYTES):  # each takes some bytes
        two.ask("more", model="small")


def test_one_down_leaves_the_other_and_each_has_its_budget(two: TwoChains) -> None:
    two.wait(big="ok", small="ok")
    assert (two.says("big"), two.says("b"), two.says("small")) == ("I am big",) * 2 + (
        "I am small",
    )
    listed = {one.id: one for one in two.client().models.list()}
    assert list(listed) == ["big", "b", "small"]
    two.kill("second")
    two.wait(big="ok", small="unavailable")
    assert two.says("big") == "I am big"
    with pytest.raises(openai.InternalServerError) as down:
        two.says("small")
    assert down.value.code == "link_down"
    two.begin_second()
    two.wait(big="ok", small="ok")
    assert two.says("small") == "I am small"
    with pytest.raises(openai.RateLimitError) as spent:
        spend(two)
    assert spent.value.code == "egress_budget_exhausted"
    assert two.says("big") == "I am big"
    figures = collect(two.state, time.time())
    models = {one["name"]: one for one in figures["models"]}
    assert models["big"]["link"] == "up"
    assert models["small"]["answers"] > 1
    two.assert_paid()
