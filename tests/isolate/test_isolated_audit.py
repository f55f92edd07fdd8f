"""``narrows up --isolated --audit``: credits are booked, and the auditor reaches the gate alone."""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.test_audited import Up, asking, net_spent
from e2e.test_up import until
from isolate.ground import NetworkOf, needs_isolation
from narrows.deploy.audit_box import _hand_over
from narrows.errors import InputError
from narrows.isolate.namespaces import run_tool
from narrows.isolate.network import (
    AUDITOR,
    AUDITOR_PORT,
    ENCLAVE,
    ENCLAVE_PORTS,
    GATE_AUDIT,
    GATE_INNER,
    GATE_PORTS,
    VERDICTS_PORT,
    device_name,
)
from narrows.isolate.sandbox import Sandbox
from narrows.isolate.user import auditor_tag, deployment_tag, enclave_uid

pytestmark = needs_isolation
CONNECT_S = 3.0


class IsolatedUp(Up):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "--isolated")
        self.uid = enclave_uid(auditor_tag(self.state))

    def auditor_pid(self) -> int:
        """Of the process that is the auditor's user; 0: there is none."""
        for folder in Path("/proc").iterdir():
            try:
                if folder.name.isdigit() and folder.stat().st_uid == self.uid:
                    words = (folder / "cmdline").read_bytes().split(b"\0")
                    if b"audit" in words:
                        return int(folder.name)
            except OSError:
                continue
        return 0


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[IsolatedUp]:
    one = IsolatedUp(tmp_path_factory.mktemp("isolated-audit"))
    try:
        until(lambda: "Serving" in one.said.read_text() or one.process.poll() is not None, "up")
        assert one.process.poll() is None, one.said.read_text()
        yield one
    finally:
        one.process.send_signal(signal.SIGINT)
        one.process.wait(60)
    assert one.auditor_pid() == 0
    assert device_name(deployment_tag(one.state)) not in run_tool(["ip", "link"])


def connected(places: list[tuple[str, int]]) -> list[tuple[str, int]]:
    """Those of ``places`` that take a connection from here, in ``CONNECT_S``."""
    found = []
    with selectors.DefaultSelector() as selector:
        for place in places:
            dialling = socket.socket()
            dialling.setblocking(False)
            if dialling.connect_ex(place) in (0, 115):  # EINPROGRESS
                selector.register(dialling, selectors.EVENT_WRITE, place)
        while events := selector.select(CONNECT_S):
            for key, _ in events:
                if key.fileobj.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:  # type: ignore[union-attr]
                    found.append(key.data)
                selector.unregister(key.fileobj)
                key.fileobj.close()  # type: ignore[union-attr]
        for key in list(selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]
    return found


@pytest.mark.slow
def test_credits_are_booked_and_the_auditor_may_die(up: IsolatedUp) -> None:
    """It comes back with its journal; meanwhile answers go on, and what they cost stays spent."""
    asking(up, lambda: up.credited() > 0, f"no credit: {up.state}/log")
    found = up.status()
    assert found["gate_ports"]["verdicts"]["sent_bytes"] > 0
    assert set(found["verdicts"]["alarms"]) <= {"behind the gate"}

    pid = up.auditor_pid()
    os.kill(pid, signal.SIGKILL)
    had, spent = up.credited(), net_spent(up)
    asking(up, lambda: net_spent(up) > spent, "the net budget does not fill")
    until(lambda: up.auditor_pid() not in (0, pid), "the auditor does not come back")
    asking(up, lambda: up.credited() > had, "credits do not go on")
    assert up.process.poll() is None


