"""How the views are read: a year of days from the sums of days, one cell by the index of serials, whatever the statistics say."""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from mes.store.connection import queries
from tests.databases import KIND, Databases
from tests.sums import month

LINE = "nanjing/cells/32140-1"
DAYS, CELLS = 365, 20_000

Plan = dict[str, Any]

# Sums of a year as they would be: every station of both lines, by day and hour, by bucket for the last days.
_YEAR = """
INSERT INTO kpi.line_day (line_id, production_day, starts_at, ends_at, regular_s, scheduled_s, scheduled, events, started, good, scrap,
    unscrapped, unscrapped_booked, late, ahead, last_event_at)
SELECT line_id, d::date, d, d + interval '1 day', 86400, 86400, tstzmultirange(tstzrange(d, d + interval '1 day')),
    1300000, 50500, 50000, 500, 0, 0, 0, 0, d + interval '23 hours'
FROM mes.line, generate_series(%(first)s, %(first)s + interval '364 days', interval '1 day') AS d;

INSERT INTO kpi.line_shift
SELECT line_id, production_day, n, 'shift', starts_at + n * interval '12 hours', starts_at + (n + 1) * interval '12 hours',
    650000, 25000, 250, NULL
FROM kpi.line_day, generate_series(0, 1) AS n;

INSERT INTO kpi.station_sum
SELECT s.line_id, g.grain, t, s.station_id, 50000, 200, 20, 50100, 49900, 50000, 0,
    ARRAY(SELECT (4000 + i)::smallint FROM generate_series(1, 30) AS i), array_fill(1670::bigint, ARRAY[30]), t + interval '4 minutes'
FROM mes.station s, (VALUES
    ('day'::kpi.grain, interval '1 day', interval '0'), ('hour', '1 hour', '305 days'), ('bucket', '5 minutes', '363 days')
) AS g (grain, step, since),
    generate_series(%(first)s + g.since, %(first)s + interval '365 days' - g.step, g.step) AS t;

INSERT INTO kpi.defect_sum
SELECT s.line_id, 'day', d, f.defect_id, f.defect_id
FROM mes.defect f JOIN mes.station s USING (station_id), generate_series(%(first)s, %(first)s + interval '364 days', interval '1 day') AS d;

INSERT INTO kpi.machine_day
SELECT s.line_id, d.production_day, m.machine_id, 1, 7000, 0, 0,
    7000 * (d.production_day - '2025-11-22'::date) + 1, 7000 * (d.production_day - '2025-11-22'::date + 1)
FROM mes.machine m JOIN mes.station s USING (station_id) JOIN kpi.line_day d USING (line_id);

INSERT INTO mes.machine_ledger (machine_id, boot, received) SELECT machine_id, 1, '{[1,2555001)}' FROM mes.machine;
"""
_EVENTS = """
INSERT INTO mes.cell_event
SELECT at, at, c * 16 + s.n, m.machine_id, 1, -1, 7, s.line_id, s.station_id, 1, 0, 0, 'NJ1-' || c, '{12.5,3.25}', NULL
FROM generate_series(1, %(cells)s) AS c
CROSS JOIN (
    SELECT station_id, line_id, row_number() OVER (ORDER BY seq) AS n FROM mes.station JOIN mes.line USING (line_id) WHERE path = %(line)s
) AS s
CROSS JOIN LATERAL (SELECT min(machine_id) AS machine_id FROM mes.machine WHERE station_id = s.station_id) AS m
CROSS JOIN LATERAL (SELECT %(first)s + interval '364 days' + c * interval '1.5 s' + s.n * interval '2 hours' AS at) AS t;
"""


STATISTICS = ["without statistics", "with statistics", "with statistics of the days before"]
analysed = pytest.mark.parametrize("year", STATISTICS[1:2], indirect=True)
# Tables and indexes by their own names and by that of a hypertable's chunk.
PARENTS = "SELECT c.relname, p.relname FROM pg_inherits JOIN pg_class c ON c.oid = inhrelid JOIN pg_class p ON p.oid = inhparent"
UNIT = re.compile(r"(_hyper_\d+_\d+_chunk_)?cell_event_unit")


