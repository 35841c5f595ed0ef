"""The database side: migrations, seeding, sums that are functions of the events, views that divide."""

from __future__ import annotations

import datetime as dt
import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psycopg
import pytest

from mes.contract import CellEvent
from mes.errors import ConfigError, Refused, Unavailable
from mes.rollup import recompute_all
from mes.seeds import load_plant
from mes.states import StateEvent
from mes.store.calendars import TURN
from mes.store.connection import connect
from mes.store.events import Writer
from mes.store.migrate import migrate, migrations
from mes.store.seed import SUMS, seed
from tests.conftest import SEEDS
from tests.databases import FIXTURES, Databases
from tests.lines import Line, dump, held, look_at_days, step
from tests.pipeline import AT_MS, GRD, WND, event, rows, value
from tests.servers import wait_for

HOUR_MS = 3_600_000


@pytest.fixture(params=FIXTURES)
def store(request: pytest.FixtureRequest) -> str:
    """A fresh database on each server."""
    databases: Databases = request.getfixturevalue(request.param)
    return databases()


@pytest.fixture
def line(store: str) -> Iterator[Line]:
    with held(store, "nanjing/cells/32140-1") as line:
        yield line


def a_day(n: int = 3000) -> list[CellEvent]:
    """Cells over a production day and a half, with rework and scrap."""
    numbers = np.random.default_rng(7)
    out = []
    for i in range(1, n + 1):
        result, attempt = ("pass", 1) if i % 7 else (("scrap", 1) if i % 2 else ("rework", 1))
        defect = {} if result == "pass" else {"defect": "T01"}
        unit = f"NJ1-26K22-{i // 2 if i % 11 == 0 else i:07d}"
        out.append(
            event(i, timestamp_ms=1_795_300_000_000 + int(numbers.integers(0, 36 * HOUR_MS)), unit=unit, result=result, attempt=attempt,
                  cycle_s=float(numbers.lognormal(1.0, 0.5)), meas={"kneading_force": float(numbers.normal(180, 7))}, **defect)
        )  # fmt: skip
    return out


FLT = WND.replace("/wnd/01/", "/flt/01/")


def test_migrating_twice_applies_nothing_and_a_changed_or_newer_schema_is_refused(store: str) -> None:
    assert migrate(store) == []
    rows(store, "UPDATE mes.schema_migration SET digest = 'other' WHERE number = 2 RETURNING 1")
    with pytest.raises(Refused, match="0002_events has changed"):
        migrate(store)
    rows(store, "INSERT INTO mes.schema_migration (number, name, digest) VALUES (%s, 'later', '') RETURNING 1", len(migrations()) + 1)
    with pytest.raises(Refused, match="newer than this program"):
        migrate(store)


def test_views_are_documented_column_by_column(store: str) -> None:
    bare = rows(
        store,
        "SELECT c.relname, a.attname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " JOIN pg_attribute a ON a.attrelid = c.oid"
        " WHERE n.nspname = 'report' AND a.attnum >= 0 AND col_description(c.oid, a.attnum) IS NULL"
        " UNION ALL SELECT c.relname, NULL FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname = 'report' AND obj_description(c.oid) IS NULL",
    )
    assert bare == []


def test_summing_anew_gives_equal_tables(store: str, line: Line) -> None:
    events = a_day()
    for start in range(0, len(events), 500):  # in pieces, summed in between, each piece touching old buckets
        line.put(FLT, *events[start : start + 500])
        step(store)
    look_at_days(store)
    before = dump(store)
    assert len(before["station_sum"]) > 400
    assert all(before.values())
    for table in SUMS:
        rows(store, f"DELETE FROM kpi.{table} RETURNING 1")
    recompute_all(store, None, None, None, lambda _done, _total: None)
    assert dump(store) == before


