"""An answer of the ledger that took long says nothing where a link was served meanwhile."""

from __future__ import annotations

import asyncio

from narrows.gate.recovery import PortVerdict, recover
from narrows.ledger.api import Denied


class SlowPort:
    """Its ledger answers ``depleted``, after a link has taken the rest of the budget."""

    def __init__(self) -> None:
        self.verdict = PortVerdict(asyncio.get_running_loop().time)
        self.links_live = 0
        self.asked = asyncio.Event()

    async def ask(self) -> Denied | None:
        self.asked.set()
        self.verdict.allow()  # a link got its lease while the question was on its way
        await asyncio.sleep(0)
        self.links_live = 1
        return Denied("depleted", "the rest is that link's")


def test_a_late_refusal_does_not_hide_a_link_that_is_served() -> None:
    async def run() -> str:
        port = SlowPort()
        port.verdict.refuse("depleted")
        task = asyncio.create_task(recover(port))
        await asyncio.wait_for(port.asked.wait(), 60)
        await asyncio.sleep(0.1)
        task.cancel()
        return port.verdict.state

    assert asyncio.run(run()) == "ok"
