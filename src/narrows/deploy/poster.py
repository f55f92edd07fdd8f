"""The poster: verdicts from the gate's port in, credits into the ledger.

It stands where the ledger is, holds no key of the auditor's and gives no right: the ledger's rules
check every credit. Per verdict: form and signature; the credit's leases found again in the ledger;
one attempt to book it. A refused credit is told and not tried again. Where the outcome is unknown,
the ledger is asked; the next credit follows what is there. Then the auditor is told what the ledger
has, which costs nothing.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace

from narrows.deploy.verdicts import DAY_S, VerdictBook, read_book, write_book
from narrows.edge.config import EdgeConfig
from narrows.edge.link.dial import GateDialer
from narrows.errors import BudgetError, InputError, NarrowsError, PeerError
from narrows.ledger.ledger import Ledger
from narrows.ledger.net import Auditor, Credit
from narrows.ledger.office.balances import read_state
from narrows.ledger.office.credits import apply_credit
from narrows.ledger.rules import RuleError, State
from narrows.ledger.stores.place import LedgerPlace
from narrows.wire.verdict import (
    FINAL,
    AuditVerdict,
    LedgerView,
    account_tag,
    alarm_words,
    parse_verdict,
)

log = logging.getLogger("narrows.poster")
RETRY_S = (0.5, 30.0)


class CreditPoster:
    """One lineage and gate. ``open_ledger``: as an operator, held for one booking only, so that
    people's commands find it free. ``close``: called where the policy is to close, with each
    verdict until it succeeds; its errors are told. Not for two threads."""

    def __init__(
        self,
        place: LedgerPlace,
        open_ledger: Callable[[], Ledger],
        lineage: str,
        gate: str,
        verdict_bytes: int,
        close: Callable[[], None] | None = None,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self._place, self._open_ledger, self._state_dir = place, open_ledger, place.state_dir
        self._lineage, self._gate = lineage, gate
        self._size_bytes, self._close, self._now_s = verdict_bytes, close, now_s
        self._is_shut = False
        self.book: VerdictBook = read_book(self._state_dir)
        self.linked = False
        """A verdict has come since somebody reset this."""

    def views(self) -> bytes:
        """What the auditor is told. Errors: ``BudgetError``."""
        _, auditor = self._enrolled()
        found = []
        for account, chain in auditor.chains.items():
            leases = tuple((bytes.fromhex(i), used) for i, (_, used) in chain.leases.items())
            view = LedgerView(account_tag(account), chain.position, chain.total, leases)
            found.append(view.encode())
        return b"".join(found)

    def take(self, data: bytes) -> None:
        """One verdict. Errors: ``InputError`` for what is no verdict of this auditor,
        ``BudgetError`` where the ledger cannot be read."""
        state, auditor = self._enrolled()
        verdict = parse_verdict(data, self._size_bytes, bytes.fromhex(auditor.key))
        if verdict.epoch.hex() != auditor.epoch:
            raise InputError("a verdict of another epoch than the enrolled one")
        if auditor.epoch == self.book.epoch and verdict.sequence <= self.book.sequence:
            raise InputError(f"verdict {verdict.sequence} has come before")
        if verdict.alarms != self.book.alarms:
            log.warning("verdict: %s", ", ".join(alarm_words(verdict.alarms)) or "no alarm")
        now_s = int(self._now_s())
        self._write(
            epoch=auditor.epoch,
            sequence=verdict.sequence,
            time_s=now_s,
            alarms=verdict.alarms,
            **self._new_day(now_s // DAY_S, state),
        )
        if verdict.alarms & FINAL and self._close is not None:
            self._shut(auditor.epoch, self._close)
        if verdict.leases:
            self._book(state, auditor, verdict)

    def _new_day(self, day: int, state: State) -> dict[str, object]:
        if (day, self._lineage) == (self.book.day, self.book.lineage):
            return {}
        spent_bytes = state.lineages[self._lineage].spent_bytes
        begun = {"day": day, "day_spent_bytes": spent_bytes, "day_credited_bytes": 0}
        return begun | {"lineage": self._lineage}

    def _shut(self, epoch: str, close: Callable[[], None]) -> None:
        if self.book.closed != epoch:
            self._write(closed=epoch)  # first: whatever happens now, nothing more is booked
        if self._is_shut:
            return
        try:
            close()
            self._is_shut = True
        except NarrowsError as error:
            log.error("closing behind an alarm: %s", error.message)

    def _book(self, state: State, auditor: Auditor, verdict: AuditVerdict) -> None:
        if self.book.closed == auditor.epoch:
            self._refused("nothing is booked behind the alarm of this epoch")
            return
        try:
            credit = self._credit(state, auditor, verdict)
        except InputError as error:
            self._refused(error.message)
            return
        try:
            with closing(self._open_ledger()) as ledger:
                position = apply_credit(ledger, credit, verdict.signature.hex())
        except RuleError as error:
            self._refused(error.message)
            return
        except BudgetError as error:
            log.warning("whether a credit was booked is not known: %s", error.message)
            if not self._is_booked(credit):
                self._refused(f"not booked: {error.message}")
                return
            position = None
        gain = credit.total - credit.previous
        total = self.book.credited_bytes + gain
        self._write(
            credited_bytes=total,
            credits=self.book.credits + 1,
            credit_s=int(self._now_s()),
            credit_bytes=gain,
            day_credited_bytes=self.book.day_credited_bytes + gain,
        )
        where = "before" if position is None else f"as leaf {position}"
        log.info("credited %d bytes to %s %s", gain, credit.account, where)

    def _credit(self, state: State, auditor: Auditor, verdict: AuditVerdict) -> Credit:
        """The document that was signed: whole ids are found by their heads."""
        accounts = [name for name in auditor.chains if account_tag(name) == verdict.tag]
        if len(accounts) != 1:
            raise InputError("the credit is of no account that this auditor has leases of")
        [account] = accounts
        waiting = auditor.chains[account].leases
        leases = []
        for head, size_bytes in verdict.leases:
            ids = [one for one in waiting if one.startswith(head.hex())]
            if len(ids) != 1:
                raise InputError(f"lease {head.hex()} cannot be credited any more")
            leases.append((ids[0], size_bytes))
        gain = sum(size_bytes for _, size_bytes in leases)
        return Credit(
            *(state.origin, self._lineage, self._gate, account, auditor.epoch),
            *(verdict.position, verdict.tape.hex(), verdict.total - gain, verdict.total),
            tuple(leases),
        )

    def _is_booked(self, credit: Credit) -> bool:
        _, auditor = self._enrolled()
        chain = auditor.chains.get(credit.account)
        return chain is not None and (chain.position, chain.total) == (
            credit.position,
            credit.total,
        )

    def _enrolled(self) -> tuple[State, Auditor]:
        state = read_state(self._place)
        net = state.nets.get(self._lineage)
        auditor = None if net is None else net.auditors.get(self._gate)
        if auditor is None:
            raise BudgetError(
                f"nobody audits {self._gate} in lineage {self._lineage}",
                "see narrows budget enrol",
            )
        return state, auditor

    def _refused(self, why: str) -> None:
        log.warning("a credit was refused: %s", why)
        self._write(refused=self.book.refused + 1, last_refusal=why[:200])

    def _write(self, **changes: object) -> None:
        self.book = replace(self.book, **changes)  # type: ignore[arg-type]
        write_book(self._state_dir, self.book)


async def post(poster: CreditPoster, config: EdgeConfig, verdict_bytes: int) -> None:
    """Dial the gate's port (``config.gate_host``, ``gate_port``), for ever; a link that fails is
    dialled again, later and later."""
    wait_s = RETRY_S[0]
    while True:
        try:
            await _one_link(poster, config, verdict_bytes)
        except NarrowsError as error:
            log.warning("%s", error.message)
        if poster.linked:
            wait_s, poster.linked = RETRY_S[0], False
        await asyncio.sleep(wait_s)
        wait_s = min(2 * wait_s, RETRY_S[1])


async def _one_link(poster: CreditPoster, config: EdgeConfig, verdict_bytes: int) -> None:
    wire = await GateDialer(config).connect(lambda count: None)
    data = b""
    try:
        wire.write(await asyncio.to_thread(poster.views))
        while (more := await wire.read()) is not None:
            data += more
            while len(data) >= verdict_bytes:
                verdict, data = data[:verdict_bytes], data[verdict_bytes:]
                await asyncio.to_thread(poster.take, verdict)
                poster.linked = True
                wire.write(await asyncio.to_thread(poster.views))
    finally:
        wire.close()
    raise PeerError("the gate has closed the auditor's port")