def test_order_and_batches_of_events_do_not_matter(new_database: Databases) -> None:
    events = a_day()
    dumps = []
    for order in (events, events[::-1]):
        database = new_database()
        with held(database, "nanjing/cells/32140-1") as line:
            for start in range(0, len(order), 700):
                line.put(FLT, *order[start : start + 700])
        step(database)
        dumps.append(dump(database))
    assert dumps[0] == dumps[1]


def test_sums_equal_plain_sql_over_the_events(store: str, line: Line) -> None:
    line.put(FLT, *a_day())
    step(store)
    day = "(at AT TIME ZONE 'Asia/Shanghai' - interval '8 hours')::date"
    assert rows(store, "SELECT production_day, good, rework, scrap FROM report.station_yield ORDER BY 1") == rows(
        store,
        f"SELECT {day}, count(*) FILTER (WHERE result = 0), count(*) FILTER (WHERE result = 1), count(*) FILTER (WHERE result = 2)"
        " FROM mes.cell_event GROUP BY 1 ORDER BY 1",
    )
    assert rows(store, "SELECT production_day, sum(count) FROM report.defect_pareto GROUP BY 1 ORDER BY 1") == rows(
        store, f"SELECT {day}, count(*) FROM mes.cell_event WHERE defect_id <> 0 GROUP BY 1 ORDER BY 1"
    )


def test_a_late_event_changes_its_own_day_and_no_other(store: str, line: Line) -> None:
    line.put(GRD, *(event(i, timestamp_ms=1_795_312_800_000 + i * 1000) for i in range(1, 11)))
    line.put(GRD, *(event(i, timestamp_ms=1_795_312_800_000 + 48 * HOUR_MS + i * 1000) for i in range(11, 21)))
    step(store)
    query = "SELECT production_day::text, good FROM report.daily_throughput ORDER BY 1"
    assert rows(store, query) == [("2026-11-22", 10), ("2026-11-24", 10)]
    line.put(GRD, event(21, timestamp_ms=1_795_312_800_000))
    step(store)
    assert rows(store, query) == [("2026-11-22", 11), ("2026-11-24", 10)]


WRITTEN = """
SELECT s.code, d.grain::text, d.key, d.sums, d.xmin::text FROM (
    SELECT station_id, grain, '' AS key, (pass, inspected, cycle_n)::text AS sums, xmin FROM kpi.station_sum
    UNION ALL SELECT station_id, grain, slot::text, (n, total)::text, xmin FROM kpi.reading_sum
    UNION ALL SELECT d.station_id, grain, d.code, n::text, x.xmin FROM kpi.defect_sum x JOIN mes.defect d USING (defect_id)
    UNION ALL SELECT station_id, 'day', code, (received, last_seq)::text, x.xmin FROM kpi.machine_day x JOIN mes.machine USING (machine_id)
) AS d JOIN mes.station s USING (station_id) ORDER BY 1, 2, 3, 4
"""
"""Sums, and the transaction that has written each."""


