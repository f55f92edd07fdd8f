"""One link: requests inward, coded bytes outward, from a greeting to its end.

Order on the loop's thread, per answer: (1) the decoder counts the request; (2) its frame is
written, in the order of numbers; (3) events of that number are handed to the answer; (4) Cancel
goes inward at once when the client leaves, and later events of the number are dropped.
A request whose client has left before (2) is sent and cancelled at once, since it has a number.

The link ends by closing, by an error of the decoder, or from here; ``run`` then returns why,
and the answers that are still open are the caller's. A retired link takes no new answers and
ends when the last of its own is over inside.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from narrows.coding.events import AnswerSpec, Event, Failed, Finished, Text, Tokens
from narrows.coding.link.watched import WatchedDecoder
from narrows.coding.spec import answer_spec
from narrows.coding.tokens.gain import GainSegment
from narrows.edge import problems
from narrows.edge.answer import EdgeAnswer, WeakName
from narrows.edge.link.dial import Wire
from narrows.edge.link.worker import Decoder, DecodeWorker, Events, Turn
from narrows.errors import LinkError, NarrowsError
from narrows.models.api import TokenModel
from narrows.models.shelf.shelf import Offer
from narrows.wire.messages import Cancel, Message, encode_frame

MAX_BACKLOG_BYTES = 64 << 10
REST_S = 0.5  # for what a link that has ended left undecoded
MAX_OPEN = 1000  # below what an enclave takes (1,024) and a decoder holds by default


class Observer(Protocol):
    """Who watches answers (``narrows.edge.watch``), on the loop's thread."""

    def gained(self, answer: EdgeAnswer, segments: Sequence[GainSegment]) -> None: ...

    def moved(self, answer: EdgeAnswer) -> None: ...


class Unobserved:
    """Nobody watches."""

    def gained(self, answer: EdgeAnswer, segments: Sequence[GainSegment]) -> None: ...

    def moved(self, answer: EdgeAnswer) -> None: ...


