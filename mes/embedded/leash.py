"""Run a command that ends when the process that started it ends, however that ends.

    python -I -S leash.py PARENT SIGNAL UID GID COMMAND [ARGUMENT ...]

PARENT is the starter's pid, SIGNAL what the command gets when the starter dies; UID -1 keeps the user.
A program of its own, because code between fork and exec in a process with threads can hang.
"""

import os
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    parent, signal, uid, gid = (int(text) for text in sys.argv[1:5])
    command = sys.argv[5:]
    prctl = None
    if sys.platform == "linux":
        import ctypes  # before setuid: another user may not be able to read this Python

        prctl = ctypes.CDLL(None).prctl
    if uid >= 0:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, signal, 0, 0, 0)  # after setuid, which clears it
        if os.getppid() != parent:
            sys.exit(f"{command[0]}: not started, process {parent} has gone")
    try:
        os.execv(command[0], command)
    except OSError as why:
        sys.exit(f"{command[0]}: cannot be run: {why.strerror}")


main()
