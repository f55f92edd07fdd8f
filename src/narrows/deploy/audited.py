"""``narrows up --audit``: the demonstration's auditor, its mandate, the gate's copy and port.

Keys, journal, mandate and spool lie in ``STATE/audit``: one machine, and without ``--isolated``
one user, so what the auditor's zone is for (docs/audit.md) is not there. It is to see what an
audit does.
"""

from __future__ import annotations

import dataclasses
import socket
from pathlib import Path

from narrows.audit.choose import scorer_named
from narrows.audit.role.keys import SIGNING, AuditorKeys, load_auditor_keys, make_auditor_keys
from narrows.deploy.config import Config
from narrows.gate.config import PortConfig
from narrows.gate.tape.config import TapeConfig
from narrows.ledger.office.demo import audit_demo
from narrows.ledger.office.propose import write_change_file
from narrows.private import private_folder

MANDATE = "enrolment.json"


def with_auditor(state: Path, config: Config, apart: bool = False) -> Config:
    """``config`` with an auditor of the built-in model, enrolled in the demonstration's ledger;
    what is missing is made. ``apart``: the auditor is another user of this machine, who reads the
    spool, and whose journal is its own affair. Errors: ``NarrowsError``."""
    keys = _keys(private_folder(state, "audit", "keys"))
    folder = state / "audit"
    spool = private_folder(state, "audit", "spool", shown=apart)
    journal = folder / "journal" if apart else private_folder(state, "audit", "journal")
    name, weak = config.enclave.model, tuple(dict.fromkeys((*config.edge.weak, *config.audit.weak)))
    pins = scorer_named("runtime", name).digest.hex()
    document = audit_demo(state, config.gate.name, keys.public.hex(), pins)
    write_change_file(folder / MANDATE, document, [])
    audit = dataclasses.replace(
        config.audit,
        listen=f"127.0.0.1:{free_port()}",
        spool=spool,
        keys=folder / "keys",
        enrolment=folder / MANDATE,
        journal=journal,
        gate=config.gate.name,
        model=name,
        scorer="runtime",
        weak=weak,
    )
    tape = TapeConfig(spool, keys.tape_public.hex(), ("answers",), shown=apart)
    gate = dataclasses.replace(config.gate, tape=tape)
    return dataclasses.replace(config, audit=audit, gate=gate)


def with_verdicts(config: Config, port: int) -> Config:
    """The gate's port for what the auditor at ``port`` says."""
    verdicts = PortConfig("verdicts", "verdicts", enclave_port=port, listen_port=0, max_links=1)
    gate = dataclasses.replace(config.gate, ports=(*config.gate.ports, verdicts))
    return dataclasses.replace(config, gate=gate)


def free_port() -> int:
    """A port that is free now: an auditor that is started anew must be where the gate dials."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _keys(folder: Path) -> AuditorKeys:
    return load_auditor_keys(folder) if (folder / SIGNING).exists() else make_auditor_keys(folder)
