"""The API over TLS: real clients, and certificates that change while it serves."""

from __future__ import annotations

import datetime
import ipaddress
import signal
import socket
import ssl
import threading
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from edge.harness import MODEL, Rig, Until, chat, native, running_enclave, wait_until
from edge.test_edge_process import Process, edge
from narrows.deploy.awaited import read_health
from narrows.edge.api.certificate import MAX_PEM_BYTES, load_certificate, try_certificate
from narrows.edge.config import HttpsFiles
from narrows.errors import InputError

NOW = datetime.datetime.now(datetime.UTC)


def make_pair(
    folder: Path,
    name: str = "one",
    days: int = 30,
    curve: ec.EllipticCurve | None = None,
    odd: bool = False,
) -> HttpsFiles:
    """A self-made certificate for this machine. ``odd``: one that OpenSSL takes, and rustls not."""
    key = ec.generate_private_key(curve or ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    here = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - datetime.timedelta(days=60))
        .not_valid_after(NOW + datetime.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName(here), critical=False)
    )
    if odd:
        strange = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4.5"), b"\x05\x00")
        builder = builder.add_extension(strange, critical=True)
    pair = HttpsFiles(folder / f"{name}.crt", folder / f"{name}.key")
    certificate = builder.sign(key, hashes.SHA256())
    pair.cert_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    pair.key_file.touch(0o600)
    pair.key_file.write_bytes(pem)
    return pair


def trusting(pair: HttpsFiles) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(pair.cert_file))


def test_real_clients_over_tls(tmp_path: Path) -> None:
    pair = make_pair(tmp_path)
    with Rig(tmp_path, https=pair) as rig:
        rig.enclave.script = lambda request: native("hello over tls")
        http = httpx2.Client(verify=trusting(pair))
        with rig.client(http_client=http) as client:
            messages: Any = [{"role": "user", "content": "x"}]
            whole = client.chat.completions.create(model=MODEL, messages=messages)
            assert whole.choices[0].message.content == "hello over tls"
            stream = client.chat.completions.create(model=MODEL, messages=messages, stream=True)
            parts = [part.choices[0].delta.content or "" for part in stream if part.choices]
            assert "".join(parts) == "hello over tls"
        with pytest.raises(openai.APIConnectionError), rig.client() as client:
            client.models.list()  # it does not know whom it speaks with
        with pytest.raises(httpx2.TransportError):
            httpx2.get(f"http://127.0.0.1:{rig.port}/health")
        assert read_health("127.0.0.1", rig.port, tls=True)["status"] == "ok"
        old = trusting(pair)
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        assert httpx2.get(f"{rig.url}/health", verify=old).status_code == 200
        mute = socket.create_connection(("127.0.0.1", rig.port))  # never shakes hands
        assert httpx2.get(f"{rig.url}/health", verify=old).status_code == 200
        mute.close()


def test_pairs_that_are_refused(tmp_path: Path) -> None:
    good = make_pair(tmp_path)
    load_certificate(good, NOW)
    other = make_pair(tmp_path, "other")
    folder = tmp_path / "bad"
    folder.mkdir()
    large, none, open_, locked = (folder / name for name in ("large", "none", "open", "locked"))
    large.write_bytes(b"x" * (MAX_PEM_BYTES + 1))
    none.write_bytes(b"\x00\xff")
    open_.write_bytes(good.key_file.read_bytes())
    open_.chmod(0o604)
    key = serialization.load_pem_private_key(good.key_file.read_bytes(), None)
    locked.touch(0o600)
    locked.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"x"),
        )
    )
    for pair, why in (
        (HttpsFiles(good.cert_file, other.key_file), "is not the key"),
        (HttpsFiles(large, good.key_file), "is larger"),
        (HttpsFiles(none, good.key_file), "no certificate in PEM"),
        (HttpsFiles(folder, good.key_file), "Is a directory"),
        (HttpsFiles(folder / "gone", good.key_file), "cannot read"),
        (HttpsFiles(good.cert_file, open_), "everyone on this machine"),
        (HttpsFiles(good.cert_file, locked), "is encrypted"),
        (make_pair(folder, "past", days=-1), "not now"),
    ):
        with pytest.raises(InputError, match=why):
            load_certificate(pair, NOW)


def test_what_the_server_would_die_of_is_tried_elsewhere(tmp_path: Path) -> None:
    try_certificate(load_certificate(make_pair(tmp_path), NOW))
    odd = load_certificate(make_pair(tmp_path, "odd", odd=True), NOW)
    with pytest.raises(InputError, match="UnsupportedCriticalExtension"):
        try_certificate(odd)


def test_an_edge_with_a_bad_certificate_does_not_start(tmp_path: Path) -> None:
    pair = make_pair(tmp_path, days=-1)
    with pytest.raises(InputError, match="not now"), Rig(tmp_path, connect=False, https=pair):
        pass


def shown(process: Process) -> str:
    """The name in the certificate that a new connection gets."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", process.port), timeout=20) as plain:
        der = context.wrap_socket(plain).getpeercert(binary_form=True)
    certificate = x509.load_der_x509_certificate(der or b"")
    return str(certificate.subject.rfc4514_string())


def test_a_certificate_is_changed_under_a_stream(tmp_path: Path) -> None:
    used = make_pair(tmp_path, "used")
    second = make_pair(tmp_path, "second")
    odd = make_pair(tmp_path, "odd", odd=True)
    context = trusting(used)

    def install(pair: HttpsFiles) -> None:
        used.key_file.write_bytes(pair.key_file.read_bytes())
        used.cert_file.write_bytes(pair.cert_file.read_bytes())
        process.popen.send_signal(signal.SIGHUP)

    go_on = threading.Event()
    with (
        running_enclave() as inside,
        edge(tmp_path, inside.port, pair=(used.cert_file, used.key_file)) as process,
    ):
        inside.script = lambda request: [*native("begun")[:-1], Until(go_on.is_set), native("")[-1]]
        with (
            httpx2.Client(verify=context, timeout=60) as client,
            client.stream(
                "POST", f"{process.url}/v1/chat/completions", json=chat(stream=True)
            ) as reply,
        ):
            lines = reply.iter_lines()
            while "begun" not in next(lines):
                pass
            install(second)
            wait_until(lambda: shown(process) == "CN=second")
            said = ""
            install(odd)  # refused
            for why in ("UnsupportedCriticalExtension", "holds no certificate in PEM"):
                while why not in said:
                    said += (line := process.popen.stderr.readline())
                    assert line, said
                used.cert_file.write_bytes(b"nonsense")
                process.popen.send_signal(signal.SIGHUP)
            go_on.set()
            assert any("[DONE]" in line for line in lines)
        inside.script = lambda request: native("hello")
        fresh = trusting(second)
        for _ in range(3):
            assert process.post(chat(), verify=fresh).status_code == 200
        assert shown(process) == "CN=second"
        assert process.stop() == 0
        said += process.popen.stderr.read()
    assert "Traceback" not in said
