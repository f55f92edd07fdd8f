"""The limit holds: whatever runs, whatever dies, no more than the budget arrives."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import openai
import pytest

from e2e.chain import Chain
from e2e.fakes import ScriptedModel

Chains = Callable[..., Chain]


def wait_for(condition: Callable[[], bool], what: str, timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen in {timeout_s} s"
        time.sleep(0.05)


def test_a_small_budget_is_never_exceeded(chains: Chains, model: ScriptedModel) -> None:
    model.script = lambda body: [f"{n} bottles of {n * n} kinds; " for n in range(3000)]
    chain = chains(strong=model.url, budget_bytes=2000).start()
    failures: list[openai.APIError] = []

    def ask() -> None:
        try:
            chain.ask("x", max_tokens=60000)
        except openai.APIError as error:
            failures.append(error)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert len(failures) == 4
    assert [error.code for error in failures] == ["egress_budget_exhausted"] * 4, failures
    assert chain.wire.outward_bytes <= 2000
    assert chain.wire.outward_bytes > 1000, "most of a budget must be usable"
    chain.assert_paid()

    with pytest.raises(openai.APIStatusError) as refused:
        chain.ask("again")
    assert refused.value.code == "egress_budget_exhausted"
    assert refused.value.response.headers["x-should-retry"] == "false"

    for role in ("gate", "edge"):  # a restart changes nothing
        chain.kill(role)
        chain.start(role)
    with pytest.raises(openai.APIStatusError, match="budget of this model is spent"):
        chain.ask("once more")
    assert chain.wire.outward_bytes <= 2000


@pytest.mark.parametrize("victim", ["enclave", "gate", "edge", "witness"])
def test_a_killed_role_is_an_error_and_a_restart_serves(
    chains: Chains, model: ScriptedModel, victim: str
) -> None:
    model.script = lambda body: [f"word{n} " for n in range(400)]
    model.delay_s = 0.01
    chain = chains(strong=model.url).start()
    stream = iter(chain.stream("x"))
    for _ in range(3):
        next(stream)
    chain.kill(victim)
    if victim != "witness":  # leases in hand outlive a short absence of the witness
        with pytest.raises((openai.APIError, OSError)):
            for _ in stream:
                pass
    chain.start(victim)
    model.delay_s = 0.0
    deadline = time.monotonic() + 60
    while True:
        try:
            text = chain.ask("x")
            break
        except openai.APIError:
            assert time.monotonic() < deadline, f"no service after the {victim} came back"
            time.sleep(0.2)
    assert text == "".join(f"word{n} " for n in range(400))
    chain.assert_paid()


def test_a_client_that_leaves_stops_its_answer(chains: Chains, model: ScriptedModel) -> None:
    model.script = lambda body: ["tick "] * 100_000
    model.delay_s = 0.01
    chain = chains(strong=model.url).start()
    stream = chain.stream("x")
    next(iter(stream))
    wait_for(lambda: model.running == 1, "the answer")
    stream.close()
    wait_for(lambda: model.running == 0, "the end of the answer at the server")
    settled = chain.wire.outward_bytes
    time.sleep(1.0)
    assert chain.wire.outward_bytes - settled < 100
    chain.assert_paid()


def test_many_streams_at_once(chains: Chains, model: ScriptedModel) -> None:
    model.script = lambda body: [f"{body['messages'][0]['content']}:{n} " for n in range(40)]
    model.delay_s = 0.01
    chain = chains(strong=model.url).start()
    texts: dict[int, str] = {}

    def ask(index: int) -> None:
        texts[index] = chain.ask(f"stream{index}")

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert texts == {i: "".join(f"stream{i}:{n} " for n in range(40)) for i in range(64)}
    chain.assert_paid()


@pytest.mark.parametrize(
    ("upstream", "status"),
    [("http://127.0.0.1:9/v1", 502)],
)
def test_a_strong_model_that_is_not_there(chains: Chains, upstream: str, status: int) -> None:
    chain = chains(strong=upstream).start()
    with pytest.raises(openai.APIStatusError) as failed:
        chain.ask("x")
    assert failed.value.status_code == status
