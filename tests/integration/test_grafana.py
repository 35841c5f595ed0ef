"""Grafana's dashboards: generated files are current, and every panel's statement says something, to who may read `report` only."""

from __future__ import annotations

import datetime as dt
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from ruamel.yaml import YAML

from mes.contract import CellEvent
from mes.seeds import load_plant
from mes.store.migrate import migrate
from mes.store.seed import seed
from simulators.scenario import load, origin_of
from simulators.stream import Stream
from tests import grafana
from tests.grafana import Panel
from tests.lines import held, look_at_days, step
from tests.plants import small_lines
from tests.servers import debian_postgres, missing
from tests.timescaledb import Missing, timescaledb

ROOT = Path(__file__).resolve().parents[2]
NANJING, DALIAN = "nanjing/cells/32140-1", "dalian/cells/26650-1"
NOW = dt.datetime.now(dt.UTC)
RANGE = (NOW - dt.timedelta(days=30), NOW)
SOMETIMES = {"line-day: Restated"}
"""Panels that are empty where all is well."""


def fill(database: str, seeds: Path) -> None:
    """Both lines from yesterday's production day until now, simulated, with a gap and a message that nobody understands."""
    migrate(database)
    seed(database, load_plant(seeds))
    for path in (NANJING, DALIAN):
        scenario = load(seeds, path)
        start = (NOW - dt.timedelta(days=2)).date()
        stream = Stream(scenario, 3, start, origin=origin_of(start))
        part = stream.advance(int(NOW.timestamp() * 1_000_000))
        events: dict[str, list[CellEvent]] = {}
        for text in stream.lines(part).splitlines():
            one = json.loads(text)
            events.setdefault(one["topic"], []).append(CellEvent(**one["event"]))
        with held(database, path) as line:
            for topic, mine in events.items():
                line.put(topic, *(event for event in mine if event.seq != 5))
    step(database)
    look_at_days(database)


@pytest.fixture(scope="module", params=["postgresql", "timescaledb"])
def reader(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[psycopg.Connection[Any]]:
    """A connection to a database with two days of both lines, as a role that may read the schema `report` and nothing else."""
    server = debian_postgres() if request.param == "postgresql" else timescaledb()
    try:
        url = server.__enter__()
    except Missing as why:
        missing(str(why), "a Debian mirror")
        raise
    try:
        fill(url, small_lines(tmp_path_factory.mktemp("seeds") / "seeds", 100))
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("CREATE ROLE grafana")
            connection.execute("GRANT USAGE ON SCHEMA report TO grafana; GRANT SELECT ON ALL TABLES IN SCHEMA report TO grafana")
            connection.execute("SET ROLE grafana; SET default_transaction_read_only = on; SET timezone = 'UTC'")
            yield connection
    finally:
        server.__exit__(None, None, None)


def test_what_is_committed_is_what_is_generated(tmp_path: Path) -> None:
    subprocess.run([sys.executable, ROOT / "deploy/grafana/source/generate.py", tmp_path], check=True, cwd=tmp_path)
    made = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.glob("*.json")}
    committed = {path.name: path.read_text(encoding="utf-8") for path in grafana.DASHBOARDS.glob("*.json")}
    assert sorted(made) == sorted(committed)
    assert made == committed, "run `python deploy/grafana/source/generate.py`"


@pytest.mark.parametrize("panel", grafana.panels(), ids=str)
def test_a_panel_says_something_to_who_may_read_report(reader: psycopg.Connection[Any], panel: Panel) -> None:
    begin, end = RANGE
    rows = 0
    for line in (NANJING, DALIAN):
        given = {"line": line} if any(name == "line" for name, _ in grafana.variables(panel.dashboard)) else {}
        statement = grafana.expand(panel.sql, grafana.choose(reader, panel.dashboard, given, begin, end), begin, end)
        reader.execute(b"EXPLAIN " + statement.encode())
        cursor = reader.execute(statement.encode())
        found = cursor.fetchall()
        assert cursor.description
        if panel.form == "time_series":
            assert cursor.description[0].name == "time"
            times = [row[0] for row in found]
            assert times == sorted(times)
            assert all(begin <= time <= end for time in times)
        rows += len(found)
    assert rows or str(panel) in SOMETIMES, statement


@pytest.mark.parametrize("panel", grafana.panels(), ids=str)
def test_a_panel_names_views_of_report_only(panel: Panel) -> None:
    relations = re.findall(r"\b(?:FROM|JOIN)\s+([^\s(]+)", panel.sql)
    assert relations
    assert all(name.startswith("report.") for name in relations), relations


def test_figures_of_a_panel_are_those_of_the_view(reader: psycopg.Connection[Any]) -> None:
    (panel,) = (panel for panel in grafana.panels() if panel.title == "The day")
    begin, end = RANGE
    chosen = grafana.choose(reader, panel.dashboard, {"line": DALIAN}, begin, end)
    shown = reader.execute(grafana.expand(panel.sql, chosen, begin, end).encode()).fetchall()
    day = sql.SQL("SELECT good, target, attainment FROM report.daily_throughput WHERE line = {} AND production_day = {}::date")
    assert [row[:3] for row in shown] == reader.execute(day.format(DALIAN, chosen["day"])).fetchall()


def test_a_serial_with_a_quote_stays_a_string() -> None:
    text = grafana.expand("SELECT ${line:sqlstring}", {"line": "a'; DROP TABLE x; --"}, *RANGE)
    assert text == "SELECT 'a''; DROP TABLE x; --'"


@pytest.mark.parametrize("text", ["SELECT ${nobody}", "SELECT $__timeEpoch(at)"])
def test_what_grafana_would_not_know_is_found(text: str) -> None:
    with pytest.raises(ValueError, match="is not"):
        grafana.expand(text, {}, *RANGE)


def test_dashboards_use_the_datasource_that_is_provisioned() -> None:
    folder = ROOT / "deploy/grafana/provisioning"
    (source,) = YAML(typ="safe").load(folder / "datasources/mes.yaml")["datasources"]
    assert source["user"] == "mes_dashboard"
    assert source["secureJsonData"]["password"].startswith("$__file{")
    assert YAML(typ="safe").load(folder / "dashboards/mes.yaml")["providers"]
    for path in grafana.DASHBOARDS.glob("*.json"):
        text = path.read_text(encoding="utf-8")
        used = {found for found in re.findall(r'"uid": "([^"]+)"', text) if not found.startswith("mes-")}
        assert used == {source["uid"]}, path
        assert set(re.findall(r'"type": "(grafana-[^"]+)"', text)) == {source["type"]}
