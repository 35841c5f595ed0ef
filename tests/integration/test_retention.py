"""Events are dropped by whole days, never before their sums stand, and no figure changes by it: on plain PostgreSQL and in chunks."""

from __future__ import annotations

import contextlib
import datetime as dt
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from mes.batch import Batch
from mes.contract import CellEvent, encode
from mes.errors import ConfigError, MesError, Unavailable
from mes.rollup import recompute_all
from mes.seeds import load_plant
from mes.store import quarantine, retention
from mes.store.connection import connect, queries
from mes.store.corrections import unscrap
from mes.store.seed import SUMS, seed
from mes.store.sums import Rollup
from tests.chunks import Databases, ready
from tests.conftest import SEEDS
from tests.lines import Line, dump, held, look_at_days, step
from tests.pipeline import AT_MS, environment, event, rows, service, value
from tests.servers import wait_for

NANJING, DALIAN = "nanjing/cells/32140-1", "dalian/cells/26650-1"
MINUTE, HOUR, DAY_MS = 60_000, 3_600_000, 86_400_000
FIRST_MS = AT_MS - 10 * DAY_MS  # 10:00 in Nanjing on the first of the days below
FIRST = dt.date(2026, 11, 12)
DAYS = 4


@pytest.fixture(scope="module")
def chunked_databases() -> Iterator[Databases]:
    with ready() as make:
        yield make


@pytest.fixture(params=["new_database", "chunked_databases"])
def store(request: pytest.FixtureRequest) -> str:
    """A fresh database on plain PostgreSQL, then on TimescaleDB."""
    databases: Databases = request.getfixturevalue(request.param)
    return databases()


@pytest.fixture
def line(store: str) -> Iterator[Line]:
    with held(store, NANJING) as line:
        yield line


def cells(day: int, n: int = 20, first: int = 1, **changes: Any) -> list[CellEvent]:
    """Reports of one machine on a day, numbered on from those of the days before."""
    return [
        event(day * 1000 + first + k, timestamp_ms=FIRST_MS + day * DAY_MS + k * MINUTE, unit=f"S{day}-{first + k}", **changes)
        for k in range(n)
    ]


def work(line: Line, days: int = DAYS) -> None:
    for day in range(days):
        line.put(line.topic("wnd/01"), *cells(day))
        line.put(line.topic("grd/01"), *cells(day), *cells(day, 1, 21, result="scrap", defect="R01"))


def close_days(database: str) -> None:
    """Sum what is marked, let time pass without change, and close what is over."""
    step(database)
    for _ in range(2):  # the second time for days that the first opens
        look_at_days(database)
        with psycopg.connect(database, autocommit=True) as connection:
            connection.execute("UPDATE mes.day_report SET changed_at = changed_at - interval '61 minutes'")
    look_at_days(database)


def keep(database: str, days: int | None) -> None:
    with connect(database) as connection:
        retention.keep(connection, days)


def kept_days(gone: int) -> int:
    """For how long to keep events so that those of the first so many days above may go."""
    return (dt.datetime.now(dt.UTC).date() - FIRST).days - gone


def drop(database: str, gone: int) -> list[dt.datetime]:
    keep(database, kept_days(gone))
    return list(retention.run(database))


def midnight(day: int) -> dt.datetime:
    return dt.datetime.combine(FIRST + dt.timedelta(day), dt.time(), dt.UTC)


def stored_days(database: str) -> list[dt.date]:
    return [day for (day,) in rows(database, "SELECT DISTINCT (at AT TIME ZONE 'UTC')::date FROM mes.cell_event ORDER BY 1")]


def days(*numbers: int) -> list[dt.date]:
    return [FIRST + dt.timedelta(n) for n in numbers]


def reasons(database: str) -> dict[str, int]:
    return dict(rows(database, "SELECT reason, count(*) FROM mes.quarantine GROUP BY 1"))


def again(database: str) -> list[str]:
    """Sum history anew; what is said of days that stay as they are, of which no bucket is summed."""
    said: list[str] = []
    horizon = value(database, "SELECT coalesce(max(horizon), '-infinity')::text FROM mes.line_horizon")
    query = "SELECT count(DISTINCT bucket) FROM (SELECT line_id, starts_at AS bucket FROM kpi.station_sum WHERE grain = 'bucket'"
    query += " UNION SELECT line_id, starts_at FROM kpi.line_day) AS x WHERE bucket >= %s"
    expected = value(database, query, horizon)
    assert recompute_all(database, None, None, None, lambda _done, _total: None, said.append) == expected
    return said


