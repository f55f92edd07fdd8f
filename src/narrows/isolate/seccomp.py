"""System calls that no namespace contains, refused to the enclave.

1. Sockets of a family other than Unix, IPv4, IPv6 and netlink: AF_VSOCK, above all, reaches a
   virtual machine's hypervisor from any network namespace.
2. io_uring: it makes sockets, too, where this filter does not see them.
3. Key rings: the one that a session inherits is shared with the host.
4. bpf, perf events, userfaultfd: doors to the kernel that an enclave does not need.

A program of classic BPF, as seccomp(2) takes it. A call by another architecture's numbers ends
the process. This narrows what of the kernel can be attacked; it does not make the kernel safe.
"""

from __future__ import annotations

import errno
import os
import struct

from narrows.errors import InputError

_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data
_ALLOW, _ERROR, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_X32_BIT = 0x40000000
_FAMILIES = (1, 2, 10, 16)  # AF_UNIX, AF_INET, AF_INET6, AF_NETLINK
_IO_URING = (425, 426, 427)
# machine: architecture, socket, socketpair, then what is refused: add_key, request_key, keyctl,
# bpf, perf_event_open, userfaultfd
_NUMBERS = {
    "x86_64": (0xC000003E, 41, 53, (248, 249, 250, 321, 298, 323)),
    "aarch64": (0xC00000B7, 198, 199, (217, 218, 219, 280, 241, 282)),
}


def program(machine: str = "") -> bytes:
    """The filter for ``machine``, this one where it is empty. InputError for one whose numbers
    are not known here."""
    machine = machine or os.uname().machine
    if machine not in _NUMBERS:
        raise InputError(
            f"--isolated knows no system call numbers of {machine}",
            f"it runs on {', '.join(_NUMBERS)}; or give the enclave a machine of its own",
        )
    architecture, socket, socketpair, refused = _NUMBERS[machine]
    refuse = [_return(_ERROR | errno.EPERM)]
    steps = [
        _step(_LOAD, _ARCHITECTURE),
        _step(_EQUAL, architecture, if_not=2),
        _step(_LOAD, _NUMBER),
        _step(_AT_LEAST, _X32_BIT, if_not=1),
        _return(_KILL),
    ]
    for number in (*refused, *_IO_URING):
        steps += [_step(_EQUAL, number, if_not=1), *refuse]
    families = [_step(_LOAD, _FIRST_ARGUMENT)]
    for family in _FAMILIES:
        families += [_step(_EQUAL, family, if_not=1), _return(_ALLOW)]
    families.append(_return(_ERROR | errno.EAFNOSUPPORT))
    steps += [
        _step(_EQUAL, socket, if_so=1),
        _step(_EQUAL, socketpair, if_not=len(families)),
        *families,
        _return(_ALLOW),
    ]
    return b"".join(steps)


def _step(code: int, value: int, *, if_so: int = 0, if_not: int = 0) -> bytes:
    """One instruction; a comparison skips ``if_so`` or ``if_not`` further ones."""
    return struct.pack("=HBBI", code, if_so, if_not, value)


def _return(value: int) -> bytes:
    return _step(_RETURN, value)
