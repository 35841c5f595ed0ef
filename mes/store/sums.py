"""Marks taken, events read back as columns, sums replaced: one transaction a production day of a line."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from mes.calendar import Calendar
from mes.errors import ConfigError
from mes.kpi.sums import BUCKET_US, EVENT_DTYPE, Sums, summarise
from mes.store.blocks import EPOCH_US
from mes.store.connection import connect, queries, translated
from mes.store.migrate import check

_TURN = 0x6D657372  # "mesr": first key of the advisory locks by which rollups take turns on a line
_BUCKET = dt.timedelta(microseconds=BUCKET_US)
_HOUR = dt.timedelta(hours=1)
_MOST_BUCKETS = 24  # read at a time, so that memory is bounded by two hours of a line
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_EVER = (dt.datetime(2000, 1, 1, tzinfo=dt.UTC), dt.datetime(2100, 1, 1, tzinfo=dt.UTC))


@dataclass(frozen=True, slots=True)
class Waiting:
    """A line with marks: how many, and the production day of the oldest."""

    line_id: int
    path: str
    calendar: Calendar
    day: dt.date
    marks: int


class Rollup:
    """The database side of the rollup. For one thread."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection = connect(url, application="mes rollup")
        with translated(url):
            check(self._connection)
            self._connection.execute("LISTEN mes_marks")

    def close(self) -> None:
        self._connection.close()

    def _waiting(self) -> list[Waiting]:
        """Lines that have marks, the oldest first."""
        with translated(self._url):
            rows = self._connection.execute(queries()["lines_with_marks"]).fetchall()
        out = []
        for line_id, path, zone, day_start, oldest, marks in rows:
            calendar = Calendar(ZoneInfo(zone), day_start)
            out.append(Waiting(line_id, path, calendar, calendar.day_of(oldest), marks))
        return out

    def wait(self, seconds: float) -> None:
        """Return when ingest says that there are new marks, or after so many seconds."""
        with translated(self._url):
            for _ in self._connection.notifies(timeout=seconds, stop_after=1):
                pass

    def latest_days(self) -> list[tuple[Any, ...]]:
        """The newest production day of each line, as the views show it."""
        with translated(self._url):
            return self._connection.execute(queries()["latest_days"]).fetchall()

    def mark_history(self, path: str | None, first: dt.date | None, last: dt.date | None) -> int:
        """Mark every bucket that has events or sums, of a line (or all), of production days first to last; how many."""
        with translated(self._url), self._connection.transaction():
            lines = self._connection.execute(queries()["line_calendars"], {"path": path}).fetchall()
            if not lines:
                raise ConfigError(f"line {path!r} is unknown: see `mes report daily` or the seeds")
            marks = 0
            for line_id, zone, day_start in lines:
                calendar = Calendar(ZoneInfo(zone), day_start)
                begin = calendar.starts_at(first) if first else _EVER[0]
                end = calendar.bounds(last)[1] if last else _EVER[1]
                marks += self._connection.execute(queries()["mark_history"], {"line": line_id, "begin": begin, "end": end}).rowcount
            return marks

    def step(self) -> int:
        """Recompute the oldest marked production day of each line that has marks; returns how many buckets."""
        return sum(self._recompute(line) for line in self._waiting())

    def _recompute(self, line: Waiting) -> int:
        """Replace the sums of the marked buckets of a line's day, of their hours and of the day; returns how many buckets.

        Marks are deleted first and rows read after, so whatever a mark stands for is seen. Two rollups never work on a
        line at once: the later one would otherwise overwrite with what it read earlier. 0 means another is at it.
        """
        begin, end = line.calendar.bounds(line.day)
        with translated(self._url), self._connection.transaction():
            turn = self._connection.execute("SELECT pg_try_advisory_xact_lock(%s, %s)", [_TURN, line.line_id]).fetchone()
            if not (turn and turn[0]):
                return 0
            buckets = [row[0] for row in self._connection.execute(queries()["take_marks"], [line.line_id, begin, end])]
            if not buckets:
                return 0
            self._replace_buckets(line.line_id, buckets)
            hours = sorted({begin + (bucket - begin) // _HOUR * _HOUR for bucket in buckets})
            self._replace_day(line.line_id, line.day, begin, end, hours)
        return len(buckets)

    def _replace_buckets(self, line_id: int, buckets: list[dt.datetime]) -> None:
        row = self._connection.execute(queries()["stations_and_defects"], [line_id]).fetchone()
        assert row is not None
        station_ids, defect_ids = (np.array(ids, dtype=np.int64) for ids in row)
        self._connection.execute(queries()["drop_buckets"], [line_id, buckets])
        self._connection.execute(queries()["drop_defect_buckets"], [line_id, buckets])
        for first, n in _stretches(buckets):
            events = self._read(line_id, first, first + n * _BUCKET)
            first_us = (first - _EPOCH) // dt.timedelta(microseconds=1) - EPOCH_US
            self._insert(line_id, first, station_ids, defect_ids, summarise(events, first_us, n, station_ids, defect_ids))

    def _read(self, line_id: int, begin: dt.datetime, end: dt.datetime) -> NDArray[np.void]:
        """Events of a line in [begin, end) as EVENT_DTYPE."""
        with self._connection.cursor(binary=True) as cursor:
            data = cursor.execute(queries()["read_events"], {"line": line_id, "begin": begin, "end": end}).fetchone()
        return np.frombuffer(data[0] if data and data[0] else b"", dtype=EVENT_DTYPE)

    def _insert(self, line_id: int, first: dt.datetime, station_ids: NDArray[np.int64], defect_ids: NDArray[np.int64], sums: Sums) -> None:
        from mes.kpi.kernels import FIRST_BIN

        with self._connection.cursor() as cursor:
            with cursor.copy("COPY kpi.station_bucket FROM STDIN (FORMAT BINARY)") as copy:
                copy.set_types(["int2", "timestamptz", "int2", "int8", "int8", "int8", "int8", "int8", "int2[]", "int8[]", "timestamptz"])
                for b, s in np.argwhere(sums.results.sum(axis=2) > 0):
                    bins = np.flatnonzero(sums.histogram[b, s])
                    last = _EPOCH + dt.timedelta(microseconds=int(sums.last_at[b, s]) + EPOCH_US)
                    copy.write_row(
                        (
                            line_id, first + int(b) * _BUCKET, int(station_ids[s]), *sums.results[b, s].tolist(),
                            int(sums.inspected[b, s]), int(sums.first_pass_good[b, s]),
                            (bins + FIRST_BIN).tolist(), sums.histogram[b, s, bins].tolist(), last,
                        )
                    )  # fmt: skip
            with cursor.copy("COPY kpi.defect_bucket FROM STDIN (FORMAT BINARY)") as copy:
                copy.set_types(["int2", "timestamptz", "int2", "int8"])
                for b, d in np.argwhere(sums.defects > 0):
                    copy.write_row((line_id, first + int(b) * _BUCKET, int(defect_ids[d]), int(sums.defects[b, d])))

    def _replace_day(self, line_id: int, day: dt.date, begin: dt.datetime, end: dt.datetime, hours: Iterable[dt.datetime]) -> None:
        values = {"line": line_id, "day": day, "begin": begin, "end": end, "hours": list(hours)}
        for name in ("drop_hours", "sum_hours", "drop_day", "sum_day", "drop_defect_day", "sum_defect_day", "sum_line_day"):
            self._connection.execute(queries()[name], values)


def _stretches(buckets: list[dt.datetime]) -> Iterator[tuple[dt.datetime, int]]:
    """Runs of neighbouring buckets, none longer than _MOST_BUCKETS: (first, how many)."""
    first, n = buckets[0], 1
    for bucket in buckets[1:]:
        if bucket == first + n * _BUCKET and n < _MOST_BUCKETS:
            n += 1
        else:
            yield first, n
            first, n = bucket, 1
    yield first, n
