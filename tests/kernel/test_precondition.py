"""The gate's kernel must not speak for the enclave: the attack, and what the gate makes of it."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from isolate.frames import ACK, ICMP, SYN, TCP, echo, ethernet, ipv4, tcp
from kernel.netns import DEVICE, GATE, OUTSIDE, Machine, command, needs_kernel, two_machines
from narrows.gate.backstop.nft import Nft
from narrows.gate.config import GateConfig, PortConfig
from narrows.gate.machine.cores import Roots
from narrows.gate.machine.devices import Cards, find_cards
from narrows.gate.machine.precondition import is_filtered, list_rules, machine_fault
from narrows.gate.machine.surroundings import Surroundings
from narrows.wire.pins import make_identity

pytestmark = needs_kernel
INNER_GATE, INNER_ENCLAVE, ENCLAVE_PORT = "10.78.0.1", "10.78.0.2", 8401
DIALLED = frozenset({(INNER_ENCLAVE, ENCLAVE_PORT)})
TOKEN = b"weights-weights"


def deployed_rules() -> str:
    """The filter of docs/deploy.md with this test's addresses."""
    text = (Path(__file__).parents[2] / "docs" / "deploy.md").read_text()
    table = text.partition("table netdev cable {")[2].partition("\n}\n")[0]
    for old, new in (("10.2.0.2", INNER_ENCLAVE), ("10.2.0.1", INNER_GATE)):
        table = table.replace(old, new)
    return "table netdev cable {" + table.replace("{ 8401, 8404 }", "8401") + "\n}\n"


@dataclass
class Site:
    gate: Machine
    outside: Machine
    enclave: Machine
    macs: dict[str, str]

    def settings(self, **values: str) -> None:
        for name, value in values.items():
            path = "/proc/sys/net/ipv4/" + name.replace("__", "/")
            self.gate.run("tee", path, text=value)

    def fault(self) -> str:
        def look() -> str:
            nft = Nft()
            try:
                return machine_fault(["inner"], [DEVICE], DIALLED, Roots(), lambda: list_rules(nft))
            finally:
                nft.close()

        return str(self.gate.within(look))

    def filtered(self) -> bool:
        def look() -> bool:
            nft = Nft()
            try:
                return is_filtered("inner", list_rules(nft), DIALLED)
            finally:
                nft.close()

        return bool(self.gate.within(look))


@contextlib.contextmanager
def three_machines() -> Iterator[Site]:
    with two_machines() as (gate, outside):
        enclave = Machine(gate.name[:-1] + "e")
        try:
            command("ip", "netns", "add", enclave.name)
            ends = ("type", "veth", "peer", "name", "gate0", "netns", enclave.name)
            command("ip", "-n", gate.name, "link", "add", "inner", *ends)
            command("ip", "-n", gate.name, "addr", "add", f"{INNER_GATE}/24", "dev", "inner")
            command("ip", "-n", enclave.name, "addr", "add", f"{INNER_ENCLAVE}/24", "dev", "gate0")
            command("ip", "-n", gate.name, "link", "set", "inner", "up")
            command("ip", "-n", enclave.name, "link", "set", "gate0", "up")
            outside.run("ping", "-c", "1", "-W", "5", GATE)  # so that neighbours are known
            macs = {
                "gate": gate.run("cat", "/sys/class/net/inner/address").strip(),
                "enclave": enclave.run("cat", "/sys/class/net/gate0/address").strip(),
            }
            yield Site(gate, outside, enclave, macs)
        finally:
            subprocess.run(["ip", "netns", "del", enclave.name], capture_output=True, check=False)


def packet_socket(machine: Machine, device: str) -> socket.socket:
    def make() -> socket.socket:
        made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        made.bind((device, 3))
        made.settimeout(0.1)
        return made

    found = machine.within(make)
    assert isinstance(found, socket.socket)
    return found


def reflected(made: Site) -> list[bytes]:
    """What the outside hears of frames from the enclave with the outside's address as source."""
    cards = {"to": made.macs["gate"], "source": made.macs["enclave"]}
    ends = {"source": OUTSIDE, "to": GATE}
    frames = [
        ethernet(ipv4(echo(TOKEN), ICMP, **ends), **cards),
        ethernet(ipv4(tcp(31337, 4242, SYN, TOKEN, **ends), TCP, **ends), **cards),
        ethernet(ipv4(tcp(31337, 4243, ACK, TOKEN, **ends), TCP, **ends), **cards),
    ]
    with packet_socket(made.outside, DEVICE) as ear, packet_socket(made.enclave, "gate0") as mouth:
        for frame in frames:
            mouth.send(frame)
        heard: list[bytes] = []
        deadline = time.monotonic() + 1.5
        while time.monotonic() < deadline:
            with contextlib.suppress(TimeoutError):
                frame = ear.recv(2048)
                is_ip = frame[12:14] == b"\x08\x00"
                if is_ip and frame[26:30] == socket.inet_aton(GATE):
                    heard.append(frame)
        return heard


