"""Receiving an export from a hostile enclave: bounded, whole or not at all, no false receipt."""

from __future__ import annotations

import asyncio

import pytest

from models.models import artifact_path
from narrows.edge.config import EdgeConfig
from narrows.edge.pull.receive import receipts, receive
from narrows.errors import ArtifactError, InputError, LinkError, PeerError


def take(tmp_path, chunks, at_most=1 << 20):
    """What ``receive`` makes of a sender that writes ``chunks`` and closes."""

    async def run():
        async def serve(reader, writer):
            for chunk in chunks:
                writer.write(chunk)
                await writer.drain()
                await asyncio.sleep(0)
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        try:
            return await receive(
                EdgeConfig(),
                f"127.0.0.1:{port}",
                tmp_path / "out.narrows",
                at_most_bytes=at_most,
                state_dir=tmp_path / "state",
                now_s=7.0,
            )
        finally:
            server.close()

    return asyncio.run(run())


def length(size):
    return size.to_bytes(8, "big")


@pytest.mark.parametrize(
    ("chunks", "error"),
    [
        ([], PeerError),
        ([b"\0\0\0"], PeerError),
        ([length(1 << 60)], LinkError),
        ([length(100), b"x" * 99], PeerError),
        ([length(100), b"x" * 101], LinkError),
        ([length(100), b"x" * 100], ArtifactError),
        ([length(0)], ArtifactError),
        ([b"\xff" * 8], LinkError),
    ],
)
def test_what_is_no_whole_artifact_leaves_nothing(tmp_path, chunks, error):
    with pytest.raises(error):
        take(tmp_path, chunks)
    assert not (tmp_path / "out.narrows").exists()
    assert list(tmp_path.glob(".*part")) == []
    assert receipts(tmp_path / "state") == []


def test_a_whole_one_has_its_receipt(tmp_path):
    data = artifact_path("llama").read_bytes()
    cut = [length(len(data))[:3], length(len(data))[3:] + data[:1000], data[1000:]]
    receipt = take(tmp_path, cut)
    assert (tmp_path / "out.narrows").read_bytes() == data
    assert receipts(tmp_path / "state") == [receipt]
    assert (receipt.bytes, receipt.time_s) == (len(data), 7)
    assert receipt.link_bytes == len(data) + 8
    with pytest.raises(InputError, match="exists"):
        take(tmp_path, cut)
    journal = tmp_path / "state" / "edge" / "received.jsonl"
    assert journal.stat().st_mode & 0o777 == 0o600
    journal.write_text("nonsense\n")
    with pytest.raises(InputError, match="cannot read"):
        receipts(tmp_path / "state")


def test_a_gate_elsewhere_is_not_believed_without_tls(tmp_path):
    work = receive(
        EdgeConfig(),
        "192.0.2.1:8407",
        tmp_path / "out.narrows",
        at_most_bytes=1 << 20,
        state_dir=tmp_path,
        now_s=7.0,
    )
    with pytest.raises(InputError) as caught:
        asyncio.run(work)
    assert any("TLS" in problem for problem in caught.value.problems), caught.value.problems


def test_a_torn_receipt_is_none_and_spoils_no_other(tmp_path):
    data = artifact_path("llama").read_bytes()
    first = take(tmp_path, [length(len(data)) + data])
    journal = tmp_path / "state" / "edge" / "received.jsonl"
    with journal.open("ab") as file:
        file.write(b'{"sha256": "12')
    assert receipts(tmp_path / "state") == [first]
    (tmp_path / "out.narrows").unlink()
    second = take(tmp_path, [length(len(data)) + data])
    assert receipts(tmp_path / "state") == [first, second]
