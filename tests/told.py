"""Events of a plant with where they came from, put in order plainly: by production day, by cell, by the numbers of the machines.

It shares no code with the rollup. For plants whose planned time is all of their shifts (no breaks, no stops), as those of
the tests are.
"""

from __future__ import annotations

import datetime as dt
import math
import struct
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any
from zoneinfo import ZoneInfo

from mes.contract import CellEvent
from mes.plant import Plant

ONE_DAY = dt.timedelta(days=1)
NAMED_FOR = 31
"""Days without events that follow a day with events and have rows all the same."""


@dataclass(frozen=True, slots=True)
class Told:
    """An event with where it came from and when it arrived. machine: station/machine; unscrapped: booked at, where taken back."""

    line: str
    machine: str
    event: CellEvent
    received_at: dt.datetime
    unscrapped: dt.datetime | None = None

    @property
    def at(self) -> dt.datetime:
        return dt.datetime.fromtimestamp(0, dt.UTC) + dt.timedelta(milliseconds=self.event.timestamp_ms)

    @property
    def station(self) -> str:
        return self.machine.partition("/")[0]


@dataclass(frozen=True, slots=True)
class Poison:
    """A payload in the quarantine. machine: None where none is known; boot and seq where an identity is known that nobody else has."""

    line: str
    machine: str | None
    seen_at: dt.datetime
    identity: tuple[int, int] | None = None


def real(value: float) -> float:
    """As a float32 holds it."""
    return float(struct.unpack("f", struct.pack("f", value))[0])


def is_ahead(told: Told) -> bool:
    return told.at - told.received_at > dt.timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Near:
    """A float that is right within a part of itself, or absolutely."""

    value: float
    relative: float = 1e-12
    absolute: float = 1e-12

    def __eq__(self, other: object) -> bool:
        return isinstance(other, int | float) and math.isclose(self.value, other, rel_tol=self.relative, abs_tol=self.absolute)


@dataclass(frozen=True, slots=True)
class Single:
    """A float32, whichever of its decimal names it goes by."""

    value: float

    def __eq__(self, other: object) -> bool:
        return isinstance(other, int | float) and real(self.value) == real(other)


def near(value: float | None) -> Near | None:
    return None if value is None else Near(value)


@dataclass
class Facts:
    """All events of a plant, each once.

    repeats  further deliveries, as the events were
    now      up to when days have rows
    """

    plant: Plant
    events: Sequence[Told]
    repeats: Sequence[Told] = ()
    poison: Sequence[Poison] = ()
    now: dt.datetime = field(default_factory=lambda: dt.datetime.now(dt.UTC))

    def __post_init__(self) -> None:
        self.by_day: dict[tuple[str, dt.date], list[Told]] = defaultdict(list)
        for told in self.events:
            self.by_day[told.line, self.day_of(told.line, told.at)].append(told)
        for events in self.by_day.values():
            events.sort(key=lambda t: (t.at, t.event.seq, -("pass", "rework", "scrap").index(t.event.result)))

    # -- the calendar

    def day_of(self, line: str, at: dt.datetime) -> dt.date:
        """By the wall clock: before the hour at which the production day begins it is still yesterday's."""
        site = self.plant.sites[self.plant.lines[line].site]
        local = at.astimezone(ZoneInfo(site.zone))
        return local.date() if local.time() >= site.day_start else local.date() - ONE_DAY

    def instant(self, line: str, day: dt.date, clock: dt.time) -> dt.datetime:
        """When a clock at the site shows that time in production day `day`."""
        site = self.plant.sites[self.plant.lines[line].site]
        date = day if clock >= site.day_start else day + ONE_DAY
        return dt.datetime.combine(date, clock, ZoneInfo(site.zone)).astimezone(dt.UTC)

    def bounds(self, line: str, day: dt.date) -> tuple[dt.datetime, dt.datetime]:
        start = self.plant.sites[self.plant.lines[line].site].day_start
        return self.instant(line, day, start), self.instant(line, day + ONE_DAY, start)

    def shifts(self, line: str, day: dt.date) -> list[tuple[str, dt.datetime, dt.datetime]]:
        end = self.bounds(line, day)[1]
        plan = self.plant.sites[self.plant.lines[line].site].shift
        starts = [self.instant(line, day, shift.start) for shift in plan]
        return [(shift.name, *span) for shift, span in zip(plan, zip(starts, [*starts[1:], end], strict=True), strict=True)]

    @property
    def days(self) -> list[tuple[str, dt.date]]:
        """What has a row: days with events, days of corrections and of what was not understood, and empty days after work."""
        found = {(line, self.day_of(line, at)) for line, at in self._noted()}
        for line in self.plant.lines:
            worked = {day for path, day in self.by_day if path == line}
            for day in worked:
                empty = (day + n * ONE_DAY for n in range(NAMED_FOR + 1))
                found |= {(line, one) for one in empty if one <= self.day_of(line, self.now)}
        return sorted(found | set(self.by_day))

    def _noted(self) -> Iterable[tuple[str, dt.datetime]]:
        yield from ((p.line, p.seen_at) for p in self.poison)
        yield from ((t.line, t.unscrapped) for t in self.events if t.unscrapped)

    def target(self, line: str, day: dt.date) -> Any:
        """The target in force, or None."""
        return max((t for t in self.plant.targets if t.line == line and t.from_ <= day), key=lambda t: t.from_, default=None)

    # -- what cells have done

    def chains(self, line: str, day: dt.date) -> dict[tuple[str, str], list[Told]]:
        """Reports of each cell at each station in that day, in order."""
        found: dict[tuple[str, str], list[Told]] = defaultdict(list)
        for told in self.by_day.get((line, day), []):
            found[told.station, told.event.unit].append(told)
        return found

    def passed(self, line: str, day: dt.date, station: str) -> list[dt.datetime]:
        """When each cell that passed the station did so first."""
        chains = self.chains(line, day)
        firsts = [next((t.at for t in chain if t.event.result == "pass"), None) for (at, _), chain in chains.items() if at == station]
        return [at for at in firsts if at is not None]

    def inspected(self, line: str, day: dt.date, station: str) -> list[Told]:
        """The first report at attempt 1 of each cell that has one."""
        firsts = [next((t for t in c if t.event.attempt == 1), None) for (at, _), c in self.chains(line, day).items() if at == station]
        return [told for told in firsts if told is not None]

    # -- what machines have delivered

    def gaps(self) -> list[tuple[str, str, int, int, int, dt.date | None]]:
        """Numbers that never came: line, machine, boot, first, last, and the day that first reached beyond them."""
        numbers: dict[tuple[str, str, int], dict[int, dt.date | None]] = defaultdict(dict)
        for poison in self.poison:
            if poison.identity and poison.machine:
                numbers[poison.line, poison.machine, poison.identity[0]][poison.identity[1]] = None
        for told in self.events:
            numbers[told.line, told.machine, told.event.boot][told.event.seq] = self.day_of(told.line, told.at)
        found = []
        for key, came in numbers.items():
            highest: dict[dt.date, int] = {}
            for seq, day in came.items():
                if day:
                    highest[day] = max(seq, highest.get(day, 0))
            before = 0
            for seq in sorted(came):
                if seq > before + 1:
                    beyond = [(top, day) for day, top in highest.items() if top >= seq]
                    found.append((*key, before + 1, seq - 1, min(beyond)[1] if beyond else max(highest, default=None)))
                before = seq
        return found