def test_the_gates_kernel_reflects_what_the_filter_then_stops() -> None:
    """The attack of a machine with two cards and no filter: the payload comes out outside, and
    what is chosen inside (ports, sequence numbers) in resets. The filter of docs/deploy.md stops
    all of it; so does a strict rp_filter, for IPv4."""
    with three_machines() as made:
        made.settings(conf__all__rp_filter="0", conf__inner__rp_filter="0", ip_forward="0")
        heard = reflected(made)
        assert any(TOKEN in frame for frame in heard)  # the echo's answer
        ports = {struct.unpack("!H", f[34:36])[0] for f in heard if f[23] == TCP}
        assert ports == {4242, 4243}  # resets
        assert "rp_filter" in made.fault()
        made.settings(conf__inner__rp_filter="1")
        assert reflected(made) == []
        assert "no filter" in made.fault()
        made.settings(conf__inner__rp_filter="0")
        made.gate.nft(deployed_rules())
        assert reflected(made) == []
        assert "rp_filter" in made.fault()
        made.settings(conf__inner__rp_filter="1")
        assert made.fault() == ""


def test_switches_and_rules_that_are_not_as_they_must_be() -> None:
    with three_machines() as made:
        made.settings(conf__all__rp_filter="0", conf__inner__rp_filter="1", ip_forward="0")
        made.gate.nft(deployed_rules())
        assert made.fault() == ""
        for name, value, back, word in (
            ("conf__all__rp_filter", "2", "0", "rp_filter"),
            ("conf__inner__forwarding", "1", "0", "conf/inner/forwarding"),
        ):
            made.settings(**{name: value})
            assert word in made.fault()
            made.settings(**{name: back})
            assert made.fault() == ""
        made.settings(ip_forward="1")
        assert "forwards" in made.fault()
        made.settings(ip_forward="0")
        path = "/proc/sys/net/ipv6/conf/inner/forwarding"
        made.gate.run("tee", path, text="1")
        assert "ipv6" in made.fault()
        made.gate.run("tee", path, text="0")
        assert made.fault() == ""
        made.gate.nft("delete table netdev cable")
        assert "no filter" in made.fault()


def chain(*rules: str, device: str = "inner", policy: str = "drop", table: str = "t {") -> str:
    head = f"type filter hook ingress device {device} priority 0; policy {policy};"
    lines = "\n".join([head, *rules])
    return f"table netdev {table}\nchain c {{\n{lines}\n}}\n}}\n"


def accepting(source: str = INNER_ENCLAVE, port: str = "8401", mask: str = "syn | ack") -> str:
    return f"ip saddr {source} tcp sport {port} tcp flags & ({mask}) != syn counter accept"


@pytest.mark.parametrize(
    ("rules", "good"),
    [
        (chain(accepting()), True),
        (chain(), True),
        (chain("limit rate over 9/second drop", accepting(), "counter"), True),
        (chain(accepting(), policy="accept"), False),
        (chain(accepting(), device="lo"), False),
        (chain(accepting(), "accept"), False),
        (chain(f"ip saddr {INNER_ENCLAVE} accept"), False),
        (chain(f"ip saddr {INNER_ENCLAVE} tcp sport 8401 accept"), False),
        (chain(accepting(OUTSIDE)), False),
        (chain(accepting(f"!= {INNER_ENCLAVE}")), False),
        (chain(accepting("10.78.0.0/24")), False),
        (chain(accepting(port="8400-8410")), False),
        (chain(accepting(port="{ 8401, 9999 }")), False),
        (chain(accepting(mask="syn | rst")), False),
        (chain("jump d", table="t {\nchain d {\naccept\n}"), False),
        (chain("ether type vmap { ip : accept }"), False),
        (chain(table="t {\nflags dormant;"), False),
        (chain(accepting()) + chain(f"fwd to {DEVICE}", policy="accept", table="u {"), False),
        ("table inet t {\nchain c {\ntype filter hook input priority 0; policy drop;\n}\n}", False),
    ],
)
def test_only_a_filter_that_lets_in_answers_alone_counts(rules: str, good: bool) -> None:
    with three_machines() as made:
        made.gate.nft(rules)
        assert made.filtered() is good