@pytest.fixture(scope="module", params=STATISTICS)
def year(request: pytest.FixtureRequest, new_database: Databases) -> Iterator[psycopg.Connection[Any]]:
    """A year of sums and the last day's events; statistics as autovacuum would have made them, none yet, or none of that day: it looks
    when a tenth of a table is new, which is a month of a year."""
    first = dt.datetime(2025, 11, 22, tzinfo=dt.UTC)
    with psycopg.connect(new_database(), autocommit=True, cursor_factory=psycopg.ClientCursor) as connection:
        connection.execute("ALTER TABLE mes.cell_event SET (autovacuum_enabled = off)")
        connection.execute("SET timezone = 'UTC'; SET statement_timeout = '60s'")
        values = {"first": first, "cells": CELLS, "line": LINE}
        for statement in _YEAR.split(";\n"):
            if statement.strip():
                connection.execute(statement.encode(), values)
        if request.param == STATISTICS[2]:
            for day in range(4, 10):
                others = _EVENTS.replace("NJ1-", f"NJ1-{day}-")
                connection.execute(others.encode(), {**values, "first": first - dt.timedelta(days=day), "cells": CELLS // 10})
            connection.execute("VACUUM ANALYZE")
        connection.execute(_EVENTS.encode(), values)
        if request.param == STATISTICS[1]:
            connection.execute("VACUUM ANALYZE")
        yield connection


def nodes(plan: Plan) -> Iterator[Plan]:
    yield plan
    for child in plan.get("Plans", []):
        yield from nodes(child)


@pytest.fixture
def scans(year: psycopg.Connection[Any]) -> Callable[..., list[Plan]]:
    """Explains a statement, having run it; returns the reads of tables, of which each says how many rows it met.

    Chunks have the name of their hypertable.
    """
    parents = dict(year.execute(PARENTS).fetchall())

    def explain(statement: str, *listed: Any, **named: Any) -> list[Plan]:
        found = explained(year, statement, *listed, **named)
        return [{**node, "Relation Name": parents.get(node["Relation Name"], node["Relation Name"])} for node in found]

    return explain


def explained(connection: psycopg.Connection[Any], statement: str, *listed: Any, **named: Any) -> list[Plan]:
    """The reads of tables of a statement, having run it. A Custom Scan is a hypertable that only has its chunks read."""
    found = connection.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}".encode(), listed or named).fetchone()
    assert found
    document = found[0] if isinstance(found[0], list) else json.loads(found[0])
    print(statement[:60], document[0]["Execution Time"], "ms, planned in", document[0]["Planning Time"])
    return [node for node in nodes(document[0]["Plan"]) if "Relation Name" in node and node["Node Type"] != "Custom Scan"]


def met(scan: Plan) -> float:
    """Rows that were read, those that a filter threw away included."""
    return float((scan["Actual Rows"] + scan.get("Rows Removed by Filter", 0)) * scan["Actual Loops"])


def read(scans: list[Plan], table: str) -> float:
    return sum(met(scan) for scan in scans if scan["Relation Name"] == table)


@analysed
def test_a_year_of_days_reads_sums_of_days_only(scans: Callable[..., list[Plan]]) -> None:
    found = scans(
        "SELECT * FROM report.daily_throughput t JOIN report.daily_yield y USING (line, production_day)"
        " WHERE line = %(line)s AND production_day BETWEEN '2025-11-22' AND '2026-11-21'",
        line=LINE,
    )
    assert "cell_event" not in {scan["Relation Name"] for scan in found}
    assert {scan["Node Type"] for scan in found if scan["Relation Name"] == "station_sum"} <= {"Index Scan", "Bitmap Heap Scan"}
    assert 0 < read(found, "station_sum") <= DAYS * 21, "no hour, no bucket"
    assert read(found, "line_day") <= 4 * DAYS


@analysed
@pytest.mark.parametrize(
    ("view", "table", "most"),
    [
        ("station_yield", "station_sum", 21 * 23),
        ("defect_pareto", "defect_sum", 200),
        ("shift_throughput", "line_shift", 4),
        ("hourly_throughput", "station_sum", 24 * 21),
        ("completeness", "machine_day", 2 * 400),
        ("daily_characteristic", "reading_sum", 100),
        ("cycle_time", "station_sum", 21 * 23),
    ],
)
def test_one_day_reads_that_day(scans: Callable[..., list[Plan]], view: str, table: str, most: int) -> None:
    found = scans(f"SELECT * FROM report.{view} WHERE line = %(line)s AND production_day = '2026-11-20'", line=LINE)
    assert "cell_event" not in {scan["Relation Name"] for scan in found}
    assert read(found, table) <= most


@pytest.mark.parametrize("year", STATISTICS[:2], indirect=True)
def test_stations_as_they_are_now_read_a_month_and_an_hour(scans: Callable[..., list[Plan]], year: psycopg.Connection[Any]) -> None:
    """All lines at once, as rollup and boards ask for them: 31 days, 24 hours and 13 buckets of each station, of years that there are."""
    with year.transaction(force_rollback=True):
        year.execute("TRUNCATE kpi.station_sum, kpi.line_day")
        year.execute(
            """
            INSERT INTO kpi.line_day (line_id, production_day, starts_at, ends_at, regular_s, scheduled_s, scheduled, events, started, good,
                scrap, unscrapped, unscrapped_booked, late, ahead, last_event_at)
            SELECT line_id, d::date, d, d + interval '1 day', 86400, 86400, tstzmultirange(tstzrange(d, d + interval '1 day')),
                1300000, 50500, 50000, 500, 0, 0, 0, 0, least(d + interval '1 day', now())
            FROM mes.line, generate_series(date_trunc('day', now()) - interval '400 days', now(), interval '1 day') AS d;
            INSERT INTO kpi.station_sum
            SELECT s.line_id, g.grain, t, s.station_id, 50000, 200, 20, 50100, 49900, 50000, 0,
                ARRAY(SELECT (4000 + i)::smallint FROM generate_series(1, 30) AS i), array_fill(1670::bigint, ARRAY[30]), t
            FROM mes.station s, (VALUES ('day'::kpi.grain, interval '1 day', interval '400 days'), ('hour', '1 hour', '100 days'),
                ('bucket', '5 minutes', '4 days')) AS g (grain, step, since),
                generate_series(date_trunc('day', now()) - g.since, now(), g.step) AS t
            """
        )
        found = scans("SELECT * FROM report.station_now")
        told = scans(queries()["figures"])
    assert "cell_event" not in {scan["Relation Name"] for scan in found + told}
    assert 37 * (31 + 23 + 12) <= read(found, "station_sum") <= 37 * (31 + 25 + 14)
    assert read(told, "station_sum") <= 37 * (31 + 25 + 14) + 37 + 2 * 25, "beside that one day of yields"
    assert read(told, "line_day") <= 8 * 2 * 401, "a row a day and line, some times"


def test_the_board_reads_each_view_once_a_line(new_database: Databases) -> None:
    """Joined to the stations, one view was read forty times as long as a new plant's database had no statistics."""
    with psycopg.connect(database := new_database(), autocommit=True, cursor_factory=psycopg.ClientCursor) as connection:
        connection.execute(
            "ALTER TABLE kpi.station_sum SET (autovacuum_enabled = off); ALTER TABLE kpi.line_day SET (autovacuum_enabled = off)"
        )
        now = dt.datetime.now(dt.UTC)
        month(database, now.replace(hour=0, minute=0, second=0, microsecond=0), now)
        found = explained(connection, queries()["board"], day=None, line=None, defects=5)
    assert "cell_event" not in {scan["Relation Name"] for scan in found}
    assert 0 < read(found, "station_sum") <= 10_000


def test_a_station_of_the_board_reads_hours_of_events(scans: Callable[..., list[Plan]]) -> None:
    found = scans(queries()["board_station"], line=LINE, station="wnd", day="2026-11-21")
    assert read(found, "cell_event") <= 2.5 * 3600 / 1.5 * 21, "the two hours before the day ended"
    assert read(found, "station_sum") <= 2 * DAYS * 21


def test_the_life_of_a_cell_is_found_by_its_serial(scans: Callable[..., list[Plan]]) -> None:
    found = scans("SELECT * FROM report.unit_history(%(unit)s)", unit="NJ1-4711")
    events = [scan for scan in found if scan["Relation Name"] == "cell_event"]
    assert {scan["Node Type"] for scan in events} <= {"Index Scan", "Bitmap Heap Scan"}
    assert 0 < read(found, "cell_event") <= 25
    most = 60 if KIND == "embedded" else 5_000  # in a chunk that was never analysed the key of the line is read beside the serials: 14 ms
    assert sum(scan["Shared Hit Blocks"] + scan["Shared Read Blocks"] for scan in events) <= most


def test_the_other_reports_of_a_buckets_cells_are_found_by_their_serials(scans: Callable[..., list[Plan]]) -> None:
    """Not by time, though statistics that are a day old know of no row of today: that would read the day for every cell."""
    begin = dt.datetime(2026, 11, 21, 12, tzinfo=dt.UTC)
    day = dt.datetime(2026, 11, 21, tzinfo=dt.UTC)
    values = {"line": 2, "begin": begin, "end": begin + dt.timedelta(minutes=5), "day_begin": day, "day_end": day + dt.timedelta(days=1)}
    found = scans(queries()["read_witnesses_in_chunks" if KIND == "timescaledb" else "read_witnesses"], **values)
    inner = [scan for scan in found if scan["Relation Name"] == "cell_event" and scan["Actual Loops"] > 100]
    assert inner
    assert all(UNIT.fullmatch(scan.get("Index Name", "cell_event_unit")) for scan in inner)
    loops = max(scan["Actual Loops"] for scan in inner)
    assert sum(met(scan) for scan in inner) <= 60 * loops


def test_known_events_are_looked_for_one_by_one(scans: Callable[..., list[Plan]], year: psycopg.Connection[Any]) -> None:
    """Not by the stretch of time between the first and the last of a batch: a late one makes it long."""
    day = dt.datetime(2026, 11, 21, tzinfo=dt.UTC)
    (line_id,) = year.execute("SELECT line_id FROM mes.line WHERE path = %s", [LINE]).fetchone() or ()
    query = "SELECT at, machine_id, boot, seq FROM mes.cell_event WHERE line_id = %s AND at >= %s ORDER BY at LIMIT 1000"
    keys = list(map(list, zip(*year.execute(query, [line_id, day + dt.timedelta(hours=12)]), strict=True)))
    found = scans(queries()["stored_events"], *keys, line_id, day, day + dt.timedelta(days=1))
    assert sum(scan["Actual Rows"] * scan["Actual Loops"] for scan in found if scan["Relation Name"] == "cell_event") == 1000
    assert read(found, "cell_event") <= 1100
