"""A database of the first version, with figures in it, becomes one of today, and its figures are summed anew."""

from __future__ import annotations

import datetime as dt

import msgspec
import psycopg
import pytest

from mes.seeds import load_plant
from mes.store import migrate as module
from mes.store.migrate import migrate
from mes.store.seed import seed
from tests.conftest import SEEDS
from tests.databases import Databases
from tests.lines import look_at_days, step
from tests.pipeline import rows, value

LINE = "nanjing/cells/32140-1"
FIRST = 5  # migrations of version 0.1 and of the work on it
AT = dt.datetime(2026, 11, 22, 2, 0, tzinfo=dt.UTC)


def old(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What stood there: a plant without calendar and grids, a cell that passed the count point, and its sums."""
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("DROP SCHEMA IF EXISTS report, kpi, mes CASCADE")
    with monkeypatch.context() as patch:
        first = module.migrations()[:FIRST]
        patch.setattr(module, "migrations", lambda: first)
        patch.setattr(module, "views", list)
        assert len(migrate(database, timescaledb="off")) == FIRST  # it knew nothing of hypertables
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(
            """
            INSERT INTO mes.site (code, name, zone, day_start, source) VALUES ('nanjing', 'N', 'Asia/Shanghai', '08:00', 's');
            INSERT INTO mes.shift VALUES (1, 0, 'day', '08:00', '20:00'), (1, 1, 'night', '20:00', '08:00');
            INSERT INTO mes.product (code, name, energy_wh, source) VALUES ('32140', 'P', 48, 's');
            INSERT INTO mes.line (site_id, area, code, path, name, product_id)
                VALUES (1, 'cells', '32140-1', 'nanjing/cells/32140-1', 'L', 1);
            INSERT INTO mes.station (line_id, code, seq, name, section, kind, cycle_s, is_count_point)
                VALUES (1, 'grd', 210, 'S', 'finishing', 'dwell', 21600, true);
            INSERT INTO mes.machine (station_id, code) VALUES (1, '01');
            INSERT INTO mes.characteristic VALUES (1, 0, 'capacity_0.5C', 'Ah', 15.15, 14.7, NULL);
            INSERT INTO mes.plant_version (digest) VALUES ('old');
            """
        )
        connection.execute(
            "INSERT INTO mes.cell_event VALUES (%s, %s, 1, 1, 1, -1, 7, 1, 1, 1, 0, 0, 'S1', '{15.25}', NULL)",
            [AT, AT + dt.timedelta(seconds=1)],
        )
        connection.execute("INSERT INTO mes.machine_ledger (machine_id, boot, received) VALUES (1, 1, '{[1,2)}')")
        connection.execute("INSERT INTO kpi.station_bucket VALUES (1, %s, 1, 1, 0, 0, 1, 1, '{4000}', '{1}', %s)", [AT, AT])


def test_figures_of_the_first_version_are_summed_anew(new_database: Databases, monkeypatch: pytest.MonkeyPatch) -> None:
    database = new_database()
    old(database, monkeypatch)
    assert migrate(database)
    assert seed(database, load_plant(SEEDS)) is True
    step(database)
    look_at_days(database)
    day = rows(database, "SELECT good, events, target, completeness FROM report.daily_throughput WHERE production_day = '2026-11-22'")
    assert day == [(1, 1, 50_000, 1.0)]
    assert rows(database, "SELECT shift, good FROM report.shift_throughput WHERE production_day = '2026-11-22' ORDER BY 2 DESC") == [
        ("day", 1), ("night", 0),
    ]  # fmt: skip
    assert rows(database, "SELECT characteristic, n, mean FROM report.daily_characteristic") == [("capacity_0.5C", 1, 15.25)]
    assert value(database, "SELECT count(*) FROM mes.characteristic WHERE grid_step IS NULL") == 0


def test_a_nominal_that_changes_leaves_the_grid_of_the_sums(new_database: Databases) -> None:
    database = new_database()
    query = "SELECT grid_origin, grid_step FROM mes.characteristic WHERE name = 'capacity_0.5C' ORDER BY station_id"
    before = rows(database, query)
    rows(database, "UPDATE mes.plant_version SET digest = 'other' RETURNING 1")
    plant = load_plant(SEEDS)
    line = plant.lines[LINE]
    last = line.station[-1]
    other = msgspec.structs.replace(last, characteristic=[msgspec.structs.replace(c, nominal=2 * c.nominal) for c in last.characteristic])
    changed = {**plant.lines, LINE: msgspec.structs.replace(line, station=[*line.station[:-1], other])}
    assert seed(database, msgspec.structs.replace(plant, lines=changed)) is True
    assert (30.3,) in rows(database, "SELECT nominal FROM mes.characteristic WHERE name = 'capacity_0.5C'")
    assert rows(database, query) == before
