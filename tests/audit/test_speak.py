"""What leaves the auditor: one size, one grid, to one reader; and a real spool behind it."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

import pytest

from audit.rig import strong, tiny_path
from audit.role_rig import chapter, nonce_of, paid_by_lease
from narrows.audit.role.config import AuditConfig
from narrows.audit.role.keys import load_auditor_keys, make_auditor_keys
from narrows.audit.role.serve import AuditRole, Mandate, build
from narrows.audit.role.speak import VerdictServer, Views
from narrows.errors import InputError
from narrows.ledger.auditors import PPM, Enrolment, Terms
from narrows.wire.spool import SpoolReader, SpoolWriter
from narrows.wire.verdict import BEHIND, FINAL, LedgerView, account_tag, parse_verdict

SIZE, PERIOD_S = 300, 0.05


def test_one_verdict_a_period_to_one_reader_whatever_it_sends() -> None:
    seen: list[Views] = []
    view = LedgerView(account_tag("a"), 1, 0)

    def compose(views: Views) -> bytes:
        seen.append(dict(views))
        views.clear()
        return bytes(SIZE)

    async def main() -> None:
        server = VerdictServer(compose, PERIOD_S)
        port = await server.start("127.0.0.1", 0)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await reader.readexactly(2 * SIZE) == bytes(2 * SIZE)
        second, closed = await asyncio.open_connection("127.0.0.1", port)
        assert await second.read() == b""
        closed.close()
        writer.write(view.encode())
        while not any(seen):
            await reader.readexactly(SIZE)
        writer.write(b"no view of a ledger at all, whoever sends it")
        with suppress(ConnectionError):
            while await reader.read(SIZE):
                pass
        writer.close()
        again, last = await asyncio.open_connection("127.0.0.1", port)
        assert len(await again.readexactly(SIZE)) == SIZE
        last.close()
        server.stop()

    asyncio.run(asyncio.wait_for(main(), 60))
    assert {view.tag: view} in seen


def test_the_grid_is_no_clock_of_who_listens() -> None:
    """A verdict leaves when the period is over, not when a reader comes."""
    now = [1000.0 + 0.75 * PERIOD_S]
    spoken: list[float] = []

    async def main() -> None:
        def compose(views: Views) -> bytes:
            spoken.append(loop.time() - began)
            return b"v"

        loop = asyncio.get_running_loop()
        server = VerdictServer(compose, 1.0, lambda: now[0])
        port = await server.start("127.0.0.1", 0)
        now[0] = 1000.9
        began = loop.time()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        await reader.readexactly(1)
        writer.close()
        server.stop()

    asyncio.run(asyncio.wait_for(main(), 60))
    assert spoken[0] >= 0.09


def mandated(folder: Path, pins: str) -> tuple[AuditConfig, Mandate]:
    (folder / "keys").mkdir(mode=0o700)
    keys = make_auditor_keys(folder / "keys")
    with pytest.raises(InputError, match="never overwritten"):
        make_auditor_keys(folder / "keys")
    terms = Terms(PPM, 2048, 1000, 990_000, pins, 16)
    body = Enrolment("base", ("gate",), keys.public.hex(), "ab" * 16, terms)
    config = AuditConfig(
        spool=folder / "spool",
        keys=folder / "keys",
        journal=folder,
        model=str(tiny_path(1)),
        weak=(str(tiny_path(2)),),
        verdict_bytes=SIZE,
    )
    return config, Mandate("example.org/1", "gate", body)


def built(config: AuditConfig, mandate: Mandate) -> AuditRole:
    assert config.keys is not None
    return build(config, mandate, load_auditor_keys(config.keys), SpoolReader)


def test_from_a_sealed_spool_to_a_signed_credit(tmp_path: Path) -> None:
    config, mandate = mandated(tmp_path, strong().digest.hex())
    assert config.keys is not None
    assert config.spool is not None
    keys = load_auditor_keys(config.keys)
    writer = SpoolWriter(config.spool, keys.tape_public, max_bytes=1 << 28, max_age_s=1e6)
    writer.begin(nonce_of(0))
    writer.append(chapter(0))
    writer.close()
    role = built(config, mandate)
    tag = account_tag("answers")
    leases = tuple(sorted(paid_by_lease(1).items()))

    def said() -> int:
        data = role.compose({tag: LedgerView(tag, 0, 0, leases)})
        verdict = parse_verdict(data, SIZE, keys.public)
        assert not verdict.alarms & FINAL
        return verdict.total

    first = parse_verdict(role.compose({}), SIZE, keys.public)
    assert first.alarms == BEHIND
    while role._follower.step():
        pass
    assert said() > 0
    assert said() == said() > 0


def test_weights_and_keys_that_nobody_enrolled_are_refused(tmp_path: Path) -> None:
    config, mandate = mandated(tmp_path, "00" * 32)
    with pytest.raises(InputError, match="pinned another digest"):
        built(config, mandate)
    (tmp_path / "other").mkdir()
    other, _ = mandated(tmp_path / "other", strong().digest.hex())
    with pytest.raises(InputError, match="another auditor's key"):
        built(other, mandate)
    assert config.keys is not None
    (config.keys / "coins.key").chmod(0o644)
    with pytest.raises(InputError, match="others can read"):
        load_auditor_keys(config.keys)
