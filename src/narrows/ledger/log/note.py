"""Signed notes, checkpoints and cosignatures, in the formats of C2SP, so that other tools
read them: c2sp.org/signed-note, c2sp.org/tlog-checkpoint, c2sp.org/tlog-cosignature (v1).

    <origin>                                note text: origin, size, root,
    <size>                                  then one extension line per lineage:
    <base64 root>
    committed <lineage> <bytes>             spent and outstanding bytes at this size
    <blank>
    — <name> base64(4 bytes key id ‖ signature)

The ``committed`` lines tell a witness, and whoever recovers from a backup, how much can have
left by then. Parsing is exact: bounded size, the text is formatted again and compared.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from narrows.errors import BudgetError
from narrows.ledger.keys import check_public
from narrows.ledger.log.canonical import MAX_INTEGER, is_name
from narrows.publickey import is_signed

MAX_NOTE_BYTES = 1 << 14
MAX_SIGNATURES = 16
TYPE_ED25519 = b"\x01"
TYPE_COSIGNATURE = b"\x04"
_NAME = re.compile(r"[A-Za-z0-9._/:-]{1,200}")  # narrower than C2SP: ASCII, no blank, no plus
_DECIMAL = re.compile(r"0|[1-9][0-9]{0,18}")
_DASH = "\u2014 "


class NoteError(BudgetError):
    """A note is malformed, or its signature does not verify."""


class SignatureError(NoteError):
    """A note has no signature of the key, or a wrong one."""


@dataclass(frozen=True, slots=True)
class Verifier:
    """A key that notes are checked against. ``kind``: the C2SP signature type byte.
    ``BudgetError`` where ``public`` is no key, or one for which anyone could sign."""

    name: str
    public: bytes
    kind: bytes = TYPE_ED25519

    def __post_init__(self) -> None:
        check_public(self.public, f"the key of {self.name}")

    def key_id(self) -> bytes:
        text = self.name.encode() + b"\n" + self.kind + self.public
        return hashlib.sha256(text).digest()[:4]

    def vkey(self) -> str:
        """C2SP's text form: name+id+base64(type ‖ key)."""
        body = base64.b64encode(self.kind + self.public).decode()
        return f"{self.name}+{self.key_id().hex()}+{body}"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A log's head. ``committed``: lineage to bytes that can have left."""

    origin: str
    size: int
    root: bytes
    committed: Mapping[str, int] = field(default_factory=dict)

    def text(self) -> str:
        root = base64.b64encode(self.root).decode()
        lines = [self.origin, str(self.size), root]
        lines += [f"committed {name} {count}" for name, count in sorted(self.committed.items())]
        return "\n".join(lines) + "\n"


def parse_checkpoint(text: str) -> Checkpoint:
    """Errors: ``NoteError``."""
    lines = text.split("\n")
    if len(lines) < 4 or _NAME.fullmatch(lines[0]) is None:
        raise NoteError("a checkpoint has an origin, a size and a root")
    committed: dict[str, int] = {}
    for line in lines[3:-1]:
        words = line.split(" ")
        if len(words) != 3 or words[0] != "committed" or not is_name(words[1]):
            raise NoteError("a checkpoint has an unknown extension line")
        committed[words[1]] = _decimal(words[2])
    checkpoint = Checkpoint(lines[0], _decimal(lines[1]), _unbase64(lines[2]), committed)
    if len(checkpoint.root) != 32 or checkpoint.text() != text:
        raise NoteError("a checkpoint is not in canonical form")
    return checkpoint


def sign_note(text: str, name: str, key: Ed25519PrivateKey) -> bytes:
    """``text`` (ends in a newline) with one Ed25519 signature line."""
    verifier = Verifier(name, key.public_key().public_bytes_raw())
    return text.encode() + b"\n" + _line(verifier, key.sign(text.encode()))


def cosignature_line(text: str, name: str, key: Ed25519PrivateKey, time_s: int) -> bytes:
    """A cosignature/v1 line over a checkpoint's text."""
    verifier = Verifier(name, key.public_key().public_bytes_raw(), TYPE_COSIGNATURE)
    signature = key.sign(_cosigned_message(text, time_s))
    return _line(verifier, time_s.to_bytes(8, "big") + signature)


