"""How long a broken link's last bytes hold up the next link's first answer, at the edge.

A hostile enclave sends the tokens that the weak model expects, which cost next to nothing, so
that few bytes hold very many model steps. The link then breaks, and the next one brings an honest
answer: its wait is compared with that on an idle edge.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

import numpy as np

from narrows.coding.events import AnswerSpec, Coding, Finish, Finished, Tokens
from narrows.coding.link.decoder import LinkDecoder
from narrows.coding.link.encoder import LinkEncoder
from narrows.edge.link.worker import DecodeWorker, Events, Turn
from narrows.models.api import TokenModel

PROMPT_TOKENS = 64
WAIT_S = 600.0


@dataclass(frozen=True, slots=True)
class HoldTimes:
    """``whole_s``: decoding all of the hostile bytes. ``idle_s``, ``after_s``: an honest answer's
    first event on an idle edge, and behind a link that broke amid the hostile bytes (the worst
    of some)."""

    hostile_bytes: int
    hostile_tokens: int
    whole_s: float
    idle_s: float
    after_s: float


def measure(model: TokenModel, answers: int, tokens: int, tries: int = 3) -> HoldTimes:
    """``answers`` hostile answers of ``tokens`` each; their link breaks ``tries`` times."""
    prompt = tuple(range(100, 100 + PROMPT_TOKENS))
    hostile = _coded(model, prompt, answers, likeliest_tokens(model, prompt, tokens))
    honest = _coded(model, prompt[::-1], 1, (5,))
    turn = Turn()
    idle_s = min(_first_event_s(model, turn, prompt[::-1], honest) for _ in range(tries))
    after_s = 0.0
    for index in range(tries):
        broken = _worker(LinkDecoder(model), turn, prompt, answers, threading.Event())
        broken.feed(hostile)
        time.sleep(0.3 + 0.17 * index)
        broken.close()
        after_s = max(after_s, _first_event_s(model, turn, prompt[::-1], honest))
        broken.join(WAIT_S)
    decoder = LinkDecoder(model)
    for _ in range(answers):
        decoder.request(_spec(prompt))
    began_s = time.monotonic()
    decoder.feed(hostile)
    whole_s = time.monotonic() - began_s
    decoder.close()
    return HoldTimes(len(hostile), answers * tokens, whole_s, idle_s, after_s)


def _spec(prompt: tuple[int, ...]) -> AnswerSpec:
    return AnswerSpec(prompt, 1 << 16, temperature=0)


def likeliest_tokens(model: TokenModel, prompt: tuple[int, ...], count: int) -> tuple[int, ...]:
    """The ``count`` tokens that ``model`` expects most behind ``prompt``, end tokens aside."""
    stream = model.open(prompt)
    ends = sorted(model.tokenizer.eos_ids)
    row, ids = model.logits(stream), []
    for _ in range(count):
        own = row.copy()
        own[ends] = np.iinfo(np.int32).min
        ids.append(int(np.argmax(own)))
        row = model.advance([stream], ids[-1:])[0]
    model.close(stream)
    return tuple(ids)


def _coded(model: TokenModel, prompt: tuple[int, ...], answers: int, ids: tuple[int, ...]) -> bytes:
    encoder = LinkEncoder(model)
    for number in range(answers):
        encoder.request(_spec(prompt))
        encoder.open(number, Coding.PLAIN)
        encoder.put(number, Tokens(ids))
        encoder.put(number, Finished(Finish.LENGTH))
    data, now_ms = b"", 0.0
    while (due := encoder.next_poll_ms(now_ms)) is not None:
        now_ms = max(now_ms, due)
        data += encoder.step(now_ms)
    encoder.close()
    return data


def _first_event_s(model: TokenModel, turn: Turn, prompt: tuple[int, ...], data: bytes) -> float:
    got = threading.Event()
    began_s = time.monotonic()
    worker = _worker(LinkDecoder(model), turn, prompt, 1, got)
    worker.feed(data)
    got.wait(WAIT_S)
    taken_s = time.monotonic() - began_s
    worker.close()
    worker.join(WAIT_S)
    return taken_s


def _worker(
    decoder: LinkDecoder, turn: Turn, prompt: tuple[int, ...], answers: int, got: threading.Event
) -> DecodeWorker:
    def on_events(events: Events, _: int) -> None:
        if any(isinstance(event, Tokens) for _, event in events):
            got.set()

    for _ in range(answers):
        decoder.request(_spec(prompt))
    return DecodeWorker(decoder, turn, lambda call: call(), on_events, lambda error: got.set())
