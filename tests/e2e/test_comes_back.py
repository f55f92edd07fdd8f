"""Service returns by itself when what took it away has ended: no restart, no one's dial.

Each test causes a refusal, ends its cause, and asks as a client would until it is served.
"""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable

import openai

from e2e.chain import Chain
from e2e.fakes import ScriptedModel
from narrows.ledger.changes import sign_change
from narrows.ledger.keys import load_private
from narrows.ledger.ledger import Ledger
from narrows.ledger.limits import Limits
from narrows.ledger.office.admin import apply_change
from narrows.ledger.office.propose import budget_document
from narrows.ledger.office.setup import open_witness
from narrows.ledger.stores.place import LedgerPlace

Chains = Callable[..., Chain]
PATIENCE_S = 60.0
LONG = 300


def change(chain: Chain, limits: Limits) -> None:
    """A signed change of the demonstration's budget, while everything runs."""
    witness = open_witness(chain.state)
    try:
        ledger = Ledger.open(LedgerPlace(chain.state), witness=witness, gate="operator")
        try:
            operator = load_private(chain.state / "ledger" / "operators" / "demo.key")
            accounts = {"answers": Limits(None)}
            document = budget_document(ledger.state(), "demo", limits, accounts, ledger.now_ms())
            apply_change(ledger, document, [sign_change(document, operator)])
        finally:
            ledger.close()
    finally:
        witness.close()


def refused(chain: Chain, *codes: str, content: str = "x") -> openai.APIError:
    """Ask until one of these is the answer."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            chain.ask(content, max_tokens=60_000)
        except openai.APIError as error:
            if error.code in codes:
                return error
        assert time.monotonic() < deadline, f"no refusal of {codes}"


def comes_back(chain: Chain, what: str, since_s: float | None = None) -> None:
    since_s = time.monotonic() if since_s is None else since_s
    last: openai.APIError | None = None
    while time.monotonic() < since_s + PATIENCE_S:
        try:
            assert chain.ask("short") == "hello"
        except openai.APIError as error:
            last = error
            time.sleep(0.2)
            continue
        print(f"{what}: served again after {time.monotonic() - since_s:.1f} s")
        deadline = time.monotonic() + PATIENCE_S
        while (said := chain.status()["gate_ports"]["answers"]["state"]) != "ok":
            assert time.monotonic() < deadline, f"narrows status still says {said}"
            time.sleep(0.1)
        return
    raise AssertionError(f"{what}: not served in {PATIENCE_S} s: {last}")


def script(body: dict[str, object]) -> list[str]:
    """One word, or many."""
    messages = body["messages"]
    assert isinstance(messages, list)
    if messages[-1]["content"] == "short":
        return ["hello"]
    return [random.Random(n).randbytes(30).hex() for n in range(LONG)]  # what a link must carry


def test_a_window_that_filled_opens(chains: Chains, model: ScriptedModel) -> None:
    model.script = script
    chain = chains(strong=model.url)
    change(chain, Limits(50_000_000, ((12_000, 1_500),)))
    chain.start()
    refused(chain, "egress_budget_exhausted")
    comes_back(chain, "window of 12 s, from its refusal")
    chain.assert_paid()


def test_a_spent_budget_that_is_raised(chains: Chains, model: ScriptedModel) -> None:
    model.script = script
    chain = chains(strong=model.url, budget_bytes=1_500).start()
    refused(chain, "egress_budget_exhausted")
    time.sleep(4)
    refused(chain, "egress_budget_exhausted", content="short")
    change(chain, Limits(20_000_000))
    comes_back(chain, "depleted")
    chain.assert_paid()


def test_a_witness_that_slept(chains: Chains, model: ScriptedModel) -> None:
    model.script = script
    chain = chains(strong=model.url).start()
    comes_back(chain, "start")
    witness = chain.roles["witness"].process
    witness.send_signal(signal.SIGSTOP)
    try:
        refused(chain, "egress_closed")
        time.sleep(5)
    finally:
        witness.send_signal(signal.SIGCONT)
    comes_back(chain, "witness")
    chain.assert_paid()


def test_a_gate_that_was_away(chains: Chains, model: ScriptedModel) -> None:
    model.script = script
    chain = chains(strong=model.url).start()
    comes_back(chain, "start")
    chain.kill("gate")
    time.sleep(6)
    refused(chain, "link_down", content="short")
    chain.start("gate")
    comes_back(chain, "gate away (with its own start)")
    chain.assert_paid()


def test_an_upstream_that_was_down(chains: Chains, model: ScriptedModel) -> None:
    model.script = script
    chain = chains(strong=model.url).start()
    comes_back(chain, "start")
    port = model.port
    model.go()
    failed = 0
    while failed < 3:
        try:
            chain.ask("short")
        except openai.APIError:
            failed += 1
    model.return_at(port)
    comes_back(chain, "upstream")
    chain.assert_paid()
