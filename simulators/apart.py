"""Machines apart: one connection for each, with a certificate of its own, as where no gateway speaks for them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from mes.errors import ConfigError
from mes.tls import Credentials
from simulators.connection import BrokerUrl
from simulators.gateway import Gateway
from simulators.machine import Machine

_QUIET_S: Final = 60.0  # what all machines say of one broker is said once in this time


class Apart:
    """As many gateways as machines, seen as one.

    folder   of `mes pki`: machines/SITE/AREA/LINE/STATION/MACHINE.crt and .key; unless the URL's credentials say whom to
             trust, ca/plant.crt in it
    """

    def __init__(
        self, url: BrokerUrl, folder: Path, machines: Iterable[Machine], *, marks: bool, window: int, say: Callable[[str], None]
    ) -> None:
        self._say = say
        self._said: dict[str, float] = {}
        self._changed = asyncio.Event()
        self._of = {
            machine: Gateway(
                replace(url, credentials=_of(machine, folder, url.credentials)),
                "-".join(_path(machine)),
                [machine],
                marks=marks,
                window=window,
                say=partial(self._once, machine),
                changed=self._changed,
            )
            for machine in machines
        }

    @property
    def published(self) -> int:
        return sum(each.published for each in self._of.values())

    @property
    def acked(self) -> int:
        return sum(each.acked for each in self._of.values())

    @property
    def committed(self) -> int:
        return sum(each.committed for each in self._of.values())

    @property
    def uncommitted(self) -> int:
        return sum(each.uncommitted for each in self._of.values())

    @property
    def refused(self) -> int:
        return sum(each.refused for each in self._of.values())

    def append(self, machine: Machine, lines: bytes, first: int, n: int, backlog: bool = False) -> None:
        self._of[machine].append(machine, lines, first, n, backlog)

    async def below(self, uncommitted: int) -> None:
        """Return when at most so many events of all machines are uncommitted."""
        while self.uncommitted > uncommitted:
            self._changed.clear()
            await self._changed.wait()

    async def serve(self) -> None:
        """Publish until cancelled. Refused when the broker rejects one of the certificates."""
        serving = [asyncio.create_task(each.serve()) for each in self._of.values()]
        try:
            done, _ = await asyncio.wait(serving, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in serving:
                task.cancel()
            await asyncio.wait(serving)

    def _once(self, machine: Machine, text: str) -> None:
        now, what = time.monotonic(), text.replace(machine.topic, "")
        if now - self._said.get(what, -_QUIET_S) >= _QUIET_S:
            self._said[what] = now
            self._say(text)


def _path(machine: Machine) -> list[str]:
    return machine.topic.split("/")[3:8]


def _of(machine: Machine, folder: Path, given: Credentials) -> Credentials:
    at = folder.joinpath("machines", *_path(machine))
    cert, key = at.with_name(f"{at.name}.crt"), at.with_name(f"{at.name}.key")
    for path in (cert, key):
        if not path.exists():
            raise ConfigError(f"--certificates {folder}: there is no {path.relative_to(folder)}: make it with `mes pki --out {folder}`")
    return Credentials(given.ca or folder / "ca" / "plant.crt", cert, key)
