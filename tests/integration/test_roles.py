"""The roles of a deployment: the pipeline runs with least rights, and what a role is not for it cannot do."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from mes import contract
from mes.embedded.postgres import EmbeddedPostgres
from mes.seeds import load_plant
from mes.states import StateEvent
from mes.store.migrate import migrate
from mes.store.seed import seed
from tests.conftest import SEEDS
from tests.lines import held, step
from tests.pipeline import AT_MS, GRD, WND, Gateway, environment, event, rows, service, sessions_held, subscriber, value
from tests.roles import Roles
from tests.servers import debian_postgres, free_port, missing, wait_for
from tests.timescaledb import Missing, timescaledb

HYPERTABLE = (
    "SELECT create_hypertable('mes.cell_event', by_range('at', INTERVAL '1 day'), create_default_indexes => false, if_not_exists => true)"
)
NANJING = "nanjing/cells/32140-1"
SERVICES = ("mes_ingest", "mes_rollup", "mes_operator")

# What roles may write, beside reading: by table the actions, and of UPDATE the columns. A table that is not here nobody may write.
STORES = {
    "mes.cell_event": {"INSERT"},
    "mes.state_event": {"INSERT"},
    "mes.dirty_bucket": {"INSERT"},
    "mes.machine_ledger": {"INSERT", "received", "duplicates"},
    "mes.duplicate": {"INSERT", "n"},
    "mes.quarantine": {"INSERT", "last_seen_at", "times", "reason", "detail", "machine_id", "boot", "seq", "counted"},
}
SUMS = ("station_sum", "defect_sum", "reading_sum", "machine_sum", "machine_day", "line_day", "line_shift")
WRITES: dict[str, dict[str, set[str]]] = {
    "mes_ingest": STORES | {"mes.line_session": {"INSERT", "established_at", "filters"}},
    "mes_rollup": {
        "mes.dirty_bucket": {"INSERT", "DELETE", "mark_id"},
        "mes.day_report": {"INSERT", "UPDATE"},
        "mes.restatement": {"INSERT"},
        "mes.alert": {"INSERT", "UPDATE"},
        "mes.alert_history": {"INSERT", "UPDATE"},
    }
    | {f"kpi.{name}": {"INSERT", "UPDATE", "DELETE"} for name in SUMS},
    "mes_operator": STORES
    | {
        "mes.machine_ledger": {"INSERT", "received", "duplicates", "closed"},
        "mes.quarantine": STORES["mes.quarantine"] | {"DELETE"},
        "mes.gap_closing": {"INSERT"},
        "mes.unscrap": {"INSERT"},
        "mes.quarantine_discarded": {"INSERT"},
        "mes.retention": {"keep_days"},
    },
    "mes_dashboard": {},
}


@contextlib.contextmanager
def embedded(folder: Path) -> Iterator[str]:
    """One of its own: roles are a server's, and the other tests know of none."""
    with EmbeddedPostgres(folder, settings={"fsync": "off"}) as server:
        yield server.url


@contextlib.contextmanager
def timescale(_: Path) -> Iterator[str]:
    with contextlib.ExitStack() as running:
        try:
            url = running.enter_context(timescaledb())
        except Missing as why:
            missing(str(why), "a Debian mirror")
            raise
        yield url


SERVERS: dict[str, Callable[[Path], contextlib.AbstractContextManager[str]]] = {
    "debian": lambda _: debian_postgres(),
    "embedded": embedded,
    "timescaledb": timescale,
}


@pytest.fixture(scope="module", params=SERVERS)
def roles(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Roles]:
    """A migrated and seeded database whose owner is mes_owner."""
    folder = tmp_path_factory.mktemp("roles")
    with SERVERS[request.param](folder) as server:
        made = Roles(server, folder, "mes_with_roles")
        made.install()
        made.install()  # any number of times
        migrate(made.url("mes_owner"))
        assert seed(made.url("mes_owner"), load_plant(SEEDS))
        if request.param == "timescaledb":
            rows(made.url("mes_owner"), HYPERTABLE)
        made.person("wang", "mes_operator")
        yield made


def run(database: str, *statements: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def mes(database: str, *words: str, broker: str = "mqtt://127.0.0.1:1") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mes", *words]
    return subprocess.run(command, env=environment(database, broker), capture_output=True, text=True, timeout=60, check=False)


def done(database: str, *words: str) -> str:
    ran = mes(database, *words)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def refused(database: str, *words: str, broker: str = "mqtt://127.0.0.1:1") -> str:
    """The one line that a command says when it may not."""
    ran = mes(database, *words, broker=broker)
    assert ran.returncode == 2, ran
    assert "Traceback" not in ran.stderr
    line = ran.stderr.strip().splitlines()[-1]
    assert line.startswith("mes: database postgresql://")
    assert "knows" not in line, "a password"
    return line


def test_the_pipeline_runs_with_each_part_in_its_role(roles: Roles, embedded_broker: str) -> None:
    ingest, rollup, dashboard, owner = (roles.url(f"mes_{name}") for name in ("ingest", "rollup", "dashboard", "owner"))
    scrap = event(1, unit="NJ1-26K22-7654321", result="scrap", defect="W01")
    unknown = contract.encode(event(7)).replace(b'"seq":7', b'"seq":107').replace(b'"pass"', b'"good"')
    port = free_port()
    with (
        Gateway(embedded_broker) as gateway,
        subscriber(embedded_broker, "umh/v1/cbak/nanjing/cells/32140-1/_kpi_v1/throughput_day") as figures,
        service("rollup", rollup, embedded_broker),
        service("ingest", ingest, embedded_broker),
        service("board", dashboard, embedded_broker, "--port", str(port)),
    ):
        sessions_held(roles.superuser)
        gateway.backlog(WND, [event(i) for i in (*range(1, 101), 104, 105)])
        gateway.backlog(WND, [event(i) for i in range(1, 51)], 77)  # duplicates
        gateway.backlog(GRD, [event(i, channel=i) for i in range(1, 91)])
        gateway.cells(WND.replace("/wnd/01/", "/wnd/02/"), [scrap])
        stopped = StateEvent(boot=1, seq=2, timestamp_ms=AT_MS, state="stopped")
        gateway.send([(WND.replace("/wnd/01/_cell_v1/completed", "/wnd/02/_state_v1/changed"), contract.encode(stopped))])
        gateway.send([(WND, unknown), (WND, b"hello"), (WND, b"hello")])
        wait_for(lambda: value(roles.superuser, "SELECT max(times) FROM mes.quarantine") == 2, 60, "quarantine")
        wait_for(lambda: value(dashboard, "SELECT coalesce(max(good), 0) FROM report.daily_throughput") == 90, 60, "figures")
        wait_for(lambda: [v["value"] for v in figures.values()] == [90], 60, "published figures")

        def board() -> Any:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/api/now") as answer:
                return json.load(answer)["lines"]
            return None

        wait_for(lambda: [line["day"]["good"] for line in board() or [] if line["day"]] == [90], 60, "the board")
        migrate(owner)  # while all of them are at work: grants are renewed with the views
        gateway.backlog(GRD, [event(i, channel=i) for i in range(91, 101)])
        wait_for(lambda: [line["day"]["good"] for line in board() or [] if line["day"]] == [100], 60, "the board goes on")
    assert json.loads(done(dashboard, "report", "daily", "--format", "json"))[0]["good"] == 100
    assert rows(dashboard, "SELECT machine, state FROM report.machine_state") == [("02", "stopped")]
    assert "W01" in done(dashboard, "report", "unit", "NJ1-26K22-7654321")
    assert rows(dashboard, "SELECT started, open FROM report.cohort_yield('nanjing/cells/32140-1', '2026-11-22', '2026-11-22')") == [
        (103, 2)
    ]
    assert value(dashboard, "SELECT count(*) FROM report.unit_history('NJ1-26K22-0000001')") == 2
    assert value(dashboard, "SELECT cycle_p50_s FROM report.station_yield WHERE station = 'wnd'") > 0
    assert "unknown: use one of dalian/cells/26650-1, nanjing/cells/32140-1" in mes(dashboard, "report", "daily", "--line", "x").stderr

    wang = roles.url("wang")
    machine = "nanjing/cells/32140-1/wnd/01"
    assert re.search(rf"{machine} +1 +101 +103 +3", done(wang, "ledger", "gaps"))
    assert (
        done(wang, "ledger", "close", machine, "101-103", "--boot", "1", "--why", "dropped") == f"closed 3 of machine {machine}, boot 1\n"
    )
    assert "taken back" in done(wang, "unscrap", "NJ1-26K22-7654321", "--why", "found")
    assert done(wang, "quarantine", "list", "--format", "json").count("quarantine_id") == 2
    assert "0 understood: 0 events stored, 0 duplicates; 2 stay" in done(wang, "quarantine", "replay", "--all")
    rows(
        roles.superuser,
        "UPDATE mes.quarantine SET payload = replace(convert_from(payload, 'utf8'), 'good', 'pass')::bytea WHERE counted RETURNING 1",
    )
    assert "1 understood: 1 events stored" in done(wang, "quarantine", "replay", "--reason", "invalid")
    assert done(wang, "quarantine", "discard", "--reason", "not_json", "--why", "noise", "--yes") == "discarded 1\n"
    for query in ("closed_by FROM mes.gap_closing", "corrected_by FROM mes.unscrap", "discarded_by FROM mes.quarantine_discarded"):
        assert rows(roles.superuser, f"SELECT {query}") == [("wang",)]
    assert "buckets summed" in done(rollup, "rollup", "--all")
    assert "2 sites, 2 lines: unchanged" in done(owner, "seed", "--seeds", str(SEEDS))
    assert rows(dashboard, "SELECT good, scrap_restated, events FROM report.daily_throughput WHERE good > 0") == [(100, 0, 204)]


def tables(roles: Roles) -> list[tuple[str, bool, list[str]]]:
    """Every relation that is the owner's, but for the views of `report`: (name, whether it is a view, columns)."""
    return rows(
        roles.superuser,
        """
        SELECT format('%I.%I', relnamespace::regnamespace, relname), relkind = 'v',
            (SELECT array_agg(attname::text) FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped)
        FROM pg_class c WHERE relkind IN ('r', 'p', 'v', 'm', 'f') AND relnamespace <> 'report'::regnamespace
            AND (relowner = 'mes_owner'::regrole OR relnamespace IN ('mes'::regnamespace, 'kpi'::regnamespace)) ORDER BY 1
        """,
    )  # fmt: skip


def may(connection: psycopg.Connection[Any], statement: str) -> bool:
    """Whether a statement is permitted; nothing of it stays."""
    alone = statement.startswith(("ALTER SYSTEM", "CREATE DATABASE"))
    try:
        with contextlib.nullcontext() if alone else connection.transaction(force_rollback=True):
            connection.execute(statement.encode())
    except psycopg.errors.InsufficientPrivilege:
        return False
    except psycopg.errors.Error as why:  # permission is asked for first: this one had it, and fails on something else
        assert why.sqlstate not in ("42601", "42P01", "25006"), why
    return True


@pytest.mark.parametrize("role", WRITES)
def test_what_each_role_may_do_with_each_table(roles: Roles, role: str) -> None:
    """Also with those that are new: they are found in the catalogue, and nothing but reading by services is expected of them."""
    found = tables(roles)
    assert {"mes.cell_event", "kpi.line_day"} <= {name for name, _, _ in found}
    wrong = []
    url = roles.url("wang" if role == "mes_operator" else role)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET default_transaction_read_only = off")
        connection.execute("SET statement_timeout = 0")
        for name, is_view, columns in found:
            ours = name.startswith(("mes.", "kpi."))
            writes = WRITES[role].get(name, set())
            reads = ours and role in SERVICES and (name.startswith("mes.") or role != "mes_ingest")
            tries = {
                "SELECT": (f"SELECT FROM {name} LIMIT 0", reads),
                "INSERT": (f"INSERT INTO {name} DEFAULT VALUES", "INSERT" in writes),
                "DELETE": (f"DELETE FROM {name} WHERE false", "DELETE" in writes),
                "TRUNCATE": (f"TRUNCATE {name}", False),
                "LOCK": (f"LOCK TABLE {name} IN SHARE MODE", "DELETE" in writes or "UPDATE" in writes),
                **{c: (f'UPDATE {name} SET "{c}" = DEFAULT', c in writes or "UPDATE" in writes) for c in columns},
            }
            if is_view:
                tries = {"SELECT": tries["SELECT"]}  # none of them can be written
            elif not ours and role != "mes_dashboard":
                tries = {what: tries[what] for what in ("DELETE", "TRUNCATE")}  # chunks of a hypertable: facts all the same
            wrong += [f"{role} {what} {name}: {can}" for what, (statement, can) in tries.items() if may(connection, statement) != can]
    assert wrong == [], wrong


FORBIDDEN = [
    "CREATE TABLE public.mine (x int)",
    "CREATE TEMP TABLE mine (x int)",
    "CREATE SCHEMA mine",
    "CREATE VIEW report.mine AS SELECT 1 AS x",
    "CREATE FUNCTION report.mine() RETURNS int LANGUAGE sql RETURN 1",
    "CREATE TABLE mes.mine (x int)",
    "CREATE TABLE kpi.mine (x int)",
    "DROP VIEW report.line",
    "DROP TABLE mes.cell_event",
    "ALTER TABLE mes.cell_event DISABLE TRIGGER ALL",
    "CREATE INDEX ON mes.cell_event (seq)",
    "CREATE ROLE mine",
    "CREATE DATABASE mine",
    "ALTER ROLE mes_owner PASSWORD 'x'",
    "ALTER ROLE {me} SUPERUSER",
    "GRANT mes_owner TO {me}",
    "GRANT SELECT ON pg_authid TO {me}",
    "SET ROLE mes_owner",
    "SET ROLE {other}",
    "SET SESSION AUTHORIZATION mes_owner",
    "ALTER SYSTEM SET fsync = off",
    "ALTER DATABASE mes_with_roles SET timezone = 'UTC'",
    "SELECT * FROM pg_authid",
    "SELECT * FROM pg_shadow",
    "SELECT pg_read_file('/etc/passwd')",
    "SELECT pg_ls_dir('.')",
    "SELECT lo_create(0)",
    "SELECT lo_from_bytea(0, 'x')",
    "SELECT lo_import('/etc/passwd')",
    "SELECT pg_reload_conf()",
    "SELECT pg_switch_wal()",
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'mes_owner'",
    "COPY (SELECT 1) TO PROGRAM 'cat'",
    "COPY (SELECT 1) TO '/tmp/mes-roles-test'",
    "DROP EXTENSION plpgsql",
]


@pytest.mark.parametrize("role", WRITES)
def test_what_no_role_may_do(roles: Roles, role: str) -> None:
    me = "wang" if role == "mes_operator" else role
    other = "mes_ingest" if role != "mes_ingest" else "mes_rollup"
    only_dashboard = ["SELECT pg_advisory_lock(1835365228, 1)", "SELECT pg_try_advisory_xact_lock_shared(1)"]
    permitted = []
    with psycopg.connect(roles.url("mes_owner")), psycopg.connect(roles.url(me), autocommit=True) as connection:
        connection.execute("SET default_transaction_read_only = off")
        connection.execute("SET statement_timeout = 0")
        for statement in FORBIDDEN + (only_dashboard if role == "mes_dashboard" else []):
            if may(connection, statement.format(me=me, other=other)):
                permitted.append(statement)
    assert permitted == [], permitted


def test_a_dashboard_has_a_timeout_and_reads_only_until_it_says_otherwise(roles: Roles) -> None:
    """A courtesy, which is what it is called: the grants are the barrier, and the tests above try them without it."""
    with psycopg.connect(roles.url("mes_dashboard"), autocommit=True) as connection:
        for name, setting in (
            ("statement_timeout", "30s"),
            ("default_transaction_read_only", "on"),
            ("idle_in_transaction_session_timeout", "1min"),
        ):
            assert connection.execute(f"SHOW {name}".encode()).fetchone() == (setting,)
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            connection.execute("CREATE TABLE public.mine (x int)")
    assert value(roles.superuser, "SELECT rolconnlimit FROM pg_roles WHERE rolname = 'mes_dashboard'") == 30
    hashed = rows(
        roles.superuser, "SELECT rolname, left(rolpassword, 14) FROM pg_authid WHERE rolname LIKE 'mes\\_%' AND rolpassword IS NOT NULL"
    )
    assert {kind for _, kind in hashed} == {"SCRAM-SHA-256$"}
    assert len(hashed) == 4
    assert (
        value(roles.superuser, "SELECT count(*) FROM pg_auth_members WHERE member::regrole::text LIKE 'mes\\_%' AND grantor >= 16384") == 0
    )


def test_functions_with_the_rights_of_their_owner_cannot_be_led_astray(roles: Roles) -> None:
    """Their names are bound when they are made, or their search path is set; and those outside of `report` are not for dashboards."""
    query = """
        SELECT pronamespace::regnamespace::text || '.' || proname,
            prosqlbody IS NOT NULL OR coalesce(proconfig::text LIKE '%search_path=%', false),
            has_function_privilege('mes_dashboard', oid, 'EXECUTE'), has_function_privilege('public', oid, 'EXECUTE')
        FROM pg_proc WHERE pronamespace::regnamespace::text IN ('mes', 'kpi', 'report') AND prosecdef
    """
    for name, bound, dashboard, public in rows(roles.superuser, query):
        assert bound, name
        assert dashboard == name.startswith("report."), name
        assert not public, name


def test_what_is_made_tomorrow_is_nobodys_until_it_is_granted(roles: Roles) -> None:
    owner = roles.url("mes_owner")
    run(
        owner,
        "CREATE TABLE mes.tomorrow (x int)",
        "CREATE TABLE kpi.tomorrow (x int)",
        "CREATE VIEW report.tomorrow AS SELECT 1 AS x",
        "CREATE FUNCTION kpi.tomorrow() RETURNS int LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog RETURN 1",
    )
    names = ("mes.tomorrow", "kpi.tomorrow", "report.tomorrow")
    try:
        for role in WRITES:
            with psycopg.connect(roles.url("wang" if role == "mes_operator" else role), autocommit=True) as connection:
                assert [name for name in names if may(connection, f"SELECT FROM {name}")] == []
                assert not may(connection, "SELECT kpi.tomorrow()")
        migrate(owner)
        readable = {
            role: [name for name in names[:2] if value(roles.superuser, f"SELECT has_table_privilege('{role}', '{name}', 'SELECT')")]
            for role in WRITES
        }
        assert readable == {"mes_ingest": ["mes.tomorrow"], "mes_rollup": [*names[:2]], "mes_operator": [*names[:2]], "mes_dashboard": []}
        assert not value(
            roles.superuser,
            "SELECT bool_or(has_function_privilege(r, 'kpi.tomorrow()', 'EXECUTE')) FROM unnest(%s::text[]) AS r",
            list(WRITES),
        )
    finally:
        run(owner, "DROP TABLE mes.tomorrow, kpi.tomorrow", "DROP FUNCTION kpi.tomorrow()")


def test_a_grant_that_is_taken_out_of_the_file_is_gone_with_the_next_migration(roles: Roles) -> None:
    run(
        roles.url("mes_owner"),
        "GRANT SELECT ON mes.quarantine, kpi.line_day TO mes_dashboard",
        "GRANT UPDATE (closed) ON mes.machine_ledger TO mes_ingest",
    )
    migrate(roles.url("mes_owner"))
    assert not value(roles.superuser, "SELECT has_table_privilege('mes_dashboard', 'mes.quarantine', 'SELECT')")
    assert not value(roles.superuser, "SELECT has_column_privilege('mes_ingest', 'mes.machine_ledger', 'closed', 'UPDATE')")


def test_a_role_that_a_command_is_not_for_is_told_so_in_one_line(roles: Roles, embedded_broker: str) -> None:
    cure = r"; use a role that may \(deploy/database/README.md\), or renew the grants: `mes migrate` as mes_owner$"
    for role, words, problem in (
        ("mes_dashboard", ["ingest"], "permission denied for schema mes"),
        ("mes_dashboard", ["rollup"], "permission denied for schema mes"),
        ("mes_dashboard", ["seed"], "permission denied for schema mes"),
        ("mes_dashboard", ["ledger", "gaps"], "permission denied for schema mes"),
        ("mes_dashboard", ["quarantine", "list"], "permission denied for schema mes"),
        (
            "mes_rollup",
            ["ledger", "close", "nanjing/cells/32140-1/wnd/01", "1", "--boot", "1", "--why", "x"],
            "permission denied for table machine_ledger",
        ),
        ("mes_rollup", ["seed"], "permission denied for table site"),
        ("mes_ingest", ["report", "daily"], "permission denied for schema report"),
        ("mes_ingest", ["board", "--port", "0"], "permission denied for schema report"),
        ("mes_ingest", ["rollup", "--all"], "permission denied for schema kpi"),
        ("mes_ingest", ["unscrap", "X", "--why", "x"], "permission denied for schema kpi"),
    ):
        assert re.search(rf": role {role}: {problem}{cure}", line := refused(roles.url(role), *words)), line
    assert re.search(
        rf": role mes_rollup: permission denied for table line_session{cure}",
        refused(roles.url("mes_rollup"), "ingest", broker=embedded_broker),
    )
    for url, role in ((roles.url("mes_ingest"), "mes_ingest"), (roles.superuser, "mes")):
        ran = mes(url, "migrate")
        assert (ran.returncode, ran.stderr) == (
            2,
            f"mes: role {role}: database mes_with_roles belongs to mes_owner: run `mes migrate` as mes_owner\n",
        )


def test_who_is_no_role_of_ours_does_not_come_in(roles: Roles) -> None:
    run(roles.superuser, "DROP ROLE IF EXISTS stranger", "CREATE ROLE stranger LOGIN PASSWORD 'stranger knows'")
    roles.passwords["stranger"] = "stranger knows"
    try:
        line = refused(roles.url("stranger"), "report", "daily")
        assert re.search(r"stranger@\S+: .*permission denied for database \"mes_with_roles\".*; check MES_DATABASE_URL$", line)
    finally:
        run(roles.superuser, "DROP ROLE stranger")


def test_a_database_that_was_begun_without_roles_becomes_their_owners(roles: Roles, tmp_path_factory: pytest.TempPathFactory) -> None:
    """An upgrade from a trial: the superuser made everything, and events are in it."""
    name = "mes_before_roles"
    old = Roles(roles.superuser, tmp_path_factory.mktemp("before"), name)
    try:
        migrate(old.superuser)
        seed(old.superuser, load_plant(SEEDS))
        with held(old.superuser, NANJING) as line:
            line.put(WND, *(event(i) for i in range(1, 11)))
        old.install()
        migrate(old.url("mes_owner"))
        with held(old.url("mes_ingest"), NANJING) as line:
            line.put(WND, *(event(i) for i in range(6, 21)))
        assert step(old.url("mes_rollup")) == 1
        assert rows(old.url("mes_dashboard"), "SELECT events, missing FROM report.daily_throughput") == [(20, 0)]
        strangers = "SELECT oid::regclass::text FROM pg_class WHERE relnamespace::regnamespace::text IN ('mes', 'kpi', 'report')"
        assert rows(old.superuser, f"{strangers} AND relowner <> 'mes_owner'::regrole") == []
    finally:
        run(roles.superuser, f"DROP DATABASE {name} WITH (FORCE)")


def test_without_roles_there_is_nothing_to_grant(database: str) -> None:
    migrate(database)
    granted = "SELECT count(*) FROM pg_class WHERE relnamespace::regnamespace::text IN ('mes', 'kpi', 'report') AND relacl IS NOT NULL"
    assert value(database, granted) == 0
    assert value(database, "SELECT count(*) FROM pg_default_acl") == 0
