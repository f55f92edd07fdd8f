"""``narrows up --isolated`` as a person runs it: it serves, what crosses each cable is what was
relayed and counted, and whatever ends it leaves nothing behind."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from isolate.ground import NetworkOf, Sniffer, needs_isolation, wait_for
from narrows.cli.status import collect
from narrows.deploy.isolated import IsolatedDeployment
from narrows.deploy.local import Flags
from narrows.errors import InputError
from narrows.isolate.namespaces import run_tool
from narrows.isolate.network import ENCLAVE_PORTS, GATE_PORTS, device_name
from narrows.isolate.user import deployment_tag, enclave_uid
from narrows.models.registry import DEFAULT_ARTIFACT

pytestmark = needs_isolation
SERVER = Path(__file__).with_name("inside_server.py")


class Deployment:
    """The command, running on a state folder."""

    def __init__(self, state: Path, *arguments: str, **environment: str) -> None:
        self.state = state
        self.tag = deployment_tag(state)
        self.uid = enclave_uid(self.tag)
        command = [sys.executable, "-m", "narrows.cli.main", "up", "--isolated"]
        self.process = subprocess.Popen(
            [*command, "--state", str(state), "--port", "0", *arguments],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )
        self.said: list[str] = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self.process.stderr or ():
            self.said.append(line)

    def alive(self) -> bool:
        assert self.process.poll() is None, self.said
        return True

    def ready(self) -> Deployment:
        def served() -> bool:
            self.alive()
            return any("Ctrl-C stops" in line for line in self.said)

        wait_for(served, "the start", 240)
        return self

    def ask(self, content: str) -> str:
        (base,) = set(re.findall(r"http://127\.0\.0\.1:\d+/v1", "".join(self.said))) - {""}
        client = openai.OpenAI(base_url=base, api_key="none", max_retries=0, timeout=120)
        answer = client.chat.completions.create(
            model=client.models.list().data[0].id,
            messages=[{"role": "user", "content": content}],
            max_tokens=20,
        )
        return answer.choices[0].message.content or ""

    def children(self) -> dict[str, int]:
        """Process ids by role."""
        found = {}
        listed = f"/proc/{self.process.pid}/task/{self.process.pid}/children"
        for pid in Path(listed).read_text().split():
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            role = words[3] if words[2] == b"narrows.cli.main" else b"keeper"
            found[role.decode()] = int(pid)
        return found

    def inside(self) -> list[int]:
        """Processes of the enclave's user."""
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):  # it may end while we look
                if entry.name.isdigit() and entry.stat().st_uid == self.uid:
                    found.append(int(entry.name))
        return found

    def assert_gone(self) -> None:
        def gone() -> bool:
            return not self.inside() and device_name(self.tag) not in run_tool(["ip", "link"])

        wait_for(gone, "the end of all of it", 30)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self.assert_gone()


@pytest.fixture
def deployments(tmp_path: Path) -> Iterator[Any]:
    made: list[Deployment] = []

    def make(name: str, *arguments: str, **environment: str) -> Deployment:
        made.append(Deployment(tmp_path / name, *arguments, **environment))
        return made[-1]

    yield make
    for deployment in made:
        deployment.end()


def payload(frames: list[bytes], port: int) -> int:
    """Bytes of TCP payload that came from ``port``, each counted once however often it was
    sent again. ``frames``: of one cable."""
    streams: dict[tuple[bytes, int], set[tuple[int, int]]] = {}
    for frame in frames:
        if frame[12:14] != b"\x08\x00" or frame[23] != 6:
            continue
        size = struct.unpack("!H", frame[16:18])[0]
        segment = frame[34 : 14 + size]
        source, to, sequence = struct.unpack("!HHI", segment[:8])
        data = len(segment) - (segment[12] >> 4) * 4
        if source == port and data:
            pieces = streams.setdefault((frame[26:34], to), set())
            pieces.add((sequence, sequence + data))
    return sum(map(covered, streams.values()))


def covered(pieces: set[tuple[int, int]]) -> int:
    total, reached = 0, -1
    for start, end in sorted(pieces):
        total += max(0, end - max(start, reached))
        reached = max(reached, end)
    return total


def settled(state: Path) -> dict[str, Any]:
    """All figures, once what crossed has stood still for two seconds: edge and gate write them
    about once a second."""
    last, since = None, time.monotonic()
    while time.monotonic() - since < 2.0:
        figures = collect(state, time.time())
        now = figures["link_bytes"], figures["gate_ports"]["answers"]["sent_bytes"]
        if now != last:
            last, since = now, time.monotonic()
        time.sleep(0.1)
    return figures


