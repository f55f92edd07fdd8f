"""An auditor's three keys, in a folder of its own, mode 0600.

audit.key   Ed25519, PEM: signs credits and verdicts. Who reads it can widen the net budget to
            the raw one.
coins.key   32 bytes: which segments are audited. Who reads it can fill those that are not.
tape.key    32 bytes, X25519: opens the spool. Who reads it, and the spool, reads prompts.
"""

from __future__ import annotations

import os
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from narrows.durable import open_once, write_new
from narrows.errors import InputError
from narrows.ledger.keys import load_private, save_private

SIGNING, COINS, TAPE = "audit.key", "coins.key", "tape.key"
SECRET_BYTES = 32


@dataclass(frozen=True, slots=True)
class AuditorKeys:
    signing: Ed25519PrivateKey
    coins: bytes
    tape: bytes

    @property
    def public(self) -> bytes:
        """What operators enrol."""
        return self.signing.public_key().public_bytes_raw()

    @property
    def tape_public(self) -> bytes:
        """What the gate seals the spool to."""
        return X25519PrivateKey.from_private_bytes(self.tape).public_key().public_bytes_raw()


def make_auditor_keys(folder: Path) -> AuditorKeys:
    """New ones in ``folder``, which must be there; never over what is there."""
    for name in (SIGNING, COINS, TAPE):
        if (folder / name).exists():
            raise InputError(f"{folder / name} exists", "keys are never overwritten")
    save_private(folder / SIGNING, Ed25519PrivateKey.generate())
    try:
        write_new(folder / COINS, secrets.token_bytes(SECRET_BYTES), 0o600)
        write_new(folder / TAPE, X25519PrivateKey.generate().private_bytes_raw(), 0o600)
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {error.strerror or error}") from error
    return load_auditor_keys(folder)


def load_auditor_keys(folder: Path) -> AuditorKeys:
    """Errors: ``NarrowsError``."""
    signing = load_private(folder / SIGNING)
    return AuditorKeys(signing, _secret(folder / COINS), _secret(folder / TAPE))


def _secret(path: Path) -> bytes:
    try:
        with open_once(path) as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(SECRET_BYTES + 1)
    except OSError as error:
        raise InputError(f"cannot read the key {path}: {error.strerror or error}") from error
    if stat.S_IMODE(mode) & 0o077:
        raise InputError(f"others can read the key {path}", f"chmod 600 {path}")
    if len(data) != SECRET_BYTES:
        raise InputError(f"the key {path} has not {SECRET_BYTES} bytes")
    return data
