"""What the demo reads back from the database."""

from __future__ import annotations

import datetime as dt
from typing import Any

from mes.errors import Unavailable
from mes.store import report
from mes.store.connection import Connection, connect, translated

_RECEIVED = """
SELECT l.path, coalesce(sum(upper(r) - lower(r)), 0)::bigint
FROM mes.line l LEFT JOIN mes.station s USING (line_id) LEFT JOIN mes.machine m USING (station_id)
LEFT JOIN mes.machine_ledger g USING (machine_id) LEFT JOIN LATERAL unnest(g.received) AS r ON true
GROUP BY l.path"""
_MARKS = "SELECT count(*) FROM mes.dirty_bucket"
_EVENTS = "SELECT EXISTS (SELECT FROM mes.cell_event)"
_COUNTS = """
SELECT name, n FROM report.daily_throughput, LATERAL (VALUES
    ('events', events), ('started', started), ('good', good), ('scrap', scrap), ('missing', missing)) AS v (name, n)
WHERE line = %(line)s AND production_day = %(day)s
UNION ALL
SELECT format('hour %%s good', hour_of_day), good FROM report.hourly_throughput WHERE line = %(line)s AND production_day = %(day)s
UNION ALL
SELECT format('station %%s %%s', station, name), n
FROM report.station_yield, LATERAL (VALUES
    ('good', good), ('rework', rework), ('scrap', scrap), ('inspected', inspected), ('first_pass_good', first_pass_good)) AS v (name, n)
WHERE line = %(line)s AND production_day = %(day)s
UNION ALL
SELECT format('defect %%s %%s', station, defect), count FROM report.defect_pareto WHERE line = %(line)s AND production_day = %(day)s
UNION ALL
SELECT format('machine %%s/%%s events', station, machine), received FROM report.completeness
WHERE line = %(line)s AND production_day = %(day)s AND received > 0"""


class Figures:
    """What the database holds, asked again and again; a database that is away is None, not an error."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection: Connection | None = None

    def close(self) -> None:
        if self._connection:
            self._connection.close()
            self._connection = None

    def received(self) -> dict[str, int] | None:
        """Events stored by line."""
        rows = self._ask(_RECEIVED)
        return None if rows is None else dict(rows)

    def received_of_all(self) -> int | None:
        by_line = self.received()
        return None if by_line is None else sum(by_line.values())

    def marks(self) -> int | None:
        """Buckets that wait for the rollup, counted as often as they were marked."""
        rows = self._ask(_MARKS)
        return None if rows is None else rows[0][0]

    def any_events(self) -> bool:
        rows = self._ask(_EVENTS)
        return bool(rows and rows[0][0])

    def lines(self) -> dict[str, dict[str, Any]] | None:
        """The newest production day of each line, by line."""
        try:
            return {row["line"]: row for row in report.newest_days(self._open())}
        except Unavailable:
            self.close()
            return None

    def counts(self, line: str, day: dt.date) -> dict[str, int]:
        """Every count that the report's views hold of a line's production day, by what it counts."""
        with translated(self._url):
            return dict(self._open().execute(_COUNTS, {"line": line, "day": day}).fetchall())

    def _open(self) -> Connection:
        if self._connection is None:
            self._connection = connect(self._url, application="mes demo")
        return self._connection

    def _ask(self, statement: str) -> list[tuple[Any, ...]] | None:
        try:
            with translated(self._url):
                return self._open().execute(statement.encode()).fetchall()
        except Unavailable:
            self.close()
            return None
