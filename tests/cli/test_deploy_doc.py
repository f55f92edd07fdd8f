"""docs/deploy.md: units, networks, rules, manifests and configurations are what their readers
would accept."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from narrows import isolate
from narrows.deploy.config import load_config
from narrows.gate.machine.cores import parse_list
from narrows.isolate.namespaces import NetNamespace
from narrows.isolate.network import RULES

DOC = Path(__file__).parents[2] / "docs" / "deploy.md"
BLOCK = re.compile(r"^```(\w+)\n# ([^\n]+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = [(kind, title, text) for kind, title, text in BLOCK.findall(DOC.read_text())]


def blocks(kind: str, part: str = "") -> list[tuple[str, str]]:
    return [(title, text) for k, title, text in BLOCKS if k == kind and part in title]


UNITS = [(title.rpartition("/")[2], text) for title, text in blocks("ini", ".service")]


def test_nothing_is_left_out() -> None:
    """Every block with a language says what it is, so none escapes the tests below."""
    fenced = re.findall(r"^```(\w+)$", DOC.read_text(), re.MULTILINE)
    assert len(fenced) == len(BLOCKS)
    assert {name for name, _ in UNITS} == {
        f"narrows-{role}.service" for role in ("gate", "witness", "edge", "enclave", "cores")
    }
    assert {kind for kind, _, _ in BLOCKS} == {"toml", "ini", "nft", "yaml"}


@pytest.mark.parametrize(("title", "text"), blocks("toml"), ids=lambda value: value[:20])
def test_configurations_load(tmp_path: Path, title: str, text: str) -> None:
    path = tmp_path / "narrows.toml"
    path.write_text(text)
    config = load_config(path)
    if title.startswith("gate"):
        config.gate.check()
        assert [port.name for port in config.gate.ports] == ["answers", "telemetry"]
        assert config.gate.kernel == "nftables"
        assert (config.gate.cores, config.gate.machine) == ("refuse", "refuse")
    if title.startswith("edge"):
        config.edge.check()
    if title.startswith(("enclave", "upstream")):
        config.enclave.check()


def test_the_parts_fit_together(tmp_path: Path) -> None:
    """The three machines' files name one another's addresses."""
    loaded = {}
    for title, text in blocks("toml"):
        (tmp_path / "narrows.toml").write_text(text)
        loaded[title.partition(":")[0]] = load_config(tmp_path / "narrows.toml")
    answers, telemetry = loaded["gate"].gate.ports
    enclave, edge = loaded["enclave"].enclave, loaded["edge"].edge
    assert enclave.listen == f"{answers.enclave_host}:{answers.enclave_port}"
    assert enclave.telemetry == f"{telemetry.enclave_host}:{telemetry.enclave_port}"
    assert (edge.gate_host, edge.gate_port) == (answers.listen_host, answers.listen_port)
    assert edge.state_port == loaded["gate"].gate.state_port
    ((_, witness),) = [unit for unit in UNITS if unit[0] == "narrows-witness.service"]
    assert f"--listen {loaded['gate'].gate.witness}" in witness


@pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze (Debian: systemd) is missing"
)
def test_systemd_takes_the_units(tmp_path: Path) -> None:
    for name, text in UNITS:
        path = tmp_path / name
        path.write_text(text.replace("/opt/narrows/bin/narrows", sys.executable))
        done = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(path)],
            capture_output=True,
            text=True,
            env={**os.environ, "SYSTEMD_LOG_LEVEL": "warning"},
        )
        ours = [line for line in done.stderr.splitlines() if name in line]
        assert not ours, ours
        assert done.returncode == 0, done.stderr


@pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze (Debian: systemd) is missing"
)
@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("narrows-gate.service", 2.0),
        ("narrows-witness.service", 1.5),
        ("narrows-edge.service", 2.0),
        ("narrows-enclave.service", 2.5),
    ],
)
def test_the_units_are_hardened(tmp_path: Path, name: str, least: float) -> None:
    """systemd's own measure of exposure, 0 (best) to 10."""
    path = tmp_path / name
    path.write_text(dict(UNITS)[name])
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--no-pager", str(path)],
        capture_output=True,
        text=True,
    )
    found = re.search(r"exposure level for \S+: ([\d.]+)", done.stdout)
    assert found, done.stdout + done.stderr
    assert float(found[1]) <= least, done.stdout


ROLES = [(name, text) for name, text in UNITS if name != "narrows-cores.service"]


