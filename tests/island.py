"""A network of its own with one cable to ours, which can be cut without a word: packets vanish, no side is told."""

from __future__ import annotations

import os
import subprocess
from types import TracebackType
from typing import Self

from tests.servers import missing


class Island:
    """A network namespace and a pair of virtual interfaces. Needs root; `Island.refused` says why there can be none."""

    def __init__(self) -> None:
        number = os.getpid()
        self.name = f"mes-{number}"
        net = f"10.231.{number % 250}"
        self.here, self.there = f"{net}.1", f"{net}.2"
        self._cable = (f"mes{number}a", f"mes{number}b")

    @staticmethod
    def refused() -> str | None:
        """Why this machine lets us have no network of our own; None if it does."""
        if _run("ip", "-V") is not None:
            missing("ip", "iproute2")
        why = _run("ip", "netns", "add", probe := f"mes-probe-{os.getpid()}")
        if why is None:
            _run("ip", "netns", "del", probe)
        return why

    @property
    def inside(self) -> tuple[str, ...]:
        """What a command begins with that is to run there."""
        return ("ip", "netns", "exec", self.name)

    def __enter__(self) -> Self:
        ours, theirs = self._cable
        for words in (
            f"ip netns add {self.name}",
            f"ip link add {ours} type veth peer name {theirs} netns {self.name}",
            f"ip addr add {self.here}/30 dev {ours}",
            f"ip link set {ours} up",
            f"ip -n {self.name} addr add {self.there}/30 dev {theirs}",
            f"ip -n {self.name} link set {theirs} up",
        ):
            assert (why := _run(*words.split())) is None, f"{words}: {why}"
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        _run("ip", "link", "del", self._cable[0])
        _run("ip", "netns", "del", self.name)

    def cut(self) -> None:
        """From now on packets vanish: neither side is told, and what it sends is not answered."""
        self._set("down")

    def heal(self) -> None:
        self._set("up")

    def _set(self, state: str) -> None:
        why = _run("ip", "-n", self.name, "link", "set", self._cable[1], state)
        assert why is None, why


def _run(*words: str) -> str | None:
    """What went wrong, or None."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except FileNotFoundError as why:
        return str(why)
    return None if done.returncode == 0 else done.stderr.strip() or f"exit code {done.returncode}"