@pytest.mark.slow
def test_it_serves_and_only_counted_bytes_leave(deployments: Any) -> None:
    """The real model, and the kernel's own quota on the gate's device. Sniffers on both cables
    from the first byte on: what the enclave sends is what the edge says it read; what the gate
    sends is what it charged; nothing else crosses."""
    up = deployments("s", "--budget", "1000000", NARROWS_UPSTREAM_KEY="not for this one")
    outside = wait_for(lambda: up.alive() and sniffer(device_name(up.tag)), "the cable", 240)
    (enclave, *_) = wait_for(up.inside, "the enclave's process", 240)
    inner = Sniffer("gate0", NetworkOf(enclave))  # the enclave's end: nothing is filtered yet
    up.ready()
    assert up.ask("Say hello.")
    assert up.ask("Count to five.")
    figures = settled(up.state)
    gate = figures["gate_ports"]["answers"]
    leaving = payload(outside.read(), GATE_PORTS[0])
    assert leaving == gate["sent_bytes"]
    assert leaving + gate["timing_bytes"] <= figures["spent_bytes"] <= 1_000_000
    assert payload(inner.read(), ENCLAVE_PORTS[0]) == figures["link_bytes"] > 0
    assert inner.lost() == outside.lost() == 0
    protocols = {(f[12:14], f[23]) for f in inner.read()}
    assert protocols == {(b"\x08\x00", 6)}  # nothing but TCP
    strange = [f for f in outside.read() if f[12:14] == b"\x08\x00" and f[23] != 6]
    assert strange == []

    check_enclave(enclave, up)
    check_gate(up)
    telemetry = read_telemetry(up)
    assert "link" in telemetry
    assert (up.state / "log" / "enclave.log").read_text() == ""

    up.process.send_signal(signal.SIGINT)
    assert up.process.wait(60) == 0
    up.assert_gone()


def sniffer(device: str) -> Sniffer | None:
    try:
        return Sniffer(device)
    except OSError:
        return None


def check_enclave(pid: int, up: Deployment) -> None:
    """The real process is where the attacks were tried."""
    for name in ("user", "pid", "mnt", "ipc", "uts", "net"):
        assert os.readlink(f"/proc/{pid}/ns/{name}") != os.readlink(f"/proc/self/ns/{name}"), name
    gate = up.children()["gate"]
    nets = {os.readlink(f"/proc/{one}/ns/net") for one in (pid, gate, os.getpid())}
    assert len(nets) == 3
    status = Path(f"/proc/{pid}/status").read_text()
    assert set(re.findall(r"^Cap\w+:\t(\w+)$", status, re.MULTILINE)) == {"0" * 16}
    environment = Path(f"/proc/{pid}/environ").read_text()
    assert "KEY" not in environment
    assert str(up.state) not in environment
    mounts = [line.split() for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines()]
    of_state = [words[3:6] for words in mounts if str(up.state) in words[3]]
    assert [words[1] for words in of_state] == ["/run/narrows/weak"]  # weak models flow inward
    assert of_state[0][2].startswith("ro,")
    assert not (Path(f"/proc/{pid}/root") / str(up.state).lstrip("/")).exists()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        assert str(up.state) not in os.readlink(descriptor)


def check_gate(up: Deployment) -> None:
    """Both its rules against the enclave and its own quota are in force beside each other."""
    gate = up.children()["gate"]
    rules = NetworkOf(gate).run(lambda: run_tool(["nft", "list", "ruleset"]))
    assert re.search(r'ingress device "inner" priority filter; policy drop;', rules)
    assert re.search(r'egress device "outer" priority \S+; policy drop;', rules), rules
    stats = json.loads((up.state / "gate" / "stats.json").read_text())
    assert stats["kernel"]["state"] == "on"


