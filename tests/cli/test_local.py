"""What ``narrows up`` writes before it starts anything."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from narrows.deploy.config import load_config
from narrows.deploy.local import LocalDeployment
from narrows.enclave.config import UpstreamConfig


def test_the_effective_configuration_is_private_and_reads_back(tmp_path: Path) -> None:
    config = load_config(None)
    upstream = UpstreamConfig("http://127.0.0.1:1/v1", "m", api_key="secret")
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
