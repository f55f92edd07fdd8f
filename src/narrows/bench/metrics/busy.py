"""A state folder as a busy installation leaves it, without running its roles."""

from __future__ import annotations

import json
import time
from contextlib import closing
from pathlib import Path

from narrows.alarms.store import AlarmStore, FiledAlarm
from narrows.coding.events import Coding
from narrows.deploy.verdicts import VerdictBook, write_book
from narrows.edge.books.figures import series
from narrows.edge.books.stats import StatsRecorder
from narrows.edge.books.store import open_database
from narrows.errors import BudgetError
from narrows.ledger.api import Lease
from narrows.ledger.auditors import NetLimits
from narrows.ledger.changes import sign_change
from narrows.ledger.keys import load_private
from narrows.ledger.ledger import Ledger
from narrows.ledger.limits import Limits
from narrows.ledger.office.admin import apply_change
from narrows.ledger.office.demo import ACCOUNTS, LINEAGE, create_demo
from narrows.ledger.office.propose import budget_document
from narrows.ledger.office.setup import open_witness
from narrows.ledger.stores.place import LedgerPlace
from narrows.private import private_folder

BUDGET_BYTES = 10**12
WINDOWS = ((3_600_000, 10**10), (86_400_000, 10**11))
LEASE_BYTES = 65_536
ERRORS = (
    ("overloaded", 429),
    ("egress_budget_exhausted", 429),
    ("invalid_value", 400),
    ("invalid_api_key", 401),
    ("model_not_found", 404),
    ("upstream_error", 502),
)
MODES = ("plain", "kept", "concise", "kept+concise")


class BusyFolder:
    """``links``: of the gate's ports together. ``ports``, ``models``, ``keys``: how many of each.
    Every ``work`` is a moment's traffic."""

    def __init__(self, folder: Path, links: int, ports: int = 16, models: int = 4, keys: int = 100):
        self.folder, self.links, self.ports = folder, links, ports
        self.models, self.keys = models, keys
        self._answers = 0
        create_demo(folder, BUDGET_BYTES)
        self._witness = open_witness(folder)
        self.ledger = Ledger.open(LedgerPlace(folder), witness=self._witness, gate="gate")
        self._set_budget()
        self._database = open_database(folder)
        self._stats = StatsRecorder(self._database, time.time)
        now_s = int(time.time())
        with closing(AlarmStore(folder)) as store:
            kinds = ("noise", "uncoupled", "cost", "share", "demand")
            rows = [
                FiledAlarm(0, kind, kind, -1, "note", now_s, now_s, 1, 20.0, "") for kind in kinds
            ]
            store.write(rows, [])
        book = VerdictBook("epoch", 3, now_s, 0, 1000, 2, credit_s=now_s, lineage=LINEAGE)
        write_book(folder, book)

    def close(self) -> None:
        self._database.close()
        self.ledger.close()
        self._witness.close()

    def work(self, leases: int) -> None:
        """So many leases, and everybody writes anew what it has counted. Errors:
        ``BudgetError``."""
        for _ in range(leases):
            lease = self.ledger.acquire(ACCOUNTS[0], LEASE_BYTES)
            if not isinstance(lease, Lease):
                raise BudgetError(f"a lease was refused: {lease.reason}")
            self.ledger.settle(lease, lease.size_bytes)
        self._answer()
        self._write_gate()

    def _set_budget(self) -> None:
        limits, net = Limits(BUDGET_BYTES, WINDOWS), NetLimits(Limits(BUDGET_BYTES, WINDOWS), 10**9)
        accounts = dict.fromkeys(ACCOUNTS, Limits(None))
        state, now_ms = self.ledger.state(), self.ledger.now_ms()
        document = budget_document(state, LINEAGE, limits, accounts, now_ms, net=net)
        key = load_private(LedgerPlace(self.folder).folder / "operators" / "demo.key")
        apply_change(self.ledger, document, [sign_change(document, key)])

    def _answer(self) -> None:
        figures = self._stats.figures
        for number in range(self.models):
            weak = f"weak-{number}@0123456789abcdef"
            traffic, imitation = self._stats.traffic(f"weak-{number}"), self._stats.imitation(weak)
            for coding in Coding:
                name = coding.name.lower()
                for mode in MODES:
                    labels = {"coding": name, "mode": mode, "weak": weak}
                    figures.add("narrows_answers_total", 1, **labels)
                    figures.add("narrows_answer_text_bytes_total", 900, **labels)
                    figures.add("narrows_answer_link_bytes_total", 52.5, **labels)
                    figures.add("narrows_answer_tokens_total", 200, **labels)
                    traffic.answers += 1
                    imitation.add(1, 900, 420)
                for seconds in (0.03, 0.3, 3.0, 40.0):
                    figures.observe("narrows_first_token_seconds", seconds, coding=name)
                    figures.observe("narrows_inter_token_seconds", seconds / 100, coding=name)
        for code, status in ERRORS:
            figures.add("narrows_request_errors_total", code=code, status=str(status))
        for key in range(1, self.keys + 1):
            self._stats.key_used(key, 1, 420)
        self._answers += 1
        own = {
            series("narrows_edge_open_answers"): float(self._answers),
            series("narrows_edge_open_body_bytes"): 1000.0,
            series("narrows_edge_gate_state", model="m", state="ok"): 1.0,
        }
        gauges = {
            "narrows_edge_waiting_requests": 0.0,
            "narrows_edge_links": float(self.links),
            "narrows_edge_link_up": 1.0,
            "narrows_edge_decoder_late_seconds": 0.0,
            "narrows_edge_strong_model_up": 1.0,
        }
        named = {series(name, model="m"): number for name, number in gauges.items()}
        self._stats.put_gauges(own | named)
        self._stats.flush()

    def _write_gate(self) -> None:
        count = self._answers
        port = {
            "account": ACCOUNTS[0],
            "state": "ok",
            "links": self.links // self.ports,
            "links_opened": self.links + count,
            "sent_bytes": 1000 * count,
            "timing_bytes": 10 * count,
            "denials": 0,
        }
        latency = {"calls": count, "seconds": 0.003 * count}
        stats = {
            "kernel": {"state": "on", "alarm": "", "passed_bytes": {"links": 1000 * count}},
            "machine": {"state": "ok"},
            "tape": {"state": "copying", "spool_bytes": 10**6},
            "unwritten": {"count": 0, "last": ""},
            "acquire": latency,
            "witness": latency,
            "ports": {f"answers-{number}": port for number in range(self.ports)},
        }
        private_folder(self.folder, "gate")
        (self.folder / "gate" / "stats.json").write_text(json.dumps(stats))
