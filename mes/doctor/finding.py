"""What a check finds. One check is one function that yields findings; what it cannot see it says, too."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from mes.errors import MesError, Refused

T = TypeVar("T")
Check = Callable[[T], Iterator["Finding"]]

NOT_LOOKED: Final = 3


class Level(enum.IntEnum):
    """How bad it is. Up to a note all is well."""

    OK = 0
    NOTE = 1
    WARNING = 2
    PROBLEM = 3

    def __str__(self) -> str:
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    name     what it is about, always the same: to be filtered by
    level    how bad it is
    found    what was found, with its value
    cure     what to do about it; empty where there is nothing to do
    about    the line, role, file or machine that it is about, where there are several
    """

    name: str
    level: Level
    found: str
    cure: str = ""
    about: str = ""

    @property
    def fields(self) -> dict[str, Any]:
        return {"name": self.name, "about": self.about, "level": str(self.level), "found": self.found, "cure": self.cure}


def exit_code(findings: Iterable[Finding]) -> int:
    """As monitoring knows it: 0 all well, 1 a warning, 2 a problem; 3 where nothing could be looked at at all."""
    worst = max((finding.level for finding in findings), default=None)
    return NOT_LOOKED if worst is None else max(0, worst - 1)


def run(checks: Mapping[str, Check[T]], look: T, keep: Callable[[Finding], None]) -> None:
    """Run checks one after the other, each by the name under which it is said that it failed; none keeps the others from being run."""
    for name, check in checks.items():
        try:
            for finding in check(look):
                keep(finding)
        except Refused as why:
            cure = "run doctor as a role that may read the schema `mes` and pg_monitor's views, such as the schema's owner"
            keep(Finding(name, Level.WARNING, f"not looked at: {why}", cure))
        except MesError as why:
            keep(Finding(name, Level.WARNING, f"not looked at: {why}", "see to what does not answer, and run doctor again"))


def some(items: Iterable[str], most: int = 3) -> str:
    """A few of many, and how many more."""
    found = list(items)
    more = f" and {len(found) - most} more" if len(found) > most else ""
    return ", ".join(found[:most]) + more


def many(n: int, what: str) -> str:
    """So many of something."""
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def span(seconds: float) -> str:
    """A length of time as people say it."""
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"


def size(n: float) -> str:
    """Bytes as people say them."""
    for power, unit in ((4, "TB"), (3, "GB"), (2, "MB")):
        if n >= 1000**power:
            return f"{n / 1000**power:.1f} {unit}"
    return f"{n / 1000:.0f} kB"
