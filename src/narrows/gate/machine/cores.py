"""On which processor cores the enclave's frames are worked on, and whether the gate's are others.

A frame that arrives costs a core time, dropped or not. Where that core also runs the gate's
process, or works on the outer device's frames, the enclave chooses by its frames *when* the gate's
kernel acknowledges: a channel (docs/timing.md). A device's frames are worked on by

    its interrupts   every core in /proc/irq/N/smp_affinity_list
    RPS              every core in /sys/class/net/DEV/queues/rx-*/rps_cpus
    NAPI threads     where ``threaded`` is 1: the cores that napi/DEV-N may run on

and by others than these where it has no interrupts (a veth) and a queue has no RPS: by whoever
sends. What cannot be read counts as shared.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from narrows.errors import PeerError

Cores = frozenset[int]
MAX_CORE = 1 << 14


@dataclass(frozen=True, slots=True)
class Roots:
    """Where the kernel's tables are."""

    proc: Path = Path("/proc")
    sys: Path = Path("/sys")


def shared_cores(inner: Iterable[str], outer: Iterable[str], roots: Roots) -> str:
    """What the enclave's frames share a core with, or why that is not known; empty: nothing."""
    try:
        used = {f"the device {name}": device_cores(name, roots) for name in outer}
        used["the gate's process"] = own_cores(roots)
        for name in inner:
            cores = device_cores(name, roots)
            for other, theirs in used.items():
                if both := cores & theirs:
                    return f"{name} and {other} share {_named(both)}"
    except (OSError, ValueError) as error:
        return f"the kernel's tables cannot be read: {error}"
    except PeerError as error:
        return error.message
    return ""


def device_cores(device: str, roots: Roots) -> Cores:
    """Every core that may work on what arrives at ``device``. ``PeerError``: not to be told."""
    folder = roots.sys / "class" / "net" / device
    if not folder.is_dir():
        raise PeerError(f"{folder} is not there, so the cores of {device} are not known")
    masks = [parse_mask(path.read_text()) for path in sorted(folder.glob("queues/rx-*/rps_cpus"))]
    cores: set[int] = set().union(*masks)
    if (folder / "device").exists():
        numbers = _interrupts(device, folder, roots)
        if not numbers:
            raise PeerError(f"the interrupts of {device} are not found")
        for number in numbers:
            cores |= parse_list((roots.proc / "irq" / number / "smp_affinity_list").read_text())
    elif not masks or not all(masks):
        raise PeerError(f"{device} has no interrupts and no RPS: its sender's core works for it")
    threaded = folder / "threaded"
    if threaded.exists() and threaded.read_text().strip() not in ("", "0"):
        cores |= _napi_threads(device, roots)
    return frozenset(cores)


def own_cores(roots: Roots) -> Cores:
    """Every core that a thread of this process may run on."""
    cores: set[int] = set()
    for status in sorted((roots.proc / "self" / "task").glob("*/status")):
        try:
            cores |= _allowed(status.read_text())
        except (FileNotFoundError, ProcessLookupError):
            continue  # that thread has ended
    if not cores:
        raise PeerError("the gate's own cores are not known")
    return frozenset(cores)


def _interrupts(device: str, folder: Path, roots: Roots) -> set[str]:
    """Numbers of the interrupts of the card, and of all that bear its name."""
    card = folder / "device"
    names = {device}
    found: set[str] = set()
    target = os.path.realpath(card)
    folders = [Path(target) / "msi_irqs"]
    if re.fullmatch(r"virtio\d+", os.path.basename(target)):  # its card is one level up
        names.add(os.path.basename(target))
        folders.append(Path(target).parent / "msi_irqs")
    for listed in folders:
        if listed.is_dir():
            found |= {path.name for path in listed.iterdir()}
    for line in (roots.proc / "interrupts").read_text().splitlines():
        number, _, rest = line.partition(":")
        words = re.split(r"[\s@:,-]+", rest)
        if number.strip().isascii() and number.strip().isdigit() and names & set(words):
            found.add(number.strip())
    return {number for number in found if (roots.proc / "irq" / number).is_dir()}


def _napi_threads(device: str, roots: Roots) -> Cores:
    cores: set[int] = set()
    for comm in roots.proc.glob("[0-9]*/comm"):
        try:
            if comm.read_text().startswith(f"napi/{device}-"):
                cores |= _allowed((comm.parent / "status").read_text())
        except (FileNotFoundError, ProcessLookupError):
            continue
    if not cores:
        raise PeerError(f"the NAPI threads of {device} are not to be seen")
    return frozenset(cores)


def _allowed(status: str) -> Cores:
    for line in status.splitlines():
        if line.startswith("Cpus_allowed_list:"):
            return parse_list(line.partition(":")[2])
    raise PeerError("a thread's cores are not told")


def parse_list(text: str) -> Cores:
    """Cores as the kernel lists them: ``0-2,5``. ``ValueError`` for anything else."""
    cores: set[int] = set()
    for part in text.strip().split(","):
        first, dash, last = part.partition("-")
        low, high = int(first), int(last) if dash else int(first)
        if not 0 <= low <= high < MAX_CORE:
            raise ValueError(f"{text.strip()!r} is no list of cores")
        cores |= set(range(low, high + 1))
    return frozenset(cores)


def parse_mask(text: str) -> Cores:
    """Cores of a bit mask: hexadecimal words of 32 bits, the highest first, with commas."""
    words = text.strip().split(",")
    if not all(re.fullmatch("[0-9a-f]{1,8}", word) for word in words) or len(words) > MAX_CORE:
        raise ValueError(f"{text.strip()!r} is no mask of cores")
    mask = int("".join(word.rjust(8, "0") for word in words), 16)
    return frozenset(index for index in range(mask.bit_length()) if mask >> index & 1)


def _named(cores: Cores) -> str:
    return f"core{'s' * (len(cores) > 1)} {', '.join(map(str, sorted(cores)))}"
