"""What processes cost: processor time and memory, by what they are."""

from __future__ import annotations

import os
import re
import threading
from pathlib import Path
from types import TracebackType


def say(text: str) -> None:
    print(text, flush=True)


def children(pid: int) -> list[int]:
    """A process and all below it."""
    found = [pid]
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            for child in path.read_text().split():
                found += children(int(child))
        except OSError:
            continue
    return found


def pss_mb(pid: int) -> float:
    """Proportional memory of a process, MiB; shared pages are counted once."""
    match = re.search(r"^Pss:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    return int(match[1]) / 1024 if match else 0.0


def resident_mb(pid: int) -> dict[str, float]:
    """Proportional memory of a process tree by what it is, MiB."""
    out: dict[str, float] = {}
    for one in children(pid):
        try:
            out[part_of(one)] = out.get(part_of(one), 0.0) + pss_mb(one)
        except OSError:
            continue
    return out


def _seconds(pid: int, first: int, last: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[first:last])) / os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> dict[tuple[int, str], float]:
    """Processor seconds so far of each process of a tree, by (pid, what it is)."""
    out = {}
    for one in children(pid):
        try:
            out[one, part_of(one)] = _seconds(one, 11, 13)
        except OSError:
            continue
    return out


def tree_seconds(pid: int) -> float:
    """Processor seconds so far of a tree, those of children that have ended and were waited for included."""
    total = 0.0
    for one in children(pid):
        try:
            total += _seconds(one, 11, 15)
        except OSError:
            continue
    return total


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def part_of(pid: int) -> str:
    command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    part = re.search(r"-m (mes \w+|simulators)|(nats-server|postgres)", command)
    return next(filter(None, part.groups()), "other") if part else "other"


class Most:
    """The most memory that a process has taken, MiB, looked at five times a second: `with Most(pid) as memory`."""

    def __init__(self, pid: int) -> None:
        self.mb = 0.0
        self._pid = pid
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._over.wait(0.2):
            try:
                self.mb = max(self.mb, pss_mb(self._pid))
            except OSError:
                return

    def __enter__(self) -> Most:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()
