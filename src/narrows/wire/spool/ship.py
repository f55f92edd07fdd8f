"""The gate's side of a haul: a process beside the gate that sends the spool's files as they grow.

It reads files that it cannot open, in order of writing, and goes on wherever the auditor's side
has ended. It writes nothing, so whatever becomes of it, the gate does not notice.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

from narrows.durable import open_once
from narrows.errors import InputError, PeerError
from narrows.wire.pins import TlsFiles, check_peer, client_context, read_pins
from narrows.wire.spool.file import SpoolPath, read_header, spool_files
from narrows.wire.spool.haul import (
    ALIVE_S,
    DATA,
    FIRST,
    HELD_BYTES,
    LAST,
    MAX_DATA_BYTES,
    HaulFrame,
    HeldFiles,
    parse_held,
)

LOOK_S = 0.2
DIAL_S = 10.0
SEND_S = 60.0
MAX_PAUSE_S = 30.0


class Haul:
    """One connection. Errors of every method: OSError and PeerError, after which another
    connection goes on; ``InputError``, where none could."""

    def __init__(self, folder: Path, line: socket.socket) -> None:
        self._folder, self._line = folder, line
        self._held = parse_held(_exactly(line, HELD_BYTES))
        self._said_first: tuple[int, int] | None = None
        self._spoke_s = 0.0
        self._check()

    def _check(self) -> None:
        """Whether what the other side has is of this spool."""
        held = self._held
        files = _files(self._folder)
        wrong = bool(files) and (held.chapter, held.number) > (files[-1].chapter, files[-1].number)
        for named in files:
            if (named.chapter, named.number) == (held.chapter, held.number):
                header = read_header(named.path)
                wrong = held.size > named.path.stat().st_size or (
                    held.boot_nonce != bytes(32)
                    and (header is None or header.boot_nonce != held.boot_nonce)
                )
        if wrong:
            raise InputError(
                "the auditor's side has files of another spool",
                "move its folder away when its auditor has read it",
            )

    def send_new(self) -> int:
        """What is there now and not there yet; how many bytes."""
        sent = 0
        files = _files(self._folder)
        if files:
            self._say_first(files[0])
        for named in files:
            if (named.chapter, named.number) >= (self._held.chapter, self._held.number):
                sent += self._send_file(named)
        return sent

    def is_held(self, held: HeldFiles) -> bool:
        """Whether the other side has all that was sent here."""
        mine = self._held
        return (held.chapter, held.number, held.size) == (mine.chapter, mine.number, mine.size)

    def _say_first(self, oldest: SpoolPath) -> None:
        first = (oldest.chapter, oldest.number)
        if first != self._said_first or time.monotonic() - self._spoke_s >= ALIVE_S:
            self._line.sendall(HaulFrame(FIRST, *first, 0, 0).encode())
            self._said_first, self._spoke_s = first, time.monotonic()

    def _send_file(self, named: SpoolPath) -> int:
        same = (named.chapter, named.number) == (self._held.chapter, self._held.number)
        start = offset = self._held.size if same else 0
        try:
            with open_once(named.path) as file:
                file.seek(start)
                while data := file.read(MAX_DATA_BYTES):
                    frame = HaulFrame(DATA, named.chapter, named.number, offset, len(data))
                    self._line.sendall(frame.encode() + data)
                    self._spoke_s = time.monotonic()
                    offset += len(data)
                    self._held = HeldFiles(named.chapter, named.number, offset)
        except FileNotFoundError:  # removed meanwhile
            pass
        return offset - start


def _files(folder: Path) -> list[SpoolPath]:
    """A folder that is not there yet has none."""
    try:
        return spool_files(folder)
    except FileNotFoundError:
        return []


def dial(address: tuple[str, int], tls: TlsFiles | None) -> socket.socket:
    """Errors: OSError, PeerError, ``InputError`` (the TLS files)."""
    context = pins = None
    if tls is not None:
        context = client_context(tls.cert_file, tls.key_file, tls.peer_file)
        pins = read_pins(tls.peer_file)
    line = socket.create_connection(address, DIAL_S)
    if context is None or pins is None:
        line.settimeout(SEND_S)
        return line
    try:
        wrapped = context.wrap_socket(line, server_hostname="auditor")
        check_peer(wrapped, pins)
    except (OSError, PeerError):
        line.close()
        raise
    wrapped.settimeout(SEND_S)
    return wrapped


def ship(
    folder: Path,
    address: tuple[str, int],
    tls: TlsFiles | None,
    say: Callable[[str], None],
    ending: threading.Event,
) -> None:
    """Until ``ending`` is set. ``say`` hears when it begins and why it has to dial again.
    ``InputError`` where dialling again would not help."""
    pause_s = 1.0
    while not ending.is_set():
        try:
            with dial(address, tls) as line:
                haul = Haul(folder, line)
                say("connected")
                pause_s = 1.0
                while not ending.wait(LOOK_S):
                    haul.send_new()
        except (OSError, PeerError) as error:
            say(f"the auditor's side is away: {error}")
            ending.wait(pause_s)
            pause_s = min(2 * pause_s, MAX_PAUSE_S)


def ship_once(folder: Path, address: tuple[str, int], tls: TlsFiles | None) -> int:
    """Send what is there now, and ask whether it was taken; how many bytes. Errors: PeerError,
    ``InputError``."""
    try:
        with dial(address, tls) as line:
            haul = Haul(folder, line)
            sent = haul.send_new()
            line.sendall(HaulFrame(LAST, 0, 0, 0, 0).encode())
            line.recv(1)  # nothing comes: it closes when it has read all
        with dial(address, tls) as line:
            if not haul.is_held(parse_held(_exactly(line, HELD_BYTES))):
                raise PeerError("the auditor's side took only a part", "its log says why")
    except OSError as error:
        raise PeerError(f"the auditor's side is away: {error}") from error
    return sent


def _exactly(line: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = line.recv(size - len(data))
        if not part:
            raise PeerError("the auditor's side closed the connection")
        data += part
    return data