def read_telemetry(up: Deployment) -> str:
    """By the command that the start prints."""
    (words,) = re.findall(r"narrows (telemetry --gate \S+ --config \S+)", "".join(up.said))
    command = [sys.executable, "-m", "narrows.cli.main", *words.split()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as reading:
        assert reading.stdout is not None
        line = reading.stdout.readline()
        reading.terminate()
    return line


def upstream_config(folder: Path, **changes: Any) -> Path:
    """A server inside, in place of a model; the byte model as the weak one."""
    values = {"url": "http://127.0.0.1:9000/v1"} | changes
    path = folder / "narrows.toml"
    command = json.dumps([sys.executable, str(SERVER), "9000"])
    path.write_text(
        f'[enclave]\nweak = ["bytes"]\n[edge]\nweak = ["bytes"]\n'
        f'[enclave.upstream]\nurl = "{values["url"]}"\nmodel = "m"\n'
        + ("" if changes else f'[enclave.isolated]\ncommand = {command}\nfiles = ["{SERVER}"]\n')
    )
    return path


@pytest.mark.slow
def test_an_upstream_server_inside_and_kills_of_it_all(deployments: Any, tmp_path: Path) -> None:
    config = str(upstream_config(tmp_path))
    key = "sk-of-the-server"
    first = deployments("a", "--config", config, NARROWS_UPSTREAM_KEY=key).ready()
    # The server says which key it was given, and what it can see of the host.
    answer = wait_for(lambda: attempt(first), "the server's start")
    assert answer == f"key Bearer {key} state False"
    assert len(first.inside()) == 2

    # Killed, and its keepers cannot end the enclave: only the next start does.
    stopped = keepers(first)
    for keeper in stopped:
        os.kill(keeper, signal.SIGSTOP)
    first.process.kill()
    first.process.wait()
    left = first.inside()
    assert len(left) == 2
    wait_for(lambda: device_name(first.tag) not in run_tool(["ip", "link"]), "the cable's end")
    wait_for(lambda: ledger_is_free(first.state), "the gate's end")
    again = deployments("a", "--config", config, NARROWS_UPSTREAM_KEY=key).ready()
    assert not set(left) & set(again.inside())
    for keeper in stopped:  # as nobody but this test would stop them, nobody else ends them
        os.kill(keeper, signal.SIGKILL)
    assert wait_for(lambda: attempt(again), "the server's start")

    # Killed without any chance to clean up: its keepers do it.
    again.process.kill()
    again.process.wait()
    again.assert_gone()


def keepers(up: Deployment) -> list[int]:
    words = f"narrows.isolate.keeper\0{up.uid}\0".encode()
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and words in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    assert found
    return found


def ledger_is_free(state: Path) -> bool:
    import fcntl

    for path in (state / "ledger").glob("*.lock"):
        with path.open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return False
    return True


def attempt(up: Deployment) -> str | None:
    try:
        return up.ask("x")
    except openai.APIError:
        return None


@pytest.mark.slow
def test_a_start_that_fails_half_way_cleans_up(deployments: Any, tmp_path: Path) -> None:
    """The enclave ends in there, for want of a signature; nobody is told why."""
    artifact = tmp_path / "unsigned.narrows"
    shutil.copy(DEFAULT_ARTIFACT, artifact)
    config = tmp_path / "narrows.toml"
    config.write_text(
        f'[enclave]\nweak = ["{artifact}"]\noperators = ["{"58" + "66" * 31}"]\n'
        '[edge]\nweak = ["bytes"]\n'
        '[enclave.upstream]\nurl = "http://127.0.0.1:9000/v1"\nmodel = "m"\n'
        '[enclave.isolated]\ncommand = ["sleep", "1000"]\n'
    )
    up = deployments("s", "--config", str(config))
    assert up.process.wait(240) != 0
    wait_for(lambda: "what it says stays inside" in "".join(up.said), "the message")
    assert "the enclave has ended" in "".join(up.said)
    assert "unsigned" not in "".join(up.said)
    up.assert_gone()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://10.0.0.7:8000/v1", "its only neighbour is the gate"),
        ("http://127.0.0.1:8000/v1", "how to start the server in there"),
    ],
)
def test_a_server_elsewhere_is_refused(tmp_path: Path, url: str, said: str) -> None:
    config = upstream_config(tmp_path, url=url)
    with pytest.raises(InputError) as caught:
        IsolatedDeployment.prepare(config, tmp_path / "s")
    assert said in str(caught.value)
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    "what", ["state", "parent", "root", "host", "absent", "unreadable", "disk"]
)
def test_what_must_not_be_inside_is_refused(tmp_path: Path, what: str) -> None:
    """Files of the state folder, around it, of the host's interfaces; devices that hold them."""
    (tmp_path / "secret").write_text("x")
    (tmp_path / "secret").chmod(0o600)
    state = tmp_path / "s"
    paths = {
        "state": f"{state}/ledger/ledger.db",
        "parent": str(tmp_path),
        "root": "/",
        "host": "/run",
        "absent": f"{tmp_path}/nothing",
        "unreadable": f"{tmp_path}/secret",
        "disk": str(tmp_path),
    }
    config = upstream_config(tmp_path)
    key = "devices" if what == "disk" else "files"
    text = re.sub(r"^files = .*$", f'{key} = ["{paths[what]}"]', config.read_text(), flags=re.M)
    config.write_text(text)
    deployment = IsolatedDeployment.prepare(config, state, Flags(budget_bytes=1000))
    with pytest.raises(InputError) as caught:
        deployment.run()
    assert "isolated sandbox" in str(caught.value)
    assert paths[what] in "".join(caught.value.problems)
    assert device_name(deployment_tag(state)) not in run_tool(["ip", "link"])


def test_who_is_not_root_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(InputError) as caught:
        IsolatedDeployment.prepare(None, tmp_path / "s")
    assert "only root may" in str(caught.value)
    assert "sudo" in caught.value.remedy
    assert not (tmp_path / "s").exists()


def test_missing_tools_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("narrows.deploy.isolated.TOOL_PATH", str(tmp_path))
    with pytest.raises(InputError) as caught:
        IsolatedDeployment.prepare(None, tmp_path / "s")
    assert "bwrap, ip, nft" in str(caught.value)
    assert "apt-get install" in caught.value.remedy


def test_the_payload_of_a_capture() -> None:
    """The counting that the test above relies on: sent again, out of order, overlapping."""
    assert covered({(10, 20), (10, 20), (15, 30), (40, 41)}) == 21
    assert covered(set()) == 0
