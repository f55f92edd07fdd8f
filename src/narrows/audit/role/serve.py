"""``narrows audit serve``: the spool in, verdicts out; one thread audits, one speaks.

The auditor's thread may take minutes for a segment and moves no verdict; it publishes what it has
audited whole. Whatever ends that thread ends the process: an auditor that cannot write its journal
says nothing more.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from narrows.alarms.nullfile import from_json
from narrows.alarms.sequential import Alarm
from narrows.audit.auditor import AuditMemory, Rules, TapeAuditor
from narrows.audit.choose import scorer_named
from narrows.audit.keybook import KeyBook
from narrows.audit.role.config import AuditConfig
from narrows.audit.role.credits import next_credit
from narrows.audit.role.follow import Spool, TapeFollower
from narrows.audit.role.journal import AuditJournal
from narrows.audit.role.keys import AuditorKeys
from narrows.audit.role.speak import VerdictServer, Views
from narrows.durable import read_once
from narrows.errors import InputError, PeerError
from narrows.ledger.auditors import PPM, PPT, Enrolment
from narrows.ledger.changes import parse_change
from narrows.ledger.net import Credit, sign_credit
from narrows.ledger.office.propose import read_change_file
from narrows.models.api import TokenModel
from narrows.models.registry import load_model
from narrows.wire.address import parse_address
from narrows.wire.verdict import AuditVerdict, account_tag, verdict_leases

IDLE_S = 0.2
MAX_NULL_BYTES = 4096
log = logging.getLogger("narrows.audit")
OpenSpool = Callable[[Path, bytes], Spool]


@dataclass(frozen=True, slots=True)
class Mandate:
    """What operators have signed, for one gate of ledger ``origin``."""

    origin: str
    gate: str
    enrolment: Enrolment

    @property
    def rules(self) -> Rules:
        terms = self.enrolment.terms
        return Rules(terms.audited_ppm / PPM, terms.segment_bits, terms.delta_ppt / PPT)

    def identity(self, keys: AuditorKeys) -> str:
        """What a journal is bound to: M's parameters, the weights, and both secrets."""
        document = self.enrolment.document() | {"origin": self.origin, "of": self.gate}
        for loose in ("gates", "lineage", "most_ppm", "grain_bytes"):
            document.pop(loose, None)
        document["coins"] = sha256(b"narrows audit journal 1" + keys.coins).hexdigest()
        return json.dumps(document, sort_keys=True)


def read_mandate(path: Path, gate: str) -> Mandate:
    """The enrolment in a change file. ``InputError`` where it is none, or not for ``gate``."""
    document, _ = read_change_file(path)
    change = parse_change(document)
    body = change.body
    if not isinstance(body, Enrolment):
        raise InputError(f"{path} enrols no auditor", "see narrows budget enrol")
    if gate not in body.gates:
        raise InputError(f"{path} enrols for {', '.join(body.gates)}, not for {gate}")
    return Mandate(change.origin, gate, body)


class AuditRole:
    """The two halves, and what they share: the journal and what was audited last."""

    def __init__(
        self, config: AuditConfig, mandate: Mandate, keys: AuditorKeys, follower: TapeFollower,
        journal: AuditJournal,
    ) -> None:  # fmt: skip
        self._config, self._mandate, self._keys = config, mandate, keys
        self._follower, self._journal = follower, journal
        self._stopping, self._over = threading.Event(), threading.Event()

    def compose(self, views: Views) -> bytes:
        """The next verdict. Its number and credit are durable when it returns."""
        audited = self._follower.now
        size_bytes = self._config.verdict_bytes
        found = next_credit(
            self._mandate.origin,
            self._mandate.enrolment,
            self._mandate.gate,
            audited,
            views,
            verdict_leases(size_bytes),
        )
        if found.view is not None:
            del views[found.view.tag]
        number = self._journal.saying(found.credit)
        alarms = audited.alarms | found.alarms
        epoch = bytes.fromhex(self._mandate.enrolment.epoch)
        verdict = AuditVerdict(number, alarms, epoch)
        if found.credit is not None:
            verdict = _with_credit(verdict, found.credit, self._keys)
        return verdict.encode(size_bytes, self._keys.signing.sign)

    def follow(self) -> None:
        """Until ``stop``."""
        try:
            said = ""
            while not self._stopping.is_set():
                more = self._follower.step()
                why = self._follower.now.why
                if why and why != said:
                    log.warning("%s", why)
                said = why
                if not more:
                    self._stopping.wait(IDLE_S)
        finally:
            self._over.set()

    def stop(self) -> bool:
        """Whether it still followed."""
        self._stopping.set()
        return not self._over.is_set()