# -- what goes, and what stays ------------------------------------------------------------------------------------------


def test_nothing_is_dropped_unless_it_is_said_for_how_long_events_are_kept(store: str, line: Line) -> None:
    work(line)
    close_days(store)
    assert list(retention.run(store)) == []
    keep(store, 36500)
    assert list(retention.run(store)) == []
    keep(store, None)
    assert list(retention.run(store)) == []
    assert stored_days(store) == days(0, 1, 2, 3)


def test_closed_days_go_and_their_figures_stay(store: str, line: Line) -> None:
    work(line)
    close_days(store)
    before = dump(store)
    assert drop(store, 2) == [midnight(1), midnight(2)]
    assert stored_days(store) == days(2, 3)
    with connect(store) as connection:
        assert retention.settings(connection).horizon == midnight(2)
        assert [(begins, ends) for begins, ends, _, _ in retention.dropped(connection, 9)] == [
            (midnight(1), midnight(2)), (midnight(0), midnight(1)),
        ]  # fmt: skip
    assert dump(store) == before
    assert list(retention.run(store)) == [], "again drops nothing"
    assert rows(store, "SELECT good, scrap, events FROM report.daily_throughput WHERE production_day = %s", FIRST) == [(20, 1, 41)]
    if value(store, "SELECT to_regclass('timescaledb_information.chunks')"):
        assert value(store, "SELECT count(*) FROM timescaledb_information.chunks WHERE hypertable_name = 'cell_event'") == 2


def test_the_postgresql_of_debian_does_it_too(debian_databases: Databases) -> None:
    """Version 15 where Debian 12 is."""
    store = debian_databases()
    with held(store, NANJING) as line:
        work(line)
        close_days(store)
        before = dump(store)
        assert drop(store, 2) == [midnight(1), midnight(2)]
        keep(store, kept_days(3))
        with psycopg.connect(store, autocommit=True) as connection:
            connection.execute("CALL mes.run_retention()")
        assert stored_days(store) == days(3)
        again(store)
        assert dump(store) == before
        line.put(line.topic("wnd/01"), event(9001, timestamp_ms=FIRST_MS))
    assert reasons(store) == {"before_retention": 1}


def test_a_day_that_is_not_closed_on_every_line_keeps_itself_and_all_after_it(store: str, line: Line) -> None:
    work(line)
    with held(store, DALIAN) as other:
        other.put(other.topic("wnd/01"), *cells(0), *cells(2))
    close_days(store)
    with psycopg.connect(store, autocommit=True) as connection:
        line_id = other.writer.line.line_id
        connection.execute("UPDATE mes.day_report SET closed_at = NULL WHERE line_id = %s AND production_day = %s", [line_id, *days(2)])
    assert drop(store, 4) == [midnight(1), midnight(2)]
    with connect(store) as connection:
        outlook = retention.outlook(connection, kept_days(4))
    assert (outlook.upto, outlook.wanted, outlook.waits) == (midnight(2), midnight(4), [(DALIAN, days(2)[0], None)])
    look_at_days(store)
    assert list(retention.run(store)) == [midnight(3), midnight(4)]
    assert stored_days(store) == []


@pytest.mark.parametrize("has_been_summed", [True, False])
def test_a_marked_bucket_keeps_its_day(store: str, line: Line, has_been_summed: bool) -> None:
    work(line)
    close_days(store)
    at_ms = FIRST_MS + DAY_MS + HOUR if has_been_summed else FIRST_MS - 40 * DAY_MS
    line.put(line.topic("wnd/01"), event(9001, timestamp_ms=at_ms))
    assert drop(store, 4) == ([midnight(1)] if has_been_summed else [])
    close_days(store)
    assert len(list(retention.run(store))) == (3 if has_been_summed else 5)
    assert value(store, "SELECT sum(events) FROM report.daily_throughput") == DAYS * 41 + 1, "and it was counted"


def test_marks_that_a_rollup_has_taken_and_not_committed_keep_their_day(store: str, line: Line) -> None:
    work(line)
    close_days(store)
    line.put(line.topic("wnd/01"), event(9001, timestamp_ms=FIRST_MS + HOUR))
    with psycopg.connect(store) as rollup:
        assert rollup.execute("DELETE FROM mes.dirty_bucket RETURNING 1").fetchall()
        assert drop(store, 4) == []
        rollup.rollback()
    assert stored_days(store) == days(0, 1, 2, 3)


