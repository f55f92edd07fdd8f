"""Ways out of the enclave's sandbox, tried from inside as its root. Each fails, and each has a
control that shows what it would look like if it did not: the same call from outside, or the
thing itself, which is there for others to reach."""

from __future__ import annotations

import ctypes
import json
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from isolate.ground import (
    Listener,
    Sniffer,
    imprisoned,
    needs_isolation,
    new_tag,
    report_of,
)
from narrows.isolate.namespaces import run_tool
from narrows.isolate.network import ENCLAVE, GATE_INNER, Network, wired
from narrows.isolate.user import enclave_uid
from narrows.ledger.office.demo import create_demo

pytestmark = needs_isolation
libc = ctypes.CDLL(None, use_errno=True)


@dataclass
class Prison:
    """The attack's report, and the host as it was while it ran."""

    report: dict[str, Any]
    facts: dict[str, Any]
    network: Network
    uid: int
    victim: subprocess.Popen[bytes]
    host: Listener
    gate: Listener
    outside: Sniffer
    counters: dict[str, int]
    log: Path


def counters(network: Network) -> dict[str, int]:
    """Packets that the gate's namespace let in from the enclave, and that it dropped."""
    listed = json.loads(network.gate.tool(["nft", "-j", "list", "counters"]))["nftables"]
    return {one["counter"]["name"]: one["counter"]["packets"] for one in listed if "counter" in one}


@pytest.fixture(scope="module")
def prison(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prison]:
    folder = tmp_path_factory.mktemp("prison")
    token, tag = secrets.token_hex(8), new_tag()
    uid = enclave_uid(tag)
    state = folder / "state"
    create_demo(state, 1_000_000)
    marker = folder / f"marker-{token}"
    marker.write_text("of the host")
    folder.chmod(0o755)
    # The victim runs as the enclave's own user: only the process namespace is between them.
    victim = subprocess.Popen(["sleep", "1000"], preexec_fn=lambda: os.setresuid(uid, uid, uid))
    key = secrets.randbits(30)
    segment = libc.shmget(key, 4096, 0o1000 | 0o666)
    queue = libc.msgget(key, 0o1000 | 0o666)
    assert min(segment, queue) >= 0
    path = str(folder / "socket")
    unix_path, unix_abstract = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
    unix_path.bind(path)
    os.chmod(path, 0o777)
    unix_abstract.bind(f"\0{token}")
    for one in (unix_path, unix_abstract):
        one.listen(8)
    with wired(tag) as network:
        host = Listener()
        gate = Listener(port=8402, namespace=network.gate)
        addresses = ["127.0.0.1", network.host, network.gate_outer, "8.8.8.8"]
        facts = {
            "token": token,
            "enclave": ENCLAVE,
            "gate": GATE_INNER,
            "host": network.host,
            "tcp": [(a, p) for a in (*addresses, GATE_INNER) for p in (host.port, gate.port, 53)],
            "pids": [os.getpid(), os.getppid(), victim.pid],
            "marker": str(marker),
            "victim": victim.pid,
            "unix_path": path,
            "unix_abstract": token,
            "shm_key": key,
            "secrets": [str(state), str(state / "ledger" / "ledger.db"), "/etc/shadow", "/root"],
            "other_uid": 1000,
        }
        outside = Sniffer(network.device)
        log = folder / "enclave.log"
        data = {
            "/run/narrows/attack.py": Path(__file__).with_name("attack.py").read_bytes(),
            "/run/narrows/facts.json": json.dumps(facts).encode(),
        }
        words = [sys.executable, "/run/narrows/attack.py", "/run/narrows/facts.json"]
        try:
            with imprisoned(network, uid, words, data, log) as keeper:
                report = report_of(network, keeper, log)
                yield Prison(
                    report, facts, network, uid, victim, host, gate, outside, counters(network), log
                )
        finally:
            victim.kill()
            victim.wait()
            for one in (unix_path, unix_abstract, host, gate, outside):
                one.close()
            libc.shmctl(segment, 0, None)
            libc.msgctl(queue, 0, None)


