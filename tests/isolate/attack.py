"""Tries to get out of the sandbox; runs in the enclave's place, with nothing but the standard
library. Says what came of it to whoever connects to the answers' port: that is the gate.

    attack.py FACTS     a JSON file: where the host's things would be
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

FACTS: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
DESCRIPTORS = {name: os.readlink(f"/proc/self/fd/{name}") for name in ("0", "1", "2")}
DESCRIPTOR_NAMES = sorted(os.listdir("/proc/self/fd"))
libc = ctypes.CDLL(None, use_errno=True)
TIMEOUT_S = 0.4


def code(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, type(error).__name__)


def call(function: Callable[[], Any]) -> str:
    """``done``, or the name of the error."""
    try:
        function()
    except OSError as error:
        return code(error)
    return "done"


def libcall(name: str, *arguments: Any) -> str:
    ctypes.set_errno(0)
    result = getattr(libc, name)(*arguments)
    return "done" if result >= 0 else errno.errorcode.get(ctypes.get_errno(), "?")


def connect(address: tuple[str, int], family: int = socket.AF_INET) -> None:
    with socket.socket(family, socket.SOCK_STREAM) as tried:
        tried.settimeout(TIMEOUT_S)
        tried.connect(address)
        tried.sendall(b"tcp-" + FACTS["token"].encode())


def tcp() -> Any:
    return {
        f"{host}:{port}": call(lambda a=(host, port): connect(a)) for host, port in FACTS["tcp"]
    }


def udp() -> Any:
    def send(address: tuple[str, int]) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as tried:
            tried.sendto(b"udp-" + FACTS["token"].encode(), address)

    return {f"{h}:{p}": call(lambda a=(h, p): send(a)) for h, p in FACTS["tcp"]}


def dns() -> Any:
    return call(lambda: socket.getaddrinfo("example.com", 80))


def ipv6() -> Any:
    def multicast() -> None:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as tried:
            tried.sendto(b"x", ("ff02::1", 9, 0, socket.if_nametoindex("gate0")))

    return {
        "link-local": call(lambda: connect(("fe80::1%gate0", 8402), socket.AF_INET6)),
        "global": call(lambda: connect(("2001:db8::1", 53), socket.AF_INET6)),
        "mapped": call(lambda: connect((f"::ffff:{FACTS['host']}", 53), socket.AF_INET6)),
        "multicast": call(multicast),
    }


def raw() -> Any:
    """Raw IP, ICMP, frames, and families that no network namespace holds."""
    kinds = {
        "raw-icmp": (socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP),
        "raw-ip": (socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW),
        "raw-icmp6": (socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6),
        "ping": (socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP),
        "packet": (socket.AF_PACKET, socket.SOCK_RAW, 0x0300),
        "packet-dgram": (socket.AF_PACKET, socket.SOCK_DGRAM, 0x0608),  # ARP
        "vsock": (socket.AF_VSOCK, socket.SOCK_STREAM, 0),
        "bluetooth": (31, socket.SOCK_STREAM, 3),
        "alg": (38, socket.SOCK_SEQPACKET, 0),
        "xdp": (44, socket.SOCK_RAW, 0),
    }
    return {name: call(lambda k=kind: socket.socket(*k).close()) for name, kind in kinds.items()}


def rewire() -> Any:
    """Changing its own network: another address, a default route, another neighbour."""
    words = {
        "address": "addr add 10.9.9.9/24 dev gate0",
        "route": f"route add default via {FACTS['gate']}",
        "neighbour": f"neigh replace {FACTS['gate']} lladdr 02:00:00:00:09:09 dev gate0",
        "mac": "link set gate0 address 02:00:00:00:09:09",
        "device": "link add more type veth",
        "down": "link set gate0 down",
    }
    run = {
        name: subprocess.run(["ip", *text.split()], capture_output=True, text=True)
        for name, text in words.items()
    }
    return {name: done.returncode and done.stderr.strip() for name, done in run.items()}


def namespaces() -> Any:
    """Other namespaces: those of the host by descriptor, new ones of its own."""
    result = {}
    for name in ("net", "mnt", "pid", "ipc", "uts", "user"):
        with open(f"/proc/self/ns/{name}") as file:
            result[f"setns {name}"] = libcall("setns", file.fileno(), 0)
    for name, flag in (("user", 0x10000000), ("net", 0x40000000), ("mnt", 0x20000)):
        result[f"unshare {name}"] = libcall("unshare", flag)
    for pid in (*FACTS["pids"], "self", 1):
        result[f"open {pid}"] = call(lambda p=pid: os.stat(f"/proc/{p}/ns/net"))
    return result


def proc_root() -> Any:
    seen = [name for name in os.listdir("/proc") if name.isdigit()]
    marker = FACTS["marker"]
    return {
        "processes": sorted(map(int, seen)),
        "self": os.getpid(),
        "markers": [
            p for p in (*seen, *FACTS["pids"]) if os.path.exists(f"/proc/{p}/root{marker}")
        ],
        "cwd": [p for p in seen if os.path.exists(f"/proc/{p}/cwd/../..{marker}")],
    }


def trace() -> Any:
    pid = FACTS["victim"]
    buffer = ctypes.create_string_buffer(8)
    vector = (ctypes.c_void_p * 2)(ctypes.addressof(buffer), 8)
    return {
        "ptrace": libcall("ptrace", 16, pid, None, None),
        "process_vm_readv": libcall(
            "process_vm_readv", pid, ctypes.byref(vector), 1, ctypes.byref(vector), 1, 0
        ),
        "pidfd_open": call(lambda: os.close(os.pidfd_open(pid))),
        "mem": call(lambda: open(f"/proc/{pid}/mem").close()),
    }


def signals() -> Any:
    return {
        "victim": call(lambda: os.kill(FACTS["victim"], signal.SIGKILL)),
        "everyone": call(lambda: os.kill(-1, signal.SIGTERM)),
        "queue": libcall("sigqueue", FACTS["victim"], 9, None),
    }


def unix() -> Any:
    def reach(path: str) -> None:
        with socket.socket(socket.AF_UNIX) as tried:
            tried.settimeout(TIMEOUT_S)
            tried.connect(path)

    return {
        "path": call(lambda: reach(FACTS["unix_path"])),
        "abstract": call(lambda: reach("\0" + FACTS["unix_abstract"])),
        "sockets seen": Path("/proc/net/unix").read_text().splitlines()[1:],
    }


def shared() -> Any:
    """Memory and queues by key, files by path."""
    create = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        mount = line.split()[4]
        target = f"{mount}/{FACTS['token']}" if os.path.isdir(mount) else mount
        create[mount] = call(lambda t=target: os.close(os.open(t, os.O_CREAT | os.O_WRONLY)))
    return {
        "shm": libcall("shmget", FACTS["shm_key"], 1, 0),
        "msg": libcall("msgget", FACTS["shm_key"], 0),
        "marker": os.path.exists(FACTS["marker"]),
        "create": create,
        "remount": libcall("mount", None, b"/usr", None, 32 | 4096, None),
        "mount proc": libcall("mount", b"proc", b"/tmp", b"proc", 0, None),
        "mknod": call(lambda: os.mknod("/tmp/disk", 0o600 | 0o060000, os.makedev(254, 0))),
        "devices": sorted(os.listdir("/dev")),
        "chroot": call(lambda: os.chroot("/tmp")),
    }


def ledger() -> Any:
    """By path, and by the number of its file system's root."""
    handle = struct.pack("=Ii8s", 8, 1, struct.pack("=II", 2, 0))
    with open("/usr/bin/env") as usr:
        by_handle = libcall("open_by_handle_at", usr.fileno(), handle, 0)
    return {path: call(lambda p=path: os.stat(p)) for path in FACTS["secrets"]} | {
        "open_by_handle_at": by_handle,
    }


