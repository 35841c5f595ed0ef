"""What only TimescaleDB's Community edition has: columnstore, policies and jobs, with the product's own migrations and statements.

`tests/pglite.py` says what this server can show, and what only a real one would.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from mes.kpi.events import decode
from mes.seeds import load_plant
from mes.store import retention, timescale
from mes.store.connection import connect, queries
from mes.store.migrate import migrate
from mes.store.seed import seed
from tests.conftest import SEEDS
from tests.pglite import Missing, connected, pglite
from tests.servers import missing

LINE = 2  # Nanjing
OLD = dt.datetime.now(dt.UTC).replace(hour=0, minute=0, second=0, microsecond=0) - dt.timedelta(days=20)
DAYS = 3

# Three days of four stations; a cell a minute, every fifth reports again an hour later.
_EVENTS = """
INSERT INTO mes.cell_event
SELECT at, at + interval '1 s', d * 10000 + c * 2 + r, m.machine_id, 1, -1, 7, s.line_id, s.station_id, 1 + r, 0, 0,
    'NJ1-' || d || '-' || c, '{12.5,3.25}', NULL
FROM generate_series(0, %(days)s - 1) AS d, generate_series(1, 300) AS c, generate_series(0, 1) AS r
CROSS JOIN (SELECT station_id, line_id FROM mes.station WHERE line_id = %(line)s ORDER BY seq LIMIT 4) AS s
CROSS JOIN LATERAL (SELECT min(machine_id) AS machine_id FROM mes.machine WHERE station_id = s.station_id) AS m
CROSS JOIN LATERAL (SELECT %(first)s + d * interval '1 day' + c * interval '1 minute' + r * interval '1 hour' AS at) AS t
WHERE r = 0 OR c %% 5 = 0
"""
Connection = psycopg.Connection[Any]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """URL of a database that `mes migrate` has made, with events of three old days."""
    try:
        with pglite() as url:
            said: list[str] = []
            migrate(url, "require", said.append)
            assert len(said) == 1
            assert said[0].startswith("TimescaleDB 2.23.0-dev (Community): hypertables by day; compressed after 7 days, kept for ever")
            with psycopg.connect(url) as connection:
                connection.execute("DEALLOCATE ALL")
            seed(url, load_plant(SEEDS))
            with psycopg.connect(url, autocommit=True, cursor_factory=psycopg.ClientCursor) as connection:
                connection.execute("DEALLOCATE ALL")
                connection.execute(_EVENTS, {"first": OLD, "days": DAYS, "line": LINE})
            yield url
    except Missing as why:
        missing(f"TimescaleDB's Community edition for tests ({why})", "nodejs npm")


@pytest.fixture
def database(server: str) -> Iterator[Connection]:
    with connected(server) as connection:
        yield connection


def value(connection: Connection, statement: str, *values: Any) -> Any:
    row = connection.execute(statement.encode(), values or None).fetchone()
    assert row
    return row[0]


def jobs(connection: Connection) -> list[tuple[Any, ...]]:
    return connection.execute(
        "SELECT job_id, proc_schema || '.' || proc_name, hypertable_name, schedule_interval::text, config ->> 'compress_after'"
        " FROM timescaledb_information.jobs WHERE job_id >= 1000 ORDER BY 2, 3"
    ).fetchall()


def read(connection: Connection) -> dict[str, Any]:
    """What the product's statements find: a bucket, its witnesses, the life of a cell, marks of a day, known events."""
    begin = OLD + dt.timedelta(days=1, hours=2)
    stretch = {"line": LINE, "begin": begin, "end": begin + dt.timedelta(minutes=5)}
    day = {"day_begin": OLD + dt.timedelta(days=1), "day_end": OLD + dt.timedelta(days=2)}
    found: dict[str, Any] = {}
    for name, values in (("read_events", stretch), ("read_witnesses_in_chunks", {**stretch, **day})):
        row = connection.execute(queries()[name], values, binary=True).fetchone()
        assert row
        found[name] = sorted(decode(row[0], 2).seq.tolist())
        assert found[name]
    found["unit_history"] = connection.execute(queries()["unit_history"], ["NJ1-1-5"]).fetchall()
    assert len(found["unit_history"]) == 8
    connection.execute("BEGIN")
    connection.execute(queries()["mark_history"], {"line": LINE, "begin": day["day_begin"], "end": day["day_end"]})
    found["marks"] = connection.execute("SELECT bucket FROM mes.dirty_bucket ORDER BY 1").fetchall()
    connection.execute("ROLLBACK")
    assert len(found["marks"]) > 60
    keys = connection.execute(
        "SELECT array_agg(at), array_agg(machine_id), array_agg(boot), array_agg(seq), min(at), max(at) FROM mes.cell_event"
        " WHERE line_id = %(line)s AND at >= %(begin)s AND at < %(end)s", stretch,
    ).fetchone()  # fmt: skip
    assert keys
    found["stored_events"] = sorted(connection.execute(queries()["stored_events"], [*keys[:4], LINE, *keys[4:]]).fetchall())
    assert len(found["stored_events"]) == len(keys[3])
    return found


