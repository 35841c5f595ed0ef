"""The calendar of a line: production days and shifts over UTC instants, and the time in which it is planned to work.

The production day that is labelled with a date begins on that date at the site's `day_start`, local time, and ends where
the next one begins. So it has 23, 24 or 25 hours where clocks change, and days tile time without gap or overlap. Shifts
tile their day in the same way, and the night shift belongs to the day on which it began. Everything is half open, [begin,
end), and reckoned in UTC: Python subtracts two times of one zone as if its clocks never changed.

A local time that comes twice means the first one; one that the clocks jump over comes as much later as they jump.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple
from zoneinfo import ZoneInfo

from mes import plant

_DAY = dt.timedelta(days=1)
_SECOND = dt.timedelta(seconds=1)

Span = tuple[dt.datetime, dt.datetime]
"""[begin, end) in UTC."""


@dataclass(frozen=True, slots=True)
class Shift:
    """A shift by local times; one that ends at or before its start ends on the next calendar day. Breaks lie within it."""

    name: str
    start: dt.time
    end: dt.time
    breaks: tuple[tuple[dt.time, dt.time], ...] = ()


@dataclass(frozen=True, slots=True)
class ShiftPlan:
    """Shifts that follow one another from the start of the day round to it, in force from production day `since` on."""

    since: dt.date
    shifts: tuple[Shift, ...]


class ShiftSpan(NamedTuple):
    """A shift of a production day; without length where the clocks jump over it or the whole day is left out."""

    position: int
    name: str
    begin: dt.datetime
    end: dt.datetime


@dataclass(frozen=True, slots=True)
class Calendar:
    """The calendar of a line: its IANA zone and the local time at which its production day begins; by default one shift.

    plans      in order of `since`; the first also holds for what was before
    holidays   production days on which nothing is planned
    stops      planned stops
    """

    zone: ZoneInfo
    day_start: dt.time
    plans: tuple[ShiftPlan, ...] = ()
    holidays: frozenset[dt.date] = frozenset()
    stops: tuple[Span, ...] = ()

    def starts_at(self, day: dt.date) -> dt.datetime:
        """The UTC instant at which production day `day` begins."""
        return self._instant(day, self.day_start)

    def bounds(self, day: dt.date) -> Span:
        """[begin, end) of production day `day` in UTC."""
        return self.starts_at(day), self.starts_at(day + _DAY)

    def day_of(self, instant: dt.datetime) -> dt.date:
        """The production day that holds `instant` (aware)."""
        day = instant.astimezone(self.zone).date() + _DAY
        while instant < self.starts_at(day):
            day -= _DAY
        return day

    def shifts(self, day: dt.date) -> list[ShiftSpan]:
        """The shifts of production day `day` in order: they tile `bounds(day)`, whatever the clocks do."""
        begin, end = self.bounds(day)
        plan = self._plan(day)
        starts = [begin]
        for shift in plan[1:]:
            starts.append(min(max(self._within(day, shift.start), starts[-1]), end))
        return [ShiftSpan(n, shift.name, *span) for n, (shift, *span) in enumerate(zip(plan, starts, [*starts[1:], end], strict=True))]

    def regular(self, day: dt.date) -> list[Span]:
        """Planned time of production day `day` by the shift plan alone, that is without breaks: disjoint, sorted."""
        breaks = (
            (self._within(day, start), self.starts_at(day + _DAY) if end == self.day_start else self._within(day, end))
            for shift in self._plan(day)
            for start, end in shift.breaks
        )
        return without([self.bounds(day)], breaks)

    def scheduled(self, day: dt.date) -> list[Span]:
        """Planned time of production day `day`: `regular` less planned stops, nothing on a holiday; disjoint, sorted."""
        return [] if day in self.holidays else without(self.regular(day), self.stops)

    def _plan(self, day: dt.date) -> tuple[Shift, ...]:
        if not self.plans:
            return (Shift("day", self.day_start, self.day_start),)
        return next((plan for plan in reversed(self.plans) if plan.since <= day), self.plans[0]).shifts

    def _within(self, day: dt.date, local: dt.time) -> dt.datetime:
        """The instant of a local time within production day `day`, which may lie after midnight."""
        return self._instant(day if local >= self.day_start else day + _DAY, local)

    def _instant(self, date: dt.date, local: dt.time) -> dt.datetime:
        return dt.datetime.combine(date, local, self.zone).astimezone(dt.UTC)


def of_site(site: plant.Site, line: str | None = None) -> Calendar:
    """The calendar of a line (path) of a site of the seeds; without `line` of the site, less stops of single lines."""

    def breaks(shift: plant.Shift) -> tuple[tuple[dt.time, dt.time], ...]:
        in_order = sorted(shift.breaks, key=lambda b: (b.start < site.day_start, b.start))
        return tuple((b.start, b.end) for b in in_order)

    plans = (ShiftPlan(since, tuple(Shift(s.name, s.start, s.end, breaks(s)) for s in shifts)) for since, shifts in site.plans)
    stops = sorted(stop.span(site.tz) for stop in site.planned_stop if stop.line in (None, line))
    return Calendar(site.tz, site.day_start, tuple(plans), frozenset(holiday.day for holiday in site.holiday), tuple(stops))


def without(spans: Iterable[Span], holes: Iterable[Span]) -> list[Span]:
    """What is left of `spans` outside of `holes`; of both, some may be empty, and holes may overlap."""
    left = [(begin, end) for begin, end in spans if begin < end]
    for begin, end in holes:
        if begin < end:
            left = [(b, e) for a, z in left for b, e in ((a, min(z, begin)), (max(a, end), z)) if b < e]
    return left


def clip(spans: Iterable[Span], begin: dt.datetime, end: dt.datetime) -> list[Span]:
    """What of `spans` lies in [begin, end), for instance of a day's planned time in a shift or in an hour."""
    return [(max(b, begin), min(e, end)) for b, e in spans if max(b, begin) < min(e, end)]


def seconds(spans: Iterable[Span]) -> int:
    """How many seconds disjoint spans last."""
    return sum((end - begin for begin, end in spans), dt.timedelta()) // _SECOND
