"""Taking an artifact that the enclave exports: counted bytes, and a receipt for them.

The receipt is what ``narrows weak publish --paid`` goes by: the file was read from the gate,
which lets no byte out that its account has not paid. ``STATE/edge/received.jsonl``, 0600, one
row a file, synced before the file gets its name. Who writes to it can have an operator believe
that a file was paid for.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from narrows.durable import replacing
from narrows.edge.books.append import append_lines
from narrows.edge.books.store import edge_dir
from narrows.edge.config import EdgeConfig
from narrows.edge.link.dial import GateDialer, Wire
from narrows.errors import InputError, LinkError, PeerError
from narrows.models.artifact import Artifact
from narrows.private import private_folder
from narrows.wire.address import parse_address
from narrows.wire.export import LENGTH_BYTES, RECEIVED

GOODBYE_S = 5.0
MAX_JOURNAL_BYTES = 1 << 24

Progress = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True, slots=True)
class Receipt:
    """``link_bytes``: read from the gate for it, padding included."""

    sha256: str
    bytes: int
    link_bytes: int
    time_s: int


async def receive(
    config: EdgeConfig,
    gate: str,
    out: Path,
    *,
    at_most_bytes: int,
    state_dir: Path,
    now_s: float,
    progress: Progress = lambda done, total: None,
) -> Receipt:
    """Read the file from the gate's port ``gate`` (host:port) into ``out``. Raises PeerError,
    InputError (no TLS to a gate elsewhere), LinkError (larger than ``at_most_bytes``, cut
    short), ArtifactError (no artifact); what was read until then is paid all the same."""
    if out.exists():
        raise InputError(f"{out} exists", "name another file with --out")
    host, port = parse_address(gate)
    link_bytes = 0

    def count(size_bytes: int) -> None:
        nonlocal link_bytes
        link_bytes += size_bytes

    place = dataclasses.replace(config, gate_host=host, gate_port=port).check()
    wire = await GateDialer(place).connect(count)
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        with replacing(out, 0o600) as file:
            size, digest = await _copy(wire, file, at_most_bytes, progress)
            file.flush()
            Artifact.open(Path(file.name), expect=digest)
            receipt = Receipt(digest.hex(), size, link_bytes, int(now_s))
            private_folder(state_dir, "edge")
            _append(_journal(state_dir), receipt)
        await _say_goodbye(wire)
        return receipt
    finally:
        wire.close()


async def _copy(
    wire: Wire, file: BinaryIO, at_most_bytes: int, progress: Progress
) -> tuple[int, bytes]:
    data = b""
    while len(data) < LENGTH_BYTES:
        data += await _read(wire)
    size, data = int.from_bytes(data[:LENGTH_BYTES], "big"), data[LENGTH_BYTES:]
    if size > at_most_bytes:
        raise LinkError(
            f"the export has {size:,} bytes, {at_most_bytes:,} were allowed",
            "give --at-most more, if it is worth that",
        )
    digest = hashlib.sha256()
    done = 0
    while True:
        if done + len(data) > size:
            raise LinkError("the export is longer than it said")
        file.write(data)
        digest.update(data)
        done += len(data)
        progress(done, size)
        if done == size:
            return size, digest.digest()
        data = await _read(wire)


async def _say_goodbye(wire: Wire) -> None:
    """Tell the exporter, which then closes; nothing depends on it any more."""
    with contextlib.suppress(TimeoutError, LinkError):
        async with asyncio.timeout(GOODBYE_S):
            wire.write(RECEIVED)
            while await wire.read() is not None:
                pass


async def _read(wire: Wire) -> bytes:
    data = await wire.read()
    if data is None:
        raise PeerError(
            "the export was cut short",
            "what came is paid; see the gate's state: its account may be spent",
        )
    return data


def receipts(state_dir: Path) -> list[Receipt]:
    """All of them. Raises InputError where the journal is damaged."""
    path = _journal(state_dir)
    if not path.exists():
        return []
    try:
        with path.open("rb") as file:
            data = file.read(MAX_JOURNAL_BYTES + 1)
        if len(data) > MAX_JOURNAL_BYTES:
            raise InputError(f"{path} is over {MAX_JOURNAL_BYTES:,} bytes", "move it away")
        whole = data[: data.rfind(b"\n") + 1]  # a torn last line was never acknowledged
        return [Receipt(**json.loads(line)) for line in whole.splitlines()]
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"cannot read {path}: {error!s:.100}") from error


def _journal(state_dir: Path) -> Path:
    return edge_dir(state_dir) / "received.jsonl"


def _append(path: Path, receipt: Receipt) -> None:
    append_lines(path, json.dumps(dataclasses.asdict(receipt)).encode() + b"\n")
