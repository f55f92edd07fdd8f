"""Pinned keys between gate and edge: who the other side is, and nothing about names.

Each side has one self-signed certificate and accepts only peers whose public key is pinned:
SHA-256 of the SubjectPublicKeyInfo. The peer's certificate is the only trust anchor of the
context, which makes OpenSSL ask for it and verify it; ``check_peer`` then compares the key
itself, so that an anchor that signs another certificate gains nothing.

Steps of a connection: (1) TLS 1.3 only, client certificate required, no session tickets;
(2) the chain ends at a pinned certificate; (3) ``check_peer`` — the caller owes this one,
before the first byte of payload goes in either direction.
"""

from __future__ import annotations

import datetime
import hashlib
import ssl
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import NameOID

from narrows.durable import write_new
from narrows.errors import InputError, PeerError
from narrows.publickey import key_flaw

_FOREVER = datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC)
_EVER = datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)
_MAX_PEER_FILE_BYTES = 1 << 16
_MAKE = "run narrows init"


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files of one side. ``peer_file`` holds the certificates whose keys alone are accepted."""

    cert_file: Path
    key_file: Path
    peer_file: Path


def make_identity(directory: Path, name: str) -> tuple[Path, Path]:
    """Write ``NAME.crt`` and ``NAME.key`` (mode 0600) and return their paths. Existing files
    are an error: a key is never overwritten."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_EVER)
        .not_valid_after(_FOREVER)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    cert_file, key_file = directory / f"{name}.crt", directory / f"{name}.key"
    _write_new(key_file, pem, 0o600)
    _write_new(cert_file, certificate.public_bytes(serialization.Encoding.PEM), 0o644)
    return cert_file, key_file


def _write_new(path: Path, content: bytes, mode: int) -> None:
    try:
        write_new(path, content, mode)
    except FileExistsError as error:
        raise InputError(f"{path} exists", "move it away; keys are not overwritten") from error


def read_pins(peer_file: Path) -> frozenset[bytes]:
    """The pins of every certificate in a PEM file (several while a key is rotated)."""
    try:
        content = peer_file.read_bytes()
        if len(content) > _MAX_PEER_FILE_BYTES:
            raise InputError(f"{peer_file} is too long for a file of pinned certificates")
        certificates = x509.load_pem_x509_certificates(content)
        for one in certificates:
            key = one.public_key()
            if isinstance(key, ed25519.Ed25519PublicKey) and (
                flaw := key_flaw(key.public_bytes_raw())
            ):
                raise InputError(f"{peer_file} holds a key that is refused: {flaw}", _MAKE)
        return frozenset(map(_pin, certificates))
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise InputError(f"{peer_file} holds no certificates", _MAKE) from error


def _pin(certificate: x509.Certificate) -> bytes:
    spki = certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(spki).digest()


def server_context(cert_file: Path, key_file: Path, peer_file: Path) -> ssl.SSLContext:
    """The gate's side. No tickets: the server's last handshake byte is its last free word."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.num_tickets = 0
    return _load(context, cert_file, key_file, peer_file)


def client_context(cert_file: Path, key_file: Path, peer_file: Path) -> ssl.SSLContext:
    """The edge's side. Names prove nothing here, keys do."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    return _load(context, cert_file, key_file, peer_file)


def _load(
    context: ssl.SSLContext, cert_file: Path, key_file: Path, peer_file: Path
) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    try:
        context.load_cert_chain(cert_file, key_file)
        context.load_verify_locations(peer_file)
    except (OSError, ssl.SSLError) as error:
        raise InputError(
            f"no TLS identity from {cert_file}, {key_file}, {peer_file}", "run narrows init"
        ) from error
    return context


def check_peer(connection: ssl.SSLObject | ssl.SSLSocket, pins: frozenset[bytes]) -> None:
    """Raise ``PeerError`` unless the peer's key is one of ``pins``."""
    der = connection.getpeercert(binary_form=True)
    if der is None or _pin(x509.load_der_x509_certificate(der)) not in pins:
        raise PeerError("the peer's key is not the pinned one", "compare the files of narrows init")
