"""Processes of a test that send what the gate did not: frames by hand, TCP in bulk."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator

from kernel.netns import DEVICE, GATE, OUTSIDE, Machine

# frames through a packet socket, below IP and its rules; the last word "bypass" skips the qdisc
_FRAMES = """
import socket, struct, sys
count, size, port, bypass = int(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]), sys.argv[6]
source, target, device = sys.argv[1], sys.argv[2], sys.argv[7]
sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
if bypass == "bypass":
    sock.setsockopt(263, 20, 1)  # SOL_PACKET, PACKET_QDISC_BYPASS
ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, size - 14, 1, 0, 64, 6, 0,
                 socket.inet_aton(source), socket.inet_aton(target))
tcp = struct.pack("!HHIIBBHHH", port, 40000, 1, 1, 0x50, 0x10, 512, 0, 0)
frame = (b"\\xff" * 6 + b"\\x02" * 6 + b"\\x08\\x00" + ip + tcp).ljust(size, b"x")
sent = 0
while count < 0 or sent < count:
    try:
        sock.sendto(frame, (device, 0x0800))
    except OSError:
        pass  # dropped, or the queue is full
    sent += 1
print(sent, flush=True)
"""


def frames(
    machine: Machine,
    count: int,
    *,
    size: int = 1014,
    port: int = 8402,
    bypass: bool = False,
    target: str = OUTSIDE,
) -> subprocess.Popen[str]:
    """Send that many frames that look like the gate's; for ever if negative."""
    words = (GATE, target, count, size, port, "bypass" if bypass else "queue", DEVICE)
    return machine.python(_FRAMES, *map(str, words))


def send_frames(machine: Machine, count: int, **options: object) -> None:
    process = frames(machine, count, **options)  # type: ignore[arg-type]
    try:
        out, _ = process.communicate(timeout=60)
        assert int(out) == count
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def flooding(machine: Machine, **options: object) -> Iterator[None]:
    """Frames as fast as they go, for as long as the context lasts."""
    process = frames(machine, -1, **options)  # type: ignore[arg-type]
    try:
        yield
        assert process.poll() is None, "the flood ended by itself"
    finally:
        process.kill()
        process.communicate()


_SERVE = """
import socket, sys
listener = socket.create_server((sys.argv[1], int(sys.argv[2])))
print("ready", flush=True)
connection, _ = listener.accept()
sys.stdin.readline()
connection.sendall(bytes(int(sys.argv[3])))
connection.close()
print("sent", flush=True)
sys.stdin.readline()
"""


@contextlib.contextmanager
def serving(
    machine: Machine, count_bytes: int, port: int = 8402
) -> Iterator[subprocess.Popen[str]]:
    """A TCP server at the gate's port that sends ``count_bytes`` after a line on its input."""
    process = machine.python(_SERVE, GATE, str(port), str(count_bytes))
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.communicate()
