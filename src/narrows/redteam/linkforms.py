"""Attacks in the form of the coded stream, read by whoever is at the gate's port with a decoder."""

from __future__ import annotations

from collections.abc import Callable, Generator

from narrows.coding.events import AnswerSpec, Coding, Event, Finish, Finished, Text, Tokens
from narrows.coding.link.answer import Item, Kind
from narrows.coding.link.decoder import LinkDecoder
from narrows.coding.link.encoder import LinkEncoder
from narrows.coding.link.ends import DecoderPort
from narrows.coding.link.rounds import Action
from narrows.coding.link.symbols import IntStep
from narrows.models.bytemodel import END, ByteModel
from narrows.redteam.attack import Effort, attack
from narrows.redteam.payload import Decoded, symbols
from narrows.redteam.site import Site, passed

READ_S = 20.0
SPEC = AnswerSpec(prompt=(10,), max_tokens=1 << 16)
STEP_MS = 1000.0


class HostileEncoder(LinkEncoder):
    """An encoder that may also say what an honest one never would, and that the grammar allows."""

    def begin(self, coding: Coding) -> None:
        """The one answer, open."""
        self.request(SPEC)
        self.open(0, coding)
        self._clock_ms = 0.0

    def say(self, event: Event) -> bytes:
        self.put(0, event)
        return self.turn()

    def turn(self) -> bytes:
        """Everything that is due, pushed."""
        self._clock_ms += STEP_MS
        return self.poll(self._clock_ms)

    def act(self, action: Action) -> bytes:
        """A PUSH or PAD of our own."""
        for _ in self._grammar.act(action):
            pass
        return self._port.coder.take()

    def item(self, item: Item) -> bytes:
        """An item that no event makes."""
        self._sources[0].queue.append(item)
        return self.turn()


class NotingPort(DecoderPort):
    """Notes what a decoder passes over: pushes and pads."""

    def __init__(self, before_wait: Callable[[], None]) -> None:
        super().__init__(before_wait)
        self.noted: list[str] = []

    def push(self) -> Generator[None, None, None]:
        yield from super().push()
        self.noted.append("push")

    def raw(self, bits: int, value: int | None) -> IntStep:
        number = yield from super().raw(bits, value)
        if bits == 16:
            self.noted.append("pad")
        return number


Said = list[tuple[str, Event | None]]


def exchange(site: Site, say: Callable[[HostileEncoder], bytes], coding: Coding) -> Said:
    """What ``say`` makes, sent through the gate in one piece and decoded outside: pushes and
    pads by name, events as ``event``, in order."""
    encoder = HostileEncoder(site.inside.model)
    encoder.begin(coding)
    data = say(encoder) + encoder.say(Finished(Finish.STOP)) + encoder.turn()
    encoder.close()

    received = passed(site, data, READ_S).data
    ports: list[NotingPort] = []

    def port(before_wait: Callable[[], None]) -> NotingPort:
        ports.append(NotingPort(before_wait))
        return ports[-1]

    decoder = LinkDecoder(ByteModel(), make_port=port)
    decoder.request(SPEC)
    said: Said = []
    for at in range(len(received)):
        events = decoder.feed(received[at : at + 1])
        said += [(name, None) for name in ports[0].noted]
        ports[0].noted.clear()
        said += [("event", event) for _, event in events]
    decoder.close()
    return said


@attack("pushes", "link")
def pushes(site: Site, effort: Effort) -> Decoded:
    """A push behind a token, or two.

    Sees: the bytes at the gate's port.
    Decodes: whether one push or two came behind each token, one bit.
    Charged: a push is at least a byte, and it is announced.
    """
    secrets = [effort.secret.take(1) for _ in range(effort.times(40))]

    def say(encoder: HostileEncoder) -> bytes:
        data = b""
        for secret in secrets:
            data += encoder.say(Tokens((111,))) + encoder.turn()
            data += encoder.act(Action.PUSH) if secret else b""
        return data

    said = exchange(site, say, Coding.PLAIN)
    return Decoded(effort.secret.taken, _behind_tokens(said, "push", len(secrets), 1))


@attack("pads", "link")
def pads(site: Site, effort: Effort) -> Decoded:
    """Padding that buys no model steps, none to three behind each token.

    Sees: the bytes at the gate's port.
    Decodes: two bits by the number of pads.
    Charged: a pad is 16 bits, and it is announced.
    """
    secrets = [effort.secret.take(2) for _ in range(effort.times(24))]

    def say(encoder: HostileEncoder) -> bytes:
        data = b""
        for secret in secrets:
            data += encoder.say(Tokens((111,)))
            for _ in range(secret):
                data += encoder.act(Action.PAD)
        return data

    said = exchange(site, say, Coding.PLAIN)
    return Decoded(effort.secret.taken, _behind_tokens(said, "pad", len(secrets), 2, usual=0))


def _behind_tokens(
    said: Said, name: str, count: int, bits: int, usual: int = 1
) -> list[int | None]:
    """How many of ``name`` came behind each token beyond the usual, as bits."""
    found: list[int] = []
    for what, event in said:
        if isinstance(event, Tokens):
            found.append(-usual)
        elif what == name and found:
            found[-1] += 1
    return symbols([one if 0 <= one < 1 << bits else None for one in found[:count]], bits)


@attack("literals", "link")
def literals(site: Site, effort: Effort) -> Decoded:
    """End tokens that do not end, between tokens that are text.

    Sees: the tokens at the edge.
    Decodes: a literal in a place is a 1.
    Charged: a literal is an escape, a kind and 32 raw bits.
    """
    secrets = [effort.secret.take(1) for _ in range(effort.times(64))]

    def say(encoder: HostileEncoder) -> bytes:
        return b"".join(encoder.say(Tokens((END if one else 111,))) for one in secrets)

    found = [e.ids[0] for _, e in exchange(site, say, Coding.PLAIN) if isinstance(e, Tokens)]
    return Decoded(effort.secret.taken, [int(token == END) for token in found])


@attack("byte-escapes", "link")
def byte_escapes(site: Site, effort: Effort) -> Decoded:
    """A byte of text as an escape, where a token would say the same.

    Sees: the stream at the gate's port.
    Decodes: the escape's raw byte, and by its mere use, eight bits each.
    Charged: an escape, a kind and eight raw bits.
    """
    secrets = [effort.secret.take(8) for _ in range(effort.times(48))]

    def say(encoder: HostileEncoder) -> bytes:
        data = encoder.say(Text(b"o")) + encoder.turn()
        for one in secrets:
            data += encoder.item(Item(Kind.BYTE, one, size=1))
        return data

    texts = [e.data for _, e in exchange(site, say, Coding.TEXT) if isinstance(e, Text)]
    return Decoded(effort.secret.taken, symbols(list(b"".join(texts)[1:]), 8))
