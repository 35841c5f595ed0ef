"""Marks taken, events read back as columns, sums replaced: one transaction a production day of a line."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from psycopg.types.multirange import TimestamptzMultirange
from psycopg.types.range import TimestamptzRange

from mes.calendar import Calendar, seconds
from mes.errors import ConfigError
from mes.kpi.events import Events, decode
from mes.kpi.sums import BUCKET_US, Axes, Sums, summarise
from mes.store.blocks import EPOCH_US
from mes.store.bucket_sums import replace
from mes.store.calendars import TURN, LineCalendar, line_calendars
from mes.store.connection import check_writable, connect, queries, translated
from mes.store.figures import Figures
from mes.store.migrate import check

GRACE = dt.timedelta(hours=24)  # a production day is open for corrections and late events so long after its end,
QUIET = dt.timedelta(hours=1)  # and as long as it keeps changing
SILENT = dt.timedelta(minutes=10)  # a line of which nothing has come for so long makes nothing; before, it may be behind

_LACKING = 0x6D65736D  # "mesm": first key of the advisory locks under which it is counted what a line lacks
_BUCKET = dt.timedelta(microseconds=BUCKET_US)
_HOUR = dt.timedelta(hours=1)
_UTC_DAY = dt.timedelta(days=1)
_FEW = 24  # buckets: more than these are summed by reading the whole day, which is quicker than looking for their cells elsewhere
_READ = 24 * _BUCKET  # so much of a line is read at a time
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_EVER = (dt.datetime(2000, 1, 1, tzinfo=dt.UTC), dt.datetime(2100, 1, 1, tzinfo=dt.UTC))


@dataclass(frozen=True, slots=True)
class _Day:
    """A production day of a line, with what its sums range over."""

    line_id: int
    calendar: Calendar
    day: dt.date
    begin: dt.datetime
    end: dt.datetime
    axes: Axes

    @property
    def values(self) -> dict[str, Any]:
        return {"line": self.line_id, "day": self.day, "begin": self.begin, "end": self.end}

    def buckets(self) -> list[dt.datetime]:
        return [self.begin + n * _BUCKET for n in range((self.end - self.begin) // _BUCKET)]


class Rollup:
    """The database side of the rollup. For one thread."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection = connect(url, application="mes rollup")
        self.figures = Figures(url, self._connection)
        self._version = -1
        self._calendars: dict[int, LineCalendar] = {}
        self._after: dict[int, dt.datetime] = {}
        with translated(url):
            check(self._connection)
            check_writable(self._connection)
            self._connection.execute("LISTEN mes_marks")

    def close(self) -> None:
        self._connection.close()

    def wait(self, seconds: float) -> None:
        """Return when ingest says that there are new marks, or after so many seconds."""
        with translated(self._url):
            for _ in self._connection.notifies(timeout=seconds, stop_after=1):
                pass

    def mark_history(self, path: str | None, first: dt.date | None, last: dt.date | None) -> list[str]:
        """Mark every bucket that has events or sums, of a line (or all), of production days first to last, but for those days
        whose events have been dropped: a line of text about these.
        """
        left = []
        with translated(self._url), self._connection.transaction():
            lines = {n: c for n, c in self._lines().items() if path in (None, c.path)}
            if not lines:
                raise ConfigError(f"line {path!r} is unknown: use one of {', '.join(sorted(c.path for c in self._lines().values()))}")
            for line_id, line in lines.items():
                begin = line.calendar.starts_at(first) if first else _EVER[0]
                end = line.calendar.bounds(last)[1] if last else _EVER[1]
                horizon = self._horizon("horizon", line_id)
                values = {"line": line_id, "horizon": horizon, "first": first, "last": last}
                row = self._connection.execute(queries()["days_without_events"], values).fetchone()
                if row and row[0]:
                    left.append(f"{line.path}: days {row[1]} to {row[2]} stay as they are ({row[0]}): their events are gone")
                begin = max(begin, horizon)
                values = {"line": line_id, "begin": begin, "end": end}
                for (day,) in self._connection.execute(queries()["history_days"], values).fetchall():
                    within = {"line": line_id, "begin": max(begin, day), "end": min(end, day + _UTC_DAY)}
                    self._connection.execute(queries()["mark_history"], within, prepare=False)
        return left

    def marked(self) -> int:
        """How many buckets wait."""
        with translated(self._url):
            row = self._connection.execute(queries()["marked_buckets"]).fetchone()
        return int(row[0]) if row else 0

    def waiting(self) -> tuple[int, int, int]:
        """How many buckets wait, and the numbers of the oldest and the newest of their marks; they rise with time."""
        with translated(self._url):
            row = self._connection.execute(queries()["marks_waiting"]).fetchone()
        assert row is not None
        return row[0], row[1], row[2]

    def step(self) -> int:
        """Recompute marked production days of each line, the newest and one other that nobody else is at; returns how many buckets."""
        done = 0
        with translated(self._url):
            for line_id, line in self._lines().items():
                if n := self._step(line_id, line.calendar):
                    self._sum_lacking(line_id)
                    done += n
        return done

    def open_and_close_days(self) -> None:
        """Mark production days that have begun without events, and close those that are over for good."""
        now = dt.datetime.now(dt.UTC)
        with translated(self._url):
            for line_id, line in self._lines().items():
                values = {"line": line_id, "today": line.calendar.day_of(now), "silent": SILENT}
                days = [line.calendar.starts_at(day) for (day,) in self._connection.execute(queries()["days_to_open"], values)]
                if days:
                    self._connection.execute(queries()["open_days"], {"line": line_id, "starts": days})
                self._sum_lacking(line_id)
            self._connection.execute(queries()["close_days"], {"grace": GRACE, "quiet": QUIET})

    def _lines(self) -> dict[int, LineCalendar]:
        """Lines by id, read again when the plant is seeded anew."""
        row = self._connection.execute(queries()["plant_version"]).fetchone()
        if row and row[0] != self._version:
            self._calendars, self._version = line_calendars(self._connection), row[0]
        return self._calendars

    def _step(self, line_id: int, calendar: Calendar) -> int:
        """Recompute the line's newest marked day and one of the others, those of them that can be had."""
        done, newest = 0, True
        for day in self._marked_days(line_id, calendar):
            begin, end = calendar.bounds(day)
            with self._connection.transaction():
                if self._turn(line_id, day):
                    if self._lines()[line_id].calendar != calendar:
                        break  # it has just changed, and with it what the marks stand for
                    are_there = end > self._horizon("hold_events", line_id)
                    done += self._recompute(_Day(line_id, calendar, day, begin, end, self._axes(line_id)), are_there)
                    if not newest:
                        self._after[line_id] = end
                        break
            newest = False
        return done

    def _marked_days(self, line_id: int, calendar: Calendar) -> Iterator[dt.date]:
        """The newest marked day, at which people look, then the others in turn, from where the last turn ended: a day that is
        marked all the time, by machines that send what they had kept, keeps none of the others from being summed."""
        row = self._connection.execute(queries()["newest_mark"], [line_id]).fetchone()
        if row is None:
            return
        newest = calendar.day_of(row[0])
        yield newest
        turned = self._after.get(line_id, _EVER[0])
        for begin, end in ((turned, _EVER[1]), (_EVER[0], turned)):
            at = begin
            while row := self._connection.execute(queries()["oldest_mark"], [line_id, at, end]).fetchone():
                day = calendar.day_of(row[0])
                at = calendar.bounds(day)[1]
                if day != newest:
                    yield day

    def _turn(self, line_id: int, day: dt.date) -> bool:
        """Have the day for this transaction, unless another rollup has it or the line's calendar is being changed.

        Two at once would each sum the day without the buckets of the other.
        """
        values = {"turn": TURN, "line": line_id, "day": (TURN << 32) + (line_id << 22) + day.toordinal()}
        turn = self._connection.execute(queries()["take_turn"], values).fetchone()
        return bool(turn and turn[0])

    def _horizon(self, query: str, line_id: int) -> dt.datetime:
        """From when on the events of a line are there; with "hold_events" they stay so until the transaction ends."""
        row = self._connection.execute(queries()[query], [line_id]).fetchone()
        return row[0] if row and row[0] else _EVER[0]

    def _recompute(self, day: _Day, events_are_there: bool) -> int:
        """Replace the sums of the marked buckets of a day, of their hours and of the day; returns how many buckets.

        Marks are deleted first and rows read after, so whatever a mark stands for is seen. Of a day whose events have been
        dropped the sums of stations stand; shifts and the line are summed from them, as calendar and corrections are now.
        """
        marked = [row[0] for row in self._connection.execute(queries()["take_marks"], [day.line_id, day.begin, day.end])]
        if not marked:
            return 0
        if not events_are_there:
            row = self._connection.execute(queries()["can_be_summed_up"], day.values).fetchone()
            if row and row[0]:
                self._sum_line(day)
            return len(marked)
        buckets, stretches = self._summed(day, marked)
        for first, n, sums in stretches:
            replace(self._connection, day.line_id, first, n, day.axes, sums)
        hours = sorted({day.begin + (bucket - day.begin) // _HOUR * _HOUR for bucket in buckets})
        self._sum_up(day, "hour", "bucket", hours, [min(hour + _HOUR, day.end) for hour in hours])
        self._sum_up(day, "day", "hour", [day.begin], [day.end])
        self._sum_line(day)
        self._connection.execute(queries()["tell_figures"], {"line": day.line_id})
        return len(buckets)

    def _summed(self, day: _Day, marked: list[dt.datetime]) -> tuple[list[dt.datetime], Iterator[tuple[dt.datetime, int, Sums]]]:
        """The buckets to replace, and their sums by stretches of neighbours: the first of them, how many, and the sums.

        A cell that reports again at a station may have done so first in another bucket, so its other reports of the day are
        looked up; and buckets behind that hold such reports are summed anew too, as what counts there may be here now.
        """
        todo, known = set(marked), dict[tuple[dt.datetime, int], Events]()
        while len(todo) <= _FEW:
            behind: set[dt.datetime] = set()
            for first, n in _stretches(todo):
                if (first, n) not in known:
                    known[first, n], later = self._witnesses(day, first, first + n * _BUCKET)
                    behind.update(later)
            if behind <= todo:
                return sorted(todo), (
                    (first, n, self._summarise(day, first, n, self._read(day, first, first + n * _BUCKET), known[first, n]))
                    for first, n in _stretches(todo)
                )
            todo |= behind
        buckets = day.buckets()
        events = self._read(day, day.begin, day.end)
        return buckets, iter([(day.begin, len(buckets), self._summarise(day, day.begin, len(buckets), events, None))])

    def _summarise(self, day: _Day, first: dt.datetime, n: int, events: Events, witnesses: Events | None) -> Sums:
        return summarise(events, _us(first), n, day.axes, day_end_us=_us(day.end), witnesses=witnesses)

    def _read(self, day: _Day, begin: dt.datetime, end: dt.datetime) -> Events:
        """Events of a line in [begin, end)."""
        parts = []
        with self._connection.cursor(binary=True) as cursor:
            while begin < end:
                upto = min(begin + _READ, end)
                row = cursor.execute(queries()["read_events"], {"line": day.line_id, "begin": begin, "end": upto}).fetchone()
                parts.append(decode(row[0] if row and row[0] else b"", day.axes.origin.shape[1]))
                begin = upto
        return Events.concatenated(parts)

    def _witnesses(self, day: _Day, begin: dt.datetime, end: dt.datetime) -> tuple[Events, list[dt.datetime]]:
        """What the cells of [begin, end) report at the same stations in the rest of the day; buckets behind that hold some of it."""
        values = {"line": day.line_id, "begin": begin, "end": end, "day_begin": day.begin, "day_end": day.end}
        with self._connection.cursor(binary=True) as cursor:
            in_chunks = cursor.execute(queries()["chunks_by"]).fetchone()
            row = cursor.execute(queries()["read_witnesses_in_chunks" if in_chunks else "read_witnesses"], values).fetchone()
        assert row is not None
        return decode(row[0] or b"", day.axes.origin.shape[1]), row[1]

    def _axes(self, line_id: int) -> Axes:
        row = self._connection.execute(queries()["axes"], {"line": line_id}).fetchone()
        assert row is not None
        station_ids, defect_ids, grids = row
        slots = 1 + max((slot for _, slot, _, _ in grids), default=-1)
        origin, step = np.full((2, len(station_ids), slots), np.nan)
        for station_id, slot, at, by in grids:
            where = station_ids.index(station_id), slot
            origin[where], step[where] = at, by
        return Axes(np.array(station_ids, np.int64), np.array(defect_ids, np.int64), origin, step)

    def _sum_up(self, day: _Day, grain: str, finer: str, starts: list[dt.datetime], ends: list[dt.datetime]) -> None:
        values = {**day.values, "grain": grain, "finer": finer, "starts": starts, "ends": ends}
        machines = "sum_machine_hours" if grain == "hour" else "sum_machine_day"
        for name in ("sum_stations", "sum_defects", "sum_readings", machines):
            self._connection.execute(queries()[name], values)

    def _sum_line(self, day: _Day) -> None:
        """Replace what is summed over all stations, shifts and the day; and note what the day reports."""
        shifts = day.calendar.shifts(day.day)
        scheduled = TimestamptzMultirange([TimestamptzRange(begin, end) for begin, end in day.calendar.scheduled(day.day)])
        values = {
            **day.values,
            "positions": [shift.position for shift in shifts],
            "names": [shift.name for shift in shifts],
            "starts": [shift.begin for shift in shifts],
            "ends": [shift.end for shift in shifts],
            "regular_s": float(seconds(day.calendar.regular(day.day))),
            "scheduled": scheduled,
        }
        for name in ("drop_shifts", "sum_shifts", "sum_line_day", "restate"):
            self._connection.execute(queries()[name], values)

    def _sum_lacking(self, line_id: int) -> None:
        """Replace what each day of the line lacks. By itself, as it is about many days, and others may be at each of them."""
        with self._connection.transaction():
            self._connection.execute("SELECT pg_advisory_xact_lock(%s::integer, %s::integer)", [_LACKING, line_id])
            if self._connection.execute(queries()["sum_lacking"], {"line": line_id}).rowcount > 0:
                self._connection.execute(queries()["tell_figures"], {"line": line_id})


def _us(at: dt.datetime) -> int:
    """Microseconds since PostgreSQL's epoch."""
    return (at - _EPOCH) // dt.timedelta(microseconds=1) - EPOCH_US


def _stretches(buckets: Iterable[dt.datetime]) -> list[tuple[dt.datetime, int]]:
    """Runs of neighbouring buckets: (first, how many)."""
    out: list[tuple[dt.datetime, int]] = []
    for bucket in sorted(buckets):
        if out and bucket == out[-1][0] + out[-1][1] * _BUCKET:
            out[-1] = out[-1][0], out[-1][1] + 1
        else:
            out.append((bucket, 1))
    return out
