"""A backend's events into a link's encoder: what is wrong with one answer ends that answer alone.

The encoder refuses what does not fit (``InputError``) and ends what passes a limit of the link.
Neither may reach the session, whose end would be that of every answer on the link.
"""

from __future__ import annotations

import codecs
import logging
from collections.abc import Sequence

from narrows.coding.events import Coding, Event, Failed, Failure, Finished, Opened, Text, Tokens
from narrows.coding.link.encoder import LinkEncoder
from narrows.errors import InputError
from narrows.models.api import Tokenizer
from narrows.wire.stops import StopFinder

log = logging.getLogger("narrows.enclave.session")


def deliver(encoder: LinkEncoder, number: int, event: Event) -> bool:
    """Put one event of a requested answer. False: the answer is over, so that its backend need
    not go on."""
    if encoder.is_over(number):
        if not isinstance(event, Finished | Failed):
            log.warning("answer %d was ended: it passed a limit of the link", number)
        return False
    try:
        if isinstance(event, Opened):
            encoder.open(number, event.coding, event.noise)
        else:
            encoder.put(number, event)
    except InputError as error:
        log.error("a backend broke the order of an answer's events: %s", error)
        fail(encoder, number)
        return False
    return not isinstance(event, Finished | Failed)


def finish(encoder: LinkEncoder, number: int, event: Finished | Failed) -> None:
    """End a requested answer, opened or not, unless it is over already."""
    if encoder.is_over(number):
        encoder.forget(number)
        return
    if not encoder.is_open(number):
        encoder.open(number, Coding.PLAIN)
    encoder.put(number, event)


def fail(encoder: LinkEncoder, number: int) -> None:
    """``finish`` with the code for a bug in here."""
    finish(encoder, number, Failed(Failure.INTERNAL))


class ToText:
    """A backend's own tokens as text for a weak model with another vocabulary. ``stops``: cut
    here, since the edge leaves text to the server that wrote it."""

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str] = ()) -> None:
        self._token_bytes = tokenizer.token_bytes
        self._finder = StopFinder(stops)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def events(self, event: Event) -> tuple[Event, ...]:
        if isinstance(event, Opened):
            return (Opened(Coding.TEXT),)
        if isinstance(event, Tokens):
            data = b"".join(self._token_bytes(token) for token in event.ids)
            text = self._finder.feed(self._decoder.decode(data)).encode()
            return (Text(text),) if text else ()
        if isinstance(event, Finished):
            last = self._finder.feed(self._decoder.decode(b"", final=True))
            rest = (last + self._finder.finish()).encode()
            return (Text(rest), event) if rest else (event,)
        return (event,)