def test_of_the_sums_of_a_day_only_those_that_changed_are_written(store: str, line: Line) -> None:
    """Replaced as a whole three times a second they were nine tenths of what a running plant wrote to its log; but whatever the
    database holds, afterwards it is what the events say."""
    scrapped = {"result": "scrap", "defect": "T01", "meas": {"kneading_force": 180.0}}
    line.put(WND, *(event(i) for i in range(1, 11)))
    line.put(FLT, *(event(i, **scrapped) for i in range(1, 6)))
    step(store)
    before = rows(store, WRITTEN)
    flt = [row for row in before if row[0] == "flt"]
    assert len(flt) == 3 * 3 + 1, "stations, defects and readings of bucket, hour and day; the machine"
    line.put(WND, event(11))
    station, defect = rows(
        store,
        "SELECT station_id, min(defect_id) FROM mes.station s JOIN mes.line l USING (line_id) JOIN mes.defect USING (station_id)"
        " WHERE l.path = %s AND s.code = 'grd' GROUP BY 1",
        line.path,
    )[0]
    for table, key in (("station_sum", {"station_id": station}), ("defect_sum", {"defect_id": defect}), ("reading_sum", {"slot": 99})):
        other = "SELECT DISTINCT ON (grain) (jsonb_populate_record(t, %s::jsonb)).*"
        rows(store, f"INSERT INTO kpi.{table} {other} FROM kpi.{table} AS t RETURNING 1", json.dumps(key))
    rows(
        store, "INSERT INTO kpi.machine_day SELECT line_id, production_day, machine_id, 99, 1, 0, 0, 1, 1 FROM kpi.machine_day RETURNING 1"
    )
    assert len(rows(store, WRITTEN)) > len(before)
    step(store)
    after = rows(store, WRITTEN)
    assert [row[:3] for row in after] == [row[:3] for row in before], "what no event speaks of is gone"
    assert [row for row in after if row[0] == "flt"] == flt, "not written again"
    wnd = [(old, new) for old, new in zip(before, after, strict=True) if new[0] == "wnd"]
    assert len(wnd) == 4
    assert all(old[3:] != new[3:] for old, new in wnd)
    for table in SUMS[:4]:
        rows(store, f"DELETE FROM kpi.{table} WHERE grain <> 'bucket' RETURNING 1")
    rows(store, "UPDATE kpi.station_sum SET pass = 99, cycle_n = '{7}' RETURNING 1")
    rows(store, "UPDATE kpi.reading_sum SET total = 99 RETURNING 1")
    rows(store, "UPDATE kpi.defect_sum SET n = 99 RETURNING 1")
    line.put(WND, event(12))
    step(store)
    assert [row[:4] for row in rows(store, WRITTEN) if row[0] == "flt"] == [row[:4] for row in flt]


def test_a_mark_that_stands_does_not_swallow_a_new_one(store: str, line: Line) -> None:
    """A transaction whose rows a running rollup does not see yet leaves a mark that outlives that rollup."""
    line.put(GRD, event(1))
    with psycopg.connect(store) as slow:  # rows and mark, not yet committed
        slow.execute(
            "INSERT INTO mes.cell_event SELECT at, received_at, 2, machine_id, boot, channel, cycle_s, line_id, station_id, attempt,"
            " result, defect_id, 'NJ1-OTHER', meas, lots FROM mes.cell_event"
        )
        slow.execute("INSERT INTO mes.dirty_bucket (line_id, bucket) SELECT line_id, bucket FROM mes.dirty_bucket LIMIT 1")
        assert step(store) == 1
        assert value(store, "SELECT good FROM report.daily_throughput") == 1
        slow.commit()
    assert step(store) == 1
    assert value(store, "SELECT good FROM report.daily_throughput") == 2


def test_rows_that_come_while_a_rollup_works_are_summed_by_the_next(store: str, line: Line) -> None:
    """Marks are taken before rows are read: what is committed after the reading keeps its mark."""
    line.put(GRD, event(1))
    with psycopg.connect(store, autocommit=True) as connection:
        connection.execute(
            "CREATE FUNCTION kpi.dawdle() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(2); RETURN NULL; END $$;"
            "CREATE TRIGGER dawdle BEFORE INSERT ON kpi.station_sum FOR EACH STATEMENT EXECUTE FUNCTION kpi.dawdle()"
        )
        rollup = threading.Thread(target=step, args=[store, 1])
        rollup.start()
        wait_for(lambda: value(store, "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"), what="rows read")
        line.put(GRD, event(2))
        rollup.join()
        assert value(store, "SELECT good FROM report.daily_throughput") == 1
        connection.execute("DROP TRIGGER dawdle ON kpi.station_sum")
    assert step(store) == 1
    assert value(store, "SELECT good FROM report.daily_throughput") == 2


