"""The built-in strong model: the exact runtime, sampled with shared noise, in batches.

One engine thread owns the model. Each turn it admits waiting answers, reads a part of one new
prompt, samples one token for every running answer and advances them all in one batched step, so
answers share the cost of reading the weights and none waits for another's whole prompt. An answer
that finds no memory fails alone, the newest first. Sampling is a pure function of (weights,
request, noise key, position): what runs beside an answer cannot change it.
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import logging
import queue
import threading
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

from narrows.coding.events import (
    Coding,
    Event,
    Failed,
    Failure,
    Finish,
    Finished,
    Opened,
    Tokens,
    Usage,
)
from narrows.coding.spec import fixed_q16, strong_prompt
from narrows.coding.tokens.sampler import sample
from narrows.enclave.backend import BackendRequest, stop_strings, tokens_left, without_room
from narrows.enclave.draw.forms import FORM_FIELDS, FormMaker
from narrows.enclave.draw.shaping import Shaping, check_heeded
from narrows.enclave.parameters import check_fields_of
from narrows.errors import InputError, NarrowsError
from narrows.models.api import Logits, Stream, Tokenizer, TokenModel
from narrows.wire.media import check_parts
from narrows.wire.stops import StopFinder

log = logging.getLogger("narrows.enclave.builtin")

READ_TOKENS = 128  # of a prompt between two steps of the running answers
_UNSUPPORTED = ("tools", "tool_choice")


@dataclass(eq=False)
class _Job:
    """One answer in the engine. ``events`` is fed from the engine thread through ``loop``."""

    prompt: list[int]
    resume: tuple[int, ...]
    scope: int
    temperature: int
    top_p: int
    noise_key: bytes
    max_tokens: int
    finder: StopFinder
    loop: asyncio.AbstractEventLoop
    shaping: Shaping
    events: asyncio.Queue[Event] = field(default_factory=asyncio.Queue)
    cancelled: bool = False
    stream: Stream | None = None
    produced: int = 0
    last: int = -1
    draws_as_is: bool = field(init=False)
    decoder: codecs.IncrementalDecoder = field(
        default_factory=lambda: codecs.getincrementaldecoder("utf-8")("replace")
    )

    def __post_init__(self) -> None:
        self.draws_as_is = self.shaping.idle

    @property
    def position(self) -> int:
        return len(self.resume) + self.produced

    def emit(self, *events: Event) -> None:
        for event in events:
            with contextlib.suppress(RuntimeError):  # the loop has closed: nobody is left to tell
                self.loop.call_soon_threadsafe(self.events.put_nowait, event)


class BuiltinBackend:
    """Backend over a token model of our own. ``max_batch``: answers stepped together; more
    wait in a queue of ``max_waiting``, beyond which an answer fails as OVERLOADED."""

    def __init__(self, model: TokenModel, *, max_batch: int = 64, max_waiting: int = 1024) -> None:
        self._model = model
        self._max_batch = max_batch
        self._waiting: queue.Queue[_Job | None] = queue.Queue(max_waiting)
        self._running: list[_Job] = []
        self._reading: deque[_Job] = deque()  # whose prompts are not read yet
        self._forms = FormMaker(model.tokenizer)
        self._thread = threading.Thread(target=self._run, name="strong-model", daemon=True)
        self._thread.start()

    @property
    def tokenizer(self) -> Tokenizer | None:
        return self._model.tokenizer

    async def close(self) -> None:
        """Stop the engine; answers still in it fail."""
        await asyncio.to_thread(self._waiting.put, None)
        await asyncio.to_thread(self._thread.join)

    async def generate(self, request: BackendRequest) -> AsyncGenerator[Event, None]:
        """The events of one answer. Closing the generator frees its stream at the next step."""
        job = await self._admit(request)
        if not isinstance(job, _Job):
            yield Opened(Coding.PLAIN)
            yield job
            return
        try:
            yield Opened(Coding.COUPLED if job.temperature else Coding.PLAIN)
            while True:
                event = await job.events.get()
                yield event
                if isinstance(event, Finished | Failed):
                    return
        finally:
            job.cancelled = True

    async def _admit(self, request: BackendRequest) -> _Job | Finished | Failed:
        """The job in its queue, or how the answer ends without one."""
        if any(request.body.get(name) for name in _UNSUPPORTED):
            return Failed(Failure.BAD_REQUEST)
        try:
            job = await asyncio.to_thread(self._job, request, asyncio.get_running_loop())
        except InputError as error:
            log.warning("a request that the built-in model cannot take: %s", error)
            return Failed(Failure.BAD_REQUEST)
        if job.max_tokens < 1:
            return without_room(request)
        try:
            self._waiting.put_nowait(job)
        except queue.Full:
            return Failed(Failure.OVERLOADED)
        return job

    def _job(self, request: BackendRequest, loop: asyncio.AbstractEventLoop) -> _Job:
        body = request.body
        check_fields_of(body)
        check_heeded(body, FORM_FIELDS)
        check_parts(body.get("messages") or (), False)
        temperature = fixed_q16(body.get("temperature"), 1.0, 2.0)
        prompt = strong_prompt(self._model, body)
        shaping = Shaping(
            body,
            prompt,
            self._model.vocab_size,
            self._model.tokenizer.eos_ids,
            temperature,
            self._forms.form(body),
        )
        for token in request.resume:
            shaping.took(token)
        room = self._model.max_context - len(prompt) - len(request.resume)
        return _Job(
            prompt=prompt,
            resume=request.resume,
            scope=request.scope,
            temperature=temperature,
            top_p=max(1, fixed_q16(body.get("top_p"), 1.0, 1.0)),
            noise_key=request.noise_key,
            max_tokens=tokens_left(request, room),
            finder=StopFinder(stop_strings(body)),
            loop=loop,
            shaping=shaping,
        )

    # Below: the engine thread.

    def _run(self) -> None:
        while self._take_new(block=not self._running and not self._reading):
            try:
                self._read()
                self._turn()
            except NarrowsError as error:
                log.error("the built-in model failed: %s", error)
                self._fail_all()
        self._fail_all()

    def _fail_all(self) -> None:
        for job in (*self._running, *self._reading):
            self._drop(job, Failed(Failure.INTERNAL))
        self._running.clear()
        self._reading.clear()

    def _take_new(self, *, block: bool) -> bool:
        """Admit waiting answers; False when the engine must stop."""
        while len(self._running) + len(self._reading) < self._max_batch:
            try:
                job = self._waiting.get(block=block)
            except queue.Empty:
                return True
            if job is None:
                return False
            block = False
            if not job.cancelled:
                self._start(job)
        return True

    def _start(self, job: _Job) -> None:
        try:
            job.stream = self._model.open([*job.prompt, *job.resume], job.scope, lazy=True)
        except NarrowsError as error:
            log.warning("an answer could not start: %s", error)
            self._drop(job, Failed(Failure.OVERLOADED))
            return
        for token in job.resume:
            self._watch_stops(job, token)
        self._reading.append(job)

    def _read(self) -> None:
        """A part of the oldest prompt that is not read yet; its first token behind the last."""
        if not self._reading:
            return
        job = self._reading[0]
        if job.cancelled or job.stream is None:
            self._reading.popleft()
            self._drop(job)
            return
        try:
            left = self._model.catch_up(job.stream, READ_TOKENS)
        except InputError as error:
            log.warning("an answer could not start: %s", error)
            self._reading.popleft()
            self._drop(job, Failed(Failure.OVERLOADED))
            return
        if not left:
            self._reading.popleft()
            self._pick(job, self._model.logits(job.stream))
            if job.stream is not None:
                self._running.append(job)

    def _turn(self) -> None:
        """One batched step: feed each running answer its last token, sample its next."""
        for job in [job for job in self._running if job.cancelled]:
            self._drop(job)
        self._running = [job for job in self._running if job.stream is not None]
        rows = self._advance()
        for job, logits in zip(self._running, rows, strict=True):
            self._pick(job, logits)
        self._running = [job for job in self._running if job.stream is not None]

    def _advance(self) -> Logits | tuple[()]:
        """Step all that run; where there is no memory for all of them, without the newest."""
        while self._running:
            streams = [job.stream for job in self._running if job.stream is not None]
            try:
                return self._model.advance(streams, [job.last for job in self._running])
            except InputError as error:
                log.warning("an answer has no memory to go on: %s", error)
                self._drop(self._running.pop(), Failed(Failure.OVERLOADED))
        return ()

    def _pick(self, job: _Job, logits: Logits) -> None:
        """Sample the next token; end the answer where it ends."""
        try:
            row = logits if job.draws_as_is else job.shaping.shaped(logits, job.position)
            token = sample(row, job.temperature, job.top_p, job.noise_key, job.position)
            if token in job.shaping.ends:
                self._end(job, Finish.STOP)
                return
            job.shaping.took(token)
        except InputError as error:
            log.warning("an answer cannot go on: %s", error)
            self._drop(job, Failed(Failure.BAD_REQUEST))
            return
        job.produced += 1
        job.last = token
        job.emit(Tokens((token,)))
        self._watch_stops(job, token)
        if job.finder.stopped:
            self._end(job, Finish.STOP)
        elif job.produced >= job.max_tokens:
            self._end(job, Finish.LENGTH)

    def _watch_stops(self, job: _Job, token: int) -> None:
        job.finder.feed(job.decoder.decode(self._model.tokenizer.token_bytes(token)))

    def _end(self, job: _Job, reason: Finish) -> None:
        self._drop(job, Usage(len(job.prompt), job.position), Finished(reason))

    def _drop(self, job: _Job, *events: Event) -> None:
        if job.stream is not None:
            self._model.close(job.stream)
            job.stream = None
        job.emit(*events)
