"""The edge's process: one event loop for HTTP and link, one thread for the decoder.

Order at the start: configuration checked, database and secret, socket bound, then ``ready`` is
told the port, whether or not there is a link yet. At the end: answers in flight end with an
error, the server stops, the last counts are written.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from narrows.coding.events import NoiseFamily
from narrows.coding.link.options import LinkOptions
from narrows.edge import problems
from narrows.edge.answer import EdgeAnswer
from narrows.edge.api.access import Access
from narrows.edge.api.app import make_app
from narrows.edge.api.front import make_front
from narrows.edge.api.granian_server import STOP_S, HttpServer, bind
from narrows.edge.api.probe import StrongModelProbe
from narrows.edge.api.service import Service
from narrows.edge.books.drift import save_bounds
from narrows.edge.books.keys_file import sync_keys
from narrows.edge.books.standing import StandingFile
from narrows.edge.books.stats import StatsRecorder
from narrows.edge.books.store import load_secret, open_database
from narrows.edge.books.transcripts import TranscriptLog, transcripts_dir
from narrows.edge.config import EdgeConfig
from narrows.edge.link.upkeep import LinkClient, MakeDecoder
from narrows.edge.link.worker import Decoder
from narrows.edge.local import LocalModel
from narrows.edge.models import EdgeModel, EdgeModels, model_secret
from narrows.edge.watch import EdgeAlarms
from narrows.errors import InputError, NarrowsError
from narrows.models.api import TokenModel
from narrows.models.shelf.shelf import Shelf
from narrows.models.shelf.shelf import watch as watch_shelf
from narrows.private import private_folder

log = logging.getLogger("narrows.edge")

FLUSH_S = 1.0


async def serve(
    config: EdgeConfig,
    state_dir: Path,
    models: Sequence[TokenModel] | Shelf | Mapping[str, Shelf],
    ready: Callable[[int], None],
    make_decoder: MakeDecoder | None = None,
    wall_s: Callable[[], float] = time.time,
) -> None:
    """Serve until SIGINT or SIGTERM (or cancellation). ``models``: weak models, newest first, or a
    shelf, which is watched, or a shelf for each model's name; ``make_decoder``: the link codec,
    unless the real one. SIGHUP: look now, at the API's certificate and the file of keys too.
    Raises NarrowsError where the edge cannot start."""
    config.check()
    shelves = _shelves(config, models)
    if config.keys_file is not None:
        log.info("%s", sync_keys(state_dir, config.keys_file, int(wall_s())))
    database = open_database(state_dir)
    stats_database = open_database(state_dir)
    listener = None
    try:
        stats = StatsRecorder(stats_database, wall_s)
        access = Access(database, stats, config.cors_origins, config.keys_file is not None)
        access.check_listener(config.listen_host)
        listener = bind(config.listen_host, config.listen_port)
        served: list[EdgeModel] = []
        alarms = EdgeAlarms(
            state_dir,
            config.alarms,
            lambda picked, reason: EdgeModels(served).fail_those(picked, reason),
            wall_s,
            {one.model_name if config.models else "": one.alarms for one in config.each()},
        )
        secret = load_secret(state_dir)
        for one, watch in zip(config.each(), alarms.watches.values(), strict=True):
            shelf = shelves[one.model_name]
            link = LinkClient(one, shelf, make_decoder or _real_decoder, _options(one), stats)
            link.observer = watch
            own = model_secret(secret, one.model_name) if config.models else secret
            several = bool(config.models)
            served.append(EdgeModel(one, link, shelf, watch, own, among=several))
        service = Service(config, EdgeModels(served), access, stats, alarms, wall_s)
        if config.local.url:
            service.local = LocalModel(config.local)
        if config.transcripts.keep:
            private_folder(state_dir, "edge", "transcripts")
            service.transcripts = TranscriptLog(
                transcripts_dir(state_dir), config.transcripts, wall_s
            )
        try:
            save_bounds(stats_database, config.drift)
        except sqlite3.Error as error:
            log.warning("'narrows status' judges drift by older bounds: %s", error)
        server = HttpServer(make_front(make_app(service), config), config, listener)
        try:
            await _run(service, server, state_dir, lambda: ready(listener.getsockname()[1]))
        finally:
            stats.flush()
            alarms.close()
            if service.local is not None:
                service.local.close()
            if service.transcripts is not None:
                service.transcripts.flush()
    finally:
        if listener is not None:
            listener.close()
        database.close()
        stats_database.close()


def _shelves(
    config: EdgeConfig, models: Sequence[TokenModel] | Shelf | Mapping[str, Shelf]
) -> Mapping[str, Shelf]:
    """Of each model, by its name."""
    if isinstance(models, Mapping):
        return models
    shelf = models if isinstance(models, Shelf) else Shelf.of(models)
    return {config.model_name: shelf}


def _options(config: EdgeConfig) -> dict[str, int]:
    # Half: a link that has broken may hold its memory while the next one is in use already.
    cache = {"max_cache_bytes": config.weak_kv_mib << 19}
    noise = {"noise": int(max(NoiseFamily))}
    return LinkOptions.from_wire(cache | noise | dict(config.link_options)).to_wire()


def _real_decoder(model: TokenModel, options: Mapping[str, int]) -> Decoder:
    from narrows.coding.link.watched import WatchedDecoder

    return WatchedDecoder(model, LinkOptions.from_wire(options))


async def _run(
    service: Service,
    server: HttpServer,
    state_dir: Path,
    listening: Callable[[], None],
) -> None:
    loop = asyncio.get_running_loop()
    stop, read_keys = asyncio.Event(), asyncio.Event()
    looks: list[asyncio.Event] = []

    def look_again() -> None:
        for look in looks:
            look.set()
        read_keys.set()
        server.reload()

    handlers = ((signal.SIGINT, stop.set), (signal.SIGTERM, stop.set), (signal.SIGHUP, look_again))
    for number, handler in handlers:
        with contextlib.suppress(ValueError, RuntimeError):  # not the main thread
            loop.add_signal_handler(number, handler)
    own: set[asyncio.Task[Any]] = set()
    links: set[asyncio.Task[None]] = set()
    for model in service.models.all:
        looks.append(asyncio.Event())
        own |= _tend(service, model, looks[-1])
        links.add(asyncio.create_task(model.link.run(), name=f"link of {model.name}"))
    own.add(asyncio.create_task(_reread_keys(read_keys, service, state_dir), name="keys"))
    over = asyncio.Event()
    file = StandingFile(state_dir)
    flushing = asyncio.create_task(_flush_until(over, service, file), name="statistics")
    serving = asyncio.create_task(server.serve(), name="http")
    stopping = asyncio.create_task(stop.wait())
    listening()
    try:
        roles = {*links, flushing, serving, *own}
        await asyncio.wait({*roles, stopping}, return_when=asyncio.FIRST_COMPLETED)
        for task in roles:
            if task.done():
                task.result()
    finally:
        service.stopping = True
        service.models.fail_those(lambda answer: True, problems.shutting_down())
        for task in (stopping, *own):
            task.cancel()
        await asyncio.sleep(0.05)  # the errors are on their way before the sockets close
        server.stop()
        await asyncio.wait({serving}, timeout=2 * STOP_S)
        for task in (*links, serving):
            task.cancel()
        over.set()  # not cancelled: a write under way is waited for
        await asyncio.gather(*links, flushing, serving, return_exceptions=True)


def _tend(service: Service, model: EdgeModel, look: asyncio.Event) -> set[asyncio.Task[Any]]:
    """What runs beside a model's links: the eye on its weak models, and the question whether the
    strong one answers."""

    def changed() -> None:
        model.link.models_changed()
        service.stats.models_seen(
            {model.weak_label(one.label): one.bits_per_byte for one in model.shelf.offers}
        )

    changed()
    probe = StrongModelProbe(model, service.random_bytes)

    def heard(answer: EdgeAnswer) -> None:
        probe.heard(answer)
        model.watch.ended(answer)

    model.link.heard = heard
    return {
        asyncio.create_task(probe.run(), name=f"probe of {model.name}"),
        asyncio.create_task(
            watch_shelf(model.shelf, look, changed), name=f"weak models of {model.name}"
        ),
    }


async def _reread_keys(wanted: asyncio.Event, service: Service, state_dir: Path) -> None:
    """A file that is wrong changes nothing, and the log says why."""
    while True:
        await wanted.wait()
        wanted.clear()
        path = service.config.keys_file
        if path is None:
            continue
        try:
            said = await asyncio.to_thread(sync_keys, state_dir, path, int(service.wall_s()))
            log.info("%s", said)
        except InputError as error:
            mistakes = "; ".join(error.problems)
            log.error("the keys stay as they were: %s %s", error, mistakes)
        except NarrowsError as error:
            log.error("the keys stay as they were: %s", error)


async def _flush_until(over: asyncio.Event, service: Service, file: StandingFile) -> None:
    while not over.is_set():
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FLUSH_S):
                await over.wait()
        service.put_gauges()
        await service.stats.flush_aside()
        await service.alarms.flush_aside()
        await asyncio.to_thread(file.write, service.models.standings())
        if service.transcripts is not None:
            await asyncio.to_thread(service.transcripts.flush)