@pytest.mark.slow
def test_the_auditor_reaches_nobody(up: IsolatedUp) -> None:
    """Root in its namespace dials everybody: the gate's own addresses, the enclave, the host, the
    world. Its one cable leads to the gate, which takes nothing but answers."""
    inside = NetworkOf(up.auditor_pid())
    devices = json.loads(inside.run(lambda: run_tool(["ip", "-json", "address"])))
    assert {one["ifname"] for one in devices} == {"lo", "gate0"}
    host = json.loads(run_tool(["ip", "-json", "address", "show", up_device(up)]))
    [address] = [one["local"] for one in host[0]["addr_info"] if one["family"] == "inet"]
    outer = ".".join([*address.split(".")[:3], str(int(address.split(".")[3]) + 1)])
    ports = (*GATE_PORTS, *ENCLAVE_PORTS, VERDICTS_PORT, AUDITOR_PORT, 22, 53)
    hosts = (GATE_AUDIT, GATE_INNER, outer, address, ENCLAVE, "8.8.8.8")
    places = [(one, port) for one in hosts for port in ports]
    # As if it had a route: without one, the attempt would not leave the namespace.
    inside.run(lambda: run_tool(["ip", "route", "replace", "default", "via", GATE_AUDIT]))
    assert inside.run(lambda: connected(places)) == []
    dropped = NetworkOf(up_gate(up)).run(lambda: run_tool(["nft", "-j", "list", "counters"]))
    counted = {
        one["counter"]["name"]: one["counter"]["packets"]
        for one in json.loads(dropped)["nftables"]
        if "counter" in one
    }
    assert counted["audit_dropped"] >= len(places)
    # Controls: the gate's side finds it, and its own side finds whom it may not find.
    gate = NetworkOf(up_gate(up))
    meant = [(AUDITOR, AUDITOR_PORT), (ENCLAVE, ENCLAVE_PORTS[0])]
    assert set(gate.run(lambda: connected(meant))) == set(meant)
    assert gate.run(lambda: connected([(AUDITOR, 22)])) == []


@pytest.mark.slow
def test_the_auditor_is_a_user_who_sees_three_folders(up: IsolatedUp) -> None:
    pid = up.auditor_pid()
    status = Path(f"/proc/{pid}/status").read_text()
    assert "CapEff:\t0000000000000000" in status
    for name in ("user", "pid", "mnt", "ipc", "uts", "net"):
        assert os.readlink(f"/proc/{pid}/ns/{name}") != os.readlink(f"/proc/self/ns/{name}"), name
    mounts = [line.split() for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines()]
    mine = {words[4]: words[5].split(",")[0] for words in mounts if str(up.state) in words[3]}
    assert mine == {
        "/run/narrows/spool": "ro",
        "/run/narrows/keys": "ro",
        "/run/narrows/journal": "rw",
    }
    assert (up.state / "log" / "audit.log").read_text() == ""
    assert str(up.state) not in Path(f"/proc/{pid}/environ").read_text()


def up_device(up: IsolatedUp) -> str:
    return device_name(deployment_tag(up.state))


def up_gate(up: IsolatedUp) -> int:
    """A process in the gate's namespace."""
    listed = f"/proc/{up.process.pid}/task/{up.process.pid}/children"
    for pid in Path(listed).read_text().split():
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if b"gate" in words:
            return int(pid)
    raise AssertionError("no gate")


def test_what_it_may_write_is_its_own(tmp_path: Path) -> None:
    """Not root's, not another's, and no link to it; a journal of a run without a sandbox is handed
    over once."""
    state, uid = tmp_path / "s", 0x70000001
    for name in ("journal", "lent"):
        (state / "audit" / name).mkdir(parents=True)
    journal = state / "audit" / "journal"
    box = Sandbox(uid, kept={"/run/narrows/journal": journal})
    with pytest.raises(InputError) as caught:
        box.check(state, shown=(journal,))
    assert f"no folder of user {uid}" in "".join(caught.value.problems)
    (journal / "e.db").write_bytes(b"")
    _hand_over(journal, uid)
    assert (journal / "e.db").stat().st_uid == journal.stat().st_uid == uid
    box.check(state, shown=(journal,))
    with pytest.raises(InputError, match="sandbox"):
        box.check(state, shown=())
    (state / "audit" / "link").symlink_to(journal)
    with pytest.raises(InputError, match="symbolic link"):
        _hand_over(state / "audit" / "link", uid)