def test_the_rules_of_the_isolated_start_count() -> None:
    from isolate.ground import new_tag
    from narrows.isolate.network import AUDITOR, AUDITOR_PORT, ENCLAVE, ENCLAVE_PORTS, wired

    def look() -> tuple[str, bool]:
        nft = Nft()
        try:
            dialled = frozenset((ENCLAVE, port) for port in ENCLAVE_PORTS)
            dialled |= {(AUDITOR, AUDITOR_PORT)}
            rules = list_rules(nft)
            fault = machine_fault(["inner", "audit"], ["outer"], dialled, Roots(), lambda: rules)
            return fault, all(is_filtered(name, rules, dialled) for name in ("inner", "audit"))
        finally:
            nft.close()

    with wired(new_tag(), audited=True) as network:
        assert network.gate.run(look) == ("", True)


def test_the_gate_finds_its_cards_and_refuses() -> None:
    """The class: a configuration whose machine nobody has looked at."""

    def config(**more: Any) -> GateConfig:
        port = PortConfig(listen_host=GATE, enclave_host=INNER_ENCLAVE, enclave_port=ENCLAVE_PORT)
        return GateConfig(ports=(port,), state_host=GATE, **more)

    def start(**more: Any) -> Callable[[], Any]:
        def call() -> Any:
            made = Surroundings(config(**more))
            try:
                return made.look()
            finally:
                made.close()

        return call

    with three_machines() as made:
        made.settings(conf__all__rp_filter="0", conf__inner__rp_filter="1", ip_forward="0")
        found = made.gate.within(lambda: find_cards(config()))
        assert found == Cards(("inner",), (DEVICE,), True)
        assert "no filter" in made.gate.within(start()).refusal
        assert made.gate.within(start(machine="warn")).refusal == ""
        made.gate.nft(deployed_rules())
        assert made.gate.within(start()).refusal == ""


def started(made: Site, folder: Path, core: str = "0", **more: str) -> str:
    """What a gate's process says that is started there. Its ledger is missing: it always ends."""
    folder = Path(tempfile.mkdtemp(dir=folder))
    gate, edge = make_identity(folder, "gate"), make_identity(folder, "edge")
    lines = "".join(f'{key} = "{value}"\n' for key, value in more.items())
    (folder / "gate.toml").write_text(f"""
[gate]
state_port = -1
{lines}
[gate.tls]
cert_file = "{gate[0]}"
key_file = "{gate[1]}"
peer_file = "{edge[0]}"
[[gate.ports]]
listen_host = "{GATE}"
enclave_host = "{INNER_ENCLAVE}"
enclave_port = {ENCLAVE_PORT}
""")
    words = ["ip", "netns", "exec", made.gate.name, "taskset", "-c", core, sys.executable]
    words += ["-m", "narrows.cli.main", "gate", "--state", str(folder)]
    done = subprocess.run(
        [*words, "--config", str(folder / "gate.toml")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_a_gate_starts_only_on_a_machine_that_is_as_it_must_be(tmp_path: Path) -> None:
    refused = "this machine lets more out than the gate counts"
    with three_machines() as made:
        made.settings(conf__all__rp_filter="0", conf__inner__rp_filter="1", ip_forward="0")
        said = started(made, tmp_path)
        assert refused in said
        assert "install the rules of docs/deploy.md" in said
        assert refused not in started(made, tmp_path, machine="warn")
        made.gate.nft(deployed_rules())
        assert refused not in started(made, tmp_path)
        said = started(made, tmp_path, cores="refuse")
        assert refused in said
        assert "no interrupts and no RPS" in said
        made.gate.run("tee", "/sys/class/net/inner/queues/rx-0/rps_cpus", text="2")
        made.gate.run("tee", f"/sys/class/net/{DEVICE}/queues/rx-0/rps_cpus", text="1")
        assert refused not in started(made, tmp_path, cores="refuse")
        assert "gate's process share core 1" in started(made, tmp_path, "1", cores="refuse")
        made.gate.run("tee", f"/sys/class/net/{DEVICE}/queues/rx-0/rps_cpus", text="3")
        assert f"{DEVICE} share core 1" in started(made, tmp_path, cores="refuse")
