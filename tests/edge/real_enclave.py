"""The scripted enclave on the real link codec."""

from __future__ import annotations

import asyncio
import contextlib
import time

from edge.harness import Drop, FakeEnclave, Hang, Until
from edge.standin import FlatModel
from narrows.coding.events import Finish, Finished, Opened
from narrows.coding.link.encoder import LinkEncoder
from narrows.coding.link.options import LinkOptions
from narrows.coding.spec import answer_spec
from narrows.wire.messages import Cancel, FrameReader, Hello, Request


class RealEnclave(FakeEnclave):
    """Steps that are bytes go out as they are, behind what was coded: a hostile enclave."""

    model = FlatModel()

    async def _serve(self, reader, writer):
        self.connections.append(writer)
        frames, tasks, cancelled = FrameReader(), [], {}
        encoder = None
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                for message in frames.feed(data):
                    if isinstance(message, Hello):
                        self.hellos.append(message)
                        self._write(writer, self.greeting)
                        encoder = LinkEncoder(self.model, LinkOptions.from_wire(message.options))
                        tasks.append(asyncio.create_task(self._pump(writer, encoder)))
                    elif isinstance(message, Request):
                        self.requests.append(message)
                        number = encoder.request(answer_spec(message, self.model))
                        cancelled[number] = asyncio.Event()
                        act = self._act(writer, encoder, number, message, cancelled[number])
                        tasks.append(asyncio.create_task(act))
                    elif isinstance(message, Cancel):
                        self.cancels.append(message.number)
                        cancelled[message.number].set()
        for task in tasks:
            task.cancel()

    async def _pump(self, writer, encoder):
        while True:
            if data := encoder.poll(time.monotonic() * 1000):
                self._write(writer, data)
                await writer.drain()
            await asyncio.sleep(0.002)

    async def _act(self, writer, encoder, number, request, cancelled):
        opened = False
        for step in self.script(request):
            if isinstance(step, float):
                await asyncio.sleep(step)
            elif isinstance(step, Hang):
                await cancelled.wait()
            elif isinstance(step, Until):
                await step.wait()
            elif isinstance(step, Drop):
                writer.transport.abort()
                return
            elif isinstance(step, bytes):
                self._write(writer, step)
            elif isinstance(step, Opened):
                encoder.open(number, step.coding)
                opened = True
            else:
                encoder.put(number, step)
            if cancelled.is_set() and opened:
                encoder.put(number, Finished(Finish.CANCELLED))
                return
