"""The calendars of lines as they were seeded, read back."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from itertools import groupby
from typing import Any
from zoneinfo import ZoneInfo

import msgspec

from mes.calendar import Calendar, Shift, ShiftPlan, Span
from mes.store.connection import Connection, queries

TURN = 0x6D657372
"""First key of the advisory locks ("mesr"; the second is line_id) of those who change the sums of a line."""


@dataclass(frozen=True, slots=True)
class LineCalendar:
    """A line by its path, and its calendar."""

    path: str
    calendar: Calendar


class _Shift(msgspec.Struct, frozen=True):
    since: dt.date
    name: str
    start: dt.time
    end: dt.time
    breaks: tuple[tuple[dt.time, dt.time], ...]


def line_calendars(connection: Connection, path: str | None = None) -> dict[int, LineCalendar]:
    """By line_id the calendar of the line with this path, or of all, also of lines that are no longer active."""
    return {
        line_id: LineCalendar(
            line, Calendar(ZoneInfo(zone), day_start, _plans(shifts), frozenset(msgspec.convert(holidays, list[dt.date])), _spans(stops))
        )
        for line_id, line, zone, day_start, shifts, holidays, stops in connection.execute(queries()["calendars"], {"path": path})
    }


def _plans(shifts: Any) -> tuple[ShiftPlan, ...]:
    return tuple(
        ShiftPlan(since, tuple(Shift(s.name, s.start, s.end, s.breaks) for s in plan))
        for since, plan in groupby(msgspec.convert(shifts, list[_Shift]), lambda s: s.since)
    )


def _spans(stops: Any) -> tuple[Span, ...]:
    spans = msgspec.convert(stops, list[tuple[dt.datetime, dt.datetime]])
    return tuple((begin.astimezone(dt.UTC), end.astimezone(dt.UTC)) for begin, end in spans)
