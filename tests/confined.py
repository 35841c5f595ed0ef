"""Becomes a command in the confinement of a systemd unit, without systemd: `python confined.py JSON` (see tests/units.py).

What needs root (a file system that cannot be written, no capabilities) is left out for other users. `ProtectHome`, `PrivateTmp`
and users of their own are left out always: the tests' files lie there.
"""

import ctypes
import json
import os
import socket
import sys

LIBC = ctypes.CDLL(None, use_errno=True)
SECCOMP = ctypes.CDLL("libseccomp.so.2")

PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_SET_MDWE = 24, 38, 65
CLONE_NEWNS, MS_BIND, MS_REC, MS_PRIVATE = 0x20000, 4096, 16384, 1 << 18
MOUNT_SETATTR, AT_FDCWD, AT_RECURSIVE, ATTR_RDONLY = 442, -100, 0x8000, 1
ALLOW, EPERM, EQUAL = 0x7FFF0000, 0x00050000 | 1, 4


class MountAttributes(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("set", "clear", "propagation", "userns")]


class Comparison(ctypes.Structure):
    _fields_ = [("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64)]


def done(result: int, what: str) -> None:
    if result != 0:
        sys.exit(f"confined: {what}: {os.strerror(ctypes.get_errno() or -result)}")


def read_only(writable: list[str]) -> None:
    if LIBC.unshare(CLONE_NEWNS) != 0:  # root of a container that may not mount
        print("confined: no mounts of its own here, so what it writes is not seen", file=sys.stderr)
        return
    done(LIBC.mount(None, b"/", None, MS_REC | MS_PRIVATE, None), "private mounts")
    for folder in writable:
        done(LIBC.mount(folder.encode(), folder.encode(), None, MS_BIND, None), f"bind {folder}")
    for folder, recursive, attributes in [("/", AT_RECURSIVE, MountAttributes(set=ATTR_RDONLY))] + [
        (folder, 0, MountAttributes(clear=ATTR_RDONLY)) for folder in writable
    ]:
        size = ctypes.c_size_t(ctypes.sizeof(attributes))
        done(LIBC.syscall(MOUNT_SETATTR, AT_FDCWD, folder.encode(), recursive, ctypes.byref(attributes), size), f"read-only {folder}")


def filter_calls(names: list[str], families: list[str]) -> None:
    SECCOMP.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(SECCOMP.seccomp_init(EPERM))
    number = SECCOMP.seccomp_syscall_resolve_name
    for name in names:
        if name != "socket" and number(name.encode()) != -1:  # some are of other machines
            SECCOMP.seccomp_rule_add_array(context, ALLOW, number(name.encode()), 0, None)
    for family in families:
        only = Comparison(0, EQUAL, getattr(socket, family), 0)
        done(SECCOMP.seccomp_rule_add_array(context, ALLOW, number(b"socket"), 1, ctypes.byref(only)), family)
    done(SECCOMP.seccomp_load(context), "seccomp")


def main() -> None:
    asked = json.loads(sys.argv[1])
    os.umask(asked["umask"])
    if os.getuid() == 0:
        if asked["read_only"]:
            read_only(asked["writable"])
        if asked["no_capabilities"]:
            for capability in range(64):
                LIBC.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)  # beyond the last one it fails
    if asked["no_new_privileges"]:
        done(LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    if asked["no_write_and_execute"]:
        LIBC.prctl(PR_SET_MDWE, 1, 0, 0, 0)  # from Linux 6.3 on
    filter_calls(asked["calls"], asked["families"])
    os.execv(asked["command"][0], asked["command"])


main()