def test_two_rollups_take_turns_on_a_day(store: str, line: Line) -> None:
    line.put(GRD, event(1))
    with psycopg.connect(store) as other:
        key = (TURN << 32) + (line.writer.line.line_id << 22) + dt.date(2026, 11, 22).toordinal()
        other.execute("SELECT pg_advisory_xact_lock(%s)", [key])
        assert step(store) == 0
        assert value(store, "SELECT count(*) FROM mes.dirty_bucket") == 1
        line.put(GRD, event(2, timestamp_ms=AT_MS + 24 * HOUR_MS))
        assert step(store) == 1, "another day of the line is free"
    assert step(store) == 1


def test_the_lease_is_one_writers_and_ends_with_its_connection(store: str, line: Line) -> None:
    second = Writer.open(store, line.writer.line)
    assert not second.acquire()
    line.writer.close()
    wait_for(second.acquire, what="lease")
    second.close()


def test_empty_denominators_are_null(store: str, line: Line) -> None:
    line.put(FLT, event(1, result="rework", defect="T01"))
    rows(store, "UPDATE mes.target SET cells_per_day = 0 RETURNING 1")
    step(store)
    assert rows(store, "SELECT good, target, attainment FROM report.daily_throughput") == [(0, 0, None)]
    assert rows(store, "SELECT output_yield, rolled_throughput_yield, first_pass_yield FROM report.daily_yield") == [(None, None, None)]
    assert rows(store, "SELECT first_pass_yield, quality_ratio FROM report.station_yield") == [(0.0, 0.0)]


def test_rolled_throughput_yield_is_the_product_over_the_route(store: str, line: Line) -> None:
    stations = load_plant(SEEDS).lines["nanjing/cells/32140-1"].station
    expected = 1.0
    for n, station in enumerate(stations, 1):
        topic = f"umh/v1/cbak/nanjing/cells/32140-1/{station.code}/01/_cell_v1/completed"
        defect = station.defect[0].code if station.defect else None
        bad = 0 if defect is None else n
        line.put(topic, *(event(i, **({"result": "scrap", "defect": defect} if i <= bad else {})) for i in range(1, 101)))
        expected *= (100 - bad) / 100
    step(store)
    assert rows(store, "SELECT rolled_throughput_yield, stations_without_inspection FROM report.daily_yield") == [(expected, 0)]


def test_hours_of_a_day_add_up_to_the_day_and_targets_to_the_target(store: str, line: Line) -> None:
    line.put(GRD, *(event(i, timestamp_ms=1_795_305_600_000 + i * 863_000) for i in range(1, 101)))
    step(store)
    hours = rows(store, "SELECT good, target FROM report.hourly_throughput ORDER BY hour_of_day")
    assert len(hours) == 24
    assert sum(good for good, _ in hours) == value(store, "SELECT good FROM report.daily_throughput") == 100
    assert sum(target for _, target in hours) == pytest.approx(50_000)


@pytest.mark.parametrize("q", [0.01, 0.5, 0.95, 0.99])
def test_quantiles_are_within_a_bin(store: str, line: Line, q: float) -> None:
    events = a_day()
    line.put(FLT, *events)
    step(store)
    day = rows(store, "SELECT min(production_day)::text FROM kpi.line_day")[0][0]
    begin = dt.datetime.fromisoformat(f"{day}T00:00:00+00:00").timestamp() * 1000  # 08:00 in Nanjing
    inside = sorted(float(np.float32(e.cycle_s)) for e in events if begin <= e.timestamp_ms < begin + 24 * HOUR_MS)
    found = value(
        store, "SELECT kpi.quantile(cycle_bin, cycle_n, %s) FROM kpi.station_sum WHERE grain = 'day' ORDER BY starts_at LIMIT 1", q
    )
    assert found == pytest.approx(inside[int(np.ceil(q * len(inside))) - 1], rel=1 / 32)


