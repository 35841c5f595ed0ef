"""Child processes that do not outlive us, the lock on a folder, ports of this machine.

A child runs in a session of its own, so that Ctrl-C in the terminal reaches only us and we choose the order of
stopping. On Linux it is signalled when the *thread* that started it ends: start children from the main thread.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, NamedTuple

from mes.errors import ConfigError

Say = Callable[[str], None]

_LEASH = str(Path(__file__).with_name("leash.py"))
_LOG_LIMIT = 20 * 1024 * 1024


class Owner(NamedTuple):
    """The user that a child runs as."""

    uid: int
    gid: int


def leashed(command: Sequence[str], death: signal.Signals, owner: Owner | None = None) -> list[str]:
    """The command line that runs `command` as `owner` and signals it with `death` when we die."""
    uid, gid = owner or (-1, -1)
    return [sys.executable, "-I", "-S", _LEASH, str(os.getpid()), str(int(death)), str(uid), str(gid), *command]


def spawn(
    command: Sequence[str],
    log: Path,
    *,
    cwd: Path | str | None = None,
    env: Mapping[str, str] | None = None,
    death: signal.Signals = signal.SIGTERM,
    owner: Owner | None = None,
    fds: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Start a leashed child whose output is appended to `log`; its pid is that of `command` itself."""
    with open_log(log) as out:
        return subprocess.Popen(
            leashed(command, death, owner),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env=env,
            start_new_session=True,
            pass_fds=fds,
        )


def open_log(path: Path) -> IO[bytes]:
    """Open a log for appending; one that has grown large becomes `.1`, the older `.1` goes."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.stat().st_size > _LOG_LIMIT:
            path.replace(path.with_name(path.name + ".1"))
        return path.open("ab")
    except OSError as why:
        raise unwritable(path, why) from why


def unwritable(path: Path, why: OSError) -> ConfigError:
    return ConfigError(f"{path}: cannot be written ({why.strerror}): set MES_HOME to a folder that you may write, with room left")


def tail(log: Path, lines: int = 1, since: int = 0) -> list[str]:
    """The last non-empty lines of a log, from byte `since` on."""
    try:
        with log.open("rb") as file:
            file.seek(max(since, log.stat().st_size - 65536))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    return [line.rstrip() for line in text.splitlines() if line.strip()][-lines:]


def ask(process: subprocess.Popen[bytes], sig: signal.Signals) -> None:
    """Signal a child that may have ended."""
    if process.poll() is None:
        process.send_signal(sig)


def ended(process: subprocess.Popen[bytes], deadline: float) -> bool:
    """Wait for a child until `deadline` (time.monotonic); says whether it has ended."""
    try:
        process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        return False
    return True


class Lock:
    """Keeps a folder for this process until released; the kernel releases it when the process dies."""

    def __init__(self, path: Path, what: str) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a+")
        except OSError as why:
            raise unwritable(path, why) from why
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as why:
            self._file.seek(0)
            pid = self._file.read().strip() or "unknown"
            self._file.close()
            raise ConfigError(
                f"{path.parent}: {what} is already running there (process {pid}): stop it, or set MES_HOME to another folder"
            ) from why
        self._file.truncate(0)
        self._file.write(str(os.getpid()))
        self._file.flush()

    def release(self) -> None:
        self._file.close()


def leftovers(folder: Path, program: str) -> list[int]:
    """Pids of `program` that work in `folder`; none where the system has no /proc."""
    here = os.stat(folder)
    found = []
    for pid in (int(name) for name in (os.listdir("/proc") if os.path.isdir("/proc") else []) if name.isdigit()):
        try:
            there = os.stat(f"/proc/{pid}/cwd")
            if (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino) and Path(f"/proc/{pid}/comm").read_text().strip() == program:
                found.append(pid)
        except OSError:
            continue  # it has ended, or is another user's
    return found


def clear(folder: Path, program: str, sig: signal.Signals, say: Say, within: float = 10.0) -> None:
    """Stop what a start that was killed has left running in `folder`. The caller holds the folder's lock."""
    deadline = time.monotonic() + within
    pids = leftovers(folder, program)
    if not pids:
        return
    say(f"{program} of an earlier start is still running in {folder} (process {', '.join(map(str, pids))}): stopping it")
    for pid in pids:
        if _parent(pid) not in pids:
            _kill(pid, sig)
    while left := leftovers(folder, program):
        if time.monotonic() > deadline:
            for pid in left:
                _kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline + within:
            raise ConfigError(f"{folder}: process {left[0]} ({program}) does not end: stop it, or set MES_HOME to another folder")
        time.sleep(0.02)


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _kill(pid: int, sig: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, sig)


def is_free(port: int) -> bool:
    """Whether a server could listen on 127.0.0.1:port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def free_port(*preferred: int) -> int:
    """The first of the preferred ports that is free, else any free one."""
    for port in preferred:
        if is_free(port):
            return port
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        assert isinstance(port, int)
        return port


def listener(port: int) -> str:
    """Who listens on a TCP port, as far as we may see: "process 123 (nginx)" or "another program"."""
    sockets = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            rows = [line.split() for line in Path(table).read_text().splitlines()[1:]]
        except OSError:
            continue
        sockets |= {f"socket:[{row[9]}]" for row in rows if row[3] == "0A" and int(row[1].rpartition(":")[2], 16) == port}
    for process in Path("/proc").glob("[0-9]*") if sockets else ():
        try:
            if any(os.readlink(fd) in sockets for fd in (process / "fd").iterdir()):
                return f"process {process.name} ({(process / 'comm').read_text().strip()})"
        except OSError:
            continue
    return "another program"


def program(name: str, extra: str) -> str:
    """The path of a program that a wheel put beside this Python."""
    beside = Path(sys.executable).with_name(name)
    path = str(beside) if beside.exists() else shutil.which(name)
    if path is None:
        raise ConfigError(f"{name} is not installed: pip install 'mes[embedded]', or set {extra} to a server of your own")
    return path
