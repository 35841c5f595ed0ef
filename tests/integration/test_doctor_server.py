"""`mes doctor` on database servers that are really set up wrong."""

from __future__ import annotations

import contextlib
import datetime as dt
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import psycopg
import pytest

from mes.doctor import clocks, disk, roles, server
from mes.doctor.finding import Level
from mes.store.migrate import migrate
from tests.conftest import Databases
from tests.diagnosis import check, diagnose, execute, holding, levels, one
from tests.pipeline import rows
from tests.servers import debian_postgres, missing, shifted_clock, wait_for
from tests.timescaledb import Missing, timescaledb

NOTE, OK, PROBLEM, WARNING = Level.NOTE, Level.OK, Level.PROBLEM, Level.WARNING


@pytest.fixture(scope="module")
def careless() -> Iterator[str]:
    """A server that is set up to lose what it commits."""
    with debian_postgres(
        {
            "fsync": "off", "full_page_writes": "off", "synchronous_commit": "off", "autovacuum": "off", "wal_level": "replica",
            "archive_mode": "on", "archive_command": "false", "max_connections": "12", "superuser_reserved_connections": "2",
            "log_min_messages": "fatal",
        }
    ) as url:  # fmt: skip
        yield url


def test_settings_that_lose_what_is_committed(careless: str) -> None:
    found = check(careless, server.durability, server.vacuum)
    assert {f.about for f in found if f.level is PROBLEM} == {"fsync", "full_page_writes", "synchronous_commit"}
    assert "set fsync = on" in one(found, "database.durability", PROBLEM, "fsync").cure
    assert "autovacuum = off" in one(found, "database.autovacuum", WARNING).found


def test_a_role_of_its_own_mind(debian_databases: Databases) -> None:
    database = debian_databases()
    execute(database, "CREATE ROLE hasty; ALTER ROLE hasty SET synchronous_commit = off")
    try:
        found = one(check(database, server.durability), "database.durability", PROBLEM, "synchronous_commit")
        assert found.cure == "ALTER ROLE hasty RESET synchronous_commit"
    finally:
        execute(database, "DROP ROLE hasty")


def test_an_archive_that_fails_and_none_at_all(careless: str, database: str) -> None:
    execute(careless, "CREATE TABLE t (x int)", "SELECT pg_switch_wal()")
    wait_for(lambda: rows(careless, "SELECT failed_count FROM pg_stat_archiver")[0][0] > 0, 60, "archiving failed")
    assert "archiving of the log fails, last at 20" in one(check(careless, server.recovery), "database.recovery", PROBLEM).found
    assert "neither archived nor received" in one(check(database, server.recovery), "database.recovery", NOTE).found


def test_a_slot_that_nobody_uses_holds_the_log_back(careless: str, monkeypatch: pytest.MonkeyPatch) -> None:
    execute(careless, "SELECT pg_create_physical_replication_slot('left_behind', true)")
    assert check(careless, server.slots) == []  # it holds back next to nothing
    monkeypatch.setattr(server, "_HELD_LOG", -1)
    assert "left_behind" in one(check(careless, server.slots), "database.slots", WARNING).cure


def test_connections_that_run_out(careless: str) -> None:
    assert levels(check(careless, server.connections), "database.connections") == [OK]
    with contextlib.ExitStack() as clients:
        for _ in range(7):
            clients.enter_context(holding(careless))
        assert re.fullmatch(
            "8 of 10 connections are in use", one(check(careless, server.connections), "database.connections", WARNING).found
        )
        for _ in range(2):
            clients.enter_context(holding(careless))
        one(check(careless, server.connections), "database.connections", PROBLEM)


