"""The product on a real TimescaleDB (Apache edition): what `mes migrate` makes of it, and says of it, on servers as they are found."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from collections.abc import Iterator

import psycopg
import pytest

from mes.errors import Refused
from mes.seeds import load_plant
from mes.store import timescale
from mes.store.connection import connect
from mes.store.migrate import check, migrate
from mes.store.seed import seed
from tests.chunks import Databases, server, version
from tests.conftest import SEEDS
from tests.lines import dump, held, step
from tests.pipeline import AT_MS, GRD, WND, Gateway, environment, event, rows, service, sessions_held, value
from tests.servers import debian_postgres, wait_for

NANJING = "nanjing/cells/32140-1"
DAY_MS = 86_400_000
CHUNKS = "SELECT hypertable_name, count(*) FROM timescaledb_information.chunks GROUP BY 1"
APACHE = "compression and background jobs are not in this edition: `mes rollup` drops what is not to be kept"


@pytest.fixture(scope="module")
def empty() -> Iterator[Databases]:
    with server() as make:
        yield make


def hypertables_by_day() -> str:
    return f"TimescaleDB {version()} (Apache): hypertables by day"


def migrated(url: str, mode: str = "auto") -> str:
    """The one line that `migrate` says."""
    said: list[str] = []
    migrate(url, mode, said.append)
    (line,) = said
    assert "\n" not in line
    return line


def hypertables(url: str) -> list[str]:
    with psycopg.connect(url, autocommit=True) as connection:
        there = connection.execute("SELECT to_regclass('timescaledb_information.hypertables')").fetchone()
        if there is None or there[0] is None:
            return []
    query = "SELECT hypertable_schema || '.' || hypertable_name FROM timescaledb_information.hypertables ORDER BY 1"
    return [name for (name,) in rows(url, query)]


BOTH = ["mes.cell_event", "mes.state_event"]

# -- what is found ------------------------------------------------------------------------------------------------------


def test_migrating_makes_hypertables_and_says_so_and_again_changes_nothing(empty: Databases) -> None:
    url = empty()
    assert migrated(url) == f"{hypertables_by_day()}; {APACHE}"
    assert hypertables(url) == BOTH
    query = "SELECT hypertable_name, column_name, time_interval::text FROM timescaledb_information.dimensions ORDER BY 1"
    assert rows(url, query) == [("cell_event", "at", "1 day"), ("state_event", "at", "1 day")]
    indexes = rows(url, "SELECT indexname FROM pg_indexes WHERE schemaname = 'mes' AND tablename = 'cell_event' ORDER BY 1")
    assert indexes == [("cell_event_pkey",), ("cell_event_unit",)], "no index on time beside the key"
    assert migrated(url, "require") == f"{hypertables_by_day()}; {APACHE}"


@pytest.mark.parametrize("before", ["plain", "summed"])
def test_rows_that_are_there_already_are_moved_into_chunks(empty: Databases, before: str) -> None:
    url = empty()
    assert "plain tables" in migrated(url, "off")
    assert hypertables(url) == []
    seed(url, load_plant(SEEDS))
    with held(url, NANJING) as line:
        line.put(GRD, *(event(n, timestamp_ms=AT_MS + n % 3 * DAY_MS + n) for n in range(1, 601)))
    if before == "summed":
        step(url)
    held_before = rows(url, "SELECT e::text FROM mes.cell_event e ORDER BY seq")
    sums = dump(url)
    assert migrated(url) == f"{hypertables_by_day()} (rows of mes.cell_event moved into them); {APACHE}"
    assert rows(url, "SELECT e::text FROM mes.cell_event e ORDER BY seq") == held_before
    assert value(url, "SELECT count(*) FROM ONLY mes.cell_event") == 0
    assert rows(url, CHUNKS) == [("cell_event", 3)]
    with held(url, NANJING) as line:  # and work goes on
        line.put(GRD, event(601), event(1))
    step(url)
    assert value(url, "SELECT sum(good) FROM report.daily_throughput") == 601
    assert before == "plain" or dump(url)["line_day"] != sums["line_day"]


def test_off_leaves_everything_as_it_is(empty: Databases) -> None:
    url = empty()
    line = migrated(url, "off")
    assert re.fullmatch(
        r"PostgreSQL 17\.\d+: TimescaleDB is off \(MES_TIMESCALEDB=off\); plain tables, and `mes rollup` deletes what is not to be kept",
        line,
    )
    assert value(url, "SELECT count(*) FROM pg_extension WHERE extname = 'timescaledb'") == 0
    migrated(url)
    assert migrated(url, "off").endswith("; hypertables stay")
    assert hypertables(url) == BOTH


def test_a_server_without_the_extension_is_served_or_refused() -> None:
    with debian_postgres() as url:
        with pytest.raises(
            Refused, match=r"^TimescaleDB is not installed on the server: install its package .*\(MES_TIMESCALEDB=require\)$"
        ):
            migrate(url, "require")
        assert value(url, "SELECT to_regclass('mes.schema_migration')") is None, "refused before anything was applied"
        assert "TimescaleDB is not installed on the server" in migrated(url)
        assert "plain tables" in migrated(url)


def test_an_extension_that_is_not_loaded_is_named_with_the_cure() -> None:
    with server({"shared_preload_libraries": ""}) as empty:
        url = empty()
        cure = f"TimescaleDB {version()} is not loaded: add timescaledb to shared_preload_libraries and restart the server"
        with pytest.raises(Refused, match=rf"^{cure} \(MES_TIMESCALEDB=require\)$"):
            migrate(url, "require")
        assert cure in migrated(url)
        assert hypertables(url) == []


def test_a_role_that_may_not_create_extensions_is_told_who_can(empty: Databases) -> None:
    url = empty()
    name = url.rpartition("/")[2]
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE ROLE half LOGIN")
        for schema in ("mes", "kpi", "report"):
            connection.execute(f"CREATE SCHEMA {schema} AUTHORIZATION half".encode())
    mine = url.replace("mes@", "half@")
    cure = (
        f"TimescaleDB {version()} is not switched on, and role half may not do it: "
        f"let a superuser run CREATE EXTENSION timescaledb in database {name}"
    )
    with pytest.raises(Refused, match=cure):
        migrate(mine, "require")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE EXTENSION timescaledb")
        connection.execute(f"GRANT CREATE ON DATABASE {name} TO half".encode())
    assert migrated(mine) == f"{hypertables_by_day()}; {APACHE}", "its tables are its own, so it may cut them"


def test_apache_packages_with_the_licence_of_the_community_are_refused_with_the_cure(empty: Databases) -> None:
    """Such a server starts, and then fails in each session: said at once, and not tried again for ever."""
    apache = r"Apache packages of TimescaleDB with timescaledb\.license = 'timescale': set it to 'apache'"
    with server() as make:
        url, other = make(), make()
        migrate(url)
        with psycopg.connect(other, autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET timescaledb.license = 'timescale'")
            connection.execute("SELECT pg_reload_conf()")
            wait_for(lambda: value(other, "SELECT current_setting('timescaledb.license', true)") == "timescale", what="reloaded")
        for database in (url, other):
            with pytest.raises(Refused, match=apache):
                migrate(database)
        with connect(url) as connection, pytest.raises(Refused, match=apache):
            check(connection)


def test_what_is_too_old_is_refused_by_migrate_and_by_services(
    empty: Databases, embedded_broker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = empty()
    migrate(url)
    seed(url, load_plant(SEEDS))
    with held(url, NANJING) as line:
        line.put(GRD, event(1))
    with connect(url) as connection:
        check(connection)
        with monkeypatch.context() as patch:
            patch.setattr(timescale, "TIMESCALEDB", (99, 0, 1))
            for work in (lambda: check(connection), lambda: migrate(url), lambda: migrate(empty())):
                with pytest.raises(Refused, match=r"^TimescaleDB \S+ is too old \(.*7672\): 99\.0\.1 or newer is needed; "):
                    work()
            migrate(empty(), "off")


@pytest.mark.parametrize(
    ("version", "is_refused"),
    [("2.19.0", True), ("2.9.9", True), ("1.7.5", True), ("2.19.1", False), ("2.19.3", False), ("2.20.0", False), ("3.0.0", False),
     ("2.23.0-dev", False), ("2.18.2-dev", True), ("10.0.0", False), ("unknown", True)],
)  # fmt: skip
def test_versions_are_compared_by_number(version: str, is_refused: bool) -> None:
    with pytest.raises(Refused) if is_refused else contextlib.nullcontext():
        timescale._check_version(version, "update it")


def test_the_command_prints_one_line_of_it(empty: Databases) -> None:
    url = empty()

    def run(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "mes", "migrate", *arguments]
        return subprocess.run(command, env={**environment(url, ""), **more}, capture_output=True, text=True, timeout=60, check=False)

    assert run().stdout.splitlines()[0] == f"{hypertables_by_day()}; {APACHE}"
    assert run("--timescaledb", "off").stdout.splitlines()[0].endswith("hypertables stay")
    assert run(MES_TIMESCALEDB="off").stdout.splitlines()[0].endswith("hypertables stay")
    wrong = run(MES_TIMESCALEDB="on")
    assert wrong.returncode == 2
    assert "'on' is not one of 'auto', 'require', 'off'" in wrong.stderr


# -- work on hypertables ------------------------------------------------------------------------------------------------


def test_ingest_ledger_marks_and_rollup_work_on_a_hypertable(empty: Databases, embedded_broker: str) -> None:
    hypertable = empty()
    migrate(hypertable)
    seed(hypertable, load_plant(SEEDS))
    first = [event(i) for i in range(1, 501)]
    later = [event(i, timestamp_ms=AT_MS + DAY_MS + i) for i in range(501, 701)]
    with Gateway(embedded_broker) as gateway, service("rollup", hypertable, embedded_broker):
        with service("ingest", hypertable, embedded_broker):
            sessions_held(hypertable)
            gateway.backlog(WND, first)
            gateway.backlog(WND, later)
            gateway.backlog(WND, first, 77)  # all of it again
            gateway.backlog(GRD, [event(i, channel=i) for i in range(1, 101)])
            wait_for(lambda: value(hypertable, "SELECT count(*) FROM mes.cell_event") >= 800, 60, "events stored")
            wait_for(lambda: value(hypertable, "SELECT sum(duplicates) FROM mes.machine_ledger") == 500, 60, "duplicates counted")
        rows(hypertable, "DELETE FROM mes.machine_ledger RETURNING 1")
        with service("ingest", hypertable, embedded_broker):  # the unique key of the chunks is the second line
            gateway.backlog(WND, first)
            gateway.cells(WND, [event(701)])
            wait_for(lambda: value(hypertable, "SELECT count(*) FROM mes.cell_event") >= 801, 60, "the last event")
        wait_for(lambda: value(hypertable, "SELECT count(*) FROM mes.dirty_bucket") == 0, 60, "marks taken")
    assert rows(hypertable, CHUNKS) == [("cell_event", 2)]
    assert rows(hypertable, "SELECT count(*), count(DISTINCT (machine_id, boot, seq)) FROM mes.cell_event") == [(801, 801)]
    assert rows(hypertable, "SELECT received::text, duplicates FROM mes.machine_ledger") == [("{[1,501),[701,702)}", 500)]
    assert rows(hypertable, "SELECT production_day::text, good, events FROM report.daily_throughput ORDER BY 1") == [
        ("2026-11-22", 100, 601),
        ("2026-11-23", 0, 200),
    ]
