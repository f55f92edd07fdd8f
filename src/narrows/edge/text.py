"""From the link's tokens or bytes to text, without changing a character.

Native answers: token bytes joined, UTF-8 read incrementally; bytes that are no UTF-8 become
U+FFFD, as in any chat server. Foreign text: UTF-8 with surrogates kept (``surrogatepass``).

A high surrogate at the end waits for its partner: to a JSON reader an escaped pair is one
character, so what the client gets would otherwise depend on where the edge cuts its chunks.
"""

from __future__ import annotations

import codecs

from narrows.errors import LinkError


class TextDecoder:
    """``native``: tokens of the weak model (lossy on bad UTF-8), else foreign text (strict)."""

    def __init__(self, native: bool) -> None:
        errors = "replace" if native else "surrogatepass"
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors)
        self._high = ""

    def feed(self, data: bytes, final: bool = False) -> str:
        """Text that ``data`` completes. Raises LinkError on foreign bytes that are no text."""
        try:
            text = self._high + self._decoder.decode(data, final)
        except UnicodeDecodeError as error:
            raise LinkError("an answer's text is not UTF-8") from error
        self._high = ""
        if not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
            text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
            if not final and "\ud800" <= text[-1] <= "\udbff":
                text, self._high = text[:-1], text[-1]
        return text

    def finish(self) -> str:
        """What was held back, at the end of a piece of text."""
        return self.feed(b"", final=True)
