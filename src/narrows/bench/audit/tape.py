"""Tapes of real answers: the built-in backend serves, the link's encoder codes what it says, and
what passes is written as a gate would copy it.

The clock is virtual, so that a busy machine changes no moment: each answer brings a token every
``token_ms``, and what the encoder has given is sent at the gate's next tick. Paid are the bytes
and the gate's price of time, as on a port without TLS (a TLS record adds 22 bytes a tick).
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

from narrows.coding.events import Coding, Finish, Finished, Tokens
from narrows.coding.link.decoder import LinkDecoder
from narrows.coding.link.encoder import LinkEncoder
from narrows.coding.link.options import LinkOptions
from narrows.coding.spec import answer_spec
from narrows.coding.tokens.choice import CodingChoice
from narrows.enclave.backend import BackendRequest
from narrows.enclave.builtin import BuiltinBackend
from narrows.errors import InputError
from narrows.gate.timing import UNITS_PER_BIT, UNITS_PER_BYTE, LinkHistory, TickModel
from narrows.models.api import TokenModel
from narrows.wire.messages import (
    PROTOCOL,
    FrameReader,
    Greeting,
    Hello,
    Request,
    WeakOffer,
    encode_frame,
)
from narrows.wire.tape import (
    MAX_DATA_BYTES,
    Begin,
    Inward,
    LinkEnd,
    Outward,
    TapeReader,
    TapeWriter,
)

NONCE = hashlib.sha256(b"narrows bench audit").digest()
LEASE = bytes(16)
GREETING_BYTES = 2


@dataclass(frozen=True, slots=True)
class Played:
    """A request and what the enclave said."""

    request: Request
    tokens: tuple[int, ...]
    finish: Finish


def make_requests(
    prompts: Sequence[str], max_tokens: int, temperature: float, top_p: float
) -> list[Request]:
    """One for each prompt, with a noise key of its own."""
    requests = []
    for number, prompt in enumerate(prompts):
        name = hashlib.sha256(f"narrows bench audit {number} {prompt}".encode()).hexdigest()
        body = {
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": max_tokens,
            "temperature": temperature,
            "top_p": top_p,
        }
        requests.append(Request(uid=name[:32], body=body, noise_key=name))
    return requests


def serve(model: TokenModel, requests: Sequence[Request]) -> list[Played]:
    """The answers of the enclave's own backend, all at once."""

    async def one(backend: BuiltinBackend, request: Request) -> Played:
        tokens: list[int] = []
        wanted = BackendRequest(request.body, bytes.fromhex(request.noise_key))
        async for event in backend.generate(wanted):
            if isinstance(event, Tokens):
                tokens += event.ids
            elif isinstance(event, Finished):
                return Played(request, tuple(tokens), event.reason)
        raise InputError("the backend failed an answer")

    async def all_of_them() -> list[Played]:
        backend = BuiltinBackend(model)
        try:
            return list(await asyncio.gather(*(one(backend, request) for request in requests)))
        finally:
            await backend.close()

    return asyncio.run(all_of_them())


def edge_decode_s(tape: bytes, weak: TokenModel) -> float:
    """Seconds that an edge's own decoder takes for the links of a tape."""
    spent = 0.0
    decoders: dict[int, tuple[LinkDecoder, FrameReader]] = {}
    for record in TapeReader().feed(tape):
        if isinstance(record, Begin):
            decoders[record.link] = (LinkDecoder(weak, LinkOptions()), FrameReader())
        decoder, frames = decoders[record.link]
        if isinstance(record, Inward):
            for message in frames.feed(record.data):
                if isinstance(message, Request):
                    decoder.request(answer_spec(message, weak))
        elif isinstance(record, Outward) and record.data:
            coded = record.data[max(0, GREETING_BYTES - record.position) :]
            began = time.perf_counter()
            decoder.feed(coded)
            spent += time.perf_counter() - began
    for decoder, _ in decoders.values():
        decoder.close()
    return spent


