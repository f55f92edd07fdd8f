"""What the exporter costs: a sample of a busy folder, and a scrape of it over loopback."""

from __future__ import annotations

import asyncio
import dataclasses
import http.client
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from narrows.bench.metrics.busy import BusyFolder
from narrows.deploy.verdicts import read_book
from narrows.errors import PeerError
from narrows.ledger.stores.place import LedgerPlace
from narrows.metrics.exposition import figures_count
from narrows.metrics.sampler import LedgerReader, Sampler
from narrows.metrics.server import PATH, MetricsServer


@dataclass(frozen=True, slots=True)
class ScrapeBench:
    """``series``: numbers of one scrape, ``body_bytes``: its size. ``first_sample_ms``: the whole
    log of the ledger, later ones only ``leases`` more. ``core_share``: processor seconds of a
    sample and a scrape, of ``every_s``."""

    links: int
    series: int
    body_bytes: int
    leases: int
    first_sample_ms: float
    sample_p50_ms: float
    sample_max_ms: float
    scrape_p50_ms: float
    scrape_max_ms: float
    every_s: float
    core_share: float


def scrape_bench(
    links: int,
    leases: int,
    rounds: int,
    every_s: float = 15.0,
    said: Callable[[float], None] = lambda share: None,
) -> ScrapeBench:
    """``rounds`` samples, each after ``leases`` leases and everybody's new figures, and as many
    scrapes. ``said`` hears how much of it is done."""
    with TemporaryDirectory() as place:
        folder = Path(place)
        busy = BusyFolder(folder, links)
        reader = LedgerReader(LedgerPlace(folder))
        sampler = Sampler(
            folder, reader, lambda: dataclasses.asdict(read_book(folder)), per_key=True
        )
        try:
            busy.work(leases)
            first_s, _ = _timed(sampler.sample)
            samples = []
            for number in range(rounds):
                busy.work(leases)
                samples.append(_timed(sampler.sample))
                said((number + 1) / rounds)
            with _serving(sampler) as port:
                scrapes = [_timed(lambda: _scrape(port)) for _ in range(rounds)]
        finally:
            reader.close()
            busy.close()
    waits, works = zip(*samples, strict=True)
    scrape_waits, scrape_works = zip(*scrapes, strict=True)
    return ScrapeBench(
        links,
        figures_count(sampler.body),
        len(sampler.body),
        leases,
        1000 * first_s,
        1000 * sorted(waits)[rounds // 2],
        1000 * max(waits),
        1000 * sorted(scrape_waits)[rounds // 2],
        1000 * max(scrape_waits),
        every_s,
        (sum(works) + sum(scrape_works)) / rounds / every_s,
    )


def _timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds on the clock, and of the processor in this process."""
    began_s, before_s = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - began_s, time.process_time() - before_s


def _scrape(port: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", PATH)
    reply = connection.getresponse()
    if reply.status != 200 or not reply.read():
        raise PeerError(f"the exporter said {reply.status}")
    connection.close()


@contextmanager
def _serving(sampler: Sampler) -> Iterator[int]:
    ports: list[int] = []
    up, over = threading.Event(), asyncio.Event()

    async def serve() -> None:
        server = await MetricsServer(lambda: sampler.body).listen("127.0.0.1", 0)
        ports.append(server.sockets[0].getsockname()[1])
        up.set()
        await over.wait()
        server.close()

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    try:
        if not up.wait(10):
            raise PeerError("the exporter does not listen")
        yield ports[0]
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join()
        loop.close()