def test_what_was_interrupted_goes_on(store: str, line: Line) -> None:
    """The horizon is said first: who comes after a crash drops what lies before it, and nobody has counted it meanwhile."""
    work(line)
    close_days(store)
    before = dump(store)
    keep(store, kept_days(3))
    rows(store, "SELECT mes.advance_horizon()")
    rows(store, "SELECT mes.drop_events()")
    assert stored_days(store) == days(1, 2, 3)
    assert len(again(store)) == 1
    assert dump(store) == before
    keep(store, None)
    assert list(retention.run(store)) == [midnight(2), midnight(3)]
    assert dump(store) == before


def test_a_shorter_time_drops_more_and_a_longer_one_brings_nothing_back(store: str, line: Line) -> None:
    work(line)
    close_days(store)
    assert len(drop(store, 1)) == 1
    assert len(drop(store, 3)) == 2
    assert drop(store, 1) == []
    with connect(store) as connection:
        assert retention.settings(connection).horizon == midnight(3)
    line.put(line.topic("wnd/01"), event(9001, timestamp_ms=FIRST_MS + DAY_MS))
    assert reasons(store) == {"before_retention": 1}


def test_a_reader_of_a_day_that_is_about_to_go_is_waited_for_and_never_in_a_deadlock(store: str, line: Line) -> None:
    work(line)
    close_days(store)
    keep(store, kept_days(1))
    table = "mes.cell_event"
    if value(store, "SELECT to_regclass('timescaledb_information.chunks')"):
        table = value(store, "SELECT min(format('%I.%I', chunk_schema, chunk_name)) FROM timescaledb_information.chunks")
    dropped: list[dt.datetime] = []
    with psycopg.connect(store) as reading:
        reading.execute(f"LOCK TABLE {table} IN ACCESS SHARE MODE".encode())
        dropping = threading.Thread(target=lambda: dropped.extend(retention.run(store)))
        dropping.start()
        waits = (
            "SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database WHERE NOT granted AND datname = current_database()"
        )
        if table != "mes.cell_event":
            wait_for(lambda: value(store, waits) == 1, what="the drop waits")
        assert reading.execute(f"SELECT count(*) FROM {table} WHERE unit = 'S0-1'".encode()).fetchone() == (2,)
    dropping.join()
    assert dropped == [midnight(1)]


def test_a_day_that_is_read_for_long_goes_later(store: str, line: Line) -> None:
    work(line)
    close_days(store)
    keep(store, kept_days(1))
    with psycopg.connect(store) as reading:
        reading.execute("SELECT count(*) FROM mes.cell_event")
        if value(store, "SELECT to_regclass('timescaledb_information.chunks')"):
            with pytest.raises(Unavailable, match="lock timeout"):
                list(retention.run(store))
            line.put(line.topic("wnd/01"), event(9001, timestamp_ms=FIRST_MS), event(9002, timestamp_ms=FIRST_MS + 3 * DAY_MS))
            assert reasons(store) == {"before_retention": 1}, "said to be going, and waited for"
    assert len(list(retention.run(store))) == 1
    assert stored_days(store) == days(1, 2, 3)


# -- sums stand ---------------------------------------------------------------------------------------------------------


def test_summing_history_anew_leaves_days_without_events_and_says_which(store: str, line: Line) -> None:
    work(line)
    close_days(store)
    before = dump(store)
    drop(store, 2)
    assert again(store) == [f"{NANJING}: days 2026-11-12 to 2026-11-13 stay as they are (2): their events are gone"]
    assert dump(store) == before
    said: list[str] = []
    recompute_all(store, NANJING, FIRST, FIRST, lambda _done, _total: None, said.append)
    assert said == [f"{NANJING}: days 2026-11-12 to 2026-11-12 stay as they are (1): their events are gone"]
    recompute_all(store, None, FIRST + dt.timedelta(2), None, lambda _done, _total: None, said.append)
    assert len(said) == 1, "nothing is said of days that nobody asked for"
    assert dump(store) == before


