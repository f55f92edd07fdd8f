"""A link whose few bytes hold very many model steps breaks; the next answer must not wait for it.

The whole edge over its sockets, with the shipped weak model. What the wait is, is printed and
compared with an idle edge's; the bound here is far above the 2 s that docs/benchmarks.md reports.
"""

from __future__ import annotations

import threading
import time

import pytest

from edge.harness import Drop, Rig, chat, wait_until
from edge.real_enclave import RealEnclave
from narrows.bench.hostile import likeliest_tokens
from narrows.coding.events import Coding, Finish, Finished, Opened, Tokens
from narrows.coding.link.encoder import LinkEncoder
from narrows.coding.spec import answer_spec
from narrows.models.registry import load_model

HOSTILE = {"messages": [{"role": "user", "content": "go on and on"}], "max_tokens": 100_000}
GENEROUS_S = 30.0


def _bomb(model, request, tokens: int) -> bytes:
    """The coded stream of one answer of the tokens that the model expects."""
    spec = answer_spec(request, model)
    encoder = LinkEncoder(model)
    encoder.request(spec)
    encoder.open(0, Coding.PLAIN)
    encoder.put(0, Tokens(likeliest_tokens(model, spec.prompt, tokens)))
    encoder.put(0, Finished(Finish.LENGTH))
    data, now_ms = b"", 0.0
    while (due := encoder.next_poll_ms(now_ms)) is not None:
        now_ms = max(now_ms, due)
        data += encoder.poll(now_ms)
    encoder.close()
    return data


def _answered_s(rig) -> float:
    """Seconds until an honest answer is whole; a link that is being made anew is waited for."""
    began_s = time.monotonic()
    while True:
        answer = rig.post(chat())
        if answer.status_code == 200:
            assert answer.json()["choices"][0]["message"]["content"] == "well"
            return time.monotonic() - began_s
        assert answer.status_code in (502, 503), answer.text
        assert time.monotonic() < began_s + 10 * GENEROUS_S
        time.sleep(0.05)


def _drop_links(rig) -> None:
    for writer in rig.enclave.connections:
        rig._loop.call_soon_threadsafe(writer.transport.abort)


@pytest.mark.slow
@pytest.mark.parametrize("tokens", [1000, pytest.param(20_000, marks=pytest.mark.torture)])
def test_an_honest_answer_does_not_wait_for_a_broken_link(tmp_path, tokens):
    ours, theirs = load_model("default", threads=1), load_model("default", threads=1)
    rig = Rig(tmp_path, real=True, models=[ours])
    rig.enclave = RealEnclave()
    rig.enclave.model = theirs
    word = tuple(theirs.tokenizer.encode(b"well"))
    honest = [Opened(Coding.PLAIN), Tokens(word), Finished(Finish.STOP)]
    with rig:
        rig.enclave.script = lambda request: [Drop()]
        assert rig.post(chat(**HOSTILE)).status_code in (502, 503)
        bomb = _bomb(theirs, rig.enclave.requests[-1], tokens)
        rig.enclave.script = lambda request: honest
        _answered_s(rig)
        idle_s = _answered_s(rig)

        _drop_links(rig)  # the hostile bytes are the first of a link, where they mean what they say
        rig.enclave.script = lambda request: [bomb, 0.1, Drop()]
        count = len(rig.enclave.requests)
        ended = []

        def ask():
            began_s = time.monotonic()
            rig.post(chat(**HOSTILE), timeout=10 * GENEROUS_S)
            ended.append(time.monotonic() - began_s)

        waiting = threading.Thread(target=ask)
        waiting.start()
        wait_until(lambda: len(rig.enclave.requests) > count)
        time.sleep(0.3)  # the link has broken, its bytes are being decoded
        rig.enclave.script = lambda request: honest
        after_s = _answered_s(rig)
        waiting.join(10 * GENEROUS_S)
    print(
        f"{len(bomb)} bytes, {tokens} tokens: {idle_s:.2f} s idle, {after_s:.2f} s after; "
        f"the hostile answer itself ended after {ended[0]:.2f} s"
    )
    assert after_s < idle_s + GENEROUS_S
