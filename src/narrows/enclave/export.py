"""Sending an artifact out of the enclave: through the gate, counted to the last byte.

An artifact that was made inside is an export, whatever it says of itself (law 6). It leaves
over a gate port of its own with an account of its own, so operators have granted its price
before. A reader gets 8 bytes of length (big-endian) and the file, and says with one byte, which
costs nothing inward, that it has it all; then this ends.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

from narrows.errors import InputError
from narrows.wire.export import LENGTH_BYTES, RECEIVED

CHUNK_BYTES = 1 << 16


def price_bytes(path: Path) -> int:
    """What its account pays at least; the gate's timing and TLS come on top (about 1 %)."""
    try:
        return path.stat().st_size + LENGTH_BYTES
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error


async def send_once(
    path: Path,
    host: str,
    port: int,
    listening: Callable[[int], None],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Serve the file to the first reader that takes all of it. InputError: it cannot be read."""
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if await _send(path, reader, writer, progress) and not done.done():
                done.set_result(None)
        except (ConnectionError, TimeoutError):
            pass  # the reader left early, and may come again
        except OSError as error:
            if not done.done():
                done.set_exception(InputError(f"cannot read {path}: {error.strerror}"))
        finally:
            writer.close()

    server = await asyncio.start_server(serve, host, port)
    listening(server.sockets[0].getsockname()[1])
    try:
        await done
    finally:
        server.close()


async def _send(
    path: Path,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    progress: Callable[[int, int], None],
) -> bool:
    """Whether the reader has it all: that the gate's buffers took it says nothing."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        writer.write(size.to_bytes(LENGTH_BYTES, "big"))
        sent = 0
        while chunk := file.read(CHUNK_BYTES):
            writer.write(chunk)
            await writer.drain()
            sent += len(chunk)
            progress(sent, size)
    return sent == size and await reader.read(1) == RECEIVED
