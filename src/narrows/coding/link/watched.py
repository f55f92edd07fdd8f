"""A link's decoder that also says how lucky each coupled answer's tokens were."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from narrows.coding.events import Event, Failed, Finished
from narrows.coding.link.answer import Answer
from narrows.coding.link.decoder import LinkDecoder
from narrows.coding.link.options import LinkOptions
from narrows.coding.tokens.gain import GainCode, GainSegment
from narrows.errors import LinkError
from narrows.models.api import TokenModel

Gained = Callable[[int, Sequence[GainSegment]], None]


class WatchedDecoder(LinkDecoder):
    """Decodes the same, to the bit.

    ``gained``: told, inside ``step``, the number of an answer and the segments that it has
    completed; the last one, before the step that brings its end returns, may be short."""

    def __init__(self, model: TokenModel, options: LinkOptions | None = None) -> None:
        super().__init__(model, options, make_code=GainCode)
        self.gained: Gained = _nobody
        self._watched: dict[int, GainCode] = {}

    def opened(self, answer: Answer) -> None:
        """As of ``LinkDecoder``."""
        super().opened(answer)
        if isinstance(answer.code, GainCode) and answer.code.coupled:
            self._watched[answer.number] = answer.code

    def step(self, data: bytes) -> list[tuple[int, Event]]:
        """As of ``LinkDecoder``; behind an error too, what came before it is told."""
        try:
            events = super().step(data)
        except LinkError:
            for number in list(self._watched):
                self._tell(number, over=True)
            raise
        over = {number for number, event in events if isinstance(event, Finished | Failed)}
        for number in dict.fromkeys(number for number, _ in events):
            self._tell(number, number in over)
        return events

    def _tell(self, number: int, over: bool) -> None:
        code = self._watched.get(number)
        if code is None:
            return
        if over:
            del self._watched[number]
        if segments := code.take(over):
            self.gained(number, segments)


def _nobody(number: int, segments: Sequence[GainSegment]) -> None:
    """Until someone listens."""