def dial(address: tuple[str, int], data: bytes = b"") -> int:
    with socket.socket() as dialling:
        dialling.settimeout(5)
        result = dialling.connect_ex(address)
        if not result and data:
            dialling.sendall(data)
        return result


def test_tcp_reaches_nobody(prison: Prison) -> None:
    assert len(prison.report["tcp"]) == 15
    reached = {a: r for a, r in prison.report["tcp"].items() if r == "done"}
    assert not reached
    assert prison.host.heard == []
    assert prison.gate.heard == []
    # Control: both listen where the attack tried.
    assert dial((prison.network.host, prison.host.port), b"control") == 0
    assert prison.network.gate.run(lambda: dial((GATE_INNER, prison.gate.port))) == 0


def test_udp_reaches_nobody(prison: Prison) -> None:
    token = prison.facts["token"].encode()
    assert "done" in prison.report["udp"].values()  # it was sent, to the gate at least
    assert not [said for said in prison.host.heard + prison.gate.heard if token in said]
    assert prison.counters["dropped"] > 0
    assert not [frame for frame in prison.outside.read() if token in frame]
    # Control: the sniffer sees what does cross the outer cable.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sending:
        sending.sendto(b"udp-" + token, (prison.network.gate_outer, 53))
    until = time.monotonic() + 20
    while not [frame for frame in prison.outside.read() if token in frame]:
        assert time.monotonic() < until, "the sniffer is blind"
        time.sleep(0.05)


def test_no_name_is_resolved(prison: Prison) -> None:
    assert prison.report["dns"] != "done"
    assert not [frame for frame in prison.outside.read() if b"example" in frame]


def test_ipv6_reaches_nobody(prison: Prison) -> None:
    assert "done" not in prison.report["ipv6"].values(), prison.report["ipv6"]
    assert set(prison.report["ipv6"]) == {"link-local", "global", "mapped", "multicast"}


def test_raw_sockets_and_strange_families_are_refused(prison: Prison) -> None:
    """ICMP, ARP and forged frames from here; forged ones in test_isolate_wire."""
    assert len(prison.report["raw"]) == 10
    assert set(prison.report["raw"].values()) <= {"EPERM", "EACCES", "EAFNOSUPPORT"}
    # Control: root outside gets them, the one that no network namespace holds among them.
    prison.network.enclave.run(
        lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP).close()
    )
    prison.network.enclave.run(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close())
    assert prison.report["raw"]["vsock"] == "EAFNOSUPPORT"


def test_it_cannot_change_its_network(prison: Prison) -> None:
    for what, said in prison.report["rewire"].items():
        assert said, f"{what} worked"
        assert "ermission" in said or "not permitted" in said, (what, said)
    # Control: the same command works for the owner of the namespace.
    prison.network.enclave.tool(["ip", "addr", "add", "10.9.9.9/24", "dev", "lo"])


def test_no_other_namespace_is_entered_or_made(prison: Prison) -> None:
    found = prison.report["namespaces"]
    assert all(found[key] != "done" for key in found if key.startswith(("setns", "unshare"))), found
    assert all(found[f"open {pid}"] == "ENOENT" for pid in prison.facts["pids"])
    assert found["open self"] == "done"
    inside = prison.report["privileges"]["namespaces"]
    for name in ("user", "pid", "mnt", "ipc", "uts", "net"):
        assert inside[name] != os.readlink(f"/proc/self/ns/{name}"), name


def test_proc_shows_nobody_elses_root(prison: Prison) -> None:
    found = prison.report["proc_root"]
    assert found["self"] == 1
    assert found["processes"] == [1]
    assert found["markers"] == []
    assert found["cwd"] == []
    # Control: that way leads there for who may see the process.
    assert os.path.exists(f"/proc/{prison.victim.pid}/root{prison.facts['marker']}")