def test_seeding_keeps_ids_and_takes_in_new_lines_and_characteristics(store: str, tmp_path: Path) -> None:
    folder = tmp_path / "seeds"
    shutil.copytree(SEEDS, folder)
    assert seed(store, load_plant(folder)) is False
    ids = rows(store, "SELECT s.line_id, s.station_id, s.code FROM mes.station s ORDER BY 2")
    slots = rows(store, "SELECT station_id, slot, name FROM mes.characteristic ORDER BY 1, 2")
    text = (folder / "lines/nanjing-32140-1.toml").read_text()
    head, _, tail = text.partition("characteristic = [\n")
    new = '  { name = "glue_mass", unit = "g", nominal = 1, sigma = 0.1, distribution = "normal", sampling = 1, '
    new += 'sampling_basis = "100%", basis = "J" },\n'
    (folder / "lines/nanjing-32140-1.toml").write_text(f"{head}characteristic = [\n{new}{tail}")
    assert seed(store, load_plant(folder)) is True
    assert rows(store, "SELECT s.line_id, s.station_id, s.code FROM mes.station s ORDER BY 2") == ids
    assert [
        row for row in rows(store, "SELECT station_id, slot, name FROM mes.characteristic ORDER BY 1, 2") if row[2] != "glue_mass"
    ] == slots
    assert value(store, "SELECT slot FROM mes.characteristic WHERE name = 'glue_mass'") == 4  # behind the four that stand


def test_seeds_that_are_refused_leave_the_database_unchanged(store: str, tmp_path: Path) -> None:
    folder = tmp_path / "seeds"
    shutil.copytree(SEEDS, folder)
    (folder / "targets.toml").write_text("[[target]]\nline = 'nowhere/a/b'\n")
    before = rows(store, "SELECT * FROM mes.plant_version")
    with pytest.raises(ConfigError, match=r"targets\.toml"):
        seed(store, load_plant(folder))
    assert rows(store, "SELECT * FROM mes.plant_version") == before


def test_what_a_server_says_no_to_is_refused_and_silence_is_unavailable(store: str) -> None:
    with pytest.raises(Refused, match="no_such_database"):
        connect(store.rpartition("/")[0] + "/no_such_database")
    with pytest.raises(Unavailable):
        connect("postgresql://mes@127.0.0.1:1/mes")


def test_who_may_read_report_and_nothing_else_can_read_every_view(store: str, line: Line) -> None:
    line.put(GRD, *(event(i) for i in range(1, 11)), event(11, result="scrap", defect="unheard"), event(12, result="scrap", defect="R01"))
    line.put(GRD, event(13, meas={"dcir_10s": 4.0}))
    line.put(line.topic("grd/01", "state"), StateEvent(1, 15, AT_MS, "execute"))
    step(store)
    with psycopg.connect(store, autocommit=True) as connection:
        connection.execute("UPDATE mes.day_report SET changed_at = changed_at - interval '61 minutes'")
        connection.execute(
            "INSERT INTO mes.alert_history (line_id, name, raised_at, reason) SELECT line_id, 'yield_low', now(), 'r' FROM mes.line"
        )
        connection.execute(
            "INSERT INTO mes.state_event SELECT now(), now(), 99, machine_id, 1, line_id, station_id, 'held', NULL"
            " FROM mes.machine JOIN mes.station USING (station_id) LIMIT 1"
        )
    look_at_days(store)
    line.put(GRD, event(14))
    step(store)
    with psycopg.connect(store) as connection:
        connection.execute("CREATE ROLE dashboard_of_a_test")
        connection.execute("GRANT USAGE ON SCHEMA report TO dashboard_of_a_test")
        connection.execute("GRANT SELECT ON ALL TABLES IN SCHEMA report TO dashboard_of_a_test")
        connection.execute("SET ROLE dashboard_of_a_test")
        views = [name for (name,) in connection.execute("SELECT viewname FROM pg_views WHERE schemaname = 'report'")]
        assert len(views) >= 5
        for view in views:
            assert connection.execute(f"SELECT * FROM report.{view}").fetchall()
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("SELECT * FROM mes.cell_event")
        connection.rollback()
