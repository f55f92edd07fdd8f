"""The auditor of ``narrows up --isolated --audit``: what it sees, and as whom.

It is another user than the enclave, in a sandbox and a network namespace of its own, and listens on
one port there, which the gate dials. Of the state folder it sees three folders of ``STATE/audit``:

    spool      the gate's sealed tape, read-only and live: it flows inward, as weak models do
    lent       copies of its keys, read-only, of its own user and made anew at each start
    journal    its own, and the one place where it may write: it outlives a kill

Root never reads what it wrote there. What it says leaves by the gate's port, or not at all.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from narrows.audit.role.config import AuditConfig
from narrows.audit.role.keys import COINS, SIGNING, TAPE
from narrows.deploy.config import Config
from narrows.deploy.local import to_toml_section
from narrows.durable import read_once
from narrows.errors import InputError
from narrows.gate.config import PortConfig
from narrows.isolate import network as net
from narrows.isolate.sandbox import Sandbox, compiled_kernels

INSIDE = Path("/run/narrows")
AUDIT_FILE = "/run/narrows/audit.toml"
MAX_FILE_BYTES = 1 << 20


def audit_box(
    state: Path,
    config: Config,
    uid: int,
    artifacts: tuple[Path, ...],
    environment: Mapping[str, str],
) -> tuple[Sandbox, list[str]]:
    """Its folders handed over to ``uid``, whose processes have ended; its sandbox, and what runs
    there. ``config``: as of ``with_auditor``. ``artifacts``: files of its models. Errors:
    ``InputError``."""
    audit = config.audit
    spool, journal, lent = (state / "audit" / name for name in ("spool", "journal", "lent"))
    try:
        _show_spool(spool)
        _hand_over(journal, uid)
        _lend_keys(state / "audit" / "keys", lent, uid)
    except OSError as error:
        raise InputError(f"cannot prepare {state / 'audit'}: {error.strerror or error}") from error
    data = {AUDIT_FILE: to_toml_section("audit", _inside(audit)).encode()}
    for name, file in (("enrolment.json", audit.enrolment), ("null.json", audit.null)):
        if file is not None:
            data[str(INSIDE / name)] = read_once(file, MAX_FILE_BYTES)
    box = Sandbox(
        uid,
        artifacts,
        placed={str(INSIDE / "spool"): spool, str(INSIDE / "keys"): lent},
        kept={str(INSIDE / "journal"): journal},
        private=compiled_kernels(),
        data=data,
        environment=environment,
    )
    box.check(state, shown=(spool, journal, lent))
    words = [sys.executable, "-m", "narrows.cli.main", "audit", "serve", "--config", AUDIT_FILE]
    return box, words


def with_isolated_verdicts(config: Config, gate_outer: str) -> Config:
    """The gate's port for what the auditor says. The poster dials it from within the gate's
    namespace, where the witness is: verdicts are paid there, and need no cable to the host."""
    verdicts = PortConfig(
        "verdicts",
        "verdicts",
        listen_host=gate_outer,
        listen_port=net.VERDICTS_PORT,
        enclave_host=net.AUDITOR,
        enclave_port=net.AUDITOR_PORT,
        max_links=1,
        allow=(f"{gate_outer}/32",),
    )
    gate = dataclasses.replace(config.gate, ports=(*config.gate.ports, verdicts))
    return dataclasses.replace(config, gate=gate)


def _inside(audit: AuditConfig) -> AuditConfig:
    return dataclasses.replace(
        audit,
        listen=f"{net.AUDITOR}:{net.AUDITOR_PORT}",
        spool=INSIDE / "spool",
        keys=INSIDE / "keys",
        enrolment=INSIDE / "enrolment.json",
        journal=INSIDE / "journal",
        null=None if audit.null is None else INSIDE / "null.json",
    )


def _show_spool(spool: Path) -> None:
    """Also files of a run that was not isolated."""
    spool.chmod(0o755)
    for path in spool.glob("*.spool"):
        path.chmod(0o644)


def _hand_over(folder: Path, uid: int) -> None:
    """Of root until now, or of ``uid`` already: then what lies in it is left alone."""
    if folder.is_symlink():
        raise InputError(f"{folder} is a symbolic link")
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.lstat().st_uid == os.geteuid():
        for path in folder.iterdir():
            os.chown(path, uid, uid, follow_symlinks=False)
        os.chown(folder, uid, uid, follow_symlinks=False)


def _lend_keys(keys: Path, lent: Path, uid: int) -> None:
    shutil.rmtree(lent, ignore_errors=True)
    lent.mkdir(mode=0o700)
    for name in (SIGNING, COINS, TAPE):
        shutil.copyfile(keys / name, lent / name)
        (lent / name).chmod(0o600)
        os.chown(lent / name, uid, uid)
    os.chown(lent, uid, uid)
