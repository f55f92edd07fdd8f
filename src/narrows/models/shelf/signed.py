"""Weak models signed by an operator: the manifest beside an artifact, and its check.

    mine.narrows           the artifact
    mine.narrows.signed    canonical JSON {"key": hex, "manifest": {...}, "signature": hex}

The signature (Ed25519) is over ``DOMAIN`` and the canonical manifest. ``read_signed`` checks, in
this order: (1) size and canonical form; (2) the key is one of the operators'; (3) the signature;
(4) the manifest's fields. The caller still owes: the artifact has the manifest's digest
(``Artifact.open(expect=...)``), and this machine computes its conformance digest
(``load_runtime`` compares the artifact's own; ``check_loaded`` the signed one).

What someone who can write these files achieves: without an operator's key, that a model is
refused. With an old pair of files, that an older model of the same operator is used.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from narrows.durable import read_once, write_whole
from narrows.errors import ArtifactError, InputError
from narrows.models.artifact import canonical_json
from narrows.publickey import is_signed

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from narrows.models.api import TokenModel

DOMAIN = b"narrows weak model 1\n"
SUFFIX = ".signed"
MAX_SIGNED_BYTES = 1 << 16
MAX_DATA_DIGESTS = 512
ORIGINS = ("outside", "paid")
_HEX32 = re.compile(r"[0-9a-f]{64}")
_HEX64 = re.compile(r"[0-9a-f]{128}")


@dataclass(frozen=True, slots=True)
class Figures:
    """Bits per byte on ``answers`` answers of the file with SHA-256 ``answers_sha256``, with
    95 % confidence ``low`` .. ``high``; all zero and empty where nothing was measured."""

    bits_per_byte: float = 0.0
    low: float = 0.0
    high: float = 0.0
    answers: int = 0
    answers_sha256: str = ""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What an operator signs. ``origin``: ``outside`` (rebuilt from the operator's own files)
    or ``paid`` (its bytes came through the gate and were charged). ``data``: digests of the
    files that it learned from. ``evidence``: what was compared, in words."""

    sha256: str
    size_bytes: int
    name: str
    conformance: str
    numerics_version: int
    origin: str
    evidence: str
    licence: str
    published_s: int
    data: tuple[str, ...] = ()
    figures: Figures = field(default_factory=Figures)

    @property
    def digest(self) -> bytes:
        return bytes.fromhex(self.sha256)


def signed_path(artifact: Path) -> Path:
    return artifact.with_name(artifact.name + SUFFIX)


def sign(manifest: Manifest, key: Ed25519PrivateKey) -> bytes:
    """The content of the ``.signed`` file. InputError: a manifest that would be refused."""
    plain = _plain(manifest)
    if _manifest(plain) != manifest:
        raise InputError("the manifest cannot be written in canonical form")
    signature = key.sign(DOMAIN + canonical_json(plain))
    public = key.public_key().public_bytes_raw()
    data = canonical_json({"key": public.hex(), "manifest": plain, "signature": signature.hex()})
    if len(data) > MAX_SIGNED_BYTES:
        raise InputError(f"a manifest of {len(data)} bytes; {MAX_SIGNED_BYTES} fit")
    return data


def write_signed(artifact: Path, data: bytes) -> Path:
    """Put the signature beside its artifact: written aside, synced, renamed, folder synced.
    Raises InputError."""
    path = signed_path(artifact)
    write_whole(path, data)
    return path


def read_signed(artifact: Path, operators: Iterable[bytes]) -> Manifest:
    """The manifest of an artifact that one of ``operators`` (32-byte keys) has signed. Raises
    ArtifactError; the artifact itself is not opened."""
    return parse_signed(_bytes_of(artifact), operators, signed_path(artifact).name)


def signer_of(artifact: Path) -> tuple[str, Manifest] | None:
    """Whoever signed the artifact (hex key), known or not, for people to read; None where no
    one did. Raises ArtifactError: a signature that does not hold."""
    path = signed_path(artifact)
    if not path.exists():
        return None
    data = _bytes_of(artifact)
    key = _canonical(data, path.name).get("key")
    if not isinstance(key, str) or not _HEX32.fullmatch(key):
        raise ArtifactError(f"{path.name} is no signed manifest", "sign the artifact again")
    return key, parse_signed(data, [bytes.fromhex(key)], path.name)