def test_a_transaction_that_somebody_forgot(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_LONG", dt.timedelta(0))
    with holding(database, "SET application_name = 'a tool'", "SELECT 1", autocommit=False) as forgotten:
        found = one(check(database, server.transactions), "database.transactions", WARNING)
        assert re.search(rf"a tool of mes \(process {forgotten.info.backend_pid}\) does nothing in a transaction", found.found)
    monkeypatch.undo()
    with holding(database, "SELECT 1", autocommit=False):
        assert check(database, server.transactions) == []


def test_marks_that_nobody_clears_away(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_DEAD_MARKS", 100)
    execute(
        database,
        "ALTER TABLE mes.dirty_bucket SET (autovacuum_enabled = off)",
        "INSERT INTO mes.dirty_bucket (line_id, bucket) SELECT 1, now() FROM generate_series(1, 500)",
        "DELETE FROM mes.dirty_bucket",
        "SELECT pg_stat_force_next_flush()",
    )
    wait_for(lambda: levels(check(database, server.vacuum), "database.autovacuum") == [WARNING], 30, "counted")


def test_versions(database: str) -> None:
    number = rows(database, "SHOW server_version")[0][0].split()[0]
    assert one(check(database, server.version), "database.version", OK).found == f"PostgreSQL {number}"
    old = SimpleNamespace(server_version=140_011)
    assert "PostgreSQL 14.11 is too old" in next(server.version(old)).found  # type: ignore[arg-type]


def test_a_schema_that_is_not_this_programs(new_database: Databases, database: str) -> None:
    """None, one that lacks migrations, one that has more, one whose files have changed; what lies in it is not looked at."""
    name = "database.schema"
    assert one(check(database, server.schema), name, OK).found == f"the schema is at {_newest(database):04d}, as this program's"
    execute(database, "UPDATE mes.schema_migration SET digest = 'x' WHERE number = 3")
    assert "0003_kpi has changed" in one(check(database, server.schema), name, PROBLEM).found
    execute(database, "INSERT INTO mes.schema_migration (number, name, digest) VALUES (9999, 'future', '')")
    assert "update the program" in one(check(database, server.schema), name, PROBLEM).cure
    execute(database, "DELETE FROM mes.schema_migration WHERE number > 5")
    found = diagnose(database)
    assert "run `mes migrate`" in one(found, name, PROBLEM).cure
    assert not [f for f in found if f.name.startswith(("lines.", "rollup.", "plant."))]
    execute(database, "DROP SCHEMA mes CASCADE")
    assert "no schema yet" in one(check(database, server.schema), name, PROBLEM).found


def _newest(database: str) -> int:
    return int(rows(database, "SELECT max(number) FROM mes.schema_migration")[0][0])


def test_time_zones_on_which_server_and_program_disagree(database: str) -> None:
    assert levels(check(database, server.zones), "database.timezones") == [OK]
    # POSIX zones are known to both under their names; this one is not the zone of Nanjing
    execute(database, "UPDATE mes.site SET zone = 'Atlantis/Capital' WHERE code = 'nanjing'")
    assert "knows no zone Atlantis/Capital" in one(check(database, server.zones), "database.timezones", PROBLEM).found


def test_time_zone_data_of_another_year(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program's data say what they said before Dalian was moved: here they are made to."""
    moved = {"Asia/Shanghai": "Asia/Tokyo"}
    original = server.ZoneInfo
    monkeypatch.setattr(server, "ZoneInfo", lambda name: original(moved.get(name, name)))
    assert "disagree on the clock of Asia/Shanghai" in one(check(database, server.zones), "database.timezones", PROBLEM).found


# --- TimescaleDB -------------------------------------------------------------------------------------------------------


def test_without_timescaledb_it_is_a_note(debian_databases: Databases) -> None:
    database = debian_databases()
    assert "events lie in plain tables" in one(check(database, server.timescaledb), "database.timescaledb", NOTE).found


def test_timescaledb_its_edition_and_what_is_not_in_its_chunks() -> None:
    with contextlib.ExitStack() as running:
        try:
            url = running.enter_context(timescaledb())
        except Missing as why:
            missing(str(why), "a Debian mirror")
            raise
        migrate(url)
        before = check(url, server.timescaledb)
        hypertables = {name for (name,) in rows(url, "SELECT hypertable_name FROM timescaledb_information.hypertables")}
        lacking = {"cell_event", "state_event"} - hypertables
        assert levels(before, "database.timescaledb") == ([WARNING, NOTE] if lacking else [NOTE])
        assert "Apache edition: no compression and no background jobs" in one(before, "database.timescaledb", NOTE).found
        for table in lacking:
            execute(url, f"SELECT create_hypertable('mes.{table}', by_range('at', INTERVAL '1 day'), create_default_indexes => false)")
        assert levels(check(url, server.timescaledb), "database.timescaledb") == [NOTE]


@pytest.mark.parametrize(
    ("row", "level", "said"),
    [
        (("2.19.0", "2.19.0", "timescale", "16"), PROBLEM, "TimescaleDB 2.19.0 loses rows"),
        (("2.2.1", "2.19.3", "timescale", "16"), PROBLEM, "TimescaleDB 2.2.1 loses rows"),
        (("2.19.1", "2.19.1", "timescale", "0"), WARNING, "no background job can run"),
        (("2.23.0-dev", "2.23.0-dev", "timescale", "16"), OK, "TimescaleDB 2.23.0-dev, Community edition"),
        ((None, "2.19.3", None, None), NOTE, "its packages (2.19.3) are installed, but it is not switched on"),
    ],
)
def test_versions_and_licences_that_cannot_be_had_here(row: tuple[str | None, ...], level: Level, said: str) -> None:
    look = SimpleNamespace(row=lambda _: row, rows=lambda _: [("cell_event",), ("state_event",)])
    found = list(server.timescaledb(look))  # type: ignore[arg-type]
    assert found[0].level is level
    assert said in found[0].found


# --- roles -------------------------------------------------------------------------------------------------------------

ROLES = ("mes_owner", "mes_ingest", "mes_rollup", "mes_dashboard")


@pytest.fixture
def with_roles() -> Iterator[str]:
    """A server of its own, as roles are the server's; its roles have the rights that they need, as far as they are looked at."""
    with debian_postgres() as url:
        migrate(url)
        for role in ROLES:
            with contextlib.suppress(psycopg.errors.DuplicateObject):
                execute(url, f"CREATE ROLE {role} LOGIN")
        execute(url, "GRANT USAGE ON SCHEMA report TO mes_dashboard; GRANT SELECT ON ALL TABLES IN SCHEMA report TO mes_dashboard")
        execute(url, "GRANT USAGE ON SCHEMA mes TO mes_ingest; GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA mes TO mes_ingest")
        yield url


def test_roles_that_may_do_more_than_their_work(with_roles: str) -> None:
    url = with_roles
    assert levels(check(url, roles.exist, roles.rights), "roles.exist") == [OK]
    assert levels(check(url, roles.rights), "roles.rights") == [OK] * 3
    assert "superuser mes" in one(check(url, roles.own), "roles.own", WARNING).found

    execute(url, "GRANT USAGE ON SCHEMA mes TO PUBLIC; GRANT SELECT ON mes.quarantine TO PUBLIC")  # by the back door
    assert one(check(url, roles.rights), "roles.rights", PROBLEM, "mes_dashboard").found == "mes_dashboard may SELECT mes.quarantine"
    execute(
        url,
        "REVOKE SELECT ON mes.quarantine FROM PUBLIC",
        "CREATE ROLE team; GRANT INSERT ON mes.cell_event TO team; GRANT team TO mes_dashboard",
    )
    assert "mes_dashboard may INSERT mes.cell_event" in one(check(url, roles.rights), "roles.rights", PROBLEM, "mes_dashboard").found
    execute(url, "REVOKE team FROM mes_dashboard", "GRANT DELETE, UPDATE ON mes.cell_event TO mes_ingest")
    found = one(check(url, roles.rights), "roles.rights", PROBLEM, "mes_ingest")
    assert found.found == "mes_ingest may DELETE mes.cell_event, UPDATE mes.cell_event"
    execute(url, "REVOKE DELETE, UPDATE ON mes.cell_event FROM mes_ingest", "GRANT TRUNCATE ON mes.cell_event TO mes_rollup")
    execute(url, "GRANT USAGE ON SCHEMA mes TO mes_rollup; GRANT DELETE ON mes.dirty_bucket TO mes_rollup")
    assert one(check(url, roles.rights), "roles.rights", PROBLEM, "mes_rollup").found == "mes_rollup may TRUNCATE mes.cell_event"
    execute(url, "REVOKE USAGE ON SCHEMA report FROM mes_dashboard")
    assert "cannot read the schema report" in one(check(url, roles.rights), "roles.rights", PROBLEM, "mes_dashboard").found

    execute(url, "ALTER ROLE mes_dashboard SUPERUSER", "ALTER ROLE mes_owner RENAME TO former_owner")
    found_all = check(url, roles.exist)
    assert one(found_all, "roles.exist", PROBLEM).cure == "ALTER ROLE mes_dashboard NOSUPERUSER"
    assert "there is no role mes_owner" in one(found_all, "roles.exist", WARNING).found


def test_a_trial_has_one_role_for_everything() -> None:
    with debian_postgres() as url:  # of its own: roles are the server's, and other tests make some
        migrate(url)
        assert "a trial, no plant" in one(check(url, roles.exist), "roles.exist", NOTE).found


# --- the clock ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offset", "level", "said"), [("+5s", WARNING, "5.0 s ahead"), ("-3h", PROBLEM, "3 h behind"), ("+0s", OK, "right")]
)
def test_the_clock_of_the_database_is_off(offset: str, level: Level, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in shifted_clock(offset).items():
        monkeypatch.setenv(name, text)
    with debian_postgres() as url:
        monkeypatch.undo()
        found = one(check(url, clocks.database), "clock.database", level)
    assert said in re.sub(r"\b[45]\.\d s", "5.0 s", found.found)


# --- the disk ----------------------------------------------------------------------------------------------------------


def made(database: str, events_a_day: int) -> None:
    """Eight production days with so many events, the last of them over."""
    columns = "starts_at, ends_at, regular_s, scheduled_s, scheduled, started, good, scrap, unscrapped, unscrapped_booked, late, ahead"
    execute(
        database,
        f"INSERT INTO kpi.line_day (line_id, production_day, events, {columns})"
        f" SELECT 1, current_date - n, {events_a_day}, now() - n * day, now() - (n - 1) * day - interval '1 s',"
        " 1, 1, '{}', 0, 0, 0, 0, 0, 0, 0"
        " FROM generate_series(1, 9) AS n, (SELECT interval '1 day' AS day) AS x",
    )


def left(database: str, given: Path | None = None):  # type: ignore[no-untyped-def]
    return check(database, lambda look: disk.database(look, given, Path("/nonexistent")))


def test_days_until_the_disk_is_full(debian_databases: Databases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk of a server on this machine is found by itself, that of another one is not, unless it is named."""
    database, name = debian_databases(), "disk.database"
    assert "no production day is over yet" in one(left(database), name, OK).found
    made(database, 1000)
    found = one(left(database), name, OK).found
    assert re.search(
        r"300 kB a day more \(1,000 events of 300 bytes, reckoned\); [\d.]+ [GT]B are free: enough for ([\d,]+ days|decades)", found
    )
    free = shutil.disk_usage(tmp_path).free
    per_day = int((free - (2 << 30)) / 300 / 30)
    execute(database, f"UPDATE kpi.line_day SET events = {per_day}")
    # with so many events the bytes of one are measured, and this database has none of them: so what is left is by what is measured
    monkeypatch.setattr(disk, "_ENOUGH", 1 << 62)
    assert re.search(r"enough for (29|30|31) days", one(left(database, tmp_path), name, WARNING).found)
    execute(database, f"UPDATE kpi.line_day SET events = {per_day * 10}")
    assert re.search(r"enough for 3 days", one(left(database), name, PROBLEM).found)
    monkeypatch.undo()
    made_big = "UPDATE kpi.line_day SET events = 1000000"
    execute(database, made_big)
    assert re.search(r"1,000,000 events of \d bytes\)", one(left(database), name, OK).found)
    assert "is not there" in one(left(database, tmp_path / "nothing"), name, NOTE).found
    monkeypatch.setattr(disk, "is_here", lambda _: False)
    assert "it is on 127.0.0.1" in one(left(database), name, NOTE).found


def test_retention_bounds_what_the_database_takes(debian_databases: Databases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At a rate that would fill the disk in 20 days, events that are kept for 5 fit for ever, those that are kept for 100 do not."""
    database, name = debian_databases(), "disk.database"
    monkeypatch.setattr(disk, "_ENOUGH", 1 << 62)
    made(database, int((shutil.disk_usage(tmp_path).free - (2 << 30)) / 300 / 20))
    one(left(database), name, WARNING)
    execute(database, "CREATE TABLE IF NOT EXISTS mes.retention (keep_days integer, horizon timestamptz)", "DELETE FROM mes.retention")
    execute(database, "INSERT INTO mes.retention (keep_days) VALUES (5)")
    assert "events are kept 5 days" in one(left(database), name, OK).found
    execute(database, "UPDATE mes.retention SET keep_days = 100")
    one(left(database), name, WARNING)


def test_another_servers_folder_is_not_taken_for_the_databases(
    debian_databases: Databases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A port that leads into a container: the folder of the same name here is somebody else's."""
    monkeypatch.setattr(disk, "_system_identifier", lambda _: 17)
    assert "holds another server's data" in one(left(debian_databases()), "disk.database", NOTE).found


def test_a_small_disk_under_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [f.level for f in disk.home(tmp_path)] == [OK]
    assert list(disk.home(tmp_path / "nothing")) == []
    mount = ["mount", "-t", "tmpfs", "-o", "size=50m", "tmpfs", str(tmp_path)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        monkeypatch.setattr(disk, "_free", lambda _: 50 << 20)
        assert [f.level for f in disk.home(tmp_path)] == [PROBLEM]
        return
    try:
        assert [f.level for f in disk.home(tmp_path)] == [PROBLEM]
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)