def test_policies_and_the_job_are_there_once_and_migrating_again_keeps_them(server: str) -> None:
    with connected(server) as connection:
        before = jobs(connection)
    assert [row[1:] for row in before] == [
        ("_timescaledb_functions.policy_compression", "cell_event", "12:00:00", "7 days"),
        ("_timescaledb_functions.policy_compression", "state_event", "12:00:00", "7 days"),
        ("mes.run_retention", None, "01:00:00", None),
    ]
    said: list[str] = []
    migrate(server, "require", said.append)
    assert "(Community): hypertables by day; compressed after 7 days" in said[0]
    with connected(server) as connection:
        assert jobs(connection) == before


def test_the_setting_of_the_database_is_what_the_policy_does(server: str) -> None:
    with connect(server, autocommit=False) as connection:
        assert timescale.set_compression(connection, 3) is None
    with connected(server) as connection:
        assert [row[4] for row in jobs(connection)] == ["3 days", "3 days", None]
    with connect(server, autocommit=False) as connection:
        assert timescale.set_compression(connection, None) is None
    with connected(server) as connection:
        assert [row[1] for row in jobs(connection)] == ["mes.run_retention"]
    said: list[str] = []
    migrate(server, "require", said.append)
    assert "(Community): hypertables by day; not compressed, kept for ever" in said[0]
    with connect(server, autocommit=False) as connection:
        assert timescale.set_compression(connection, 7) is None
    with connected(server) as connection:
        assert [row[4] for row in jobs(connection)] == ["7 days", "7 days", None]


def test_what_is_compressed_reads_the_same(database: Connection) -> None:
    before = read(database)
    (job,) = [job_id for job_id, _, table, _, _ in jobs(database) if table == "cell_event"]
    database.execute(f"CALL run_job({job})".encode())
    compressed = "SELECT count(*) FROM timescaledb_information.chunks WHERE hypertable_name = 'cell_event' AND is_compressed"
    assert value(database, compressed) == DAYS
    assert read(database) == before
    plan = "\n".join(row[0] for row in database.execute("EXPLAIN SELECT * FROM mes.cell_event WHERE unit = 'NJ1-1-5'").fetchall())
    assert plan.count("bloom1_contains") == DAYS, "batches that cannot hold a serial are not unpacked"


def test_late_events_into_compressed_chunks_are_stored_once(database: Connection) -> None:
    """Known ones in front, between and behind: where TimescaleDB is older than 2.19.1, what follows the first is lost."""
    n = value(database, "SELECT count(*) FROM mes.cell_event")
    late = (
        "INSERT INTO mes.cell_event SELECT at + k * interval '1 s', received_at, seq + k * 1000000, machine_id, boot, channel, cycle_s,"
        " line_id, station_id, attempt, result, defect_id, unit, meas, lots"
        " FROM (SELECT * FROM mes.cell_event WHERE seq IN (10003, 10004, 10010) AND line_id = 2) AS e, generate_series(0, 1) AS k"
        " ORDER BY seq, k ON CONFLICT DO NOTHING RETURNING seq"
    )
    stored = sorted(seq for (seq,) in database.execute(late.encode()).fetchall())
    assert len(stored) == value(database, "SELECT count(*) FROM mes.cell_event WHERE seq IN (10003, 10004, 10010)")
    assert min(stored) > 1_000_000
    assert value(database, "SELECT count(*) FROM mes.cell_event") == n + len(stored)
    assert database.execute(late.encode()).fetchall() == []


