"""The seccomp program, run by an interpreter of ours over every call that it could see."""

from __future__ import annotations

import errno
import struct

import pytest

from narrows.errors import InputError
from narrows.isolate.seccomp import program

ALLOW, KILL, ERROR = 0x7FFF0000, 0x80000000, 0x00050000
X86, ARM, I386 = 0xC000003E, 0xC00000B7, 0x40000003
PERM, FAMILY = ERROR | errno.EPERM, ERROR | errno.EAFNOSUPPORT


def run(code: bytes, architecture: int, number: int, argument: int) -> int:
    data = struct.pack("=IIQQ", number, architecture, 0, argument)
    steps = list(struct.iter_unpack("=HBBI", code))
    at, loaded = 0, 0
    while True:
        kind, if_so, if_not, value = steps[at]
        at += 1
        if kind == 0x06:
            return int(value)
        if kind == 0x20:
            (loaded,) = struct.unpack_from("=I", data, value)
        elif kind == 0x15:
            at += if_so if loaded == value else if_not
        else:
            assert kind == 0x35
            at += if_so if loaded >= value else if_not


@pytest.mark.parametrize(
    ("machine", "architecture", "sockets", "refused"),
    [
        ("x86_64", X86, (41, 53), {248, 249, 250, 298, 321, 323, 425, 426, 427}),
        ("aarch64", ARM, (198, 199), {217, 218, 219, 241, 280, 282, 425, 426, 427}),
    ],
)
def test_every_call(
    machine: str, architecture: int, sockets: tuple[int, int], refused: set[int]
) -> None:
    code = program(machine)
    for number in range(600):
        for argument in range(50):
            want = ALLOW
            if number in refused:
                want = PERM
            elif number in sockets and argument not in (1, 2, 10, 16):
                want = FAMILY
            assert run(code, architecture, number, argument) == want, (number, argument)
    for other in {X86, ARM, I386} - {architecture}:
        assert run(code, other, 0, 0) == KILL
    assert run(code, architecture, 0x40000000 + sockets[0], 40) == KILL  # x32
    # The kernel takes the family as 32 bits: what is above them does not hide it.
    assert run(code, architecture, sockets[0], (1 << 32) | 40) == FAMILY


def test_an_unknown_processor_is_refused() -> None:
    with pytest.raises(InputError, match="sparc64"):
        program("sparc64")
