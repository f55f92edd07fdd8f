"""``narrows init``: what it writes is what the roles read, and no key lies on two machines."""

from pathlib import Path

import pytest

from narrows.deploy.config import load_config
from narrows.deploy.files import write_deployment
from narrows.errors import InputError
from narrows.wire.pins import client_context, read_pins, server_context


def test_each_role_reads_its_file(tmp_path: Path) -> None:
    folder = tmp_path / "deploy"
    written = write_deployment(folder, "10.1.0.2:8402", 8403, "10.2.0.1:8401", "0.0.0.0:8400")
    names = {str(path.relative_to(folder)) for path in written}
    assert {name for name in names if name.endswith(".key")} == {"gate/gate.key", "edge/edge.key"}
    gate = load_config(folder / "gate" / "narrows.toml").gate.check()
    edge = load_config(folder / "edge" / "narrows.toml").edge.check()
    enclave = load_config(folder / "enclave" / "narrows.toml").enclave
    assert (gate.ports[0].listen_host, gate.ports[0].listen_port) == ("10.1.0.2", 8402)
    assert (edge.gate_host, edge.gate_port, edge.state_port) == ("10.1.0.2", 8402, 8403)
    assert enclave.listen == "10.2.0.1:8401"
    assert gate.tls is not None
    assert gate.tls.key_file == folder.resolve() / "gate" / "gate.key"
    assert edge.tls is not None
    assert edge.tls.peer_file == folder.resolve() / "edge" / "gate.crt"


def test_the_keys_are_pinned_on_the_other_side(tmp_path: Path) -> None:
    folder = tmp_path / "deploy"
    write_deployment(folder, "127.0.0.1:1", 2, "127.0.0.1:3", "127.0.0.1:4")
    gate, edge = folder / "gate", folder / "edge"
    assert read_pins(gate / "edge.crt") == read_pins(edge / "edge.crt")
    assert read_pins(gate / "edge.crt") != read_pins(gate / "gate.crt")
    server_context(gate / "gate.crt", gate / "gate.key", gate / "edge.crt")
    client_context(edge / "edge.crt", edge / "edge.key", edge / "gate.crt")


def test_keys_are_never_overwritten(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="exists"):
        write_deployment(tmp_path, "127.0.0.1:1", 2, "127.0.0.1:3", "127.0.0.1:4")
