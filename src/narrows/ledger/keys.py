"""Ed25519 keys in files: PKCS#8 PEM, mode 0600, optionally encrypted with a passphrase.

What someone who reads log.key can achieve: sign another log, which the witness refuses to
cosign unless it extends the true one. An operator's key: one of the k signatures.
"""

from __future__ import annotations

import os
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from narrows.durable import open_once, write_new
from narrows.errors import BudgetError, InputError
from narrows.ledger.log.canonical import unhex
from narrows.publickey import KEY_BYTES, key_flaw

MAX_KEY_FILE_BYTES = 4096


def save_private(path: Path, key: Ed25519PrivateKey, passphrase: bytes | None = None) -> None:
    """Write a new key file, synced; never over an existing one. Errors: ``BudgetError``."""
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase:
        encryption = serialization.BestAvailableEncryption(passphrase)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
    )
    try:
        write_new(path, pem, 0o600)
    except OSError as error:
        raise BudgetError(f"cannot write the key {path}: {error.strerror}") from error


def load_private(path: Path, passphrase: bytes | None = None) -> Ed25519PrivateKey:
    """Read a regular file that only its owner can read. Errors: ``BudgetError``."""
    try:
        with open_once(path) as file:
            mode = os.fstat(file.fileno()).st_mode
            pem = file.read(MAX_KEY_FILE_BYTES)
    except InputError as error:
        raise BudgetError(error.message, error.remedy) from error
    except OSError as error:
        raise BudgetError(f"cannot read the key {path}: {error.strerror}") from error
    if mode & 0o077:
        raise BudgetError(f"others can read the key {path}", f"chmod 600 {path}")
    try:
        key = serialization.load_pem_private_key(pem, passphrase)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise BudgetError(f"the key {path} cannot be opened: {error}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise BudgetError(f"the key {path} is not an Ed25519 key")
    return key


def check_public(public: bytes, what: str = "the key") -> bytes:
    """``public``, if it is an Ed25519 public key as ``publickey`` has it. Errors:
    ``BudgetError``."""
    if flaw := key_flaw(public):
        raise BudgetError(f"{what} {public.hex()[:80]} is refused: {flaw}", "name another key")
    return public


def public_of_hex(text: object, what: str = "the key") -> bytes:
    """The public key that ``text`` spells in lower-case hex. Errors: ``BudgetError``."""
    public = unhex(text, KEY_BYTES)
    if public is None:
        raise BudgetError(f"{what} {str(text)[:80]!r} is not {2 * KEY_BYTES} lower-case hex digits")
    return check_public(public, what)


def public_of(key: Ed25519PrivateKey) -> bytes:
    """The 32 bytes of the public key."""
    return key.public_key().public_bytes_raw()
