"""The first program in an enclave's sandbox: gives up what it was started with, then becomes
the enclave.

    python -I -S inside.py SOURCE FOLDER [SOURCE FOLDER ...] -- COMMAND ...

It imports nothing of narrows and runs before any byte of an attacker. Order:
1. close every descriptor but 0..2; 2. be 0 of the sandbox's user namespace, which is nobody
outside; 3. no capability, now or after ``exec``; 4. copy each SOURCE (read-only) to FOLDER
(private memory); 5. /dev/null for 0..2, which led to a log of the host until here; 6. exec. A
failure before 6 ends the sandbox.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import sys

_PR_CAPBSET_DROP = 24
_CAPABILITY_VERSION_3 = 0x20080522
_MAX_DESCRIPTOR = 1 << 16


def main(words: list[str]) -> None:
    split = words.index("--")
    os.closerange(3, _MAX_DESCRIPTOR)
    os.setgroups([])
    libc = ctypes.CDLL(None, use_errno=True)
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    with open("/proc/sys/kernel/cap_last_cap") as file:
        for capability in range(int(file.read()) + 1):
            _check(libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0), "drop a capability")
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    # Effective, permitted and inheritable sets, and with them the ambient one: all empty.
    _check(libc.capset(header, (ctypes.c_uint32 * 6)()), "drop all capabilities")
    for source, folder in zip(words[:split:2], words[1:split:2], strict=True):
        # Compiled kernels; without them the enclave only starts more slowly.
        with contextlib.suppress(OSError):
            shutil.copytree(source, folder, dirs_exist_ok=True)
    command = words[split + 1 :]
    nowhere = os.open("/dev/null", os.O_RDWR)
    for descriptor in range(3):
        os.dup2(nowhere, descriptor)
    os.close(nowhere)
    os.execvp(command[0], command)


def _check(result: int, what: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"the sandbox cannot {what}: {os.strerror(number)}")


if __name__ == "__main__":
    main(sys.argv[1:])
