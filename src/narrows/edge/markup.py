"""A model's text with its markup, taken apart while it comes.

The same text gives the same parts however it is cut into pieces. Nothing is lost but the markers
themselves, the space before ``<think>``, and what only separates calls: space, and ``;`` in
Llama 3's form. What is no call (``calls.py``) stays content, its markers with it. A call is told
when it is complete, since only then it is known to be one; so at most ``MAX_HELD_CHARS`` are held,
and what is longer is content. Every step is linear in the text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container

from narrows.coding.events import Channel
from narrows.coding.markup import THINK, THOUGHT, CallForm, Markup, ReasoningForm
from narrows.edge.calls import WrittenCall, read_call

MAX_HELD_CHARS = 1 << 20

_CALL, _CALLED = "<tool_call>", "</tool_call>"
_PYTHON = "<|python_tag|>"
_BETWEEN = " \t\r\n;"
_NOT_SPACE = re.compile(r"[^ \t\r\n]")
_NOT_BETWEEN = re.compile(r"[^ \t\r\n;]")
_MARKS = re.compile(r'["\\{}]')
_KEYS = {CallForm.HERMES: ("arguments",), CallForm.LLAMA3: ("parameters", "arguments")}

MarkupPart = tuple[Channel, str]
"""Of ``TOOL_NAME`` always a whole name, followed by all of its ``TOOL_ARGUMENTS``."""


class MarkupReader:
    """``tools``: names that may be called. Each state is a method that takes what it can of the
    text and says whether another state may go on."""

    def __init__(self, markup: Markup, tools: Container[str]) -> None:
        self._markup = markup
        self._tools = tools
        self._text = ""
        self._at = 0
        self._final = False
        self._held: list[str] = []  # read and not told yet
        self._held_chars = 0
        self._called = False
        self._depth = 0
        self._quoted = self._escaped = False
        self._parts: list[MarkupPart] = []
        reasons = markup.reasoning in (ReasoningForm.MARKED, ReasoningForm.BEGUN)
        self._state: Callable[[], bool] = self._before if reasons else self._body()

    @property
    def reasoning(self) -> bool:
        """Whether what comes next is reasoning, as far as is known."""
        begun = self._markup.reasoning is ReasoningForm.BEGUN
        return self._state == self._thinking or (begun and self._state == self._before)

    def feed(self, text: str) -> list[MarkupPart]:
        """What ``text`` completes."""
        self._text = self._text[self._at :] + text
        self._at = 0
        while self._state():
            pass
        parts, self._parts = self._parts, []
        return parts

    def finish(self) -> list[MarkupPart]:
        """The rest, at the answer's end."""
        self._final = True
        parts = self.feed("")
        begun = self._state == self._before and self.reasoning
        between = self._state == self._after or (self._state == self._gap and self._called)
        if between and not "".join(self._held).strip(_BETWEEN):
            self._drop()
        self._tell_held(Channel.REASONING if begun else Channel.CONTENT)
        parts, self._parts = [*parts, *self._parts], []
        return parts

    # -- reasoning -------------------------------------------------------------------------

    def _before(self) -> bool:
        """Space, and whether a marker opens the reasoning."""
        if not self._space():
            return False
        if self._starts(THINK) is None:
            return False
        begun = self._markup.reasoning is ReasoningForm.BEGUN
        if self._starts(THINK):
            self._at += len(THINK)
            self._drop()
            return self._go(self._thinking)
        if begun:
            self._tell_held(Channel.REASONING)
            return self._go(self._thinking)
        return self._go(self._body())

    def _thinking(self) -> bool:
        text, found = self._until(THOUGHT)
        self._tell(Channel.REASONING, text)
        return found and self._go(self._body())

    def _body(self) -> Callable[[], bool]:
        """The state in which content begins."""
        match self._markup.calls:
            case CallForm.HERMES:
                return self._content
            case CallForm.LLAMA3:
                return self._gap
        return self._rest

    # -- Hermes ----------------------------------------------------------------------------

    def _content(self) -> bool:
        self._tell_held(Channel.CONTENT)
        text, found = self._until(_CALL)
        self._tell(Channel.CONTENT, text)
        return found and self._go(self._calling)

    def _calling(self) -> bool:
        """Between the markers of a call, of which only the text is held."""
        start = self._at
        text, found = self._until(_CALLED)
        room = MAX_HELD_CHARS - self._held_chars
        if len(text) > room:
            self._at = start + room
            self._hold(text[:room])
            self._tell(Channel.CONTENT, _CALL)
            return self._go(self._content)
        self._hold(text)
        if not found and not self._final:
            return False
        # At the end of an answer a call may lack its end marker, or a part of that.
        part = "" if found else _partial(self._text, start, _CALLED)
        whole = "".join(self._held)
        call = self._read(whole)
        if call is None and part:
            call = self._read(whole.removesuffix(part))
        if call is not None:
            self._drop()
            self._tell_call(call)
            return self._go(self._after)
        self._tell(Channel.CONTENT, _CALL)
        self._tell_held(Channel.CONTENT)
        self._tell(Channel.CONTENT, _CALLED if found else "")
        return self._go(self._content)

    def _after(self) -> bool:
        """Behind a call: space before the next one, or at the end, is no content."""
        if not self._space():
            return False
        starts = self._starts(_CALL)
        if starts is None:
            return False
        if not starts:
            return self._go(self._content)
        self._at += len(_CALL)
        self._drop()
        return self._go(self._calling)

    # -- Llama 3 ---------------------------------------------------------------------------

    def _gap(self) -> bool:
        """Before an object: what may stand there, and whether one begins."""
        if not self._space(_NOT_BETWEEN if self._called else _NOT_SPACE):
            return False
        if self._text[self._at] == "{":
            return self._go(self._object)
        starts = self._starts(_PYTHON)
        if starts is None:
            return False
        if not starts or self._held_chars + len(_PYTHON) > MAX_HELD_CHARS:
            return self._go(self._rest)
        self._hold(_PYTHON)
        self._at += len(_PYTHON)
        return True

    def _object(self) -> bool:
        """Up to the brace that closes the object."""
        start, end = self._at, self._close()
        text = self._text[start : len(self._text) if end is None else end]
        if len(text) > MAX_HELD_CHARS - self._held_chars:
            return self._go(self._rest)
        self._at += len(text)
        self._hold(text)
        if end is None:
            return self._final and self._go(self._rest)
        whole = "".join(self._held)
        call = self._read(whole[whole.index("{") :])
        if call is None:
            return self._go(self._rest)
        self._drop()
        self._called = True
        self._tell_call(call)
        return self._go(self._gap)

    def _close(self) -> int | None:
        """Where the object ends, or None; keeps count of braces and quotes."""
        at = self._at
        while at < len(self._text):
            if self._escaped:
                self._escaped = False
                at += 1
                continue
            mark = _MARKS.search(self._text, at)
            if mark is None:
                return None
            at = mark.end()
            char = mark.group()
            if self._quoted:
                self._quoted = char != '"'
                self._escaped = char == "\\"
            elif char == '"':
                self._quoted = True
            elif char in "{}":
                self._depth += 1 if char == "{" else -1
                if self._depth == 0:
                    return at
        return None

    def _rest(self) -> bool:
        """Nothing but content from here on."""
        self._tell_held(Channel.CONTENT)
        self._tell(Channel.CONTENT, self._text[self._at :])
        self._at = len(self._text)
        return False

    # -- what all states use ---------------------------------------------------------------

    def _go(self, state: Callable[[], bool]) -> bool:
        self._state = state
        return True

    def _until(self, marker: str) -> tuple[str, bool]:
        """The text up to ``marker``, which is passed over, and whether it is there. What may be
        the start of one stays until more is known."""
        start, found = self._at, self._text.find(marker, self._at)
        if found >= 0:
            self._at = found + len(marker)
            return self._text[start:found], True
        keep = "" if self._final else _partial(self._text, start, marker)
        self._at = len(self._text) - len(keep)
        return self._text[start : self._at], False

    def _starts(self, marker: str) -> bool | None:
        """Whether ``marker`` is next; None where that is not known yet."""
        text = self._text[self._at : self._at + len(marker)]
        if text == marker:
            return True
        return None if marker.startswith(text) and not self._final else False

    def _space(self, other: re.Pattern[str] = _NOT_SPACE) -> bool:
        """Hold the space that is next, all that is not ``other``. Whether something follows."""
        mark = other.search(self._text, self._at)
        end = len(self._text) if mark is None else mark.start()
        room = MAX_HELD_CHARS - self._held_chars
        over = end - self._at > room  # more than can be held is something else, too
        end = min(end, self._at + room)
        self._hold(self._text[self._at : end])
        self._at = end
        return over or mark is not None

    def _hold(self, text: str) -> None:
        if text:
            self._held.append(text)
            self._held_chars += len(text)

    def _drop(self) -> None:
        self._held.clear()
        self._held_chars = 0

    def _tell_held(self, channel: Channel) -> None:
        self._tell(channel, "".join(self._held))
        self._drop()

    def _tell(self, channel: Channel, text: str) -> None:
        if text:
            self._parts.append((channel, text))

    def _tell_call(self, call: WrittenCall) -> None:
        self._parts += [(Channel.TOOL_NAME, call.name), (Channel.TOOL_ARGUMENTS, call.arguments)]

    def _read(self, text: str) -> WrittenCall | None:
        return read_call(text, _KEYS[self._markup.calls], self._tools)


def _partial(text: str, start: int, marker: str) -> str:
    """The longest proper prefix of ``marker`` at the end of ``text[start:]``."""
    for size in range(min(len(marker) - 1, len(text) - start), 0, -1):
        if text.endswith(marker[:size]):
            return marker[:size]
    return ""
