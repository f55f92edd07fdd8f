"""Many clients and a weak model with little memory: answers fail, the link does not."""

from __future__ import annotations

import threading
from collections.abc import Callable

import openai
import pytest

from e2e.chain import Chain
from e2e.fakes import ScriptedModel

CLIENTS = 90


@pytest.mark.parametrize("weak_kv_mib", [(1, 512), (512, 1)], ids=["enclave", "edge"])
def test_a_full_cache_fails_answers_and_no_link(
    chains: Callable[..., Chain], model: ScriptedModel, weak_kv_mib: tuple[int, int]
) -> None:
    model.script = lambda body: [f"{body['messages'][0]['content']}:{n} " for n in range(60)]
    model.delay_s = 0.02
    chain = chains(strong=model.url, weak="default", weak_kv_mib=weak_kv_mib).start()
    chain.ask("first", max_tokens=300, timeout=120)
    texts: dict[int, str] = {}
    failures: dict[int, openai.APIError] = {}

    def ask(index: int) -> None:
        try:
            texts[index] = chain.ask(f"stream{index}", max_tokens=300, timeout=240)
        except openai.APIError as error:
            failures[index] = error

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    assert len(texts) + len(failures) == CLIENTS
    assert texts
    assert failures
    for index, text in texts.items():
        assert text == "".join(f"stream{index}:{n} " for n in range(60))
    assert {error.code for error in failures.values()} == {"overloaded"}
    for error in failures.values():
        assert isinstance(error, openai.APIStatusError)
        assert error.status_code == 429
        assert error.response.headers["retry-after"] == "1"
    assert chain.ask("again", max_tokens=300, timeout=120).startswith("again:0 ")
    log = (chain.state / "log" / "edge.log").read_text()
    assert log.count("link up") == 1
    chain.assert_paid()
