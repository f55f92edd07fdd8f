"""``narrows bench less``: what each way to send less saves, on a link of its own.

A scripted model server answers, in this process: real answers, and in front of each so much
reasoning that it is ``share`` of the bytes, taken from the other answers. Every mode runs the
enclave's own reader and filter over the same chunks, its own encoder, and a decoder that must give
the same content again.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Any

from narrows.coding.events import Channel, Coding, Event, Finished, Switch, Text, Usage
from narrows.coding.kept import ReasoningLevel
from narrows.coding.link.decoder import LinkDecoder
from narrows.coding.link.encoder import LinkEncoder
from narrows.coding.spec import answer_spec
from narrows.enclave.chunks import ChunkReader
from narrows.enclave.less.withheld import ReasoningFilter, ReasoningRule, kept
from narrows.errors import InputError
from narrows.models.api import TokenModel
from narrows.rows import messages_of
from narrows.wire.messages import Request

PIECE_CHARS = 12
STEP_MS = 50.0
_MAX_BYTES = 1 << 24
_MAX_POLLS = 100_000


@dataclass(frozen=True, slots=True)
class Scripted:
    """One answer of the scripted server. Its figures count characters as tokens."""

    messages: list[dict[str, Any]]
    reasoning: str
    content: str

    def payloads(self) -> list[bytes]:
        """The chunks that the server streams."""
        deltas = [{"reasoning_content": part} for part in _cut(self.reasoning)]
        deltas += [{"content": part} for part in _cut(self.content)]
        chunks: list[dict[str, Any]] = [{"choices": [{"delta": delta}]} for delta in deltas]
        chunks.append({"choices": [{"delta": {}, "finish_reason": "stop"}]})
        usage = {"prompt_tokens": 1, "completion_tokens": len(self.reasoning + self.content)}
        details = {"reasoning_tokens": len(self.reasoning)}
        chunks.append({"choices": [], "usage": usage | {"completion_tokens_details": details}})
        return [json.dumps(chunk).encode() for chunk in chunks]


def scripted(rows: Sequence[dict[str, Any]], share: float) -> list[Scripted]:
    """``rows`` with reasoning that makes ``share`` of the characters of each. InputError: they
    hold no text."""
    said = [row["response"] for row in rows]
    if not "".join(said).strip():
        raise InputError("the answers are empty")
    made = []
    for index, row in enumerate(rows):
        length = round(len(row["response"]) * share / (1 - share))
        others = "\n".join([*said[index + 1 :], *said[:index]]) or row["response"]
        text = (others * (length // len(others) + 1))[:length]
        made.append(Scripted(messages_of(row), text, row["response"]))
    return made


def measure(model: TokenModel, rows: Sequence[dict[str, Any]], share: float) -> dict[str, Any]:
    """The report: ``modes``, by name ``bytes``, ``full_bytes`` (of the same answers sent whole),
    ``answers``, ``saved_share``, and whether text and usage were ``exact``."""
    answers = scripted(rows, share)
    full_bytes, full_exact = _run(model, answers, ReasoningRule())
    kept_bytes, kept_exact = _run(model, answers, ReasoningRule(ReasoningLevel.KEEP))
    modes = {
        "plain": _mode(full_bytes, full_bytes, len(rows), full_exact),
        "kept": _mode(kept_bytes, full_bytes, len(rows), kept_exact),
    }
    return {"weak": model.name, "reasoning_share": share, "modes": modes}


def _mode(size_bytes: int, full_bytes: int, answers: int, exact: bool) -> dict[str, Any]:
    return {
        "bytes": size_bytes,
        "full_bytes": full_bytes,
        "answers": answers,
        "saved_share": 1 - size_bytes / full_bytes,
        "exact": exact,
    }


def _run(model: TokenModel, answers: Sequence[Scripted], rule: ReasoningRule) -> tuple[int, bool]:
    """All answers over one link: its bytes, and whether what came out was right."""
    encoder, decoder = LinkEncoder(model), LinkDecoder(model)
    now_ms, size_bytes, exact = 0.0, 0, True
    try:
        for index, answer in enumerate(answers):
            body = {"messages": answer.messages, "max_tokens": 1 << 16}
            # A scope of its own: the reasoning of one is the content of others, and would be known.
            request = Request(f"{index:032x}", body, f"{index:064x}", scope=index + 1)
            number = encoder.request(answer_spec(request, model))
            decoder.request(answer_spec(request, model))
            encoder.open(number, Coding.TEXT)
            for event in asyncio.run(_events(answer, rule)):
                encoder.put(number, event)
            found: list[Event] = []
            for _ in range(_MAX_POLLS):
                data = encoder.poll(now_ms)
                size_bytes += len(data)
                found += [event for _, event in decoder.feed(data)] if data else []
                if found and isinstance(found[-1], Finished):
                    break
                now_ms += STEP_MS
            else:
                raise InputError("an answer did not come to its end")
            exact = exact and _right(answer, found, rule)
    finally:
        encoder.close()
        decoder.close()
    return size_bytes, exact


async def _events(answer: Scripted, rule: ReasoningRule) -> list[Event]:
    reader = ChunkReader(_MAX_BYTES)

    async def read() -> AsyncGenerator[Event, None]:
        for payload in answer.payloads():
            for event in reader.chunk(payload):
                yield event
        for event in reader.end():
            yield event

    events = read()
    if rule.most is ReasoningLevel.KEEP:
        events = kept(events, reader, ReasoningFilter(rule.limit_bytes), says_count=True)
    return [event async for event in events]


def _right(answer: Scripted, events: Sequence[Event], rule: ReasoningRule) -> bool:
    told: dict[Channel, bytes] = {}
    channel, usage = Channel.CONTENT, None
    for event in events:
        if isinstance(event, Switch):
            channel = event.channel
        elif isinstance(event, Text):
            told[channel] = told.get(channel, b"") + event.data
        elif isinstance(event, Usage):
            usage = event
    want = {Channel.CONTENT: answer.content}
    if rule.most is ReasoningLevel.SEND:
        want[Channel.REASONING] = answer.reasoning
    else:
        want[Channel.REFUSAL] = str(len(answer.reasoning))
    words = {place: text.encode("utf-8", "surrogatepass") for place, text in want.items() if text}
    return told == words and usage == Usage(1, len(answer.reasoning + answer.content))


def _cut(text: str) -> list[str]:
    return [text[at : at + PIECE_CHARS] for at in range(0, len(text), PIECE_CHARS)]
