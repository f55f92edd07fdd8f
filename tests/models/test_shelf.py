"""Shelves: newest first, bad ones refused, old ones out of memory when no link uses them."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import gc
import os
import shutil
import weakref
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from models.models import artifact_path
from narrows.errors import ArtifactError, InputError
from narrows.models.artifact import Artifact, write_artifact
from narrows.models.registry import load_model
from narrows.models.shelf.install import install
from narrows.models.shelf.publish import Origin, manifest_of
from narrows.models.shelf.shelf import Shelf, Shelving, take_for, watch
from narrows.models.shelf.signed import Figures, read_signed, sign, signed_path, write_signed

KEY = Ed25519PrivateKey.generate()
OPERATORS = frozenset({KEY.public_key().public_bytes_raw()})


def put(folder: Path, variant: str, at_s: int) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"{variant}.narrows"
    shutil.copy(artifact_path(variant), path)
    os.utime(path, (at_s, at_s))
    return path


@functools.cache
def signature(variant: str, at_s: int, key: Ed25519PrivateKey) -> bytes:
    manifest = manifest_of(
        Artifact.open(artifact_path(variant)),
        Origin("outside", "test"),
        licence="none",
        figures=Figures(2.5, 2.4, 2.6, 10, "ab" * 32),
        published_s=at_s,
    )
    return sign(manifest, key)


def put_signed(folder: Path, variant: str, at_s: int, key: Ed25519PrivateKey = KEY) -> Path:
    path = put(folder, variant, 1)
    write_signed(path, signature(variant, at_s, key))
    return path


def load(name: str | Path, expect: bytes | None):
    return load_model(name, threads=1, kv_bytes=16 << 20, expect=expect)


class Unread:
    """A model as far as a shelf looks at it; quick, since nothing is computed."""

    def __init__(self, path: Path, expect: bytes | None) -> None:
        artifact = Artifact.open(path, expect=expect)
        self.name, self.digest = artifact.header["name"], artifact.digest
        self.numerics = bytes.fromhex(artifact.header["conformance"])


def peek(name: str | Path, expect: bytes | None):
    return load(name, expect) if name == "bytes" else Unread(Path(name), expect)


def shelf(folder: Path | None, names=(), operators=frozenset(), load=peek) -> Shelf:
    return Shelf(Shelving(names, folder, operators, load))


def names(one: Shelf) -> list[str]:
    return [offer.name for offer in one.offers]


def test_newest_first_and_only_it_in_memory(tmp_path):
    put(tmp_path, "llama", 100)
    put(tmp_path, "qwen2", 300)
    put(tmp_path, "qwen3", 200)
    one = shelf(tmp_path, ("bytes",))
    assert names(one) == ["qwen2", "qwen3", "llama", "bytes"]
    assert one.in_memory == (one.offers[0].digest,)
    assert [o.name for o in one.newer_than(one.offers[2].digest)] == ["qwen2", "qwen3"]
    assert one.newer_than(b"x") == one.offers


def test_an_old_model_leaves_memory_with_its_last_link(tmp_path):
    put(tmp_path, "llama", 100)
    one = shelf(tmp_path, load=load)
    first, second = one.take(one.offers[0].digest), one.take(one.offers[0].digest)
    assert first is second
    put(tmp_path, "qwen2", 200)
    assert one.stale()
    assert one.refresh()
    assert names(one) == ["qwen2", "llama"]
    assert len(one.in_memory) == 2
    one.give(first)
    assert len(one.in_memory) == 2
    gone = weakref.ref(first.runtime)
    digest = first.digest
    one.give(second)
    del first, second
    gc.collect()
    assert gone() is None
    assert len(one.in_memory) == 1
    again = one.take(digest)  # an edge that has nothing newer
    assert again.digest == digest
    one.give(again)


def test_a_removed_model_is_not_offered_and_can_be_used_to_the_end(tmp_path):
    path = put(tmp_path, "llama", 100)
    one = shelf(tmp_path, ("bytes",), load=load)
    model = one.take(one.offers[0].digest)
    path.unlink()
    assert one.refresh()
    assert names(one) == ["bytes"]
    stream = model.open([1, 2, 3])
    assert model.logits(stream).shape == (model.vocab_size,)
    one.give(model)
    with pytest.raises(ArtifactError, match="not here"):
        one.take(model.digest)


def _damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-64] ^= 1
    path.write_bytes(bytes(data))


def _wrong_conformance(path: Path) -> None:
    old = Artifact.open(path)
    header = dict(old.header) | {"conformance": "00" * 32}
    write_artifact(path, header, {name: old.tensor(name).copy() for name in old.tensor_names})


def _other_numerics(path: Path) -> None:
    old = Artifact.open(path)
    numerics = dict(old.header["numerics"]) | {"version": 999}
    header = dict(old.header) | {"numerics": numerics}
    write_artifact(path, header, {name: old.tensor(name).copy() for name in old.tensor_names})


def _unprintable(path: Path) -> None:
    old = Artifact.open(path)
    header = dict(old.header) | {"name": "a\x1b[31m"}
    write_artifact(path, header, {name: old.tensor(name).copy() for name in old.tensor_names})


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (_unprintable, "printable"),
        (_wrong_conformance, "other integers"),
        (_other_numerics, ""),
        (lambda path: path.write_bytes(path.read_bytes()[:-64]), "bytes"),
        (lambda path: path.write_bytes(b"NARROWSW"), "truncated"),
    ],
)
def test_a_bad_artifact_is_refused_and_the_rest_goes_on(tmp_path, caplog, spoil, why):
    put(tmp_path, "llama", 100)
    one = shelf(tmp_path, load=load)
    spoil(put(tmp_path, "qwen2", 200))
    assert one.stale()
    assert not one.refresh()
    assert names(one) == ["llama"]
    assert "weak model refused" in caplog.text
    assert why in caplog.text
    assert not one.stale()
    caplog.clear()
    one.refresh()
    assert "refused" not in caplog.text  # once, not at every look
    put(tmp_path, "qwen2", 300)
    assert one.refresh()
    assert names(one) == ["qwen2", "llama"]


def _unsign(path: Path) -> None:
    signed_path(path).unlink()


def _other_signature(path: Path) -> None:
    data = signed_path(path).read_bytes()
    at = data.index(b'"signature":"') + 13
    signed_path(path).write_bytes(
        data[:at] + (b"0" if data[at : at + 1] != b"0" else b"1") + data[at + 1 :]
    )


def _other_manifest(path: Path) -> None:
    data = signed_path(path).read_bytes()
    signed_path(path).write_bytes(data.replace(b'"licence":"none"', b'"licence":"some"'))


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (_unsign, "not signed"),
        (_other_signature, "signature is wrong"),
        (_other_manifest, "signature is wrong"),
        (_damage, "SHA-256"),
        (lambda path: put_signed(path.parent, "qwen2", 200, Ed25519PrivateKey.generate()),
         "no operator here"),
        (lambda path: signed_path(path).write_bytes(b"{}"), "no signed manifest"),
        (lambda path: signed_path(path).write_bytes(b'{"a": 1}'), "canonical"),
        (lambda path: signed_path(path).write_bytes(b"x" * 70000), "larger than"),
        (lambda path: shutil.copy(path.with_name("llama.narrows"), path), "SHA-256"),
    ],
)  # fmt: skip
def test_with_operators_only_what_one_of_them_signed_is_loaded(tmp_path, caplog, spoil, why):
    put_signed(tmp_path, "llama", 100)
    one = shelf(tmp_path, (), OPERATORS)
    assert one.offers[0].bits_per_byte == 2.5
    spoil(put_signed(tmp_path, "qwen2", 200))
    one.refresh()
    assert names(one) == ["llama"]
    assert why in caplog.text
    put_signed(tmp_path, "qwen2", 200)
    one.refresh()
    assert names(one) == ["qwen2", "llama"]


def test_signed_times_decide_not_those_of_files(tmp_path):
    put_signed(tmp_path, "llama", 300)
    put_signed(tmp_path, "qwen2", 200)
    assert names(shelf(tmp_path, (), OPERATORS)) == ["llama", "qwen2"]


def test_named_models_need_a_signature_unless_they_came_with_narrows(tmp_path):
    path = put(tmp_path, "llama", 100)
    with pytest.raises(ArtifactError, match="not signed"):
        shelf(None, (str(path),), OPERATORS)
    put_signed(tmp_path, "llama", 100)
    assert names(shelf(None, (str(path), "bytes"), OPERATORS)) == ["llama", "bytes"]


def test_nothing_at_all_is_an_error(tmp_path):
    with pytest.raises(InputError, match="no weak model"):
        shelf(tmp_path)


def test_a_signed_conformance_that_differs_is_refused(tmp_path):
    path = put_signed(tmp_path, "llama", 100)
    manifest = read_signed(path, OPERATORS)
    other = dataclasses.replace(manifest, conformance="00" * 32)
    write_signed(path, sign(other, KEY))
    with pytest.raises(ArtifactError, match="other integers"):
        shelf(None, (str(path),), OPERATORS)


def test_watch_takes_what_is_installed(tmp_path):
    folder = tmp_path / "watched"
    one = shelf(folder, ("bytes",))
    source = put_signed(tmp_path / "made", "llama", 100)
    changes = []

    async def check() -> None:
        wake = asyncio.Event()
        task = asyncio.create_task(
            watch(one, wake, lambda: changes.append(names(one)), interval_s=0.01)
        )
        digest, signed = await asyncio.to_thread(install, source, folder)
        assert signed
        async with asyncio.timeout(60):
            while one.offers[0].digest != digest:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0)
            wake.set()
            while len(changes) < 2:
                await asyncio.sleep(0.01)
        model = await take_for(one, digest)
        one.give(model)
        task.cancel()

    asyncio.run(check())
    assert changes == [["llama", "bytes"]] * 2
    other = put(tmp_path / "other", "qwen3", 1).rename(tmp_path / "other" / "llama.narrows")
    with pytest.raises(InputError, match="another model"):
        install(other, folder)


def test_an_isolated_enclave_may_read_what_is_installed_for_it(tmp_path):
    source = put_signed(tmp_path / "made", "llama", 100)
    before = os.umask(0o077)
    try:
        for shown, mode in ((True, 0o644), (False, 0o600)):
            install(source, tmp_path / str(shown), shown)
            found = list((tmp_path / str(shown)).iterdir())
            assert [path.stat().st_mode & 0o777 for path in found] == [mode] * 2
    finally:
        os.umask(before)


def test_a_named_model_that_the_folder_has_too_is_in_memory_once(tmp_path):
    path = put(tmp_path, "llama", 100)
    one = shelf(tmp_path, (str(path),))
    assert names(one) == ["llama"]
    assert [entry.model for entry in one._named] == [None]
    assert one.take(one.offers[0].digest).digest == one.offers[0].digest


def test_a_folder_is_loaded_with_one_model_at_a_time_in_memory(tmp_path):
    alive = []

    def load_one(name, expect):
        gc.collect()
        alive.append(sum(other() is not None for other in made))
        model = Unread(Path(name), expect)
        made.append(weakref.ref(model))
        return model

    made: list[weakref.ref] = []
    for variant, at_s in (("llama", 300), ("qwen2", 100), ("qwen3", 200)):
        put(tmp_path, variant, at_s)
    assert names(shelf(tmp_path, load=load_one)) == ["llama", "qwen3", "qwen2"]
    assert max(alive) <= 1


def test_what_cannot_be_read_is_an_error_that_a_watcher_outlives(tmp_path, monkeypatch, caplog):
    put(tmp_path, "llama", 100)
    one = shelf(tmp_path)

    def fail(self, pattern):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "glob", fail)
    with pytest.raises(InputError, match="Permission denied"):
        one.refresh()

    async def check() -> None:
        task = asyncio.create_task(watch(one, asyncio.Event(), interval_s=0.01))
        async with asyncio.timeout(30):
            while "going on" not in caplog.text:
                await asyncio.sleep(0.01)
        assert not task.done()
        task.cancel()

    asyncio.run(check())
    assert names(one) == ["llama"]


def test_a_file_that_goes_is_an_error_of_the_artifact(tmp_path):
    path = put(tmp_path, "llama", 100)
    put(tmp_path, "qwen2", 200)
    one = shelf(tmp_path)
    path.unlink()
    with pytest.raises(ArtifactError, match="cannot read"):
        one.take(one.offers[1].digest)
