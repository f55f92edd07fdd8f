"""Signed manifests: one form, one meaning; whatever else is there is refused."""

from __future__ import annotations

import dataclasses
import hashlib
import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from narrows.errors import ArtifactError, InputError
from narrows.models.artifact import canonical_json
from narrows.models.shelf.operators import operator_keys
from narrows.models.shelf.signed import DOMAIN, Figures, Manifest, parse_signed, sign

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OPERATORS = [KEY.public_key().public_bytes_raw()]
MANIFEST = Manifest(
    sha256="ab" * 32,
    size_bytes=123,
    name="mine",
    conformance="cd" * 32,
    numerics_version=1,
    origin="outside",
    evidence="test",
    licence="none",
    published_s=5,
    data=("ef" * 32,),
    figures=Figures(2.0, 1.5, 2.5, 9, "12" * 32),
)
SIGNED = sign(MANIFEST, KEY)


def test_what_is_signed_is_read_back():
    assert parse_signed(SIGNED, OPERATORS, "x") == MANIFEST
    # Pinned: another form would silently orphan every signature that is out there.
    assert hashlib.sha256(SIGNED).hexdigest() == (
        "e24d6aca720fadca0e61594220f00bb0d6954f82223c6937da4281dc313b0189"
    )
    assert canonical_json(json.loads(SIGNED)) == SIGNED


@given(st.binary(max_size=300))
def test_any_bytes_are_refused(data):
    with pytest.raises(ArtifactError):
        parse_signed(data, OPERATORS, "x")


@settings(max_examples=300)
@given(st.integers(0, len(SIGNED) - 1), st.integers(1, 255))
def test_any_altered_byte_is_refused(at, change):
    data = bytearray(SIGNED)
    data[at] ^= change
    with pytest.raises(ArtifactError):
        parse_signed(bytes(data), OPERATORS, "x")


@pytest.mark.parametrize(
    "change",
    [
        {"sha256": "AB" * 32},
        {"size_bytes": -1},
        {"size_bytes": True},
        {"origin": "inside"},
        {"name": "a\nb"},
        {"name": "x" * 1001},
        {"data": ["zz"]},
        {"data": ["ef" * 32] * 513},
        {"figures": {}},
        {"published_s": 1.0},
        {"extra": 1},
    ],
)
def test_an_operator_cannot_sign_what_is_out_of_range(change):
    """Not even a key's owner: the fields are checked behind the signature."""
    plain = dataclasses.asdict(MANIFEST) | {"data": list(MANIFEST.data)} | change
    signature = KEY.sign(DOMAIN + canonical_json(plain))
    data = canonical_json(
        {"key": OPERATORS[0].hex(), "manifest": plain, "signature": signature.hex()}
    )
    with pytest.raises(ArtifactError, match="out of range"):
        parse_signed(data, OPERATORS, "x")


def test_a_signature_for_something_else_does_not_count():
    plain = dataclasses.asdict(MANIFEST) | {"data": list(MANIFEST.data)}
    signature = KEY.sign(canonical_json(plain))  # without the domain
    data = canonical_json(
        {"key": OPERATORS[0].hex(), "manifest": plain, "signature": signature.hex()}
    )
    with pytest.raises(ArtifactError, match="signature is wrong"):
        parse_signed(data, OPERATORS, "x")
    with pytest.raises(ArtifactError, match="no operator here"):
        parse_signed(SIGNED, [], "x")


@pytest.mark.parametrize("text", ["", "ab", "AB" * 32, "ab" * 33, "g" * 64])
def test_keys_are_64_hex_digits(text):
    with pytest.raises(InputError):
        operator_keys([text])
