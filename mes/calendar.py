"""Production days: the plant's local calendar over UTC instants.

The production day that is labelled with a date begins on that date at the site's `day_start`, local time, and ends where
the next one begins. So it has 23, 24 or 25 hours where clocks change, and days tile time without gap or overlap.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from zoneinfo import ZoneInfo

_DAY = dt.timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Calendar:
    """The calendar of a site: its IANA zone and the local time at which its production day begins."""

    zone: ZoneInfo
    day_start: dt.time

    def starts_at(self, day: dt.date) -> dt.datetime:
        """The UTC instant at which production day `day` begins."""
        return dt.datetime.combine(day, self.day_start, self.zone).astimezone(dt.UTC)

    def bounds(self, day: dt.date) -> tuple[dt.datetime, dt.datetime]:
        """[begin, end) of production day `day` in UTC."""
        return self.starts_at(day), self.starts_at(day + _DAY)

    def day_of(self, instant: dt.datetime) -> dt.date:
        """The production day that holds `instant` (aware)."""
        day = instant.astimezone(self.zone).date() + _DAY
        while instant < self.starts_at(day):
            day -= _DAY
        return day
