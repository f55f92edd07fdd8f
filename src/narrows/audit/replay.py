"""A tape into segments: each link decoded as its edge decodes it, and nothing of it believed.

An answer is creditable only if its whole request had arrived before any byte was sent in which
its OPEN can be: else a colluding edge writes the prompt that explains what came. A link's first
byte that cannot be decoded ends its segments; what is decoded before it keeps its worth.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, replace

from narrows.audit import reasons
from narrows.audit.keybook import KeyBook
from narrows.audit.port import AuditPort
from narrows.audit.segments import Answering, Segment, coding_fault
from narrows.coding.events import Channel
from narrows.coding.link.answer import Answer, Item, Kind
from narrows.coding.link.decoder import LinkDecoder
from narrows.coding.link.options import LinkLimits, LinkOptions
from narrows.coding.markup import reads_markup
from narrows.coding.spec import answer_spec
from narrows.errors import NarrowsError
from narrows.models.api import TokenModel
from narrows.wire.messages import FrameReader, Greeting, Hello, Message, Request
from narrows.wire.tape import Begin, Inward, LinkEnd, Outward, Record, TapeReader, encode

GREETING_BYTES = 2
MAX_WAITING = 4096
"""Requests of one link that no answer has been opened for."""
KEPT = "reasoning that stayed inside decides the tokens"
LATE = "request after its answer was opened"


class _Decoder(LinkDecoder):
    """Tells its link what was opened and coded."""

    def __init__(self, link: LinkReplay, model: TokenModel, options: LinkOptions) -> None:
        super().__init__(model, options, make_port=self._account)
        self._link = link

    def _account(self, before_wait: Callable[[], None]) -> AuditPort:
        self.account = AuditPort(before_wait)
        return self.account

    def opened(self, answer: Answer) -> None:
        super().opened(answer)
        self._link.opened(answer, self.account.open_position)

    def coded(self, answer: Answer, item: Item) -> None:
        super().coded(answer, item)
        self._link.coded(answer, item, self.account.token_q16)


class LinkReplay:
    """One link of a tape. ``fault``: why its bytes count in full from some point on."""

    def __init__(self, link: int, weak: Mapping[bytes, TokenModel], keys: KeyBook) -> None:
        self.fault: str | None = None
        self.weak: TokenModel | None = None
        self._link = link
        self._models = weak
        self._keys = keys
        self._frames = FrameReader()
        self._hello: Hello | None = None
        self._greeting = b""
        self.sent = 0  # bytes outward, the greeting's among them
        self._decoder: _Decoder | None = None
        self._early: list[Request] = []  # before the greeting said which model
        self._requests: dict[int, tuple[Request, int]] = {}
        self._answers: dict[int, Answering] = {}
        self._segments: list[Segment] = []
        self._digest = hashlib.sha256()

    @property
    def bits(self) -> dict[str, float]:
        """Code length by kind, of what is decoded."""
        return {} if self._decoder is None else dict(self._decoder.account.bits)

    @property
    def checked_bits(self) -> int:
        """Bits of checks that were right: nobody was free to choose them."""
        return 0 if self._decoder is None else self._decoder.account.checked_bits

    def take(self, record: Record) -> list[Segment]:
        """The segments that this record completes."""
        self._digest.update(encode(record))
        try:
            if self.fault is None:
                self._follow(record)
        except NarrowsError as error:
            self.fault = error.message
        except RecursionError:
            self.fault = "a request that nests too deeply"
        if self.fault is not None or isinstance(record, LinkEnd):
            self._stop()
        segments, self._segments = self._segments, []
        return segments

    def close(self) -> None:
        """Give the weak model's memory back. Idempotent."""
        if self._decoder is not None:
            self._decoder.close()

    def _follow(self, record: Record) -> None:
        if isinstance(record, Inward):
            for message in self._frames.feed(record.data):
                if self.fault is None:
                    self._message(message)
        elif isinstance(record, Outward) and record.data:
            self._outward(record.data)

    def _message(self, message: Message) -> None:
        if self._hello is None:
            if not isinstance(message, Hello):
                self.fault = "the first message is no hello"
                return
            self._hello = message
        elif isinstance(message, Hello):
            self.fault = "a second hello"
        elif isinstance(message, Request):
            if len(self._early) + len(self._requests) >= MAX_WAITING:
                self.fault = f"more than {MAX_WAITING} requests wait"
            elif self._decoder is None or self.weak is None:
                self._early.append(message)
            else:
                self._request(self._decoder, self.weak, message)

    def _request(self, decoder: _Decoder, weak: TokenModel, request: Request) -> None:
        number = decoder.request(answer_spec(request, weak))
        self._requests[number] = (request, max(0, self.sent - GREETING_BYTES))

    def _outward(self, data: bytes) -> None:
        want = GREETING_BYTES - len(self._greeting)
        self._greeting += data[:want]
        rest = data[want:] if want > 0 else data
        if self._decoder is None and len(self._greeting) == GREETING_BYTES:
            self._begin()
        if self._decoder is not None and rest:
            self._decoder.feed(rest)
        self.sent += len(data)

    def _begin(self) -> None:
        self.weak = self._greeted()
        if self.weak is None or self._hello is None:
            return
        options = LinkOptions.from_wire(self._hello.options)
        self.fault = _beyond(options.limits, self.weak)
        if self.fault is not None:
            return
        self._decoder = _Decoder(self, self.weak, options)
        for request in self._early:  # came before the greeting, so before any coded byte
            self._request(self._decoder, self.weak, request)
        self._early.clear()

    def _greeted(self) -> TokenModel | None:
        code, index = self._greeting
        if self._hello is None:
            self.fault = "a greeting before any hello"
        elif code != Greeting.OK:
            self.fault = "the enclave refused the link"
        elif index >= len(self._hello.weak):
            self.fault = "the greeting names no weak model that was offered"
        else:
            name = self._hello.weak[index].digest
            found = self._models.get(bytes.fromhex(name)) if _is_hex(name) else None
            if found is None:
                self.fault = f"weak model {name[:16]} is not here"
            return found
        return None

    def _stop(self) -> None:
        for answer in self._answers.values():
            answer.cut()
        self._answers.clear()
        self._requests.clear()
        self._early.clear()
        self.close()

    # -- the decoder's side ----------------------------------------------------------------

    def opened(self, answer: Answer, open_position: int) -> None:
        request, sent = self._requests.pop(answer.number)
        use, why = self._keys.open(request)
        late = LATE if sent > open_position else None
        self._answers[answer.number] = Answering(
            self._link,
            answer.number,
            request,
            answer.spec,
            b"" if self.weak is None else self.weak.tokenizer.digest,
            use,
            late or why or coding_fault(answer.coding),
            lambda segment: self._segments.append(segment),
            lambda: self._digest.copy().digest(),
            lambda: self.sent,
            said=list(answer.spec.resume),
        )

    def coded(self, answer: Answer, item: Item, token_q16: int) -> None:
        mine = self._answers[answer.number]
        if item.kind in (Kind.TOKEN, Kind.LITERAL):
            self._keys.token(mine.use, item.value)
            mine.take(item.value, token_q16 if item.kind is Kind.TOKEN else 0)
        elif item.kind is Kind.SWITCH:
            # A head says how the text is written; the tokens behind it are still the model's.
            if answer.token_count or not reads_markup(mine.request.body):
                mine.refuse("another channel than the content")
            elif item.value == Channel.REFUSAL and not mine.head:
                mine.refuse(KEPT)
            mine.head = True
        elif item.end is not None:
            mine.cut()
            self._keys.close(mine.use)
            del self._answers[answer.number]