def test_nobody_is_traced(prison: Prison) -> None:
    assert "done" not in prison.report["trace"].values(), prison.report["trace"]
    pid = prison.victim.pid
    assert libc.ptrace(16, pid, None, None) == 0  # control
    os.waitpid(pid, os.WUNTRACED)
    assert libc.ptrace(17, pid, None, None) == 0


def test_nobody_is_signalled(prison: Prison) -> None:
    assert prison.report["signals"]["victim"] == "ESRCH"
    assert prison.report["signals"]["queue"] == "ESRCH"
    assert prison.victim.poll() is None
    os.kill(prison.victim.pid, 0)  # control: it is there


def test_unix_sockets_of_the_host_are_out_of_reach(prison: Prison) -> None:
    assert prison.report["unix"]["path"] == "ENOENT"
    assert prison.report["unix"]["abstract"] == "ECONNREFUSED"
    assert prison.report["unix"]["sockets seen"] == []
    for name in (prison.facts["unix_path"], "\0" + prison.facts["unix_abstract"]):  # control
        with socket.socket(socket.AF_UNIX) as reaching:
            reaching.connect(name)


def test_nothing_is_shared_with_the_host(prison: Prison) -> None:
    found = prison.report["shared"]
    assert found["shm"] == found["msg"] == "ENOENT"
    assert libc.shmget(prison.facts["shm_key"], 1, 0) >= 0  # control
    assert not found["marker"]
    writable = {path for path, result in found["create"].items() if result == "done"}
    null_devices = {"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"}
    assert writable - null_devices == {"/tmp", "/dev/shm"}
    for path in ("/", "/usr", "/dev"):  # read-only for whoever it were in there
        assert found["create"][path] == "EROFS", path
    for path in found["create"]:  # of /tmp, the host's is another one
        assert not os.path.exists(f"{path}/{prison.facts['token']}")
    for attempt in ("remount", "mount proc", "mknod", "chroot"):
        assert found[attempt] == "EPERM", attempt
    assert set(found["devices"]) == {
        "core", "fd", "full", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin",
        "stdout", "tty", "urandom", "zero",
    }  # fmt: skip


def test_the_ledger_is_not_there(prison: Prison) -> None:
    found = dict(prison.report["ledger"])
    assert found.pop("open_by_handle_at") == "EPERM"
    assert found.pop("/root") in ("done", "ENOENT")  # at most a folder on the way to Python
    assert set(found.values()) == {"ENOENT"}
    assert all(os.path.exists(path) for path in found)  # control


def test_files_of_the_kernel_are_not_written(prison: Prison) -> None:
    assert "done" not in prison.report["kernel_files"].values(), prison.report["kernel_files"]
    with open("/proc/sys/net/ipv4/ip_forward", "r+"):  # control: root outside may
        pass


def test_it_has_no_privileges_and_nobodys_identity(prison: Prison) -> None:
    found = prison.report["privileges"]
    status = found["status"]
    assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {
        "0" * 16
    }
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    assert status["Groups"].strip() == ""
    assert found["uid"] == 0  # root in there
    assert found["uid_map"] == ["0", str(prison.uid), "1"]  # and nobody on the host
    assert found["setuid"] in ("EPERM", "EINVAL")
    assert set(found["calls"].values()) == {"EPERM"}


def test_nothing_is_inherited(prison: Prison) -> None:
    found = prison.report["privileges"]
    assert set(found["descriptors"].values()) == {"/dev/null"}
    assert found["descriptor_names"] == ["0", "1", "2", "3"]  # the last one lists the folder
    assert set(found["environment"]) <= {
        "PATH", "HOME", "LANG", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "PWD",
    }  # fmt: skip
    assert prison.log.read_text() == ""


def test_the_host_is_still_itself(prison: Prison) -> None:
    """What only the outside can say: nothing of the attack's is left on it."""
    assert json.loads(run_tool(["ip", "-json", "addr", "show", "dev", prison.network.device]))
    token = prison.facts["token"]
    assert not [p for p in ("/tmp", "/dev/shm", "/usr", "/etc") if Path(p, token).exists()]
    assert prison.counters["relayed"] > 0