def _bytes_of(artifact: Path) -> bytes:
    try:
        return read_once(signed_path(artifact), MAX_SIGNED_BYTES, follow_links=True)
    except InputError as error:
        raise ArtifactError(
            f"{artifact.name} is not signed ({error.message})",
            "an operator signs it with 'narrows weak publish'",
        ) from error


def parse_signed(data: bytes, operators: Iterable[bytes], name: str) -> Manifest:
    """Steps 1 to 4. Raises ArtifactError."""
    document = _canonical(data, name)
    key, signature, plain = (document.get(part) for part in ("key", "signature", "manifest"))
    if (
        len(document) != 3
        or not isinstance(key, str)
        or not isinstance(signature, str)
        or not isinstance(plain, dict)
        or not _HEX32.fullmatch(key)
        or not _HEX64.fullmatch(signature)
    ):
        raise ArtifactError(f"{name} is no signed manifest", "sign the artifact again")
    if bytes.fromhex(key) not in set(operators):
        raise ArtifactError(
            f"{name} is signed by {key}, which is no operator here",
            "have a known operator sign it, or add the key to 'operators'",
        )
    if not is_signed(bytes.fromhex(key), bytes.fromhex(signature), DOMAIN + canonical_json(plain)):
        raise ArtifactError(f"{name}: the signature is wrong", "it was altered")
    try:
        return _manifest(plain)
    except InputError as error:
        raise ArtifactError(f"{name}: {error.message}", "sign the artifact again") from error


def check_loaded(model: TokenModel, manifest: Manifest) -> None:
    """A loaded model is the signed one, and computes here what its operator's machine did.
    Raises ArtifactError."""
    if model.digest != manifest.digest:
        raise ArtifactError(f"{model.name}: another artifact than the signed one")
    if model.numerics.hex() != manifest.conformance:
        raise ArtifactError(
            f"{model.name}: this machine computes other integers than its operator signed",
            "do not serve with it; run 'narrows weak check' on both machines",
        )


def _canonical(data: bytes, name: str) -> dict[str, Any]:
    document: object = None
    if len(data) <= MAX_SIGNED_BYTES:
        with contextlib.suppress(ValueError, RecursionError, InputError):
            parsed = json.loads(data.decode("ascii"))
            document = parsed if canonical_json(parsed) == data else None
    if not isinstance(document, dict):
        raise ArtifactError(f"{name} is not in canonical form", "sign the artifact again")
    return document


def _plain(manifest: Manifest) -> dict[str, Any]:
    plain: dict[str, Any] = asdict(manifest)
    return plain | {"data": list(manifest.data)}


def _manifest(plain: dict[str, Any]) -> Manifest:
    """Every field present, of its type and in range; nothing else. InputError."""
    figures = plain.get("figures")
    texts = ("name", "origin", "evidence", "licence")
    digests = ("sha256", "conformance")
    whole = {"size_bytes": 1 << 40, "numerics_version": 1 << 31, "published_s": 1 << 40}
    data = plain.get("data")
    fine = (
        set(plain) == {*texts, *digests, *whole, "data", "figures"}
        and all(_is_text(plain[name]) for name in texts)
        and all(_is_hex(plain[name]) for name in digests)
        and all(type(plain[name]) is int and 0 <= plain[name] < top for name, top in whole.items())
        and plain["origin"] in ORIGINS
        and isinstance(data, list)
        and len(data) <= MAX_DATA_DIGESTS
        and all(_is_hex(item) for item in data)
        and isinstance(figures, dict)
        and _are_figures(figures)
    )
    if not fine or not isinstance(figures, dict) or not isinstance(data, list):
        raise InputError("a field of the manifest is missing, unknown or out of range")
    return Manifest(**{**plain, "data": tuple(data), "figures": Figures(**figures)})


def _are_figures(figures: dict[str, Any]) -> bool:
    numbers = ("bits_per_byte", "low", "high")
    return (
        set(figures) == {*numbers, "answers", "answers_sha256"}
        and all(type(figures[name]) is float and 0 <= figures[name] <= 64 for name in numbers)
        and type(figures["answers"]) is int
        and 0 <= figures["answers"] < 1 << 40
        and (figures["answers_sha256"] == "" or _is_hex(figures["answers_sha256"]))
    )


def _is_text(value: object) -> bool:
    return isinstance(value, str) and len(value) <= 1000 and value.isprintable()


def _is_hex(value: object) -> bool:
    return isinstance(value, str) and _HEX32.fullmatch(value) is not None