@pytest.mark.parametrize(("name", "text"), ROLES, ids=lambda value: value[:20])
def test_units_start_commands_that_exist(name: str, text: str) -> None:
    (command,) = re.findall(r"^ExecStart=/opt/narrows/bin/narrows (.*)$", text, re.MULTILINE)
    role, *options = command.split()
    shown = subprocess.run(
        [sys.executable, "-m", "narrows.cli.main", role, "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "COLUMNS": "200"},
    ).stdout
    assert all(option in shown for option in options if option.startswith("--"))


@pytest.mark.parametrize(("title", "text"), blocks("ini", "/network/"), ids=lambda v: v[:30])
def test_network_files_are_sections_of_keys(title: str, text: str) -> None:
    parsed = configparser.ConfigParser(strict=True, delimiters=("=",))
    parsed.optionxform = str  # type: ignore[assignment,method-assign]
    parsed.read_string(text)
    assert parsed.sections()[0] == "Match"


def test_the_switches_are_those_that_the_gate_asks_for() -> None:
    ((_, text),) = blocks("ini", "/sysctl.d/")
    settings = dict(re.findall(r"^([\w.]+) = (\d)$", text, re.MULTILINE))
    assert len(settings) == len(text.splitlines()) == 4
    for name in settings:
        known = Path("/proc/sys") / name.replace(".inner.", ".all.").replace(".", "/")
        assert known.exists() or "ipv6" in name
    assert settings["net.ipv4.conf.inner.rp_filter"] == "1"


def test_the_inner_cards_core_is_no_one_elses() -> None:
    """The numbers in the unit of the cores and in the gate's."""
    units = dict(UNITS)
    inner, outer = re.findall(r"echo ([\d-]+) > /proc/irq", units["narrows-cores.service"])
    (gate,) = re.findall(r"^CPUAffinity=(.*)$", units["narrows-gate.service"], re.MULTILINE)
    assert not parse_list(inner) & (parse_list(outer) | parse_list(gate))


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("nft", path="/usr/sbin:/usr/bin") is None,
    reason="checking nftables rules needs root, iproute2 and nftables",
)
@pytest.mark.parametrize(("title", "text"), blocks("nft"), ids=lambda value: value[:20])
def test_nftables_takes_the_rules(title: str, text: str) -> None:
    namespace = NetNamespace()
    try:
        namespace.tool(["ip", "link", "add", "inner", "type", "veth", "peer", "name", "outer"])
        namespace.tool(["nft", "-f", "-"], text)
        assert "policy drop" in namespace.tool(["nft", "list", "ruleset"])
    finally:
        namespace.close()


def test_the_gates_rules_are_those_that_the_escape_tests_try() -> None:
    """The filter against the enclave differs from the tested one in addresses alone."""

    def essence(text: str) -> list[str]:
        text = re.sub(r"counter name (relayed|dropped)", "counter", text.replace("\\\n", " "))
        text = re.sub(r'counter comment "dropped"', "counter", text)
        text = re.sub(r"\d+\.\d+\.\d+\.\d+|[0-9a-f]{2}(:[0-9a-f]{2}){5}", "X", text)
        (chain,) = re.findall(r"chain from_enclave \{(.*?)\n  \}", text, re.DOTALL)
        return chain.split()

    ((_, rules),) = blocks("nft", "gate:")
    assert essence(rules) == essence(RULES)


def test_the_manifests_are_what_kubernetes_reads() -> None:
    ((_, text),) = blocks("yaml")
    documents = list(yaml.safe_load_all(text))
    kinds = [(one["kind"], one["metadata"]["name"]) for one in documents]
    assert len(set(kinds)) == len(kinds) == 5
    for one in documents:
        assert one["apiVersion"]
        assert one["metadata"].get("namespace", "enclave") == "enclave"
    policies = {o["metadata"]["name"]: o["spec"] for o in documents if o["kind"] == "NetworkPolicy"}
    assert policies["nothing"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for spec in policies.values():  # no rule of egress leads out of the namespace
        assert spec["policyTypes"] == ["Ingress", "Egress"]
        assert all(set(to) == {"podSelector"} for e in spec.get("egress", []) for to in e["to"])
    (deployment,) = [one for one in documents if one["kind"] == "Deployment"]
    pod = deployment["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["hostNetwork"] is False
    (container,) = pod["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    volumes = {volume["name"] for volume in pod["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes


def test_arithmetic_of_the_slow_line() -> None:
    per_s = 115_200 / 10
    assert f"{per_s:,.0f} bytes/s" in DOC.read_text()
    assert f"about\n  {per_s * 86_400 / 1e6:.0f} MB a day" in DOC.read_text()
    assert f"takes {1e12 / (per_s * 86_400):,.0f} days" in DOC.read_text()


def test_the_trusted_base_lists_the_isolation() -> None:
    text = DOC.with_name("trusted-base.md").read_text()
    source = Path(isolate.__file__).parent
    files = {f"isolate/{path.name}" for path in source.glob("*.py") if path.stat().st_size}
    assert set(re.findall(r"^\| (isolate/\w+\.py) \|", text, re.MULTILINE)) == files
