"""The weak models that a role holds, newest first; they change while it runs.

A shelf is made of named models (``weak`` of the configuration) and of the artifacts in a folder,
which is looked at again and again. Newest first means: artifacts of the folder by the time at
which their operator signed them (without operators: by the file's time), then the named ones in
their order.

- Every artifact is loaded once before it is offered, so that a bad one (signature, damage,
  other integers here) is refused then, with its reason in the log, and the rest goes on.
- The newest model stays in memory. An older one is in memory while links use it: it is unloaded
  when the last link gives it back, and loaded again should an edge offer nothing newer.
- Models that came with narrows (``default``, ``bytes``, ``smollm2-135m``) need no signature:
  whoever can change them can change this check.

Locks: ``_loading`` is held while files are read, ``_state`` for moments only.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from narrows.errors import ArtifactError, InputError, NarrowsError
from narrows.homes import expanded
from narrows.models.api import TokenModel
from narrows.models.registry import NAMES, load_model
from narrows.models.shelf.signed import check_loaded, read_signed, signed_path

log = logging.getLogger("narrows.weak")

MAX_OFFERS = 16  # what a Hello holds
MAX_FILES = 256
MAX_NAME_CHARS = 200

Load = Callable[[str | Path, bytes | None], TokenModel]
Print = tuple[int, int, int, int, int]  # what tells one state of a file pair from another


@dataclass(frozen=True, slots=True)
class Offer:
    """A model as a link names it. ``bits_per_byte``: what its operator signed; 0: not stated."""

    name: str
    digest: bytes
    numerics: bytes
    bits_per_byte: float = 0.0

    @property
    def label(self) -> str:
        """The name in statistics, with the start of the digest: two versions may share a name."""
        return f"{self.name} {self.digest.hex()[:8]}"


@dataclass(eq=False)
class _Entry:
    offer: Offer
    order: int  # published or written, seconds; 0: named in the configuration
    model: TokenModel | None
    path: Path | None  # of the folder; None: named, or given as an object
    name: str = ""
    users: int = 0


@dataclass(frozen=True)
class Shelving:
    """Where a shelf's models come from. ``operators``: public keys; where there are any, only
    what one of them signed is loaded. ``load``: name or file, expected digest -> model."""

    names: Sequence[str] = ()
    folder: Path | None = None
    operators: frozenset[bytes] = frozenset()
    load: Load = field(default=lambda name, expect: load_model(name, expect=expect))


class Shelf:
    """``take`` and ``refresh`` may block for seconds; everything else returns at once."""

    def __init__(self, source: Shelving) -> None:
        """Loads everything. Raises NarrowsError: a named model cannot be used, or there is
        none at all."""
        self._source = source
        self._loading = threading.Lock()
        self._state = threading.RLock()
        self._refused: dict[Path, Print] = {}
        self._seen: dict[Path, Print] = {}
        self._entries: list[_Entry] = []
        named = [self._load_named(name) for name in source.names]
        self._named = named
        self.refresh()
        if not self._entries:
            raise InputError("there is no weak model", "name one with 'weak'")

    @classmethod
    def of(cls, models: Iterable[TokenModel]) -> Shelf:
        """A shelf of models that are there, newest first, and never unloaded."""
        shelf = cls.__new__(cls)
        shelf._source = Shelving()
        shelf._loading, shelf._state = threading.Lock(), threading.RLock()
        shelf._refused, shelf._seen = {}, {}
        shelf._entries = [_Entry(_offer(model), 0, model, None) for model in models]
        shelf._named = list(shelf._entries)
        return shelf

    @property
    def offers(self) -> tuple[Offer, ...]:
        """At most 16, newest first."""
        with self._state:
            return tuple(entry.offer for entry in self._entries[:MAX_OFFERS])

    def find(self, digest: bytes) -> Offer | None:
        return next((offer for offer in self.offers if offer.digest == digest), None)

    def newer_than(self, digest: bytes) -> tuple[Offer, ...]:
        """What comes before that model; everything where it is not on the shelf any more."""
        offers = self.offers
        at = next((i for i, offer in enumerate(offers) if offer.digest == digest), len(offers))
        return offers[:at]

    @property
    def in_memory(self) -> tuple[bytes, ...]:
        with self._state:
            return tuple(e.offer.digest for e in self._entries if e.model is not None)

    def take(self, digest: bytes) -> TokenModel:
        """The model, for one link: ``give`` it back. Raises ArtifactError where it is gone."""
        with self._state:
            entry = self._entry(digest)
            if entry.model is not None:
                entry.users += 1
                return entry.model
        with self._loading:
            with self._state:
                model = self._entry(digest).model
            if model is None:
                model = self._load(entry.path or entry.name, entry.offer.digest)[0]
            with self._state:
                entry = self._entry(digest)
                entry.model = entry.model or model
                entry.users += 1
                return entry.model

    def give(self, model: TokenModel) -> None:
        """A link is done with it."""
        with self._state:
            for entry in self._entries:
                if entry.offer.digest == model.digest:
                    entry.users = max(0, entry.users - 1)
            self._unload()

    def stale(self) -> bool:
        """Whether the folder holds something that was not looked at yet."""
        return _scan(self._source.folder) != self._seen

    def refresh(self) -> bool:
        """Look at the folder; whether the offers changed."""
        with self._loading:
            found = _scan(self._source.folder)
            known = {entry.path: entry for entry in self._entries if entry.path is not None}
            entries: list[_Entry] = []
            newest: _Entry | None = None  # of those loaded now, the one that stays in memory
            for path, fingerprint in found.items():
                if self._refused.get(path) == fingerprint:
                    continue
                if path in known and self._seen.get(path) == fingerprint:
                    entries.append(known[path])
                    continue
                try:
                    entry = self._load_file(path)
                    entries.append(entry)
                    if newest is not None:
                        older, entry = sorted((newest, entry), key=lambda one: one.order)
                        older.model = None
                    newest = entry
                except (NarrowsError, OSError) as error:
                    log.error("weak model refused: %s", error)
                    self._refused[path] = fingerprint
            self._refused = {p: f for p, f in self._refused.items() if p in found}
            entries.sort(key=lambda entry: (-entry.order, entry.offer.name, entry.offer.digest))
            with self._state:
                before = self.offers
                wanted = _once([*entries, *self._named], self._entries)
                if before and not wanted:
                    log.error("no weak model is left in the folder; going on with what was there")
                self._entries = wanted or self._entries
                for entry in self._named:
                    if entry not in self._entries:  # the folder has it too
                        entry.model = None
                self._seen = found
                self._unload()
                return self.offers != before

    def _entry(self, digest: bytes) -> _Entry:
        for entry in self._entries:
            if entry.offer.digest == digest:
                return entry
        raise ArtifactError(f"the weak model {digest.hex()[:16]} is not here any more")

    def _unload(self) -> None:
        for entry in self._entries[1:]:
            if entry.model is not None and not entry.users and (entry.path or entry.name):
                log.info("weak model %s unloaded: no link uses it", entry.offer.name)
                entry.model = None

    def _load_named(self, name: str) -> _Entry:
        model, offer, _ = self._load(name, None)
        return _Entry(offer, 0, model, None, name)

    def _load_file(self, path: Path) -> _Entry:
        model, offer, order = self._load(path, None)
        log.info("weak model %s, %s", offer.name, offer.digest.hex())
        return _Entry(offer, order, model, path)

    def _load(self, name: str | Path, expect: bytes | None) -> tuple[TokenModel, Offer, int]:
        """Raises NarrowsError: not signed by an operator, damaged, other integers here."""
        if not self._source.operators or str(name) in NAMES:
            order = 0 if str(name) in NAMES else _written_s(expanded(name))
            model = self._source.load(name, expect)
            return model, _offer(model), order
        manifest = read_signed(expanded(name), self._source.operators)
        if expect is not None and manifest.digest != expect:
            raise ArtifactError(f"{name}: the artifact was replaced by another one")
        model = self._source.load(name, manifest.digest)
        check_loaded(model, manifest)
        figure = manifest.figures.bits_per_byte
        return model, _offer(model, figure), manifest.published_s


async def take_for(shelf: Shelf, digest: bytes) -> TokenModel:
    """``shelf.take`` aside; cancelled while it loads, what it took is given back."""
    taking = asyncio.ensure_future(asyncio.to_thread(shelf.take, digest))
    try:
        return await asyncio.shield(taking)
    except asyncio.CancelledError:
        taking.add_done_callback(
            lambda done: None if done.cancelled() or done.exception() else shelf.give(done.result())
        )
        raise


async def watch(
    shelf: Shelf,
    wake: asyncio.Event,
    changed: Callable[[], None] = lambda: None,
    interval_s: float = 2.0,
) -> None:
    """Refresh for ever: where the folder changed, and at once where ``wake`` is set (then
    ``changed`` is called in any case)."""
    while True:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(interval_s):
                await wake.wait()
        woken = wake.is_set()
        wake.clear()
        try:
            new = (woken or await asyncio.to_thread(shelf.stale)) and await asyncio.to_thread(
                shelf.refresh
            )
        except NarrowsError as error:
            log.error("going on with the weak models that are there: %s", error)
            new = False
        if new or woken:
            changed()


def _written_s(path: Path) -> int:
    """Raises ArtifactError."""
    try:
        return int(path.stat().st_mtime)
    except OSError as error:
        raise ArtifactError(f"cannot read {path}: {error.strerror}") from error


def _offer(model: TokenModel, bits_per_byte: float = 0.0) -> Offer:
    """Raises ArtifactError where the name could not be shown to people."""
    if not model.name.isprintable() or not 1 <= len(model.name) <= MAX_NAME_CHARS:
        raise ArtifactError(
            f"a weak model's name has 1..{MAX_NAME_CHARS} printable characters, "
            f"not {model.name[:40]!r}",
            "name it with 'narrows weak import --name'",
        )
    return Offer(model.name, model.digest, model.numerics, bits_per_byte)


def _once(wanted: list[_Entry], before: list[_Entry]) -> list[_Entry]:
    """Each digest once; an entry that was there before goes on with its users."""
    by_digest = {entry.offer.digest: entry for entry in before}
    result: dict[bytes, _Entry] = {}
    for entry in wanted:
        digest = entry.offer.digest
        if digest in result:
            continue
        old = by_digest.get(digest)
        if old is not None and old is not entry:
            entry.users, entry.model = old.users, old.model or entry.model
        result[digest] = entry
    return list(result.values())


def _scan(folder: Path | None) -> dict[Path, Print]:
    """The artifacts of a folder, with what shows a change of one or of its signature. Raises
    InputError where it is there and cannot be read."""
    if folder is None:
        return {}
    try:
        present = sorted(folder.glob("[!.]*.narrows")) if folder.is_dir() else []
    except OSError as error:
        raise InputError(f"cannot read {folder}: {error.strerror}") from error
    found: dict[Path, Print] = {}
    for path in present[:MAX_FILES]:
        try:
            one = path.stat()
            signature = signed_path(path)
            two = signature.stat() if signature.exists() else None
        except OSError:
            continue  # it goes away just now
        second = (two.st_mtime_ns, two.st_ino) if two else (0, 0)
        found[path] = (one.st_size, one.st_mtime_ns, one.st_ino, *second)
    return found
