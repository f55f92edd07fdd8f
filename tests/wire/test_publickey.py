"""Which public keys are refused. The curve's arithmetic here is the tests' own: nothing of the
code's constants is taken on trust."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from narrows.publickey import is_signed, key_flaw

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493  # the order of the base point
D = -121665 * pow(121666, -1, P) % P
Point = tuple[int, int]
NEUTRAL: Point = (0, 1)


def add(a: Point, b: Point) -> Point:
    (x1, y1), (x2, y2) = a, b
    t = D * x1 * x2 * y1 * y2
    return (
        (x1 * y2 + x2 * y1) * pow(1 + t, -1, P) % P,
        (y1 * y2 + x1 * x2) * pow(1 - t, -1, P) % P,
    )


def times(count: int, point: Point) -> Point:
    total = NEUTRAL
    while count:
        if count & 1:
            total = add(total, point)
        point, count = add(point, point), count >> 1
    return total


def root(square: int) -> int | None:
    found = pow(square, (P + 3) // 8, P)
    if (found * found - square) % P:
        found = found * pow(2, (P - 1) // 4, P) % P
    return None if (found * found - square) % P else found


def point_at(y: int) -> Point | None:
    """A point with this y, if there is one."""
    x = root((y * y - 1) * pow(D * y * y + 1, -1, P) % P)
    return None if x is None else (x, y % P)


def spelled(x_sign: int, y: int) -> bytes:
    return (y | x_sign << 255).to_bytes(32, "little")


def small_order_points() -> set[Point]:
    """All eight, as L times random points of the curve, and their sums."""
    rng, found = random.Random(1), {NEUTRAL}
    while len(found) < 8:
        point = point_at(rng.randrange(P))
        if point is not None:
            small = times(L, point)
            found |= {times(count, small) for count in range(8)}
    return found


def spellings(point: Point) -> list[bytes]:
    """Every 32 bytes that a lenient decoder may take for ``point``: y or y + p, and either sign
    where x is 0."""
    x, y = point
    ys = [y, y + P] if y + P < 1 << 255 else [y]
    signs = [0, 1] if x == 0 else [x & 1]
    return [spelled(sign, one) for one in ys for sign in signs]


SMALL = sorted({spelling for point in small_order_points() for spelling in spellings(point)})
# The same as other libraries' blocklists have them.
KNOWN = (
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0000000000000000000000000000000000000000000000000000000000000080",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000080",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
)


def forge(public: bytes, message: bytes, most: int = 2000) -> bytes | None:
    """A signature that OpenSSL takes as ``public``'s, made with no secret: R = sB for random s."""
    for number in range(most):
        s = random.Random(number).randrange(1, L)
        x, y = times(s, BASE)
        signature = spelled(x & 1, y) + s.to_bytes(32, "little")
        if openssl_takes(public, signature, message):
            return signature
    return None


def openssl_takes(public: bytes, signature: bytes, message: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def _base() -> Point:
    x, y = point_at(4 * pow(5, -1, P) % P) or NEUTRAL
    return (x if x % 2 == 0 else P - x), y


BASE = _base()


def test_every_spelling_of_small_order_is_refused() -> None:
    assert sorted(map(bytes.fromhex, KNOWN)) == SMALL
    for public in SMALL:
        assert "small order" in key_flaw(public)


def test_what_is_refused_can_be_signed_for_by_anyone() -> None:
    """OpenSSL takes a forgery with most of them; none passes here."""
    forged = 0
    for public in SMALL:
        signature = forge(public, b"raise it", 60)
        if signature is not None:
            forged += 1
            assert not is_signed(public, signature, b"raise it")
    assert forged >= 8


def test_second_spellings_and_no_points_are_refused() -> None:
    for y in range(P, 1 << 255):
        for sign in (0, 1):
            assert key_flaw(spelled(sign, y))
    rng, off = random.Random(2), 0
    for _ in range(40):
        y = rng.randrange(2, P - 1)
        on = point_at(y) is not None
        off += not on
        assert bool(key_flaw(spelled(rng.randrange(2), y))) == (not on)
    assert 5 < off < 35
    for wrong in (b"", bytes(31), bytes(33)):
        assert key_flaw(wrong)


def test_keys_that_are_made_are_fine_and_mixed_order_is_let_in() -> None:
    rng = random.Random(3)
    small = max(small_order_points(), key=lambda p: times(4, p) != NEUTRAL)
    for _ in range(20):
        key = Ed25519PrivateKey.from_private_bytes(rng.randbytes(32))
        public = key.public_key().public_bytes_raw()
        assert key_flaw(public) == ""
        assert is_signed(public, key.sign(b"m"), b"m")
        assert not is_signed(public, key.sign(b"m"), b"n")
        assert not is_signed(public, key.sign(b"m")[:63], b"m")
        number = int.from_bytes(public, "little")
        y = number & (1 << 255) - 1
        x, _ = point_at(y) or NEUTRAL
        mixed = add((x if x & 1 == number >> 255 else P - x, y), small)
        assert key_flaw(spelled(mixed[0] & 1, mixed[1])) == ""


def test_signatures_are_verified_in_one_place() -> None:
    """A second verifier would be one that forgets to look at the key."""
    source = Path(__file__).parents[2] / "src" / "narrows"
    users = [
        str(path.relative_to(source))
        for path in source.rglob("*.py")
        if "Ed25519PublicKey.from_public_bytes" in path.read_text(encoding="utf-8")
    ]
    assert users == ["publickey.py"]


@pytest.mark.parametrize("public", SMALL[:3])
def test_a_pinned_certificate_with_such_a_key_is_refused(public: bytes, tmp_path: Path) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding
    from cryptography.x509.oid import NameOID

    from narrows.errors import InputError
    from narrows.wire.pins import make_identity, read_pins

    good, _ = make_identity(tmp_path, "edge")
    signer = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    loaded = x509.load_pem_x509_certificate(good.read_bytes())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "edge")])
    bad = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(Ed25519PublicKey.from_public_bytes(public))
        .serial_number(1)
        .not_valid_before(loaded.not_valid_before_utc)
        .not_valid_after(loaded.not_valid_after_utc)
        .sign(signer, None)
    )
    file = tmp_path / "peers.crt"
    file.write_bytes(good.read_bytes() + bad.public_bytes(Encoding.PEM))
    with pytest.raises(InputError, match="small order"):
        read_pins(file)
