"""What ``narrows up`` writes before it starts anything."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from enclave.strong_folder import write_folder
from narrows import config as sections
from narrows.deploy import isolated
from narrows.deploy.config import load_config
from narrows.deploy.isolated import IsolatedDeployment
from narrows.deploy.local import LocalDeployment
from narrows.enclave.config import EnclaveConfig, UpstreamConfig
from narrows.errors import InputError


def test_the_effective_configuration_is_private_and_reads_back(tmp_path: Path) -> None:
    config = load_config(None)
    upstream = UpstreamConfig(
        *("http://127.0.0.1:1/v1", "m", "secret", tmp_path, "required", "none"),
        pass_=("top_k",),
        extra_body={"_mine_": {"theirs_": 1}},
    )
    config = dataclasses.replace(
        config, enclave=dataclasses.replace(config.enclave, upstream=upstream)
    )
    tmp_path.chmod(0o755)
    (tmp_path / "run").mkdir()
    path = tmp_path / "run" / "effective.toml"
    path.write_text("")
    path.chmod(0o644)
    deployment = LocalDeployment(tmp_path, config, None)
    assert deployment._arguments("enclave", config) == ["enclave", "--config", str(path)]
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_config(path) == config


def test_an_isolated_enclave_sees_the_words_of_a_strong_model_not_its_weights(
    tmp_path: Path,
) -> None:
    write_folder(tmp_path / "strong")
    (tmp_path / "strong" / "model.safetensors").write_bytes(b"")
    upstream = UpstreamConfig("http://127.0.0.1:8000/v1", "m", folder=tmp_path / "strong")
    enclave = EnclaveConfig(weak=("bytes",), upstream=upstream)
    files, _ = isolated._models(enclave)
    assert {path.name for path in files} == {
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "generation_config.json",
    }
    assert all(path.is_absolute() for path in files)


def test_files_of_the_enclave_lie_beside_the_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever the command is called from, and as people write them."""
    monkeypatch.setenv("HOME", "/home/someone")
    path = tmp_path / "narrows.toml"
    path.write_text(
        '[enclave.upstream]\nurl = "http://127.0.0.1:8000/v1"\nmodel = "m"\nfolder = "strong"\n'
        '[enclave.isolated]\nfiles = ["strong", "~/server", "/opt"]\ndevices = ["/dev/null"]\n'
    )
    enclave = load_config(path).enclave
    assert enclave.upstream is not None
    assert enclave.upstream.folder == tmp_path / "strong"
    files = (tmp_path / "strong", Path("/home/someone/server"), Path("/opt"))
    assert (enclave.isolated.files, enclave.isolated.devices) == (files, (Path("/dev/null"),))
    path.write_text(path.read_text().replace('"strong"\n[', '"~/strong"\n['))
    upstream = load_config(path).enclave.upstream
    assert upstream is not None
    assert upstream.folder == Path("/home/someone/strong")


def test_an_isolated_start_checks_the_configuration_that_it_uses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One look at the file: whoever swaps it gets what was checked, or another check."""
    reads, read = list[Path](), sections.read_toml
    monkeypatch.setattr(sections, "read_toml", lambda path: reads.append(path) or read(path))
    monkeypatch.setattr(isolated, "_check_host", lambda: None)
    path = tmp_path / "narrows.toml"
    path.write_text("[edge]\nlisten_port = 0\n")
    IsolatedDeployment.prepare(path, tmp_path / "state")
    assert reads == [path]
    path.write_text('[enclave.isolated]\ncommand = ["vllm"]\n')
    with pytest.raises(InputError, match="there is none"):
        IsolatedDeployment.prepare(path, tmp_path / "other")
    assert not (tmp_path / "other").exists(), "nothing was made"
