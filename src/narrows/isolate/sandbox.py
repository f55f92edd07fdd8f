"""A sandbox for a program that is assumed hostile: what it sees, and as whom.

bubblewrap builds it as root (a model or a virtual environment may lie where nobody else may
look) and then joins a user namespace whose only user is an unprivileged one outside; its network
namespace, mounts, processes, host name and IPC therefore belong to the host's root, and no
capability inside reaches them. ``inside.py`` is the first program in it.

What is inside: read-only the system's programs (/usr), this Python with narrows, and the files
that were named; in memory and private /tmp, /dev, /dev/shm, copies of compiled kernels; its own
/proc, read-only. What is not: the state folder, /etc, /home, /run, /sys, the host's devices,
sockets and descriptors. Standard input and both outputs are /dev/null: a log on the host would
be a way out that no one counts.
"""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import narrows
from narrows.errors import InputError
from narrows.isolate import inside, keeper, seccomp
from narrows.isolate.namespaces import TOOL_PATH, new_user_namespace

_SYSTEM = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_ETC = ("/etc/ld.so.cache", "/etc/alternatives", "/etc/localtime", "/etc/ssl/certs")
_FORBIDDEN = ("/proc", "/sys", "/dev", "/run", "/var/run", "/tmp/.X11-unix")
_CAPABILITIES = ("CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP")  # for inside.py; gone at its exec


