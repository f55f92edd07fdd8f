"""The exporter's process: what a scrape may cause, who may scrape, what a hostile side can do."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner

from narrows.alarms.store import AlarmStore
from narrows.bench.metrics.busy import BusyFolder
from narrows.cli.metrics.command import app
from narrows.deploy.config import load_config
from narrows.edge.api.app import METRICS_ELSEWHERE, _metrics
from narrows.errors import InputError, PeerError
from narrows.ledger.office.demo import create_demo
from narrows.ledger.stores.place import LedgerPlace
from narrows.metrics import enclave, server
from narrows.metrics.config import MetricsConfig
from narrows.metrics.enclave import EnclaveFigures, figures_in
from narrows.metrics.sampler import LedgerReader, Sampler
from narrows.metrics.server import MAX_CALLS, MetricsServer


def ups(sampler: Sampler) -> dict[str, str]:
    sampler.sample()
    rows = [line for line in sampler.body.decode().splitlines() if line.startswith("narrows_role")]
    return {row.split('"')[1]: row.split()[-1] for row in rows}


def test_a_role_that_cannot_be_read_costs_itself_alone_and_comes_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sampler = Sampler(tmp_path, LedgerReader(LedgerPlace(tmp_path)), dict)
    assert ups(sampler) == {}  # nobody ran here
    create_demo(tmp_path, 1000)
    good = {"ledger": "1.0", "witness": "1.0"}
    assert ups(sampler) == good
    stats, database = tmp_path / "gate" / "stats.json", tmp_path / "edge" / "edge.db"
    for path in (stats, database):
        path.parent.mkdir()
        path.write_text("[" * 10)
    with caplog.at_level("INFO", "narrows.metrics"):
        assert ups(sampler) == good | {"gate": "0.0", "edge": "0.0"}
        assert ups(sampler) == good | {"gate": "0.0", "edge": "0.0"}
    assert len(caplog.records) == 2  # not at every sample
    stats.write_text('{"ports": {}}')
    database.unlink()
    assert ups(sampler) == good | {"gate": "1.0"}
    ledger = tmp_path / "ledger" / "ledger.db"
    kept = ledger.rename(tmp_path / "kept")
    for name in ("ledger.db-wal", "ledger.db-shm"):
        (tmp_path / "ledger" / name).unlink(missing_ok=True)
    ledger.write_bytes(b"no ledger at all")
    again = Sampler(tmp_path, LedgerReader(LedgerPlace(tmp_path)), dict)
    assert ups(again)["ledger"] == "0.0"
    kept.replace(ledger)
    assert ups(again)["ledger"] == "1.0"


@pytest.mark.parametrize(
    "line",
    [
        "",
        "2026 INFO narrows figures of speech",
        "2026 figures {",
        "2026 figures {}",
        '2026 figures {"links": "5"}',
        '2026 figures {"links": -1}',
        '2026 figures {"links": NaN}',
        '2026 figures {"links": Infinity}',
        '2026 figures {"links": 1e300}',
        '2026 figures {"links": true}',
        '2026 figures {"links": ' + "9" * 800 + "}",
        '2026 figures {"links": [1]}',
        '2026 figures {"narrows_budget_left_bytes": 5}',
        "2026 figures {" + "[" * 900,
    ],
)
def test_what_the_enclave_writes_becomes_a_known_number_or_nothing(line: str) -> None:
    assert figures_in(line) == {}


def test_the_enclaves_numbers_end_with_its_link(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enclave, "AGAIN_S", 0.0)
    now_s, dials = 0.0, 0
    heard: list[list[str]] = []

    async def lines() -> AsyncIterator[str]:
        nonlocal dials
        dials += 1
        if dials > 1:
            raise PeerError("nobody is there")
        yield "2026-01-01 00:00:00 INFO narrows.enclave a line of its log"
        yield '2026-01-01 00:00:00 figures {"links": 3, "answers_text": 7, "other": 9}'
        heard.append([f"{one.name}={one.number:g}" for one in figures.values()])

    figures = EnclaveFigures(lines, lambda: now_s)
    assert [one.number for one in figures.values()] == [0.0]

    async def follow() -> None:
        task = asyncio.create_task(figures.follow())
        while dials < 3:
            await asyncio.sleep(0)
        task.cancel()

    asyncio.run(follow())
    said = ["narrows_role_up=1", "narrows_enclave_answers_total=7", "narrows_enclave_links=3"]
    assert heard == [said]
    down = [f"{one.name}={one.number:g}" for one in figures.values()]
    assert down == ["narrows_role_up=0", *said[1:]]
    now_s = enclave.FRESH_S
    assert len(figures.values()) == 1


async def ask(port: int, words: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(words)
    reply = await reader.read()
    writer.close()
    return reply


def test_a_scrape_reads_nothing_and_strangers_get_no_numbers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server, "CALL_S", 1.0)
    get, token = b"GET /metrics HTTP/1.1\r\nHost: x\r\n", "a-token-of-24-characters"

    async def scrape() -> None:
        open_ = await MetricsServer(lambda: b"body 1\n").listen("127.0.0.1", 0)
        port = open_.sockets[0].getsockname()[1]
        assert (await ask(port, get + b"\r\n")).endswith(b"\r\n\r\nbody 1\n")
        head = await ask(port, get.replace(b"GET", b"HEAD") + b"\r\n")
        assert head.endswith(b"\r\n\r\n")
        assert b"Content-Length: 7" in head
        for words, status in (
            (b"GET / HTTP/1.1\r\n\r\n", b"404"),
            (b"POST /metrics HTTP/1.1\r\n\r\n", b"404"),
            (b"GET " + b"x" * 10_000, b"400"),
            (b"\xff\xfe\r\n\r\n", b"404"),
        ):
            reply = await ask(port, words)
            assert reply.split()[1] == status
            assert b"body" not in reply
        slow = [await asyncio.open_connection("127.0.0.1", port) for _ in range(MAX_CALLS)]
        while len(await ask(port, get + b"\r\n")) < 5 or b"503" not in await ask(port, get):
            await asyncio.sleep(0)
        assert await asyncio.wait_for(slow[0][0].read(), 30) == b""  # thrown out
        for _, writer in slow:
            writer.close()
        while b"503" in (reply := await ask(port, get + b"\r\n")):
            await asyncio.sleep(0.05)
        assert b"body 1" in reply
        shut = await MetricsServer(lambda: b"body 1\n", token).listen("127.0.0.1", 0)
        port = shut.sockets[0].getsockname()[1]
        for line in (b"", b"Authorization: Bearer other\r\n", b"Authorization: Bearer\r\n",
                     b"Authorization: " + token.encode() + b"\r\n"):  # fmt: skip
            assert b"401" in (reply := await ask(port, get + line + b"\r\n"))
            assert b"body" not in reply
        good = f"authorization: bearer {token}\r\n\r\n".encode()
        assert b"body 1" in await ask(port, get + good)
        for one in (open_, shut):
            one.close()

    asyncio.run(scrape())


class CountingSampler(Sampler):
    """Its body is how often it was sampled."""

    def __init__(self) -> None:
        self.samples = 0

    def sample(self) -> None:
        self.samples += 1
        self.body = b"%d\n" % self.samples


def test_the_moments_are_the_exporters_however_often_it_is_scraped() -> None:
    sampler, ports = CountingSampler(), list[int]()

    async def bodies(sample_s: float, until: int) -> list[bytes]:
        ports.clear()
        running = asyncio.create_task(
            server.export(sampler, ("127.0.0.1", 0), sample_s, ports.append)
        )
        while not ports:
            await asyncio.sleep(0)
        found = [await ask(ports[0], b"GET /metrics HTTP/1.1\r\n\r\n") for _ in range(30)]
        while sampler.samples < until:
            await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        return [body.rsplit(b"\r\n", 1)[1] for body in found]

    assert asyncio.run(bodies(3600.0, 1)) == [b"1\n"] * 30
    asyncio.run(bodies(0.02, 5))  # and they come without a scrape


def test_beyond_loopback_it_wants_a_token(tmp_path: Path) -> None:
    path = tmp_path / "narrows.toml"
    path.write_text('[metrics]\nlisten = "0.0.0.0:9400"\n')
    with pytest.raises(InputError) as caught:
        load_config(path)
    assert "beyond loopback a token_file is needed" in "".join(caught.value.problems)
    path.write_text('[metrics]\nlisten = "0.0.0.0:9400"\ntoken_file = "token"\nsample_s = 30\n')
    expected = MetricsConfig("0.0.0.0:9400", 30.0, token_file=tmp_path / "token")
    assert load_config(path).metrics == expected
    path.write_text('[metrics]\nsample_s = 0\ntelemetry = "nowhere"\n')
    with pytest.raises(InputError) as caught:
        load_config(path)
    assert len(caught.value.problems) == 2


def test_a_token_that_is_none_is_refused(tmp_path: Path) -> None:
    create_demo(tmp_path, 1000)
    for text in ("", "short", "\x00" * 40):
        (tmp_path / "token").write_text(text)
        (tmp_path / "narrows.toml").write_text('[metrics]\ntoken_file = "token"\n')
        words = ["--config", str(tmp_path / "narrows.toml"), "--state", str(tmp_path)]
        got = CliRunner().invoke(app, words)
        assert isinstance(got.exception, InputError)


def test_the_command_prints_one_sample_and_writes_files(tmp_path: Path) -> None:
    create_demo(tmp_path, 1000)
    got = CliRunner().invoke(app, ["--state", str(tmp_path), "--once"])
    assert got.exit_code == 0
    assert 'narrows_budget_left_bytes{lineage="demo"} 1000.0\n' in got.stdout
    board, rules = tmp_path / "board.json", tmp_path / "rules.yml"
    words = ["--write-dashboard", str(board), "--write-rules", str(rules)]
    assert CliRunner().invoke(app, words).exit_code == 0
    assert json.loads(board.read_text())["title"] == "narrows"
    assert rules.read_text().count("- alert:") > 10
    assert CliRunner().invoke(app, ["--list"]).stdout.startswith("| metric |")


def test_a_ledger_that_is_restored_under_the_exporter_is_read_anew(tmp_path: Path) -> None:
    """An open file is the old one for ever."""
    create_demo(tmp_path, 1000)
    with closing(LedgerReader(LedgerPlace(tmp_path))) as reader:
        assert reader.values() is not None
        old = tmp_path / "old"
        old.mkdir()
        for name in ("ledger", "witness"):
            (tmp_path / name).rename(old / name)
        create_demo(tmp_path, 2000)
        left = [one.number for one in reader.values() or [] if one.name.endswith("left_bytes")]
        assert left[0] == 2000


def test_the_edge_points_there_and_says_nothing_of_itself() -> None:
    reply = asyncio.run(_metrics(None))  # type: ignore[arg-type]
    assert (reply.status_code, bytes(reply.body).decode()) == (404, METRICS_ELSEWHERE)


def test_a_view_that_cannot_be_written_is_enough_while_the_roles_run(tmp_path: Path) -> None:
    """What the unit of docs/metrics.md gives it."""
    if os.geteuid() != 0:
        pytest.skip("making a mount needs root")
    folder = tmp_path / "state"
    folder.mkdir()
    mounts = f"mount --bind {folder} {folder} && mount -o remount,ro,bind {folder}"
    words = f"{sys.executable} -m narrows.cli.main metrics --once --state {folder}"
    with closing(BusyFolder(folder, 1, ports=1, models=1, keys=1)) as busy:
        busy.work(1)
        with closing(AlarmStore(folder)) as alarms:
            alarms.write([], [])
            done = subprocess.run(
                ["unshare", "--mount", "sh", "-c", f"{mounts} && ! touch {folder}/x && {words}"],
                capture_output=True, text=True, timeout=60,
            )  # fmt: skip
    if "mount:" in done.stderr:
        pytest.skip("making a mount needs root with its powers")
    roles = re.findall(r'^narrows_role_up{role="(\w+)"} 1.0$', done.stdout, re.MULTILINE)
    assert sorted(roles) == ["auditor", "edge", "gate", "ledger", "witness"], done.stderr
