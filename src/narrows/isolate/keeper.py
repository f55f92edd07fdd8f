"""The parent of a sandbox, with root's rights: when it is told to end, or the sandbox ends,
nothing that runs as the sandbox's user is left.

    python -m narrows.isolate.keeper UID COMMAND ...

bubblewrap's own way (``--die-with-parent``) does not reach a program that runs as another user
than bubblewrap without capabilities, nor one that asks the kernel not to be told. The exit code
is always 1: the sandbox's own would be a word of the attacker's.
"""

from __future__ import annotations

import signal
import subprocess
import sys

from narrows.isolate.user import end_processes


def main(words: list[str]) -> None:
    uid = int(words[0])
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))
    try:
        with subprocess.Popen(words[1:], close_fds=False) as sandbox:  # it names descriptors
            try:
                sandbox.wait()
            finally:
                sandbox.kill()  # while it is being built, it still runs as root
    finally:
        end_processes(uid)
    sys.exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