def test_late_states_into_compressed_chunks_are_stored_once(database: Connection) -> None:
    """By ingest's own statement, again with a known one in front."""

    def add(*seqs: int) -> list[int]:
        n = len(seqs)
        at = [OLD + dt.timedelta(seconds=seq) for seq in seqs]
        columns = [at, at, list(seqs), [1] * n, [1] * n, [LINE] * n, [1] * n, ["execute"] * n, [None] * n]
        return sorted(row[2] for row in database.execute(queries()["add_states"], columns).fetchall())

    assert add(*range(1, 101)) == list(range(1, 101))
    (job,) = [job_id for job_id, _, table, _, _ in jobs(database) if table == "state_event"]
    database.execute(f"CALL run_job({job})".encode())
    compressed = "SELECT bool_and(is_compressed) FROM timescaledb_information.chunks WHERE hypertable_name = 'state_event'"
    assert value(database, compressed)
    assert add(50, 101, 51, 102, 100) == [101, 102]
    assert value(database, "SELECT count(*) FROM mes.state_event") == 102


def test_an_event_that_is_known_violates_the_key_as_in_a_plain_table(database: Connection) -> None:
    """The writer's COPY goes by this: it then asks which events are known, and stores the rest."""
    known = "INSERT INTO mes.cell_event SELECT * FROM mes.cell_event WHERE seq = 10030 LIMIT 1"
    with pytest.raises(psycopg.errors.UniqueViolation):
        database.execute(known.encode())
    n = value(database, "SELECT count(*) FROM mes.cell_event")
    new = known.replace("SELECT *", "SELECT at, received_at, 7777777, machine_id, boot, channel, cycle_s, line_id, station_id, attempt,"
                                    " result, defect_id, unit, meas, lots")  # fmt: skip
    database.execute(new.encode())
    assert value(database, "SELECT count(*) FROM mes.cell_event") == n + 1


def test_the_job_drops_closed_days_and_no_others(server: str, database: Connection) -> None:
    database.execute(
        "INSERT INTO kpi.line_day (line_id, production_day, starts_at, ends_at, regular_s, scheduled_s, scheduled, events, started, good,"
        " scrap, unscrapped, unscrapped_booked, late, ahead) SELECT 2, d::date, d, d + interval '1 day', 86400, 86400, '{}', 1, 1, 1, 0, 0,"
        " 0, 0, 0 FROM generate_series(%s::timestamptz, %s, interval '1 day') AS d",
        [OLD, OLD + dt.timedelta(days=DAYS - 1)],
    )
    database.execute(
        "INSERT INTO mes.day_report (line_id, production_day, ends_at, good, scrap, events, closed_at) SELECT line_id, production_day,"
        " ends_at, 1, 0, 1, CASE WHEN starts_at < %s THEN now() END FROM kpi.line_day",
        [OLD + dt.timedelta(days=2)],
    )
    (job,) = [job_id for job_id, name, _, _, _ in jobs(database) if name == "mes.run_retention"]
    oldest = "SELECT min(at) FROM mes.cell_event"
    database.execute(f"CALL run_job({job})".encode())
    assert value(database, oldest) < OLD + dt.timedelta(days=1), "events are kept for ever"
    retention.keep(database, 5)
    database.execute(f"CALL run_job({job})".encode())
    assert value(database, oldest) >= OLD + dt.timedelta(days=2), "compressed chunks too, and not the day that is not closed"
    assert retention.settings(database).horizon == OLD + dt.timedelta(days=2)
    assert [(a, b) for a, b, _, _ in retention.dropped(database, 9)] == [
        (OLD + dt.timedelta(days=n), OLD + dt.timedelta(days=n + 1)) for n in (1, 0)
    ]