def kernel_files() -> Any:
    paths = [
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/kernel/hostname",
        "/proc/sys/kernel/randomize_va_space",
        "/proc/sys/net/ipv4/ip_forward",
        "/proc/sys/net/ipv6/conf/all/disable_ipv6",
        "/proc/sys/user/max_user_namespaces",
        "/proc/sysrq-trigger",
        "/proc/self/oom_score_adj",
        "/proc/self/uid_map",
        "/proc/self/comm",
        "/proc/kcore",
        "/dev/kmsg",
        "/dev/mem",
        "/dev/tty",
        "/sys/kernel/uevent_helper",
        "/sys/fs/cgroup/cgroup.procs",
    ]
    return {path: call(lambda p=path: os.close(os.open(p, os.O_WRONLY))) for path in paths} | {
        "sysfs": libcall("mount", b"sysfs", b"/tmp", b"sysfs", 0, None),
        "sethostname": call(lambda: socket.sethostname("mine")),
        "settime": libcall("settimeofday", (ctypes.c_long * 2)(1, 0), None),
        "dmesg": libcall("klogctl", 3, ctypes.create_string_buffer(64), 64),
    }


def privileges() -> Any:
    status = Path("/proc/self/status").read_text().splitlines()
    calls = {"keyctl": 250, "add_key": 248, "bpf": 321, "io_uring_setup": 425, "perf": 298}
    return {
        "status": dict(line.split(":\t", 1) for line in status if ":\t" in line),
        "uid": os.getuid(),
        "uid_map": Path("/proc/self/uid_map").read_text().split(),
        "setuid": call(lambda: os.setuid(FACTS["other_uid"])),
        "calls": {name: libcall("syscall", n, 0, 0, 0, 0, 0) for name, n in calls.items()},
        "namespaces": {
            name: os.readlink(f"/proc/self/ns/{name}") for name in os.listdir("/proc/self/ns")
        },
        "environment": dict(os.environ),
        "descriptors": DESCRIPTORS,
        "descriptor_names": DESCRIPTOR_NAMES,
    }


ATTACKS = (
    tcp, udp, dns, ipv6, raw, rewire, namespaces, proc_root, trace, signals, unix, shared,
    ledger, kernel_files, privileges,
)  # fmt: skip


def main() -> None:
    report = json.dumps({attack.__name__: attack() for attack in ATTACKS}).encode()
    with socket.create_server((FACTS["enclave"], 8401)) as server:
        while True:
            connection, _ = server.accept()
            with connection:
                connection.sendall(struct.pack("!I", len(report)) + report)


main()
