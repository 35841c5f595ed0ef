"""How events are read where they lie in chunks of a day: of forty days only those that are meant, and those by their indexes."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from mes.kpi.events import decode
from mes.store.connection import queries
from tests.chunks import ready

LINE = "nanjing/cells/32140-1"
FIRST = dt.datetime(2026, 10, 1, tzinfo=dt.UTC)
DAYS = 40

# Forty days of every station of the line, one cell in 140 s; every seventh reports again at its station three hours later.
_EVENTS = """
INSERT INTO mes.cell_event
SELECT at, at, d * 100000 + c * 100 + s.n * 2 + r, m.machine_id, 1, -1, 7, s.line_id, s.station_id, 1 + r, 0, 0, 'NJ1-' || d || '-' || c,
    '{12.5,3.25}', NULL
FROM generate_series(0, %(days)s - 1) AS d, generate_series(1, 400) AS c, generate_series(0, 1) AS r
CROSS JOIN (
    SELECT station_id, line_id, row_number() OVER (ORDER BY seq) AS n FROM mes.station JOIN mes.line USING (line_id) WHERE path = %(line)s
) AS s
CROSS JOIN LATERAL (SELECT min(machine_id) AS machine_id FROM mes.machine WHERE station_id = s.station_id) AS m
CROSS JOIN LATERAL (
    SELECT %(first)s + d * interval '1 day' + c * interval '140 s' + s.n * interval '10 minutes' + r * interval '3 hours' AS at
) AS t
WHERE r = 0 OR c %% 7 = 0
"""

Plan = dict[str, Any]
Scans = Callable[..., list[Plan]]


@pytest.fixture(scope="module", params=["without statistics", "with statistics"])
def connection(request: pytest.FixtureRequest) -> Iterator[psycopg.Connection[Any]]:
    with ready() as make, psycopg.connect(make(), autocommit=True, cursor_factory=psycopg.ClientCursor) as connection:
        connection.execute("ALTER TABLE mes.cell_event SET (autovacuum_enabled = off)")
        connection.execute("SET timezone = 'UTC'")
        connection.execute(_EVENTS, {"first": FIRST, "days": DAYS, "line": LINE})
        if request.param == "with statistics":
            connection.execute("VACUUM ANALYZE")
        yield connection


@pytest.fixture
def line_id(connection: psycopg.Connection[Any]) -> int:
    row = connection.execute("SELECT line_id FROM mes.line WHERE path = %s", [LINE]).fetchone()
    assert row
    return int(row[0])


def nodes(plan: Plan) -> Iterator[Plan]:
    yield plan
    for child in plan.get("Plans", []):
        yield from nodes(child)


@pytest.fixture
def scans(connection: psycopg.Connection[Any]) -> Scans:
    """Explains a statement, having run it; returns how it reads chunks."""

    def explain(statement: str, values: Any) -> list[Plan]:
        found = connection.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}".encode(), values).fetchone()
        assert found
        document = found[0] if isinstance(found[0], list) else json.loads(found[0])
        print(statement[:60], document[0]["Execution Time"], "ms, planned in", document[0]["Planning Time"])
        plans = [node for node in nodes(document[0]["Plan"]) if node.get("Relation Name", "").startswith("_hyper_")]
        assert plans
        return plans

    return explain


def chunks(plans: list[Plan]) -> set[str]:
    return {plan["Relation Name"] for plan in plans}


def stretch(line_id: int, day_begin: dt.datetime, after: dt.timedelta = dt.timedelta(hours=12)) -> dict[str, Any]:
    """A bucket of five minutes and its production day."""
    begin = day_begin + after
    end = begin + dt.timedelta(minutes=5)
    return {"line": line_id, "begin": begin, "end": end, "day_begin": day_begin, "day_end": day_begin + dt.timedelta(days=1)}


@pytest.mark.parametrize("prepared", [False, True])
@pytest.mark.parametrize(("hour", "most"), [(0, 1), (12, 2)])
@pytest.mark.parametrize("name", ["read_events", "read_witnesses_in_chunks"])
def test_a_bucket_is_summed_from_the_chunks_of_its_production_day(
    scans: Scans, connection: psycopg.Connection[Any], line_id: int, name: str, hour: int, most: int, prepared: bool
) -> None:
    """One, or two where days begin at noon UTC; also by a plan that was made for any time."""
    values = stretch(line_id, FIRST + dt.timedelta(20, hours=hour))
    statement = queries()[name]
    if not prepared:
        found = scans(statement, values)
        assert len(chunks(found)) <= most
    else:
        types = {"line": "smallint"}
        for n, key in enumerate(values, 1):
            statement = statement.replace(f"%({key})s", f"${n}")
        connection.execute("SET plan_cache_mode = force_generic_plan")
        connection.execute(f"PREPARE reading ({', '.join(types.get(key, 'timestamptz') for key in values)}) AS {statement}".encode())
        try:
            found = [plan for plan in scans("EXECUTE reading (%s, %s, %s, %s, %s)", list(values.values())) if plan["Actual Loops"]]
        finally:
            connection.execute("DEALLOCATE reading")
            connection.execute("RESET plan_cache_mode")
        assert len(chunks(found)) <= most
    assert {plan["Node Type"] for plan in found} <= {"Index Scan", "Index Only Scan", "Bitmap Heap Scan"}


def test_other_reports_of_a_buckets_cells_are_found_by_their_serials(scans: Scans, line_id: int) -> None:
    found = scans(queries()["read_witnesses_in_chunks"], stretch(line_id, FIRST + dt.timedelta(20)))
    inner = [plan for plan in found if plan["Actual Loops"] > 1]
    assert inner
    assert {plan.get("Index Name", "cell_event_unit").partition("_chunk_")[2] or "cell_event_unit" for plan in inner} == {"cell_event_unit"}
    assert sum((plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0)) for plan in inner) <= 60


@pytest.mark.parametrize("hour", [0, 12])
def test_the_other_reports_are_those_that_are_there(connection: psycopg.Connection[Any], line_id: int, hour: int) -> None:
    """Against the obvious: every report of the day of a cell and station that the bucket holds, outside of it."""
    n = 0
    for hours in range(0, 23, 2):
        values = stretch(line_id, FIRST + dt.timedelta(20, hours=hour), dt.timedelta(hours=hours))
        with psycopg.Cursor(connection) as cursor:
            row = cursor.execute(queries()["read_witnesses_in_chunks"], values, binary=True).fetchone()
        assert row
        found = sorted(decode(row[0] or b"", 2).seq.tolist())
        expected = connection.execute(
            "SELECT seq, at FROM mes.cell_event WHERE line_id = %(line)s AND at >= %(day_begin)s AND at < %(day_end)s"
            " AND NOT (at >= %(begin)s AND at < %(end)s) AND (unit, station_id) IN ("
            "SELECT unit, station_id FROM mes.cell_event WHERE line_id = %(line)s AND at >= %(begin)s AND at < %(end)s) ORDER BY 1",
            values,
        ).fetchall()
        assert found == [seq for seq, _ in expected]
        later = {at - dt.timedelta(minutes=at.minute % 5, seconds=at.second) for _, at in expected if at >= values["end"]}
        assert set(row[1]) == later
        n += len(found)
    assert n > 50


def test_the_life_of_a_cell_is_found_by_the_index_of_every_chunk(scans: Scans) -> None:
    found = scans(queries()["unit_history"], ["NJ1-20-77"])
    assert len(chunks(found)) >= DAYS
    assert {plan["Node Type"] for plan in found} <= {"Index Scan", "Bitmap Heap Scan"}
    assert sum(plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0) for plan in found) == 42


def test_marking_history_reads_a_day_at_a_time(scans: Scans, connection: psycopg.Connection[Any], line_id: int) -> None:
    begin = FIRST + dt.timedelta(20)
    connection.execute("BEGIN")
    found = scans(queries()["mark_history"], {"line": line_id, "begin": begin, "end": begin + dt.timedelta(days=1)})
    row = connection.execute("SELECT count(*) FROM mes.dirty_bucket").fetchone()
    connection.execute("ROLLBACK")
    assert row
    assert row[0] > 200
    assert len(chunks(found)) == 1
    assert {plan["Node Type"] for plan in found} <= {"Index Scan", "Index Only Scan"}
    days = connection.execute(
        queries()["history_days"], {"line": line_id, "begin": FIRST, "end": FIRST + dt.timedelta(days=DAYS)}
    ).fetchall()
    assert days == [(FIRST + dt.timedelta(n),) for n in range(DAYS)]


def test_known_events_are_looked_for_where_their_times_are(scans: Scans, connection: psycopg.Connection[Any], line_id: int) -> None:
    begin = FIRST + dt.timedelta(20)
    keys = connection.execute(
        "SELECT array_agg(at), array_agg(machine_id), array_agg(boot), array_agg(seq), min(at), max(at) FROM mes.cell_event"
        " WHERE line_id = %s AND at >= %s AND at < %s",
        [line_id, begin, begin + dt.timedelta(hours=1)],
    ).fetchone()
    assert keys
    found = scans(queries()["stored_events"], [*keys[:4], line_id, *keys[4:]])
    assert len(chunks(found)) == 1