def test_the_command_says_which_days_it_left(store: str, line: Line) -> None:
    work(line)
    close_days(store)
    drop(store, 2)
    done = subprocess.run(
        [sys.executable, "-m", "mes", "rollup", "--all"],
        env=environment(store, ""),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert f"{NANJING}: days 2026-11-12 to 2026-11-13 stay as they are (2): their events are gone" in done.stdout.splitlines()


def test_marks_on_days_without_events_change_no_figure(store: str, line: Line) -> None:
    """Whoever sets them: no day becomes nothing."""
    work(line)
    close_days(store)
    before = dump(store)
    drop(store, 3)
    with psycopg.connect(store, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO mes.dirty_bucket (line_id, bucket) SELECT line_id, starts_at FROM kpi.station_sum WHERE grain = 'bucket'"
        )
        connection.execute("INSERT INTO mes.dirty_bucket (line_id, bucket) SELECT line_id, starts_at FROM kpi.line_day")
    assert step(store)
    assert value(store, "SELECT count(*) FROM mes.dirty_bucket") == 0
    assert dump(store) == before
    assert rows(store, "SELECT * FROM mes.restatement") == []


def test_a_day_whose_sums_are_lost_too_keeps_what_it_reported(store: str, line: Line) -> None:
    work(line)
    close_days(store)
    drop(store, 1)
    with psycopg.connect(store, autocommit=True) as connection:
        connection.execute("DELETE FROM kpi.station_sum")
        connection.execute("INSERT INTO mes.dirty_bucket (line_id, bucket) SELECT line_id, starts_at FROM kpi.line_day")
    step(store)
    assert rows(store, "SELECT good, events FROM report.daily_throughput WHERE production_day = %s", FIRST) == [(20, 41)]


def test_holidays_and_stops_still_change_the_target_of_a_day_without_events(store: str, line: Line, tmp_path: Path) -> None:
    work(line)
    close_days(store)
    drop(store, 2)
    folder = tmp_path / "seeds"
    shutil.copytree(SEEDS, folder)
    path = folder / "sites/nanjing.toml"
    text = path.read_text(encoding="utf-8")
    path.write_text(
        f'{text}\n[[site.planned_stop]]\nfrom = {FIRST}T08:00:00\nto = {FIRST}T20:00:00\nreason = "power"\n'
        f'\n[[site.holiday]]\nday = {FIRST + dt.timedelta(1)}\nname = "a day of the test"\n',
        encoding="utf-8",
    )
    assert seed(store, load_plant(folder))
    step(store)
    query = "SELECT production_day, good, scrap, events, target FROM report.daily_throughput WHERE line = %s ORDER BY 1 LIMIT 3"
    assert rows(store, query, NANJING) == [(day, 20, 1, 41, target) for day, target in zip(days(0, 1, 2), (25_000, 0, 50_000), strict=True)]
    shifts = "SELECT good FROM report.shift_throughput WHERE line = %s AND production_day = %s ORDER BY shift_of_day"
    assert rows(store, shifts, NANJING, FIRST) == [(20,), (0,)]


def test_days_cannot_begin_elsewhere_once_events_are_gone(store: str, line: Line, tmp_path: Path) -> None:
    work(line)
    close_days(store)
    before = dump(store)
    folder = tmp_path / "seeds"
    shutil.copytree(SEEDS, folder)
    path = folder / "sites/nanjing.toml"
    text = path.read_text(encoding="utf-8").replace("08:00:00", "06:00:00").replace("20:00:00", "18:00:00")
    path.write_text(text, encoding="utf-8")
    drop(store, 2)
    version = value(store, "SELECT max(version) FROM mes.plant_version")
    with pytest.raises(ConfigError, match=f"line {NANJING}: its days cannot begin elsewhere, as the events of 2 of them, up to 2026-11-13"):
        seed(store, load_plant(folder))
    assert value(store, "SELECT max(version) FROM mes.plant_version") == version
    step(store)
    assert dump(store) == before


def test_scrap_of_a_day_without_events_can_no_longer_be_taken_back_and_says_why(store: str, line: Line) -> None:
    work(line)
    close_days(store)
    drop(store, 1)
    with connect(store) as connection:
        with pytest.raises(
            ConfigError, match=r"'S0-21': no report of scrap is stored \(events before 2026-11-13 00:00Z have been dropped\)"
        ):
            unscrap(connection, "S0-21", None, "found")
        assert unscrap(connection, "S1-21", None, "found").seq == 1021
    step(store)
    assert rows(store, "SELECT scrap_restated FROM report.daily_throughput WHERE line = %s ORDER BY production_day LIMIT 2", NANJING) == [
        (1,), (0,),
    ]  # fmt: skip


# -- what comes too late ------------------------------------------------------------------------------------------------


def test_an_event_from_before_is_set_aside_and_its_neighbours_are_stored(store: str, line: Line) -> None:
    work(line)
    close_days(store)
    drop(store, 2)
    before = dump(store)
    late = [event(seq, timestamp_ms=ms, unit=f"L{seq}") for seq, ms in ((5001, FIRST_MS), (5002, FIRST_MS + 3 * DAY_MS), (5003, FIRST_MS))]
    line.put(line.topic("wnd/02"), *late)
    assert rows(store, "SELECT seq FROM mes.cell_event WHERE seq > 5000") == [(5002,)]
    kept = rows(store, "SELECT reason, detail, topic, payload, boot, seq, counted FROM mes.quarantine ORDER BY seq")
    detail = "2026-11-12 02:00:00Z is before 2026-11-14 00:00Z: events of that time have been dropped, its figures stand"
    assert kept == [("before_retention", detail, line.topic("wnd/02"), encode(late[n]), 1, late[n].seq, True) for n in (0, 2)]
    assert value(store, "SELECT received::text FROM mes.machine_ledger WHERE received @> 5001::bigint") == "{[5001,5004)}", "acknowledged"
    step(store)
    after = dump(store)
    changed = {name: set(after[name]) ^ set(before[name]) for name in SUMS}
    assert all("2026-11-12" not in row and "2026-11-13" not in row for some in changed.values() for row in some)
    line.put(line.topic("wnd/02"), *late)  # all of it again
    assert value(store, "SELECT sum(duplicates) FROM mes.machine_ledger") == 3
    assert reasons(store) == {"before_retention": 2}


def test_a_worker_whose_batch_was_decoded_before_sets_aside_what_has_gone_meanwhile(store: str, line: Line) -> None:
    """The horizon that counts is the one of the commit."""
    work(line)
    close_days(store)
    batch = Batch()
    for seq, ms in ((5001, FIRST_MS), (5002, FIRST_MS + 3 * DAY_MS)):
        batch.add(line.topic("wnd/02"), encode(event(seq, timestamp_ms=ms)), line.equipment, line.ledger)
    drop(store, 2)
    assert line.writer.commit(batch) == 1
    assert (batch.events, len(batch.quarantined)) == (1, 1)
    assert value(store, "SELECT min(at) FROM mes.cell_event") >= midnight(2)


def test_a_commit_that_comes_while_the_horizon_moves_waits_for_it(store: str, line: Line) -> None:
    work(line)
    close_days(store)
    keep(store, kept_days(2))
    batch = Batch()
    batch.add(line.topic("wnd/02"), encode(event(5001, timestamp_ms=FIRST_MS)), line.equipment, line.ledger)
    with psycopg.connect(store) as moving:
        moving.execute("SELECT mes.advance_horizon()")
        writing = threading.Thread(target=line.writer.commit, args=[batch])
        writing.start()
        waits = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND objid = 1835365220"
        wait_for(lambda: value(store, waits) == 1, what="the commit waits")
        moving.commit()
        writing.join()
    assert reasons(store) == {"before_retention": 1}
    assert value(store, "SELECT count(*) FROM mes.cell_event WHERE seq = 5001") == 0


def test_a_commit_under_way_keeps_the_horizon_where_it_is(store: str, line: Line) -> None:
    work(line)
    close_days(store)
    keep(store, kept_days(2))
    with psycopg.connect(store) as committing:
        assert committing.execute(queries()["hold_events"], [line.writer.line.line_id]).fetchone() == (None,)
        with pytest.raises(Unavailable, match="lock timeout"):
            list(retention.run(store))
    assert len(list(retention.run(store))) == 2


def test_late_events_and_runs_at_once_lose_nothing_and_store_nothing_that_nobody_counts(store: str, line: Line) -> None:
    """A machine sends what it has kept for days while one day after the other goes."""
    work(line)
    close_days(store)
    sent = [event(6000 + n, timestamp_ms=FIRST_MS + n % 4 * DAY_MS + n * 1000, unit=f"T{n}") for n in range(200)]
    done = threading.Event()
    broken: list[MesError] = []

    def drop_days() -> None:
        try:
            for gone in (1, 2, 3):
                keep(store, kept_days(gone))
                for _ in range(2):
                    with contextlib.suppress(Unavailable):
                        list(retention.run(store))
                close_days(store)
        except MesError as why:
            broken.append(why)
        finally:
            done.set()

    dropping = threading.Thread(target=drop_days)
    dropping.start()
    for start in range(0, len(sent), 5):
        line.put(line.topic("wnd/03"), *sent[start : start + 5])
    dropping.join()
    assert not broken
    assert done.is_set()
    close_days(store)
    horizon = value(store, "SELECT horizon FROM mes.retention")
    aside = value(store, "SELECT count(*) FROM mes.quarantine WHERE reason = 'before_retention'")
    assert value(store, "SELECT count(*) FROM mes.cell_event WHERE at < %s", horizon) == 0
    assert value(store, "SELECT sum(events) FROM report.daily_throughput") == DAYS * 41 + len(sent) - aside
    assert value(store, "SELECT sum(upper(r) - lower(r)) FROM mes.machine_ledger, unnest(received) AS r") == DAYS * 41 + len(sent)


def test_a_replay_of_what_is_from_before_keeps_it_and_counts_nothing(store: str, line: Line) -> None:
    """Whether it was set aside because of its time, or understood only now."""
    work(line)
    close_days(store)
    unknown = event(5001, timestamp_ms=FIRST_MS, result="scrap", defect="W99")
    line.put(line.topic("wnd/02"), unknown, unknown)
    line.put(line.topic("wnd/02"), event(5002, timestamp_ms=FIRST_MS + 3 * DAY_MS, result="scrap", defect="W99"))
    assert value(store, "SELECT max(times) FROM mes.quarantine") == 2
    with psycopg.connect(store, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO mes.defect (station_id, code, name) SELECT station_id, 'W99', 'new' FROM mes.station WHERE code = 'wnd'"
        )
    drop(store, 2)
    line.put(line.topic("wnd/03"), event(5003, timestamp_ms=FIRST_MS))
    duplicates = value(store, "SELECT sum(duplicates) FROM mes.machine_ledger")
    close_days(store)
    for stored in (1, 0):
        outcome = quarantine.replay(store, quarantine.Selection())
        assert (outcome.understood, outcome.stored, outcome.duplicates) == (stored, stored, 0)
        assert {reason: n for reason, (n, _) in outcome.stays.items()} == {"before_retention": 2}
    entries = rows(store, "SELECT seq, reason, times, payload FROM mes.quarantine ORDER BY seq")
    assert [row[:3] for row in entries] == [(5001, "before_retention", 2), (5003, "before_retention", 1)]
    assert entries[0][3] == encode(unknown)
    assert value(store, "SELECT sum(duplicates) FROM mes.machine_ledger") == duplicates
    close_days(store)
    assert rows(store, "SELECT scrap FROM report.daily_throughput WHERE line = %s ORDER BY production_day LIMIT 4", NANJING) == [
        (1,), (1,), (1,), (2,),
    ]  # fmt: skip
    with connect(store) as connection:
        assert quarantine.discard(connection, quarantine.select(connection, quarantine.Selection()), "too late") == 2


def test_an_array_of_the_quarantine_is_taken_apart_at_the_horizon(store: str, line: Line) -> None:
    work(line)
    close_days(store)
    old, new = (event(seq, timestamp_ms=FIRST_MS + day * DAY_MS, unit="x") for seq, day in ((5001, 0), (5002, 3)))
    payload = encode([old, new])
    with psycopg.connect(store, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO mes.quarantine (reason, detail, topic, payload, digest) VALUES ('not_json', '', %s, %s, '')",
            [line.topic("wnd/02"), payload],
        )
    drop(store, 2)
    outcome = quarantine.replay(store, quarantine.Selection())
    assert (outcome.understood, outcome.stored) == (1, 1)
    assert rows(store, "SELECT reason, payload FROM mes.quarantine") == [("before_retention", encode(old))]


# -- days that are not UTC's --------------------------------------------------------------------------------------------


def test_a_production_day_in_which_the_horizon_lies_is_gone_as_a_whole(store: str, tmp_path: Path) -> None:
    """Where days begin at noon UTC, half of the events of one are still there: it is not summed from them, and takes no more."""
    folder = tmp_path / "seeds"
    shutil.copytree(SEEDS, folder)
    path = folder / "sites/nanjing.toml"
    path.write_text(path.read_text(encoding="utf-8").replace("Asia/Shanghai", "America/Chicago").replace("08:00:00", "06:00:00"))
    path.write_text(path.read_text(encoding="utf-8").replace("20:00:00", "18:00:00"))
    assert seed(store, load_plant(folder))
    noon_ms = FIRST_MS + 10 * HOUR  # 06:00 in Chicago
    with held(store, NANJING) as line:
        reports = [event(n + 1, timestamp_ms=noon_ms + n * 6 * HOUR, unit=f"S{n}") for n in range(16)]
        line.put(line.topic("grd/01"), *reports)
        close_days(store)
        before = dump(store)
        drop(store, 2)
        assert value(store, "SELECT horizon FROM mes.line_horizon WHERE line_id = %s", line.writer.line.line_id) == midnight(
            2
        ) + dt.timedelta(hours=12)
        assert value(store, "SELECT min(at) FROM mes.cell_event") == midnight(2), "the second half of a day whose first half is gone"
        assert again(store) == [f"{NANJING}: days 2026-11-12 to 2026-11-13 stay as they are (2): their events are gone"]
        assert dump(store) == before
        for seq, hours, reason in ((101, -1, 1), (102, 1, 2), (103, 11, 3), (104, 12, 3)):
            at = midnight(2) + dt.timedelta(hours=hours)
            line.put(line.topic("wnd/01"), event(seq, timestamp_ms=int(at.timestamp() * 1000)))
            assert reasons(store).get("before_retention", 0) == reason, hours
        close_days(store)
    query = "SELECT events FROM report.daily_throughput WHERE line = %s ORDER BY production_day LIMIT 4"
    assert rows(store, query, NANJING) == [(4,), (4,), (5,), (4,)]


def test_a_line_that_is_new_lost_nothing_and_counts_all_that_it_may_store(store: str, line: Line) -> None:
    work(line)
    close_days(store)
    drop(store, 2)
    with psycopg.connect(store, autocommit=True) as connection:  # as if it had not been there then
        connection.execute("DELETE FROM mes.line_horizon WHERE line_id <> %s", [line.writer.line.line_id])
        connection.execute("UPDATE mes.site SET zone = 'America/Chicago' WHERE code = 'dalian'")  # its days begin at 14:00 UTC
        connection.execute("INSERT INTO mes.plant_version (digest) VALUES ('test')")
    with held(store, DALIAN) as other:
        for seq, hours in ((1, -1), (2, 1), (3, 15)):
            at = midnight(2) + dt.timedelta(hours=hours)
            other.put(other.topic("wnd/01"), event(seq, timestamp_ms=int(at.timestamp() * 1000)))
    step(store)
    assert reasons(store) == {"before_retention": 1}
    query = "SELECT production_day, events FROM report.daily_throughput WHERE line = %s ORDER BY production_day LIMIT 2"
    assert rows(store, query, DALIAN) == [(days(1)[0], 1), (days(2)[0], 1)]


# -- who does it --------------------------------------------------------------------------------------------------------


def test_rollup_drops_by_itself_what_is_not_to_be_kept(store: str, line: Line) -> None:
    work(line)
    close_days(store)
    keep(store, kept_days(3))
    with service("rollup", store, ""):
        wait_for(lambda: stored_days(store) == days(3), 30, "days dropped")


def test_a_role_that_may_call_it_can_drop_and_no_other(store: str, line: Line) -> None:
    """Chunks are dropped by their owner alone: the functions are the owner's."""
    work(line)
    close_days(store)
    keep(store, kept_days(2))
    role = f"keeper_{abs(hash(store)) % 1_000_000}"
    calls = "FUNCTION mes.droppable(integer), mes.advance_horizon(), mes.drop_events()"
    with psycopg.connect(store, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {role}".encode())
        connection.execute(f"GRANT USAGE ON SCHEMA mes TO {role}".encode())
        connection.execute(f"SET ROLE {role}".encode())
        for call in ("mes.advance_horizon()", "mes.drop_events()", "mes.droppable(1)"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(f"SELECT {call}".encode())
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("CALL mes.run_retention()")
        assert connection.execute(queries()["hold_events"], [1]).fetchone() == (None,), "ingest has to"
        connection.execute("RESET ROLE")
        connection.execute(f"GRANT EXECUTE ON {calls} TO {role}".encode())
        connection.execute(f"GRANT EXECUTE ON PROCEDURE mes.run_retention(integer, jsonb) TO {role}".encode())
        connection.execute(f"SET ROLE {role}".encode())
        connection.execute("CALL mes.run_retention()")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("DELETE FROM mes.cell_event")
        connection.execute("RESET ROLE")
        assert [by for (by,) in connection.execute("SELECT dropped_by FROM mes.dropped")] == ["mes", "mes"]
    assert stored_days(store) == days(2, 3)


def mes(database: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mes", "retention", *arguments],
        env=environment(database, ""), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_people_see_set_try_and_run_it(store: str, line: Line) -> None:
    work(line)
    close_days(store)
    assert mes(store, "show").stdout.splitlines() == [
        "events are kept for ever", "compressed after 7 days, where TimescaleDB has it", "dropped: nothing",
    ]  # fmt: skip
    for wrong, why in (
        (("run",), "events are kept for ever: `mes retention set --days N` first"),
        (("run", "--days", "9"), "--days 9 without --dry-run"),
        (("set",), "give either --days N or --off"),
        (("set", "--off", "--days", "3"), "give either --days N or --off"),
        (("set", "--days", "0"), "0 is not in the range"),
        (("compress", "--days", "0"), "0 is not in the range"),
    ):
        done = mes(store, *wrong)
        assert done.returncode == 2
        assert why in done.stderr
        assert "Traceback" not in done.stderr
    keeping = kept_days(2)
    assert mes(store, "run", "--dry-run", "--days", str(keeping)).stdout == "events before 2026-11-14 00:00Z may go\n"
    assert stored_days(store) == days(0, 1, 2, 3)
    assert mes(store, "set", "--days", str(keeping)).stdout == f"events are kept {keeping} days\n"
    line.put(line.topic("wnd/01"), event(9001, timestamp_ms=FIRST_MS + DAY_MS + HOUR))
    assert mes(store, "run", "--dry-run").stdout.splitlines() == [
        "events before 2026-11-13 00:00Z may go",
        f"  {NANJING} keeps more from going: what came for 2026-11-13 03:00Z is not summed yet",
    ]
    assert mes(store, "run").stdout == "events before 2026-11-13 00:00Z dropped\n"
    assert mes(store, "run").stdout == "nothing to drop\n"
    shown = mes(store, "show").stdout
    assert f"events are kept {keeping} days" in shown
    assert "dropped: all before 2026-11-13 00:00Z" in shown
    assert f"{NANJING} keeps more from going" in shown
    assert mes(store, "set", "--off").stdout == "events are kept for ever\n"
    is_chunked = value(store, "SELECT count(*) FROM pg_extension WHERE extname = 'timescaledb'")
    why = "TimescaleDB's Apache edition has no compression" if is_chunked else "there is no TimescaleDB in this database"
    assert mes(store, "compress", "--days", "3").stdout == f"events are compressed after 3 days, but {why}\n"
    assert value(store, "SELECT compress_days FROM mes.retention") == 3


def test_a_rollup_at_work_keeps_the_horizon_where_it_is(store: str, line: Line) -> None:
    """It holds the events that it reads until it has committed."""
    work(line)
    close_days(store)
    keep(store, kept_days(2))
    line.put(line.topic("wnd/01"), event(9001, timestamp_ms=FIRST_MS + 3 * DAY_MS))
    with psycopg.connect(store, autocommit=True) as connection, contextlib.closing(Rollup(store)) as rollup:
        connection.execute(
            "CREATE FUNCTION kpi.dawdle() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(60); RETURN NULL; END $$;"
            "CREATE TRIGGER dawdle BEFORE INSERT ON kpi.station_sum FOR EACH STATEMENT EXECUTE FUNCTION kpi.dawdle()"
        )
        ended: list[MesError] = []

        def sum_it() -> None:
            try:
                rollup.step()
            except MesError as why:
                ended.append(why)

        working = threading.Thread(target=sum_it)
        working.start()
        sleeping = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()"
        wait_for(lambda: value(store, sleeping) == 1, what="rows read")
        with pytest.raises(Unavailable, match="lock timeout"):
            list(retention.run(store))
        connection.execute(
            "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()"
        )
        working.join()
        assert len(ended) == 1
        connection.execute("DROP TRIGGER dawdle ON kpi.station_sum")
    close_days(store)
    assert len(list(retention.run(store))) == 2
