"""The probe of an installation: on loopback and in namespaces of the test's own."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from narrows.cli.main import app, main
from narrows.errors import InputError
from narrows.isolate.namespaces import NetNamespace
from narrows.redteam.checks import default_route, default_route6, reach
from narrows.redteam.probe import Inside, Outside, ProbeReport, probe

ROOT = os.geteuid() == 0
OUTSIDE = ("redteam", "probe", "--from", "outside", "--shut")
AWAY = (("192.0.2.1", 443), ("2001:db8::1", 443))


@pytest.fixture
def listener() -> Iterator[int]:
    """A port of loopback that takes connections and closes them."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                server.accept()[0].close()

    threading.Thread(target=serve, daemon=True).start()
    yield server.getsockname()[1]
    server.shutdown(socket.SHUT_RDWR)
    server.close()


@contextlib.contextmanager
def api(status: int) -> Iterator[int]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def results(report: ProbeReport) -> dict[tuple[str, str], str]:
    return {(one.check, one.target): one.result for one in report.findings}


def test_what_connects_or_refuses_from_inside_is_a_hole(listener: int) -> None:
    assert reach(("127.0.0.1", listener), 1.0) == ("hole", "connected")
    assert reach(("127.0.0.1", closed_port()), 1.0)[0] == "hole"


@pytest.mark.skipif(not ROOT, reason="makes a namespace, which only root may")
def test_a_namespace_without_a_way_out_holds() -> None:
    what = Inside(
        AWAY, "192.0.2.2", (80,), names=("narrows.invalid",), resolvers=("192.0.2.53",),
        metadata=True,
    )  # fmt: skip
    namespace = NetNamespace()
    try:
        found = results(namespace.run(lambda: probe(what, 0.5)))
    finally:
        namespace.close()
    raw = found.pop(("raw-socket", "this machine"))
    assert raw == "hole", "the test is root in it, an enclave is not"
    assert set(found.values()) == {"held"}, found
    assert {check for check, _ in found} == {"tcp", "udp", "gate-port", "resolve", "dns", "route"}
    assert ("tcp", "169.254.169.254:80") in found
    assert ("tcp", "[2001:db8::1]:443") in found


@pytest.mark.skipif(not ROOT, reason="makes a namespace, which only root may")
def test_a_default_route_is_a_hole() -> None:
    namespace = NetNamespace()
    try:
        namespace.tool(["ip", "link", "add", "up0", "type", "veth", "peer", "name", "up1"])
        namespace.tool(["ip", "addr", "add", "192.0.2.9/24", "dev", "up0"])
        namespace.tool(["ip", "link", "set", "up0", "up"])
        namespace.tool(["ip", "route", "add", "default", "via", "192.0.2.1"])
        report = namespace.run(lambda: probe(Inside(AWAY[:1]), 0.2))
    finally:
        namespace.close()
    assert results(report)["route", "IPv4"] == "hole"


def test_routes_are_read_as_the_kernel_writes_them(tmp_path: Path) -> None:
    head = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
    table = tmp_path / "route"
    table.write_text(head + "eth0\t000002C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n")
    assert default_route(table)[0] == "held"
    table.write_text(head + "eth0\t00000000\t010002C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n")
    assert default_route(table) == ("hole", "a default route over eth0")
    zeros = "0" * 32
    row = f"{zeros} 00 {zeros} 00 {'fe80' + zeros[4:]} 00000400 00000001 00000000 00000003"
    table.write_text(f"{row} lo\n")
    assert default_route6(table)[0] == "held"
    table.write_text(f"{row} eth0\n")
    assert default_route6(table)[0] == "hole"
    assert default_route6(tmp_path / "none")[0] == "held"


def test_what_a_stranger_reaches_from_outside_is_a_hole(listener: int) -> None:
    shut = (("gate", ("127.0.0.1", listener)), ("state", ("127.0.0.1", closed_port())))
    with api(401) as asks, api(200) as answers:
        report = probe(Outside(shut, (("127.0.0.1", asks), ("127.0.0.1", answers))), 1.0)
    assert [one.result for one in report.findings] == ["hole", "held", "held", "hole"]
    assert report.as_json()["holes"] == 2


def test_nothing_is_addressed_that_is_not_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for what in (Inside(), Outside()):
        with pytest.raises(InputError):
            probe(what)
    with pytest.raises(InputError, match="allowed"):
        probe(Outside(tuple(("named", ("127.0.0.1", port)) for port in range(1, 300))))
    config = tmp_path / "narrows.toml"
    config.write_text('[edge]\nlisten_host = "0.0.0.0"\n')
    for words in (["--config", str(config)], []):
        with pytest.raises(SystemExit) as ended:
            main(["redteam", "probe", "--from", "outside", *words])
        assert ended.value.code == 2
    assert "every address" in capsys.readouterr().err


def test_the_command_writes_a_dated_report_and_says_by_its_code(
    listener: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "probe.json"
    for port, code in ((listener, 1), (closed_port(), 0)):
        with pytest.raises(SystemExit) as ended:
            app([*OUTSIDE, f"127.0.0.1:{port}", "--timeout", "1", "--out", str(out), "--json"])
        assert ended.value.code == code
        told = json.loads(capsys.readouterr().out)
        assert told == json.loads(out.read_text())
        assert told["from"] == "outside"
        assert told["started"][:2] == "20"
        assert told["holes"] == code
    with pytest.raises(SystemExit):
        app([*OUTSIDE, f"127.0.0.1:{listener}"])
    assert "1 holes in 1 checks" in capsys.readouterr().out
