"""The auditor's side of a haul: the same files in a folder of its own, bounded.

What comes is believed as far as its order: a file goes on where it ended, a new one is later, and
begins with a header under its own name. More is for the reader, who has the key. One connection
is served, the newest that proved its key; a stranger gets a TLS handshake and no byte more.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import signal
import ssl
import time
from collections.abc import Callable
from pathlib import Path

from narrows.durable import open_once, sync_folder
from narrows.errors import InputError, PeerError
from narrows.private import private_folder
from narrows.wire.pins import TlsFiles, check_peer, read_pins, server_context
from narrows.wire.spool.file import (
    HEADER_BYTES,
    MAX_FILES,
    born_ms,
    next_chunk,
    parse_header,
    read_header,
    spool_files,
    spool_name,
)
from narrows.wire.spool.haul import (
    DATA,
    FRAME_BYTES,
    LAST,
    SILENT_S,
    HaulFrame,
    HeldFiles,
    parse_frame,
)

SYNC_S = 1.0
HANDSHAKE_S = 5.0
MAX_CONNECTIONS = 16
MIN_COPY_BYTES = 1 << 20


class SpoolCopy:
    """The folder. ``max_bytes``: of all files; what would be more is refused until some were
    removed, by FIRST or by ``max_age_s``. One process. Errors: ``InputError`` of the constructor;
    of ``take`` also PeerError (the other side broke the order) and OSError (the disk)."""

    def __init__(
        self,
        folder: Path,
        *,
        max_bytes: int,
        max_age_s: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._folder = private_folder(folder)
        self._max_bytes, self._max_age_s, self._clock = max_bytes, max_age_s, clock
        self._file = -1
        self._held = HeldFiles()
        self._head = b""  # of the newest file, while its header is not whole
        self._others_bytes = 0
        self._synced_s = 0.0
        self._lock = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._resume()
        except OSError as error:
            os.close(self._lock)
            raise InputError(f"cannot write to the spool {folder}: {error.strerror}") from error

    @property
    def held(self) -> HeldFiles:
        return self._held

    @property
    def used_bytes(self) -> int:
        return self._others_bytes + self._held.size

    def _resume(self) -> None:
        files = spool_files(self._folder)
        if files:
            last = files[-1]
            size = _whole_bytes(last.path)
            flags = os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
            self._file = os.open(last.path, flags)
            os.ftruncate(self._file, size)  # a crash may have left half a chunk, or zeros
            header = read_header(last.path) if size else None
            nonce = header.boot_nonce if header is not None else bytes(32)
            self._held = HeldFiles(last.chapter, last.number, size, nonce)
        self._tidy()

    def take(self, frame: HaulFrame, data: bytes) -> None:
        """One frame, in order."""
        if frame.kind != DATA:
            self._remove_before(frame.chapter, frame.number)
            return
        held = self._held
        here, there = (held.chapter, held.number), (frame.chapter, frame.number)
        if there < here or (there == here and frame.offset != held.size):
            raise PeerError(f"bytes of file {there} at {frame.offset}, behind {here}")
        if there > here and frame.offset:
            raise PeerError(f"file {there} begins at {frame.offset}")
        if self.used_bytes + len(data) > self._max_bytes:
            self._tidy()
            if self.used_bytes + len(data) > self._max_bytes:
                raise OSError(errno.ENOSPC, "the copy of the spool is full")
        if there > here:
            self._begin(frame)
        self._append(data)

    def _begin(self, frame: HaulFrame) -> None:
        if len(spool_files(self._folder)) >= MAX_FILES // 2:
            raise OSError(errno.ENFILE, "the copy of the spool has too many files")
        self._shut()
        name = spool_name(frame.chapter, frame.number)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self._file = os.open(self._folder / name, flags, 0o600)
        self._held = HeldFiles(frame.chapter, frame.number)
        self._head = b""
        sync_folder(self._folder)
        self._tidy()

    def _append(self, data: bytes) -> None:
        held = self._held
        nonce = held.boot_nonce
        if held.size < HEADER_BYTES:
            self._head += data[: HEADER_BYTES - held.size]
            name = spool_name(held.chapter, held.number)
            try:
                header = parse_header(self._head, name)
                nonce = header.boot_nonce if header is not None else nonce
            except InputError as error:
                raise PeerError(f"what came is refused: {error.message}") from error
        rest = data
        while rest:
            done = os.write(self._file, rest)
            size = self._held.size + done
            self._held = HeldFiles(held.chapter, held.number, size, nonce)
            rest = rest[done:]

    def tick(self) -> None:
        """About once a second: make durable what came, remove what is old. OSError."""
        if self._file >= 0 and abs(self._clock() - self._synced_s) >= SYNC_S:
            os.fsync(self._file)
            self._synced_s = self._clock()
            self._tidy()

    def close(self) -> None:
        """Idempotent."""
        with contextlib.suppress(OSError):
            self._shut()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _shut(self) -> None:
        if self._file >= 0:
            file, self._file = self._file, -1
            try:
                os.fsync(file)
            finally:
                os.close(file)

    def _remove_before(self, chapter: int, number: int) -> None:
        for named in spool_files(self._folder)[:-1]:
            if (named.chapter, named.number) < (chapter, number):
                named.path.unlink(missing_ok=True)
        self._tidy()

    def _tidy(self) -> None:
        oldest_ms = (self._clock() - self._max_age_s) * 1000
        self._others_bytes = 0
        for named in spool_files(self._folder)[:-1]:
            if born_ms(named.path) < oldest_ms:
                named.path.unlink(missing_ok=True)
            else:
                with contextlib.suppress(FileNotFoundError):
                    self._others_bytes += named.path.lstat().st_size


def _whole_bytes(path: Path) -> int:
    """Bytes of the file through its last whole chunk; 0 without a whole header. OSError,
    ``InputError``."""
    with open_once(path) as file:
        if parse_header(file.read(HEADER_BYTES), path.name) is None:
            return 0
        try:
            while next_chunk(file) is not None:
                pass
        except ValueError:  # whoever has the key will say so
            return os.fstat(file.fileno()).st_size
        return file.tell()


class HaulServer:
    """Serves one gate's side. ``tls`` None: loopback alone, which the caller sees to. ``say``:
    hears why a connection ended."""

    def __init__(self, copy: SpoolCopy, tls: TlsFiles | None, say: Callable[[str], None]) -> None:
        self._copy, self._say = copy, say
        self._context = self._pins = None
        if tls is not None:
            self._context = server_context(tls.cert_file, tls.key_file, tls.peer_file)
            self._pins = read_pins(tls.peer_file)
        self._serving: asyncio.Task[None] | None = None
        self._connections = 0

    async def listen(self, host: str, port: int) -> asyncio.Server:
        """OSError where it cannot."""
        return await asyncio.start_server(
            self._serve,
            host,
            port,
            ssl=self._context,
            ssl_handshake_timeout=HANDSHAKE_S if self._context is not None else None,
        )

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        try:
            if self._connections <= MAX_CONNECTIONS:
                await self._take_over(reader, writer)
        except (PeerError, InputError) as error:
            self._say(error.message)
        except (asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # it goes on from there in another connection
        except (OSError, TimeoutError) as error:
            self._say(f"a connection ended: {error or 'silent'}")
        finally:
            self._connections -= 1
            writer.close()

    async def _take_over(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._pins is not None:
            connection = writer.get_extra_info("ssl_object")
            if not isinstance(connection, ssl.SSLObject):
                raise PeerError("a connection without TLS")
            check_peer(connection, self._pins)
        before, self._serving = self._serving, asyncio.current_task()
        if before is not None:
            before.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([before])
        writer.write(self._copy.held.encode())
        await writer.drain()
        while True:
            async with asyncio.timeout(SILENT_S):
                frame = parse_frame(await reader.readexactly(FRAME_BYTES))
                data = await reader.readexactly(frame.size)
            if frame.kind == LAST:
                return
            self._copy.take(frame, data)
            self._copy.tick()


def serve_copy(
    copy: SpoolCopy,
    tls: TlsFiles | None,
    address: tuple[str, int],
    ready: Callable[[int], None],
    say: Callable[[str], None],
) -> None:
    """Until SIGTERM or Ctrl-C. ``ready`` hears the port. Errors: ``InputError``, ``PeerError``."""

    async def run() -> None:
        ending = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, ending.set)
        server = await HaulServer(copy, tls, say).listen(*address)
        ready(int(server.sockets[0].getsockname()[1]))
        await ending.wait()
        server.close()

    try:
        asyncio.run(run())
    except OSError as error:
        raise PeerError(f"cannot listen on {address[0]}:{address[1]}: {error.strerror}") from error
    finally:
        copy.close()
