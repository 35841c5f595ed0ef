"""A line as the kernels want it: numbers in arrays, prepared once from the plant's seeds."""

from __future__ import annotations

import datetime as dt
import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from mes import calendar, plant
from mes.calendar import Calendar
from mes.contract import machine_topic
from mes.errors import ConfigError
from mes.seeds import load_plant

if TYPE_CHECKING:
    from simulators.jit import Array

TICKS: Final = 1_000_000  # a second, in the simulation's time unit: integers, so that no slice can round differently
TICKS_MS: Final = 1_000
_LONGEST_STOP_DAYS: Final = 366

# Spread of service times (coefficient of variation) by kind; a dwell is a programme and takes what it takes.
SPREAD: Final = {"discrete": 0.02, "batch": 0.005, "dwell": 0.0}
KINDS: Final = ("discrete", "batch", "dwell")
DISCRETE, BATCH, DWELL = range(3)


@dataclass(frozen=True)
class Scenario:
    """A line with its site, and what identifies its machines.

    machine_codes    (station, machine) of every machine, in route order: the index is the event's `machine`
    fingerprint      changes whenever the line's or the site's data do, and with it the stream of a seed
    """

    line: plant.Line
    site: plant.Site

    @cached_property
    def machine_codes(self) -> list[tuple[str, str]]:
        return [(s.code, m) for s in self.line.station for m in s.machine_codes]

    @cached_property
    def topics(self) -> list[str]:
        at = self.line
        return [machine_topic(at.site, at.area, at.code, station, machine, "cell") for station, machine in self.machine_codes]

    @cached_property
    def _calendar(self) -> Calendar:
        return calendar.of_site(self.site, self.line.path)

    def stops(self, day: dt.date) -> Array:
        """When nothing is planned in this production day, int64 (n, 2), ticks [from, to) in order; the last ends where work goes on."""
        import numpy as np

        begin, tomorrow = self._calendar.bounds(day)
        later = (span for n in range(_LONGEST_STOP_DAYS) for span in self._calendar.scheduled(day + dt.timedelta(days=n)))
        found = []
        for start, end in later:
            if begin < min(start, tomorrow):
                found.append((begin, start))
            begin = max(begin, end)
            if begin >= tomorrow:
                break
        else:
            if begin < tomorrow:
                found.append((begin, tomorrow + dt.timedelta(days=_LONGEST_STOP_DAYS)))
        return np.array([[int(at.timestamp()) * TICKS for at in span] for span in found], np.int64).reshape(-1, 2)

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(msgspec.json.encode((self.line, self.site))).hexdigest()[:16]

    def day_start(self, day: dt.date) -> int:
        """The instant, in microseconds since 1970 UTC, at which this production day begins."""
        local = dt.datetime.combine(day, self.site.day_start, self.site.tz)
        return int(local.astimezone(dt.UTC).timestamp()) * TICKS

    def day_of(self, instant: int) -> dt.date:
        """The production day that holds this instant (microseconds since 1970 UTC)."""
        day = dt.datetime.fromtimestamp(instant / TICKS, self.site.tz).date() + dt.timedelta(days=1)
        while self.day_start(day) > instant:
            day -= dt.timedelta(days=1)
        return day


def load(seeds: Path, line: str) -> Scenario:
    """One line of a seeds folder; ConfigError names the file, key and cure."""
    whole = load_plant(seeds)
    found = whole.line(line)
    scenario = Scenario(found, whole.sites[found.site])
    check(scenario, seeds)
    return scenario


def check(scenario: Scenario, seeds: Path) -> None:
    """Refuse what the flow cannot hold: more characteristics or defects at a station than an event's columns."""
    for station in scenario.line.station:
        where = f"{seeds}: line {scenario.line.path}, station {station.code!r}"
        if station.kind == "batch" and station.cells_per_cycle < 2:
            raise ConfigError(f"{where}: cells_per_cycle must be 2 or more for kind 'batch'")
        if len(station.characteristic) > 20:
            raise ConfigError(f"{where}: {len(station.characteristic)} characteristics, at most 20")


def capacity(station: plant.Station) -> float:
    """Cells a second that a station can take in the long run, breakdowns counted."""
    available = 1.0 if station.kind == "dwell" else station.mtbf_min / (station.mtbf_min + station.mttr_min)
    return station.machines * station.positions * station.cells_per_cycle / station.cycle_s * available


def ramp(ramp_up: float) -> float:
    """By how much rates of failure are higher while a line ramps up: 1 at 0 (mature), 3 at 0.5, 5 at 1."""
    return 1.0 + 4.0 * ramp_up


def day_code(day: dt.date) -> bytes:
    """The day in a serial: year, month as a letter from A, day; 2026-11-22 is 26K22."""
    return f"{day.year % 100:02d}{'ABCDEFGHIJKL'[day.month - 1]}{day.day:02d}".encode()


def origin_of(start: dt.date) -> dt.date:
    """Where a stream begins unless it is told: on the first of the month, so that days of a month are the same whatever else is made."""
    return start.replace(day=1)


def daily_boot(day: dt.date) -> int:
    """The boot of machines that restart with each production day: a thousand for each day since 2000, the rest for other restarts."""
    return (day - dt.date(1999, 12, 31)).days * 1000


def flat(texts: list[bytes]) -> tuple[Array, Array]:
    """Texts one after another as bytes, and their n + 1 offsets."""
    import numpy as np

    offsets = np.zeros(len(texts) + 1, np.int64)
    offsets[1:] = np.cumsum([len(t) for t in texts]) if texts else []
    return np.frombuffer(b"".join(texts) or b" ", np.uint8).copy(), offsets