class TapeReplay:
    """A tape, bytes in and segments out, in order of completion. Memory: that of its open
    links, and the key book's. InputError where the tape itself breaks a rule."""

    def __init__(self, weak: Mapping[bytes, TokenModel], keys: KeyBook | None = None) -> None:
        """``keys``: of the tapes before, where there were any."""
        self.reader = TapeReader()
        self.paid_bytes = 0
        self.data_bytes = 0
        self.bits: dict[str, float] = {}
        self.faults: dict[str, int] = {}
        self._weak = weak
        self.keys = KeyBook() if keys is None else keys
        self._links: dict[int, LinkReplay] = {}
        self.checked_bits = 0
        """Of all links."""

    def feed(self, data: bytes) -> Iterator[Segment]:
        """Lazily: nothing is read unless the segments are."""
        for record in self.reader.feed(data):
            yield from self.take(record)

    def take(self, record: Record) -> list[Segment]:
        """The segments that this record completes."""
        if isinstance(record, Begin):
            self._links[record.link] = LinkReplay(record.link, self._weak, self.keys)
        if isinstance(record, Outward):
            self.paid_bytes += record.paid_bytes
            self.data_bytes += len(record.data)
        link = self._links[record.link]
        checked = link.checked_bits
        segments = link.take(record)
        self.checked_bits += link.checked_bits - checked
        if isinstance(record, LinkEnd):
            self._finish(record.link)
        return segments

    def next_tape(self, reader: TapeReader) -> None:
        """Go on with another one. Call ``end`` before."""
        self.reader = reader

    def end(self) -> None:
        """The tape goes no further: accounts of links that are still open are added."""
        for link in list(self._links):
            self._finish(link)

    def close(self) -> None:
        """As ``end``. InputError where what was read last has broken a rule."""
        self.end()
        self.reader.feed(b"")

    def _finish(self, number: int) -> None:
        link = self._links.pop(number)
        link.close()
        for kind, bits in link.bits.items():
            self.bits[kind] = self.bits.get(kind, 0.0) + bits
        if link.fault is not None:
            reasons.count(self.faults, link.fault)


def _beyond(limits: LinkLimits, weak: TokenModel) -> str | None:
    """What of a link's limits is more than the auditor bears, whoever has chosen it."""
    most = LinkLimits()
    room = max(most.max_cache_bytes, weak.cache_bytes)
    most = replace(most, max_cache_bytes=room)
    names = [field.name for field in fields(LinkLimits)]
    high = [name for name in names if getattr(limits, name) > getattr(most, name)]
    return f"limits above the auditor's own: {', '.join(high)}" if high else None


def _is_hex(text: str) -> bool:
    try:
        return len(bytes.fromhex(text)) == 32
    except ValueError:
        return False
