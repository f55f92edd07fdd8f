"""Notes as other tools write and read them; hostile ones refused."""

from __future__ import annotations

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from ledger.ledger_helpers import make_keys
from narrows.ledger.keys import public_of
from narrows.ledger.log import note
from narrows.ledger.log.merkle import Tree

KEY = make_keys(7, 1)[0]
CHECKPOINT = note.Checkpoint("test.example/log", 12, bytes(range(32)), {"base": 77, "demo": 0})


def test_the_example_of_gos_note_package() -> None:
    """Vector from the documentation of golang.org/x/mod/sumdb/note."""
    vkey = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
    verifier = note.Verifier("PeterNeumann", base64.b64decode(vkey.split("+", 2)[2])[1:])
    assert verifier.vkey() == vkey
    text = (
        "If you think cryptography is the answer to your problem,\n"
        "then you don't know what your problem is.\n"
    )
    line = (
        "\n\u2014 PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXg"
        "KvqfqdngotpRZb6KE6RyyBwJnAM=\n"
    )
    assert note.verify_note((text + line).encode(), verifier) == text
    with pytest.raises(note.NoteError):
        note.verify_note((text.replace("answer", "question") + line).encode(), verifier)


def test_checkpoint_text_and_signature() -> None:
    signed = note.sign_note(CHECKPOINT.text(), CHECKPOINT.origin, KEY)
    verifier = note.log_verifier(CHECKPOINT.origin, public_of(KEY))
    text = note.verify_note(signed, verifier)
    lines = text.split("\n")
    assert lines[:3] == ["test.example/log", "12", base64.b64encode(bytes(range(32))).decode()]
    assert lines[3:] == ["committed base 77", "committed demo 0", ""]
    assert note.parse_checkpoint(text) == CHECKPOINT


def test_the_checkpoint_that_go_verified() -> None:
    """These bytes, with inclusion and consistency proofs of every size below, were accepted by
    golang.org/x/mod 0.7.0 (sumdb/note and sumdb/tlog); docs/log-format.md says how."""
    tree = Tree()
    for number in range(11):
        tree.append(f"leaf {number}".encode())
    checkpoint = note.Checkpoint("test.example/log", 11, tree.root(), {"base": 77, "demo": 0})
    vkey = "test.example/log+2ed815fe+AQxRxn+qk9P9Z37cIi312DRq8j94DfPLOl+NyjU3uM3d"
    assert note.log_verifier(checkpoint.origin, public_of(KEY)).vkey() == vkey
    assert note.sign_note(checkpoint.text(), checkpoint.origin, KEY).decode() == (
        "test.example/log\n11\ntubAHcNe8yoG1ShcXR8u5hcSynqvU9EI/ULCvRwUFgc=\n"
        "committed base 77\ncommitted demo 0\n\n\u2014 test.example/log LtgV/mH10K4F7FUTjAjAHK01"
        "XfC5QkHWAm/8o6L5q+bDrP00oMj/AL0PkNHYaDhsyi9L5ytRYqEy9yBWwYedSwhvHgE=\n"
    )


def test_cosignature_is_bound_to_time_key_and_text() -> None:
    text = CHECKPOINT.text()
    line = note.cosignature_line(text, "w.example", KEY, 1_679_315_147)
    verifier = note.Verifier("w.example", public_of(KEY), note.TYPE_COSIGNATURE)
    signatures = note.parse_lines(line.decode())
    assert note.find_signature(text, signatures, verifier) == 1_679_315_147
    name, blob = signatures[0]
    KEY.public_key().verify(blob[12:], f"cosignature/v1\ntime 1679315147\n{text}".encode())
    later = [(name, blob[:4] + (1_679_315_148).to_bytes(8, "big") + blob[12:])]
    with pytest.raises(note.NoteError):
        note.find_signature(text, later, verifier)
    with pytest.raises(note.NoteError):
        note.find_signature(text + "x\n", signatures, verifier)
    # the same key as a plain signer is another key: its id differs, so the line is ignored
    plain = note.Verifier("w.example", public_of(KEY))
    assert note.find_signature(text, signatures, plain) is None


def test_lines_of_unknown_keys_are_ignored_and_bad_ones_of_known_keys_are_not() -> None:
    other = make_keys(8, 1)[0]
    text = CHECKPOINT.text()
    mine = note.sign_note(text, CHECKPOINT.origin, KEY)
    stranger = note.sign_note(text, "stranger", other).split(b"\n\n")[1]
    verifier = note.log_verifier(CHECKPOINT.origin, public_of(KEY))
    assert note.verify_note(mine + stranger, verifier) == text
    with pytest.raises(note.NoteError):
        note.verify_note(text.encode() + b"\n" + stranger, verifier)
    blob = verifier.key_id() + bytes(64)
    bad = f"\u2014 {verifier.name} {base64.b64encode(blob).decode()}\n".encode()
    with pytest.raises(note.NoteError):
        note.verify_note(mine + bad, verifier)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "o\n1\n",
        "o\n01\n" + "A" * 43 + "=\n",
        "o\n-1\n" + "A" * 43 + "=\n",
        "o\n1\n" + "A" * 42 + "B=\n",  # base64 with bits left over
        "o\n1\n" + "A" * 43 + "=\nextension\n",
        "o\n1\n" + "A" * 43 + "=\ncommitted b 1\ncommitted a 1\n",
        "o\n1\n" + "A" * 43 + "=\ncommitted a 1\ncommitted a 1\n",
        "o\n1\n" + "A" * 43 + "=\ncommitted a 01\n",
        "o\n1\n" + "A" * 43 + "=\ncommitted A 1\n",
        "o\n9223372036854775808\n" + "A" * 43 + "=\n",
        "o p\n1\n" + "A" * 43 + "=\n",
        "o\n\u0661\n" + "A" * 43 + "=\n",
    ],
)
def test_checkpoints_that_are_not_canonical(text: str) -> None:
    with pytest.raises(note.NoteError):
        note.parse_checkpoint(text)


@given(st.text(max_size=200))
def test_any_text_parses_to_itself_or_not_at_all(text: str) -> None:
    try:
        parsed = note.parse_checkpoint(text)
    except note.NoteError:
        return
    assert parsed.text() == text


SIGNED = note.sign_note(CHECKPOINT.text(), CHECKPOINT.origin, KEY)


@given(st.integers(0, len(SIGNED) - 1), st.integers(1, 255))
def test_no_flipped_byte_verifies(at: int, flip: int) -> None:
    bent = bytearray(SIGNED)
    bent[at] ^= flip
    verifier = note.log_verifier(CHECKPOINT.origin, public_of(KEY))
    with pytest.raises(note.NoteError):
        note.verify_note(bytes(bent), verifier)


@given(st.binary(max_size=300))
def test_random_notes_are_refused(data: bytes) -> None:
    with pytest.raises(note.NoteError):
        note.verify_note(data, note.log_verifier("o", public_of(KEY)))
    with pytest.raises(note.NoteError):
        note.verify_note(SIGNED + data, note.log_verifier("o", public_of(KEY)))


def test_sizes_are_bounded_before_parsing() -> None:
    with pytest.raises(note.NoteError):
        note.open_note(b"x" * (note.MAX_NOTE_BYTES + 1))
    line = SIGNED.split(b"\n\n")[1]
    with pytest.raises(note.NoteError):
        note.open_note(CHECKPOINT.text().encode() + b"\n" + line * 17)
    assert isinstance(KEY, Ed25519PrivateKey)
