"""How answers of one server may be coded just now: probed at the start and after each reconnect,
watched while it serves."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from narrows.coding.events import OWN_NOISE, Noise
from narrows.enclave.tokens.luck import Running
from narrows.enclave.tokens.probe import Capability
from narrows.errors import PeerError

log = logging.getLogger("narrows.enclave.upstream")

FIRST_WAIT_S = 60.0
"""How long an answer waits for the first verdict, before it goes as text."""
PAUSE_S = 2.0  # between two probes, at least
RETRY_S = 5.0  # while the server is not there; doubles
AGAIN_S = 600.0  # while it is there and cannot do what is wanted

_UNKNOWN = Capability(False, False, "not probed yet", 0, False)


class Standing:
    """``probe`` finds a verdict. ``required``: both ids and, with ``coupling``, the key."""

    def __init__(
        self,
        probe: Callable[[], Awaitable[Capability]],
        *,
        coupling: bool = True,
        pause_s: float = PAUSE_S,
    ) -> None:
        self._probe = probe
        self._coupling = coupling
        self._pause_s = pause_s
        self._verdict = _UNKNOWN
        self._known = asyncio.Event()
        self._wanted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._running = Running(self._sagged)
        self._suspected = False
        self.probes = 0

    @property
    def now(self) -> Capability:
        """The verdict as it stands."""
        return self._verdict

    def start(self) -> None:
        """Begin to probe. Idempotent."""
        if self._task is None:
            self._task = asyncio.create_task(self._keep())
            self._task.add_done_callback(self._over)

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def require(self, wait_s: float) -> None:
        """PeerError unless answers cross as ids, coupled where that is wanted. The server may
        take ``wait_s`` longer than the first probe to be there."""
        await self._known.wait()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                while not self._verdict.reached:
                    await asyncio.sleep(0.05)
        verdict = self._verdict
        if not verdict.ids or (self._coupling and not verdict.coupled):
            raise PeerError(
                f"the strong model's answers cannot cross as required: {verdict.why}",
                'docs/engines.md says how, or say tokens = "auto" in [enclave.upstream]',
            )

    async def settled(self) -> Capability:
        """The verdict for an answer that begins now."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FIRST_WAIT_S):
                await self._known.wait()
        return self._verdict

    def lost(self) -> None:
        """The server broke off, or was not there: it may come back as another one."""
        if self._known.is_set():
            self._plain("the server was away")
            self._wanted.set()

    def watch(
        self, key: bytes, start: int, tokens: Sequence[int], drawn: Noise = OWN_NOISE
    ) -> None:
        """Tokens of a coupled answer."""
        if self._verdict.coupled:
            self._running.watch(key, start, tokens, drawn)

    def figures(self) -> dict[str, float]:
        return {
            "upstream_ids": float(self._verdict.ids),
            "upstream_coupled": float(self._verdict.coupled),
            "upstream_tools": float(self._verdict.tools),
            "upstream_formats": float(self._verdict.formats),
            "upstream_probes": self.probes,
        }

    def _sagged(self, count: int, sum_: float) -> None:
        self._suspected = True
        self._plain(f"{count} tokens show no trace of their keys (mean {sum_ / count:.2f})")
        self._wanted.set()

    def _plain(self, why: str) -> None:
        if self._verdict.coupled:
            self._verdict = replace(self._verdict, coupled=False, why=why)
            self._say()

    async def _keep(self) -> None:
        retry_s = RETRY_S
        while True:
            self._wanted.clear()
            before = self._verdict
            self._verdict = await self._probe()
            self.probes += 1
            if self._verdict.coupled and self._suspected:
                self._running.cleared()
            else:
                self._running.restart()
            self._suspected = False
            self._known.set()
            if (self._verdict.ids, self._verdict.why) != (before.ids, before.why):
                self._say()
            now = self._verdict
            good = now.ids and (now.coupled or not self._coupling)
            wait_s: float | None = None if good else AGAIN_S
            if not now.reached:
                wait_s, retry_s = retry_s, min(AGAIN_S, 2 * retry_s)
            else:
                retry_s = RETRY_S
            await asyncio.sleep(self._pause_s)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._wanted.wait()

    def _over(self, task: asyncio.Task[None]) -> None:
        """A bug ends the probing, not the serving: answers go as the last verdict has it."""
        self._known.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("probing has ended", exc_info=error)

    def _say(self) -> None:
        verdict = self._verdict
        if verdict.coupled:
            log.info("answers cross as token ids, coupled: %s", verdict.why)
        elif verdict.ids:
            words = "answers cross as token ids, not coupled: %s"
            log.log(logging.WARNING if self._coupling else logging.INFO, words, verdict.why)
        else:
            log.warning("answers cross as text: %s", verdict.why)
