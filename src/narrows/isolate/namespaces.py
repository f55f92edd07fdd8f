"""Namespaces that are held by descriptors, not by names.

Such a namespace ends with the last process in it and the last descriptor of it, so a maker that
is killed leaves nothing that a person would have to find. A network namespace takes its end of
a virtual cable with it, and the kernel then removes the other end.

Entering a network namespace is a matter of one thread (``setns``), so tools run from a thread
of their own. Processes that must die with this one are *not* started there: the kernel takes the
end of the thread for the end of the parent. They call ``enter`` between fork and exec.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from narrows.errors import PeerError

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
TOOL_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
TOOL_TIMEOUT_S = 30.0
_libc = ctypes.CDLL(None, use_errno=True)
T = TypeVar("T")


def unshare(kind: int) -> None:
    """Move the calling thread into a new namespace. Raises OSError."""
    if _libc.unshare(kind):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def setns(descriptor: int, kind: int) -> None:
    """Move the calling thread into the namespace of ``descriptor``. Raises OSError."""
    if _libc.setns(descriptor, kind):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


class NetNamespace:
    """A new network namespace, owned by the user namespace of this process: whoever sits in it
    with a user namespace of his own has no power over its devices."""

    def __init__(self) -> None:
        try:
            self.descriptor = _in_thread(_new_network)
        except OSError as error:
            raise PeerError(f"this kernel makes no network namespace: {error}") from error

    @property
    def path(self) -> str:
        """As ``ip`` takes it, while this process lives."""
        return f"/proc/{os.getpid()}/fd/{self.descriptor}"

    def enter(self) -> None:
        """For a child between fork and exec."""
        setns(self.descriptor, CLONE_NEWNET)

    def run(self, function: Callable[[], T]) -> T:
        """``function()`` from a thread inside: its sockets, its /proc/sys/net, its children."""

        def inside() -> T:
            self.enter()
            return function()

        return _in_thread(inside)

    def tool(self, words: Sequence[str], text: str = "") -> str:
        """``run_tool`` inside."""
        return self.run(lambda: run_tool(words, text))

    def close(self) -> None:
        os.close(self.descriptor)


def run_tool(words: Sequence[str], text: str = "") -> str:
    """What ``ip`` or ``nft`` prints, given ``text`` as input. PeerError with its complaint."""
    try:
        done = subprocess.run(
            words,
            input=text,
            capture_output=True,
            text=True,
            timeout=TOOL_TIMEOUT_S,
            env={"PATH": TOOL_PATH, "LC_ALL": "C"},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PeerError(f"{words[0]} cannot be run: {error}") from error
    if done.returncode:
        complaint = " ".join((done.stderr or done.stdout).split())[:500]
        raise PeerError(f"{' '.join(words[:4])} failed: {complaint}")
    return done.stdout


def new_user_namespace(uid: int) -> int:
    """A descriptor of a user namespace in which 0 is ``uid`` outside and no one else exists, and
    in which no further user namespace can be made. Raises PeerError."""
    try:
        holder = subprocess.Popen(
            ["cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            preexec_fn=_become_user_namespace,
            env={"PATH": TOOL_PATH},
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise PeerError(
            f"this kernel makes no user namespace: {error}", "see sysctl user.max_user_namespaces"
        ) from error
    try:
        with holder:
            for name in ("uid_map", "gid_map"):
                descriptor = os.open(f"/proc/{holder.pid}/{name}", os.O_WRONLY)
                try:
                    os.write(descriptor, f"0 {uid} 1\n".encode())  # one write: the kernel's rule
                finally:
                    os.close(descriptor)
            return os.open(f"/proc/{holder.pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise PeerError(
            f"no user namespace can have {uid} of this one: {error.strerror}",
            "run it outside of an unprivileged container",
        ) from error


def _become_user_namespace() -> None:
    unshare(CLONE_NEWUSER)
    # The limit belongs to the new namespace; only someone with its CAP_SYS_RESOURCE lifts it.
    descriptor = os.open("/proc/sys/user/max_user_namespaces", os.O_WRONLY)
    os.write(descriptor, b"0")
    os.close(descriptor)


def _new_network() -> int:
    unshare(CLONE_NEWNET)
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _in_thread(function: Callable[[], T]) -> T:
    """From a thread that ends with it: no later caller may find itself in another namespace."""
    with ThreadPoolExecutor(1, thread_name_prefix="namespace") as thread:
        return thread.submit(function).result()