class EdgeLink:
    """``offer``: the weak model as it was greeted with. ``turn``: see ``DecodeWorker``.
    ``ended``: told each answer whose last event came, with nothing of it open inside.
    ``observer``: told what comes of each, before its end."""

    def __init__(
        self,
        wire: Wire,
        offer: Offer,
        model: TokenModel,
        decoder: Decoder,
        turn: Turn,
        ended: Callable[[EdgeAnswer], None],
        observer: Observer,
    ) -> None:
        self.offer = offer
        self.model = model
        self.weak = WeakName(offer.name, offer.label)
        self.opened_s = self.last_read_s = time.monotonic()
        self.completed = False
        self._wire = wire
        self._decoder = decoder
        self._ended = ended
        self._observer = observer
        if isinstance(decoder, WatchedDecoder):
            decoder.gained = lambda *found: self._post(lambda: self._on_gained(*found))
        self._loop = asyncio.get_running_loop()
        self._failed: asyncio.Future[Exception] = self._loop.create_future()
        self._drained: asyncio.Future[None] = self._loop.create_future()
        self._retired = False
        self._unwanted_s = 0.0
        self._room = asyncio.Event()
        self._open: dict[int, EdgeAnswer] = {}
        self._unnumbered: list[EdgeAnswer] = []
        self._closed = False
        self._uncharged_bits = 0.0
        self._worker = DecodeWorker(decoder, turn, self._post, self._on_events, self._on_error)

    @property
    def answers(self) -> list[EdgeAnswer]:
        """Not over inside, whether or not their clients still want them."""
        return [*self._open.values(), *self._unnumbered]

    @property
    def waiting(self) -> bool:
        """Whether any client waits for bytes of this link."""
        return any(not answer.ended for answer in self.answers)

    def decoder_late_s(self) -> float:
        """How long the oldest bytes that are not decoded yet have waited."""
        return self._worker.late_s(time.monotonic())

    def start(self, answer: EdgeAnswer) -> None:
        """Ask for an answer."""
        answer.number = None
        answer.weak = self.weak
        answer.tokenizer = self.model.tokenizer.digest
        answer.last_event_s = time.monotonic()
        answer.attach(self.model.tokenizer.token_bytes, lambda: self.cancel(answer))
        self._unnumbered.append(answer)
        self._worker.request(
            lambda: answer_spec(answer.request, self.model),
            lambda outcome: self._on_number(answer, outcome),
        )

    def cancel(self, answer: EdgeAnswer) -> None:
        """Stop it inside, at once. Idempotent."""
        number = answer.number
        if number is not None and self._open.get(number) is answer and not answer.cancelled:
            answer.cancelled = True
            self._send(Cancel(number))

    def retire(self) -> None:
        """End when the open answers are over."""
        self._retired = True
        self._unwanted_s = time.monotonic()
        self._end_if_drained()

    def give_up_unwanted(self, now_s: float, patience_s: float) -> None:
        """Of a retired link: an enclave that does not end what no client waits for any more
        must not hold it for ever."""
        if self.waiting:
            self._unwanted_s = now_s
        elif now_s - self._unwanted_s > patience_s and not self._drained.done():
            self._drained.set_result(None)

    def refuse_hoarding(self) -> None:
        """An enclave that does not end cancelled answers fills the link for ever: end it."""
        if 2 * sum(answer.ended for answer in self.answers) > MAX_OPEN:
            self._on_error(LinkError("the enclave does not end the answers that were cancelled"))

    async def run(self, first: bytes) -> Exception | None:
        """Serve until the link is over: None where it was closed, else what broke it."""
        if first:
            self._worker.feed(first)
        reading = asyncio.create_task(self._read())
        try:
            over: set[asyncio.Future[Any]] = {reading, self._failed, self._drained}
            await asyncio.wait(over, return_when=asyncio.FIRST_COMPLETED)
            if self._failed.done():
                return self._failed.result()
            return reading.result() if reading.done() else None
        finally:
            reading.cancel()
            self.close()

    def close(self) -> None:
        self._closed = True
        self._wire.close()
        self._worker.close()

    def verified(self, timeout_s: float) -> dict[int, tuple[int, ...]]:
        """Behind the end: verified tokens of the answers that were open, by number; none
        where the decoder does not stop in time. Blocks."""
        if not self._worker.join(timeout_s):
            return {}
        return {answer.number: answer.verified for answer in self._decoder.open_answers()}

    async def _read(self) -> Exception | None:
        try:
            while (data := await self._wire.read()) is not None:
                self.last_read_s = time.monotonic()
                if data:
                    self._worker.feed(data)
                while self._worker.backlog_bytes > MAX_BACKLOG_BYTES:
                    self._room.clear()
                    await self._room.wait()
            await self._decode_the_rest()
        except LinkError as error:
            return error
        return None

    async def _decode_the_rest(self) -> None:
        """What has arrived still counts, but the next link does not wait for it: few bytes may
        hold very much work, and the answers that they belong to go on there."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(REST_S):
                while self._worker.backlog_bytes:
                    self._room.clear()
                    await self._room.wait()

    def _post(self, call: Callable[[], None]) -> None:
        try:
            self._loop.call_soon_threadsafe(call)
        except RuntimeError:
            self._worker.close()  # the loop is gone, and with it everyone who listens

    def _on_number(
        self, answer: EdgeAnswer, outcome: tuple[int, AnswerSpec] | NarrowsError
    ) -> None:
        if self._closed:
            return
        self._unnumbered.remove(answer)
        if isinstance(outcome, NarrowsError):
            answer.fail(problems.bad_request(f"The request cannot be coded: {outcome.message}."))
            self._ended(answer)
            self._end_if_drained()
            return
        answer.number, spec = outcome
        answer.prompt_tokens = len(spec.prompt)
        answer.temperature, answer.top_p = spec.temperature, spec.top_p
        self._open[answer.number] = answer
        self._send(answer.request)
        if answer.ended:
            self.cancel(answer)

    def _on_events(self, events: Events, fed_bytes: int) -> None:
        self._room.set()
        if self._closed:
            return
        self._charge(events, fed_bytes)
        now_s = time.monotonic()
        for number, event in events:
            answer = self._open.get(number)
            if answer is None:
                self._on_error(LinkError(f"an event of answer {number}, which is not open"))
                return
            answer.last_event_s = now_s
            answer.on_event(event)
            self._observer.moved(answer)
            if isinstance(event, Finished | Failed):
                del self._open[number]
                self.completed = True
                self._ended(answer)
        self._end_if_drained()

    def _on_gained(self, number: int, segments: Sequence[GainSegment]) -> None:
        answer = self._open.get(number)
        if answer is not None:
            self._observer.gained(answer, segments)

    def _end_if_drained(self) -> None:
        if self._retired and not self._open and not self._unnumbered and not self._drained.done():
            self._drained.set_result(None)

    def _charge(self, events: Events, fed_bytes: int) -> None:
        """Share the code length of a slice among the answers that it brought on, by what it
        brought; a slice that brings nothing is shared with the next one."""
        self._uncharged_bits += 8.0 * fed_bytes
        weights: dict[int, int] = {}
        for number, event in events:
            weights[number] = weights.get(number, 0) + _weight(event)
        total = sum(weights.values())
        if not total:
            return
        for number, weight in weights.items():
            if number in self._open:
                self._open[number].bits += self._uncharged_bits * weight / total
        self._uncharged_bits = 0.0

    def _on_error(self, error: Exception) -> None:
        if not self._failed.done() and not self._closed:
            self._failed.set_result(error)

    def _send(self, message: Message) -> None:
        if self._closed:
            return
        try:
            self._wire.write(encode_frame(message))
        except LinkError as error:  # bodies are limited so that a frame always fits
            self._on_error(error)


def _weight(event: Event) -> int:
    if isinstance(event, Tokens):
        return len(event.ids)
    return len(event.data) if isinstance(event, Text) else 1