def open_note(note: bytes) -> tuple[str, list[tuple[str, bytes]]]:
    """Split a note into its text and (name, key id ‖ signature) pairs; verifies nothing."""
    if len(note) > MAX_NOTE_BYTES:
        raise NoteError(f"a note of {len(note)} bytes; at most {MAX_NOTE_BYTES} are allowed")
    try:
        whole = note.decode("utf-8")
    except UnicodeDecodeError as error:
        raise NoteError("a note is not UTF-8") from error
    if any(ord(c) < 32 and c != "\n" for c in whole) or "\r" in whole:
        raise NoteError("a note holds control characters")
    text, blank, rest = whole.rpartition("\n\n")
    if not blank or not rest.endswith("\n"):
        raise NoteError("a note has no signatures")
    return text + "\n", parse_lines(rest)


def parse_lines(rest: str) -> list[tuple[str, bytes]]:
    """Signature lines: (name, key id ‖ signature). Errors: ``NoteError``."""
    lines = rest.split("\n")
    if lines[-1] != "" or not 1 <= len(lines) - 1 <= MAX_SIGNATURES:
        raise NoteError("a note has no signature lines, or too many")
    signatures = []
    for line in lines[:-1]:
        name, _, encoded = line.removeprefix(_DASH).partition(" ")
        if not line.startswith(_DASH) or _NAME.fullmatch(name) is None:
            raise NoteError("a note has a malformed signature line")
        blob = _unbase64(encoded)
        if len(blob) < 5:
            raise NoteError("a note has a signature without a key id")
        signatures.append((name, blob))
    return signatures


def verify_note(note: bytes, verifier: Verifier) -> str:
    """The text, if ``verifier`` signed it. Lines of unknown keys are ignored, as C2SP asks; a
    bad line of the known key spoils the note. Errors: ``NoteError``."""
    text, signatures = open_note(note)
    if find_signature(text, signatures, verifier) is None:
        raise SignatureError(f"the note is not signed by {verifier.name}")
    return text


def find_signature(
    text: str, signatures: list[tuple[str, bytes]], verifier: Verifier
) -> int | None:
    """The time (seconds; 0 for plain signatures) of ``verifier``'s valid signature on
    ``text``; None where it did not sign. Errors: ``NoteError`` where it is invalid."""
    found: int | None = None
    for name, blob in signatures:
        if name != verifier.name or blob[:4] != verifier.key_id():
            continue
        message, signature, time_s = text.encode(), blob[4:], 0
        if verifier.kind == TYPE_COSIGNATURE:
            time_s, signature = int.from_bytes(blob[4:12], "big"), blob[12:]
            message = _cosigned_message(text, time_s)
        if len(signature) != 64 or time_s > MAX_INTEGER:
            raise NoteError("a signature has the wrong length")
        if not is_signed(verifier.public, signature, message):
            raise SignatureError(f"the signature of {verifier.name} does not verify")
        found = time_s
    return found


def _cosigned_message(text: str, time_s: int) -> bytes:
    return f"cosignature/v1\ntime {time_s}\n{text}".encode()


def _line(verifier: Verifier, signature: bytes) -> bytes:
    encoded = base64.b64encode(verifier.key_id() + signature).decode()
    return f"{_DASH}{verifier.name} {encoded}\n".encode()


def _unbase64(text: str) -> bytes:
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise NoteError("a note holds broken base64") from error
    if base64.b64encode(raw).decode() != text:
        raise NoteError("a note holds base64 that is not canonical")
    return raw


def _decimal(text: str) -> int:
    if _DECIMAL.fullmatch(text) is None or (value := int(text)) > MAX_INTEGER:
        raise NoteError("a number is not decimal, or not canonical")
    return value


def log_verifier(origin: str, public: bytes) -> Verifier:
    """The key of a log; its name is the log's origin."""
    return Verifier(origin, public)


def format_hashes(hashes: list[bytes]) -> str:
    """Proof lines as tlog-witness writes them."""
    return "".join(base64.b64encode(h).decode() + "\n" for h in hashes)


def parse_hashes(lines: list[str]) -> list[bytes]:
    hashes = [_unbase64(line) for line in lines]
    if any(len(h) != 32 for h in hashes) or len(hashes) > 63:
        raise NoteError("a proof holds a hash of the wrong length, or too many")
    return hashes