class TapeRecorder:
    """One link on a virtual clock, and its tape."""

    def __init__(
        self, weak: TokenModel, options: LinkOptions | None = None, tick_ms: int = 100
    ) -> None:
        choice = CodingChoice(random.Random(0).random)
        self.encoder = LinkEncoder(weak, options, choice=choice)
        self._weak = weak
        self._tick_ms = tick_ms
        self._writer = TapeWriter(NONCE)
        self._tape = bytearray(self._writer.header)
        self._waiting = b""
        self._position = 0
        self._time = TickModel()
        self._history = LinkHistory()
        self._units = 0  # of time, in all
        self._paid_time_bytes = 0
        self._now_ms = 0.0
        offer = WeakOffer(weak.digest.hex(), weak.numerics.hex())
        wire = self.encoder.options.to_wire()
        self._tape += self._writer.put(Begin(0, 0, "answers"))
        self._inward(encode_frame(Hello(protocol=PROTOCOL, weak=[offer], options=wire)))
        self._outward(bytes([Greeting.OK, 0]))

    def request(self, request: Request) -> int:
        """It arrives now; its number."""
        self._inward(encode_frame(request))
        return self.encoder.request(answer_spec(request, self._weak))

    def run_to(self, now_ms: float) -> None:
        """The encoder polled whenever it wants to be, its bytes sent at each tick."""
        while True:
            due = self.encoder.next_poll_ms(self._now_ms)
            tick = (self._now_ms // self._tick_ms + 1) * self._tick_ms
            moment = min(now_ms, tick, due if due is not None else now_ms)
            self._now_ms = max(self._now_ms, moment)
            self._waiting += self.encoder.poll(self._now_ms)
            if self._now_ms == tick:
                self._send()
            if self._now_ms >= now_ms:
                return

    def finish(self) -> bytes:
        """Run until nothing is left; the whole tape."""
        while self.encoder.next_poll_ms(self._now_ms) is not None:
            self.run_to(self._now_ms + self._tick_ms)
        self._send()
        self.encoder.close()
        self._tape += self._writer.put(LinkEnd(0, self._ns()))
        return bytes(self._tape)

    def _ns(self) -> int:
        return int(self._now_ms * 1e6)

    def _inward(self, data: bytes) -> None:
        for start in range(0, len(data), MAX_DATA_BYTES):
            part = data[start : start + MAX_DATA_BYTES]
            self._tape += self._writer.put(Inward(0, self._ns(), part))

    @property
    def timing_bits(self) -> float:
        """What the gate charged for the moments."""
        return self._units / UNITS_PER_BIT

    def _send(self) -> None:
        """A tick."""
        data, self._waiting = self._waiting, b""
        self._units += self._time.tick([(self._history, len(data), False)])
        for start in range(0, len(data), MAX_DATA_BYTES):
            self._outward(data[start : start + MAX_DATA_BYTES])

    def _outward(self, data: bytes) -> None:
        time_bytes = -(-self._units // UNITS_PER_BYTE) - self._paid_time_bytes
        self._paid_time_bytes += time_bytes
        paid = len(data) + time_bytes
        record = Outward(0, self._ns(), LEASE, self._position, paid, data)
        self._tape += self._writer.put(record)
        self._position += len(data)


def play(
    recorder: TapeRecorder, played: Sequence[Played], coding: Coding, token_ms: float
) -> bytes:
    """All answers at once, in even rounds: each brings its next token every ``token_ms``."""
    numbers = [recorder.request(answer.request) for answer in played]
    for number, answer in zip(numbers, played, strict=True):
        greedy = answer.request.body.get("temperature") == 0
        recorder.encoder.open(number, Coding.PLAIN if greedy else coding)
    for step in range(max((len(answer.tokens) for answer in played), default=0) + 1):
        for number, answer in zip(numbers, played, strict=True):
            if step < len(answer.tokens):
                recorder.encoder.put(number, Tokens((answer.tokens[step],)))
            elif step == len(answer.tokens):
                recorder.encoder.put(number, Finished(answer.finish))
        recorder.run_to((step + 1) * token_ms)
    return recorder.finish()


def tape_of(
    weak: TokenModel,
    played: Sequence[Played],
    coding: Coding = Coding.COUPLED,
    tick_ms: int = 100,
    token_ms: float = 50.0,
) -> bytes:
    """``play`` on a fresh link."""
    return play(TapeRecorder(weak, tick_ms=tick_ms), played, coding, token_ms)