def _with_credit(verdict: AuditVerdict, credit: Credit, keys: AuditorKeys) -> AuditVerdict:
    leases = tuple((bytes.fromhex(lease)[:8], size) for lease, size in credit.leases)
    return AuditVerdict(
        *(verdict.sequence, verdict.alarms, verdict.epoch, account_tag(credit.account)),
        *(credit.position, credit.total, bytes.fromhex(credit.tape)),
        bytes.fromhex(sign_credit(credit, keys.signing)),
        leases,
    )


def build(
    config: AuditConfig, mandate: Mandate, keys: AuditorKeys, open_spool: OpenSpool
) -> AuditRole:
    """Load models, check that they are those the operators pinned, open the journal."""
    spool_folder, folder = config.spool, config.journal
    if spool_folder is None or folder is None:
        raise InputError("the auditor needs the keys spool and journal", "see [audit]")
    if mandate.enrolment.key != keys.public.hex():
        raise InputError("the enrolment is of another auditor's key", "see narrows audit keygen")
    scorer = scorer_named(config.scorer, config.model)
    if scorer.digest.hex() != mandate.enrolment.terms.pins:
        raise InputError(
            f"{config.model} is {scorer.digest.hex()}, operators pinned another digest",
            "give the weights that they enrolled, or enrol anew: narrows audit pins",
        )
    weak: dict[bytes, TokenModel] = {}
    for name in config.weak:
        model = load_model(name)
        weak[model.digest] = model

    def make(memory: AuditMemory, book: KeyBook) -> TapeAuditor:
        alarm = Alarm() if config.null is None else Alarm(_null(config.null))
        return TapeAuditor(scorer, weak, mandate.rules, keys.coins, alarm, memory=memory, keys=book)

    journal = AuditJournal(folder / f"{mandate.enrolment.epoch}.db", mandate.identity(keys))
    spool = open_spool(spool_folder, keys.tape)
    follower = TapeFollower(spool, make, journal, config.ports)
    return AuditRole(config, mandate, keys, follower, journal)


def _null(path: Path) -> Any:
    return from_json(read_once(path, MAX_NULL_BYTES))


def run(role: AuditRole, config: AuditConfig, tell: Callable[[dict[str, Any]], None]) -> None:
    """Serve until a signal. ``tell`` is told once what listens."""
    asyncio.run(_run(role, config, tell))


async def _run(
    role: AuditRole, config: AuditConfig, tell: Callable[[dict[str, Any]], None]
) -> None:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()

    def follow() -> None:
        try:
            role.follow()
        finally:  # by an error, which the interpreter reports, or because it was asked to
            with contextlib.suppress(RuntimeError):  # the loop is closed: it was asked to
                loop.call_soon_threadsafe(ended.set)

    server = VerdictServer(role.compose, config.period_s)
    port = await server.start(*parse_address(config.listen))
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ended.set)
    thread = threading.Thread(target=follow, name="audit", daemon=True)
    thread.start()
    tell({"ready": True, "role": "audit", "port": port, "pid": os.getpid()})
    await ended.wait()
    server.stop()
    if not role.stop():
        raise PeerError("the auditor's thread has ended", "why is above; its journal is whole")
