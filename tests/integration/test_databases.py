"""The servers that the other tests run on: a TimescaleDB under the embedded server's supervisor is as good as that."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests import timescaledb
from tests.databases import Database, cloner, database_of
from tests.pipeline import ROOT, value
from tests.servers import missing, wait_for


def test_a_timescaledb_is_known_by_its_processes_and_survives_their_death(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        edition = timescaledb.edition(timescaledb.programs())
    except timescaledb.Missing as why:
        missing(f"TimescaleDB ({why})", "nothing, but let apt reach a Debian mirror")
    found = re.fullmatch(r"PostgreSQL (17\.\d+) with TimescaleDB (\d\.\d+\.\d+) \(Apache edition\)", edition)
    assert found, edition
    with Database(tmp_path, kind="timescaledb") as server:
        assert value(server.url, "SHOW server_version").startswith(found[1])
        new = cloner(server.url, ROOT / "seeds")
        for url in (server.url, new(), new()):
            assert value(url, "SELECT extversion FROM pg_extension WHERE extname = 'timescaledb'") == found[2]
            assert value(url, "SHOW timescaledb.license") == "apache"
        assert value(url, "SELECT count(*) FROM timescaledb_information.hypertables WHERE hypertable_schema = 'mes'") == 2
        assert server.pid in server.pids()
        assert len(server.pids()) > 5, "with its workers, those of TimescaleDB too"
        server.kill()
        wait_for(lambda: server.pids() == [], what="nothing of it to run")
        server.start()
        assert value(url, "SELECT count(*) FROM mes.line") == 2
        assert server._lock
        server._lock.release()  # as if this process had been killed
        pid = server.pid
        with Database(tmp_path, kind="timescaledb") as second:
            assert not server.alive()
            assert value(database_of(second.url, url.rpartition("/")[2]), "SELECT count(*) FROM mes.line") == 2
    assert f"(process {pid}," in capsys.readouterr().out


def test_the_run_is_on_the_server_that_it_says(server_url: str, pytestconfig: pytest.Config) -> None:
    (said,) = [line for line in pytestconfig.hook.pytest_report_header(config=pytestconfig, start_path=ROOT) if "MES_TEST_DATABASE" in line]
    version = value(server_url, "SHOW server_version").split()[0]
    has_extension = value(server_url, "SELECT count(*) FROM pg_extension WHERE extname = 'timescaledb'") == 1
    assert f"PostgreSQL {version}" in said
    assert ("TimescaleDB" in said) == has_extension