@dataclass(frozen=True)
class Sandbox:
    """``read_only``: files and folders, at the same place inside. ``placed``: the same, at another
    place; a folder is live, what is added outside is seen inside. ``kept``: the same, and it may
    write there; folders of its own user. ``private``: folders that are copied into memory at the
    same place. ``data``: small files that exist inside only."""

    uid: int
    read_only: tuple[Path, ...] = ()
    placed: Mapping[str, Path] = field(default_factory=dict)
    kept: Mapping[str, Path] = field(default_factory=dict)
    private: tuple[Path, ...] = ()
    devices: tuple[Path, ...] = ()
    data: Mapping[str, bytes] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)

    def prepare(self, words: Sequence[str]) -> Prepared:
        """What to run for ``words`` inside. Raises PeerError, OSError."""
        descriptors: list[int] = []
        with contextlib.ExitStack() as failed:  # a role is started anew for as long as it takes
            failed.callback(_close_all, descriptors)
            prepared = self._prepare(words, descriptors)
            failed.pop_all()
        return prepared

    def _prepare(self, words: Sequence[str], descriptors: list[int]) -> Prepared:
        descriptors.append(new_user_namespace(self.uid))
        options = ["--userns2", str(descriptors[0])]
        options += ["--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
        options += ["--hostname", "enclave", "--as-pid-1", "--die-with-parent", "--new-session"]
        options += [*_system(), "--proc", "/proc", "--dev", "/dev"]
        for folder in ("/tmp", "/dev/shm"):
            options += ["--perms", "1777", "--tmpfs", folder]
        for path in self.visible():
            options += [*_parents(path), "--ro-bind", str(path), str(path)]
        for device in self.devices:
            options += ["--dev-bind", str(device), str(device)]
        options += _parents(Path("/run/narrows/file"))
        for name, path in self.placed.items():
            options += ["--ro-bind", str(path), name]
        for name, path in self.kept.items():
            options += ["--bind", str(path), name]
        copies: list[str] = []
        for index, kernels in enumerate(self.private):
            source = f"/run/narrows/{index}"
            options += ["--ro-bind", str(kernels), source]
            options += ["--perms", "0777", "--tmpfs", str(kernels)]
            copies += [source, str(kernels)]
        for name, content in self.data.items():
            descriptors.append(_memory_file(content))
            options += ["--perms", "0444", "--ro-bind-data", str(descriptors[-1]), name]
        options += ["--remount-ro", "/proc", "--remount-ro", "/dev", "--remount-ro", "/"]
        descriptors.append(_memory_file(seccomp.program()))
        options += ["--chdir", "/tmp", "--seccomp", str(descriptors[-1]), "--cap-drop", "ALL"]
        for capability in _CAPABILITIES:
            options += ["--cap-add", capability]
        first = [sys.executable, "-I", "-S", str(Path(inside.__file__).resolve())]
        command = ["bwrap", *options, "--", *first, *copies, "--", *words]
        environment = {
            "PATH": f"{Path(sys.executable).parent}:{TOOL_PATH}",
            "HOME": "/tmp",
            "LANG": "C.UTF-8",
            "PYTHONPATH": str(_package().parent),
            "PYTHONDONTWRITEBYTECODE": "1",
            **self.environment,
        }
        return Prepared(self.uid, command, environment, tuple(descriptors))

    def visible(self) -> list[Path]:
        """Every path of the host that is bound beside the system's, outer ones first."""
        paths = {*_python_paths(), _package(), *self.read_only}
        outer = [Path("/usr"), *paths]
        return sorted(
            path
            for path in paths
            if not any(folder in path.parents or path == Path("/usr") for folder in outer)
        )

    def check(self, secret: Path, *, shown: Collection[Path]) -> None:
        """InputError where a path leads to ``secret`` (the state folder; of what lies in it, only
        ``shown`` may be placed inside), to the host's interfaces, or cannot be read by who is
        inside; and where what it may write is not its own."""
        problems = [
            f"{path} is no folder of user {self.uid}"
            for path in self.kept.values()
            if path.is_symlink() or not path.is_dir() or path.stat().st_uid != self.uid
        ]
        for path in [*self.visible(), *self.private, *self.placed.values(), *self.kept.values()]:
            real = path.resolve()
            if path not in shown and (_within(real, [secret]) or _within(secret, [real])):
                problems.append(f"{path} and the state folder {secret} lie in one another")
            elif _within(real, map(Path, _FORBIDDEN)) or real == Path("/"):
                problems.append(f"{path} belongs to the host")
            elif not path.exists():
                problems.append(f"{path} does not exist")
            elif not _readable(path, self.uid):
                problems.append(f"{path} is not readable by others (chmod o+rX)")
        problems += [
            f"{path} is no character device" for path in self.devices if not path.is_char_device()
        ]
        if problems:
            raise InputError("this cannot be in an isolated sandbox", problems=tuple(problems))


@dataclass(frozen=True)
class Prepared:
    """A command with the only environment and descriptors that it is to have. Start it once."""

    uid: int
    command: list[str]
    environment: dict[str, str]
    descriptors: tuple[int, ...]

    def start(self, enter: Callable[[], None], log: IO[bytes]) -> subprocess.Popen[bytes]:
        """Run it under a keeper, which is the process returned; ``enter`` is called in the child
        first. ``log`` hears keeper, bubblewrap and ``inside.py``, never the program."""
        try:
            return subprocess.Popen(
                [sys.executable, "-m", keeper.__name__, str(self.uid), *self.command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment,
                pass_fds=self.descriptors,
                start_new_session=True,
                preexec_fn=enter,
            )
        finally:
            _close_all(self.descriptors)


def compiled_kernels() -> tuple[Path, ...]:
    """Folders in which numba keeps what it compiled of narrows."""
    named = os.environ.get("NUMBA_CACHE_DIR")
    if named:
        return (Path(named).resolve(),) if Path(named).is_dir() else ()
    folders = sorted(_package().rglob("__pycache__"))
    return tuple(folder for folder in folders if any(folder.glob("*.nbi")))


def _package() -> Path:
    return Path(narrows.__file__).parent.resolve()


def _python_paths() -> Iterable[Path]:
    """Where this interpreter and its packages lie, under the names by which it finds them."""
    names = {sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix}
    names |= {sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")}
    paths = {Path(name) for name in names}
    # A virtual environment may be a link, and its interpreter a chain of links.
    paths |= {path.resolve() for path in paths}
    paths |= {Path(sys.executable).resolve().parent.parent}
    return (path for path in paths if path.is_dir() and path != Path("/"))


def _system() -> list[str]:
    options = ["--ro-bind", "/usr", "/usr"]
    for name in map(Path, _SYSTEM):
        if name.is_symlink():
            options += ["--symlink", os.readlink(name), str(name)]
        elif name.is_dir():
            options += ["--ro-bind", str(name), str(name)]
    options += _parents(Path("/etc/ssl/certs"))
    for text in _ETC:
        options += ["--ro-bind-try", text, text]
    return options


def _parents(path: Path) -> list[str]:
    """Folders on the way, open to who the enclave is; bubblewrap would make them for root."""
    made = [folder for folder in reversed(path.parents) if folder != Path("/")]
    return [word for folder in made for word in ("--perms", "0755", "--dir", str(folder))]


def _within(path: Path, folders: Iterable[Path]) -> bool:
    return any(path == folder or folder in path.parents for folder in folders)


def _readable(path: Path, uid: int) -> bool:
    found = path.stat()
    mode = found.st_mode >> 6 if found.st_uid == uid else found.st_mode
    wanted = stat.S_IROTH | (stat.S_IXOTH if stat.S_ISDIR(found.st_mode) else 0)
    return mode & wanted == wanted


def _close_all(descriptors: Iterable[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _memory_file(content: bytes) -> int:
    descriptor = os.memfd_create("narrows", os.MFD_CLOEXEC)
    os.write(descriptor, content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor
