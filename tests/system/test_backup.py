"""Backups are restored for real, by the scripts and the words of deploy/backup, and then everything is counted.

The server is Debian's PostgreSQL, with the roles of a deployment; the plant runs while backups are made and things go wrong.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from mes.seeds import load_plant
from mes.store.migrate import migrate
from mes.store.seed import seed
from tests.faults import PATIENCE_S, Broker, Plant, broker
from tests.lines import dump, held, step
from tests.pipeline import ROOT, environment, event, rows, subscriber, value
from tests.plants import small_lines
from tests.roles import Roles
from tests.servers import as_server, debian_programs, free_port, given_to_server, stopped_at_the_end, wait_for

Tell = Callable[[object], None]

VIEWS = ("daily_throughput", "daily_yield", "station_yield", "shift_throughput", "hourly_throughput", "defect_pareto", "completeness")
COLUMNS_OF_NOW = {"daily_throughput": "is_over", "shift_throughput": "is_over, pace_per_h", "hourly_throughput": "pace_per_h"}


class Site:
    """A machine of a plant that keeps a database: the server's data, its backups, and the scripts as they were installed."""

    def __init__(self, folder: Path) -> None:
        self.programs = debian_programs()
        self.folder = folder
        self.data = folder / "data"
        self.backups = folder / "backups"
        self.scripts = Path(shutil.copytree(ROOT / "deploy/backup", folder / "scripts"))
        for path in (self.backups / "wal", self.backups / "base"):
            path.mkdir(parents=True)
        self.port = free_port()
        given_to_server(folder)
        self.do(self.programs / "initdb", "-D", self.data, "-U", "mes", "-A", "trust", "--locale=C", "-E", "UTF8", "--no-sync")
        with (self.data / "postgresql.conf").open("a") as conf:
            conf.write(
                f"listen_addresses = '127.0.0.1'\nunix_socket_directories = ''\nshared_buffers = '64MB'\nmin_wal_size = '32MB'\n"
                f"wal_level = replica\narchive_mode = on\narchive_command = '{self.scripts}/archive-wal %p {self.backups}/wal/%f'\n"
            )
        self.running: dict[Path, subprocess.Popen[bytes]] = {}

    def do(self, *words: object, code: int = 0, **environment: str) -> str:
        """Run a program as the server's user; what it said."""
        ran = subprocess.run(
            list(map(str, words)), cwd="/", env={**os.environ, "PG_BIN": str(self.programs), **environment},
            capture_output=True, text=True, check=False, **as_server(),
        )  # fmt: skip
        assert ran.returncode == code, (words, ran.stdout, ran.stderr)
        return ran.stdout + ran.stderr

    def script(self, name: str, *words: object, code: int = 0, **environment: str) -> str:
        return self.do(self.scripts / name, *words, code=code, **environment)

    def start(self, data: Path | None = None, port: int | None = None) -> str:
        """Start the server on its data, or on others; the URL of the superuser, once it is no longer in recovery."""
        data, port = data or self.data, port or self.port
        with (self.folder / f"{data.name}.log").open("ab") as log:
            self.running[data] = subprocess.Popen(
                [self.programs / "postgres", "-D", data, "-p", str(port)],
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,
                **as_server(),
            )
        server = f"postgresql://mes@127.0.0.1:{port}"

        def ready() -> bool:
            assert self.running[data].poll() is None, (self.folder / f"{data.name}.log").read_text()[-3000:]
            with contextlib.suppress(psycopg.OperationalError), psycopg.connect(f"{server}/postgres", connect_timeout=2) as c:
                row = c.execute("SELECT pg_is_in_recovery()").fetchone()
                return row == (False,)
            return False

        wait_for(ready, PATIENCE_S, "PostgreSQL")
        return f"{server}/mes"

    def stop(self, data: Path | None = None, sig: signal.Signals = signal.SIGINT) -> None:
        child = self.running.pop(data or self.data)
        child.send_signal(sig)
        child.wait(60)

    def archived(self) -> None:
        """Wait until all of the log up to now is in the archive."""
        url = f"postgresql://mes@127.0.0.1:{self.port}/postgres"
        segment = value(url, "SELECT pg_walfile_name(pg_switch_wal())")
        wait_for(lambda: (self.backups / "wal" / segment).exists(), PATIENCE_S, f"{segment} in the archive")

    def close(self) -> None:
        for child in self.running.values():
            with stopped_at_the_end(child, signal.SIGQUIT):
                pass


@pytest.fixture
def site() -> Iterator[Site]:
    folder = Path(tempfile.mkdtemp(prefix="mes-backup-", dir="/tmp"))
    made = None
    try:
        made = Site(folder)
        yield made
    finally:
        if made:
            made.close()
        shutil.rmtree(folder, ignore_errors=True)


class Working:
    """A plant on such a site, its services in their roles."""

    def __init__(self, site: Site, plant: Plant, roles: Roles, there: Broker) -> None:
        self.site, self.plant, self.roles, self.broker = site, plant, roles, there

    def start(self) -> None:
        self.plant.start("ingest", database=self.roles.url("mes_ingest"))
        self.plant.start("rollup", database=self.roles.url("mes_rollup"))

    def stop(self) -> None:
        for worker in self.plant.workers.values():
            worker.terminate()
        for worker in self.plant.workers.values():
            worker.wait(20)

    def log(self, name: str) -> str:
        return (self.plant.folder / f"{name}.log").read_text()

    def lost(self, *words: str) -> tuple[int, str, str]:
        """`mes ledger lost` as an operator: exit code, stdout, stderr."""
        command = [sys.executable, "-m", "mes", "ledger", "lost", *words]
        who = environment(self.roles.person("li", "mes_operator"), self.plant.broker)
        ran = subprocess.run(command, env=who, capture_output=True, text=True, check=False, timeout=60)
        return ran.returncode, ran.stdout, ran.stderr


@pytest.fixture
def working(site: Site, tmp_path: Path) -> Iterator[Working]:
    with contextlib.ExitStack() as stack:
        there = stack.enter_context(broker("mosquitto", tmp_path / "broker"))
        seeds = small_lines(tmp_path / "seeds", 100.0)
        site.start()
        roles = Roles(f"postgresql://mes@127.0.0.1:{site.port}/postgres", tmp_path / "roles")
        roles.install()
        migrate(roles.url("mes_owner"))
        seed(roles.url("mes_owner"), load_plant(seeds))
        made = Working(site, stack.enter_context(Plant(tmp_path / "plant", roles.superuser, there.url, seeds)), roles, there)
        made.start()
        made.plant.sessions_held()
        yield made


def snapshot(database: str) -> dict[str, Any]:
    """Everything that a person could ask for: facts, ledger, sums, and what the views say."""
    with psycopg.connect(database) as connection:
        found: dict[str, Any] = {
            name: sorted(map(str, connection.execute(f"SELECT t::text FROM {name} AS t".encode())))
            for name in ("mes.cell_event", "mes.machine_ledger", "mes.quarantine", "mes.machine", "mes.target", "mes.day_report")
        }
        for view in VIEWS:
            columns = f"to_jsonb(t) - ARRAY[{', '.join(repr(c) for c in COLUMNS_OF_NOW.get(view, '').split(', '))}]"
            found[view] = sorted(map(str, connection.execute(f"SELECT ({columns})::text FROM report.{view} AS t".encode())))
    return {**found, **dump(database)}


def now(database: str) -> str:
    """The time by the database, which has nothing committed in the same instant."""
    at = value(database, "SELECT clock_timestamp()")
    wait_for(lambda: value(database, "SELECT clock_timestamp()") > at + dt.timedelta(seconds=1), what="a second later")
    return str((at + dt.timedelta(seconds=0.5)).isoformat())


def test_a_server_is_set_back_to_before_a_mistake_and_nothing_is_lost(working: Working, tell: Tell) -> None:
    """In place. What came after that moment is fetched from the former server; until then no mark goes backwards."""
    site, plant = working.site, working.plant
    first = plant.run_machines(60, 400)
    first.has_sent(300)
    site.script("base-backup", site.backups, "-d", plant.database)  # under running ingest
    plant.settle()
    then = snapshot(plant.database)
    moment = now(plant.database)
    plant.run_machines(40, 400)
    plant.settle()
    with psycopg.connect(plant.database, autocommit=True) as connection:  # the mistake, by a superuser in a hurry
        connection.execute("DELETE FROM mes.cell_event WHERE boot = 1000")
        connection.execute("DROP TABLE kpi.station_sum CASCADE")
    wait_for(lambda: plant.workers["rollup"].poll(), PATIENCE_S, "the end of rollup")
    assert plant.workers["rollup"].returncode == 2
    assert working.log("rollup").splitlines()[-1].endswith("run `mes migrate`")
    working.stop()
    site.archived()
    site.stop()
    former = site.data.rename(site.folder / "former")

    site.script("restore", site.backups, site.data, moment)
    site.start()
    assert snapshot(plant.database) == then
    assert then["daily_throughput"]

    marks = {topic.replace("/_cell_v1/completed", "/_ledger_v1/committed"): {"boot": 1001, "seq": 40} for topic in plant.topics}
    (plant.folder / "rollup.log").unlink()  # it has ended as it should
    working.start()
    wait_for(lambda: working.log("ingest").count("it was set back to an older point") == 2, PATIENCE_S, "both lines say so")
    assert "holds less than 12 machines were told is committed" in working.log("ingest")
    assert len(re.findall(r"^ *\S+ +1001 +40 +0\s*$", (told := working.lost())[1], re.MULTILINE)) == 24, told
    machines = plant.run_machines(30, 400)
    wait_for(lambda: plant.ask("SELECT count(*) FROM mes.cell_event WHERE boot = 1002") == 30 * 24, PATIENCE_S, "ingest goes on")
    assert machines.status["uncommitted"] == 30 * 24, "a machine was told that a boot is committed which the database has lost"
    with subscriber(plant.broker, "umh/v1/cbak/+/+/+/+/+/_ledger_v1/committed") as heard:
        wait_for(lambda: heard == marks, PATIENCE_S, "the marks as they were")

    beside = site.start(former, free_port())
    put = site.script("put-back", beside, working.roles.url("mes_owner"), moment)
    assert put.startswith(f"put back: {40 * 24} events, 0 states, 0 quarantined")
    assert site.script("put-back", beside, working.roles.url("mes_owner"), moment).startswith("put back: 0 events,")
    site.stop(former)
    found = plant.settle()
    assert working.log("ingest").count("their marks go on") == 2
    assert working.lost()[2].startswith("nothing is lost")
    site.script("base-backup", site.backups, "-d", plant.database)  # and backups go on, too
    tell(f"{found} (set back by {40 * 24} events, which were put back)")


def test_what_was_deleted_is_fetched_from_a_server_beside(working: Working, tell: Tell) -> None:
    """Nothing stops: the server in use goes on with all that it has received since."""
    site, plant = working.site, working.plant
    site.script("base-backup", site.backups, "-d", plant.database)
    plant.run_machines(60, 400)
    plant.settle()
    moment = now(plant.database)
    machines = plant.run_machines(150, 300)
    machines.has_sent(500)
    with psycopg.connect(plant.database, autocommit=True) as connection:
        deleted = connection.execute("DELETE FROM mes.cell_event WHERE boot = 1000 AND seq > 10").rowcount
    assert deleted == 50 * 24
    site.archived()
    beside = site.folder / "beside"
    site.script("restore", "--beside", site.backups, beside, moment)
    url = site.start(beside, free_port())
    before = sorted(os.listdir(site.backups / "wal"))
    rows(url, "SELECT pg_switch_wal()")
    assert value(url, "SHOW archive_mode") == "off", "two servers would write one archive"
    assert value(url, "SELECT count(*) FROM mes.cell_event WHERE boot = 1000") == 60 * 24
    assert value(url, "SELECT count(*) FROM mes.cell_event WHERE boot = 1001") == 0
    assert f"{deleted} events" in site.script("put-back", url, working.roles.url("mes_owner"), "2020-01-01")
    site.stop(beside)
    assert not [name for name in set(os.listdir(site.backups / "wal")) - set(before) if name.startswith("00000002")]
    found = plant.settle()
    assert "set back" not in working.log("ingest")
    tell(f"{found} ({deleted} deleted while it ran, and put back)")


@pytest.mark.parametrize("how", ["archive", "synchronous"])
def test_the_disk_of_the_database_is_gone(working: Working, tell: Tell, how: str) -> None:
    """With the archive alone the last segment is gone with it, which is said, and given up on the record. Where a receiver has the
    log before a commit counts, nothing is."""
    site, plant = working.site, working.plant
    site.script("base-backup", site.backups, "-d", plant.database)
    with contextlib.ExitStack() as receiving:
        if how == "synchronous":
            command = [site.programs / "pg_receivewal", "-D", site.backups / "wal", "--synchronous", "--slot=mes_backup", "--no-loop"]
            url = f"{plant.database}?application_name=mes_backup"
            site.do(*command, "--create-slot", "-d", url)
            running = subprocess.Popen([*command, "-d", url], cwd="/", start_new_session=True, **as_server())
            receiving.enter_context(stopped_at_the_end(running))
            with psycopg.connect(plant.database, autocommit=True) as connection:
                connection.execute("ALTER SYSTEM SET archive_mode = off")
                connection.execute("ALTER SYSTEM SET synchronous_standby_names = 'mes_backup'")
                connection.execute("SELECT pg_reload_conf()")
            wait_for(lambda: plant.ask("SELECT bool_or(sync_state = 'sync') FROM pg_stat_replication"), PATIENCE_S, "the receiver")
        plant.run_machines(40, 400)
        plant.settle()
        if how == "archive":
            site.archived()
        machines = plant.run_machines(200, 300)
        machines.has_sent(1500)
        wait_for(lambda: (plant.ask("SELECT count(*) FROM mes.cell_event WHERE boot = 1001") or 0) > 1000, PATIENCE_S, "stored")
        machines.kill()  # so that the last of the marks is at the broker
        working.stop()
        held = plant.ask("SELECT count(*) FROM mes.cell_event")
        site.stop(sig=signal.SIGKILL)
    shutil.rmtree(site.data)
    site.script("restore", site.backups, site.data)
    site.start()
    if how == "synchronous":
        rows(plant.database, "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots")
        with psycopg.connect(plant.database, autocommit=True) as connection:
            connection.execute("ALTER SYSTEM RESET synchronous_standby_names")
            connection.execute("SELECT pg_reload_conf()")
    restored = plant.ask("SELECT count(*) FROM mes.cell_event")
    working.start()
    if how == "synchronous":
        assert restored == held
        machines.start()
        found = plant.settle()
        assert "set back" not in working.log("ingest")
        tell(f"{found} (all of {held} events there after the disk was gone)")
        return
    assert restored == 40 * 24 < held
    wait_for(lambda: working.log("ingest").count("it was set back to an older point") == 2, PATIENCE_S, "both lines say so")
    machines.start()  # with their journals, whose committed part they have let go of
    lost = sum(int(told) - int(holds) for told, holds in re.findall(r" 1001 +(\d+) +(\d+)", working.lost()[1]))
    done = working.lost("--close", "--why", "the disk is gone, and with it the last segment")
    assert done[1] == f"closed {lost} of 24 machines\n", done
    machines.wait()
    n = plant.ask("SELECT count(*) FROM mes.cell_event WHERE boot = 1001")
    assert n + lost == 200 * 24
    closed = "SELECT sum(upper(r) - lower(r))::bigint, min(closed_by), max(closed_by) FROM mes.gap_closing CROSS JOIN unnest(seqs) AS r"
    assert rows(plant.database, closed) == [(lost, "li", "li")]
    assert working.log("ingest").count("their marks go on") == 2
    tell(f"of {held} events {restored} restored, {lost} lost with the last segment and given up, {n - (held - restored - lost)} sent since")


def test_a_backup_that_is_damaged_is_none_and_old_ones_make_room(site: Site) -> None:
    """The newest stay, with all of the log that the oldest of them needs."""
    site.start()
    url = f"postgresql://mes@127.0.0.1:{site.port}/postgres"

    def backups() -> list[str]:
        return sorted(path.name for path in (site.backups / "base").iterdir())

    for n in range(1, 4):
        rows(url, "SELECT pg_create_restore_point('x')")
        site.archived()
        site.script("base-backup", site.backups, "-d", url, MES_BACKUP_KEEP="2")
        assert len(backups()) == min(n, 2)
        wait_for(lambda: dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ") > backups()[-1], what="the next second")
    kept = backups()
    label = (site.backups / "base" / kept[0] / "backup_label").read_text()
    needed = re.search(r"START WAL LOCATION: .* \(file ([0-9A-F]{24})\)", label)
    assert needed
    segments = sorted(path.name for path in (site.backups / "wal").iterdir() if len(path.name) == 24)
    assert segments[0] == needed[1]

    damaging = site.folder / "damaging"
    damaging.mkdir()
    (damaging / "pg_verifybackup").symlink_to(site.programs / "pg_verifybackup")
    (damaging / "pg_archivecleanup").symlink_to(site.programs / "pg_archivecleanup")
    hit = f'dd of="{site.backups}/base/.part/global/pg_filenode.map" bs=1 seek=99 conv=notrunc'
    (damaging / "pg_basebackup").write_text(f'#!/bin/sh\n"{site.programs}/pg_basebackup" "$@" && printf x | {hit}\n')
    (damaging / "pg_basebackup").chmod(0o755)
    said = site.script("base-backup", site.backups, "-d", url, MES_BACKUP_KEEP="1", PG_BIN=str(damaging), code=1)
    assert 'checksum mismatch for file "global/pg_filenode.map"' in said
    assert backups() == [".part", *kept]
    assert "say where to" in site.script("base-backup", code=2)


def test_a_dump_is_restored_on_another_server_with_its_roles(site: Site, tmp_path: Path) -> None:
    site.start()
    roles = Roles(f"postgresql://mes@127.0.0.1:{site.port}/postgres", tmp_path / "roles")
    roles.install()
    migrate(roles.url("mes_owner"))
    seed(roles.url("mes_owner"), load_plant(small_lines(tmp_path / "seeds", 100.0)))
    with held(roles.url("mes_ingest"), "nanjing/cells/32140-1") as line:
        line.put(line.topic("pck/01"), *(event(i) for i in range(1, 101)))
    step(roles.url("mes_rollup"))
    before = snapshot(roles.superuser)
    assert '"good": 100' in before["daily_throughput"][0]
    site.do(site.programs / "pg_dump", "--format=custom", f"--file={site.folder}/mes.dump", roles.superuser)
    moved = Site(Path(tempfile.mkdtemp(prefix="mes-moved-", dir="/tmp")))
    try:
        moved.start()
        other = Roles(f"postgresql://mes@127.0.0.1:{moved.port}/postgres", tmp_path / "other")
        other.install()
        site.do(site.programs / "pg_restore", "--exit-on-error", f"--dbname={other.superuser}", f"{site.folder}/mes.dump")
        assert migrate(other.url("mes_owner")) == []
        assert snapshot(other.superuser) == before
        with held(other.url("mes_ingest"), "nanjing/cells/32140-1") as line:
            line.put(line.topic("pck/01"), *(event(i) for i in range(51, 111)))
        step(other.url("mes_rollup"))
        assert rows(other.url("mes_dashboard"), "SELECT good FROM report.daily_throughput WHERE line LIKE 'nan%'") == [(110,)]
        for query in ("SELECT pg_advisory_lock(1)", "SELECT lo_create(0)", "SELECT FROM mes.cell_event"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                rows(other.url("mes_dashboard"), query)
    finally:
        moved.close()
        shutil.rmtree(moved.folder, ignore_errors=True)
