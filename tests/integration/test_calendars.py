"""The calendar in the database: what is seeded is read back, a change is summed anew, what is refused changes nothing."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from mes import calendar
from mes.seeds import load_plant
from mes.store.calendars import LineCalendar, line_calendars
from mes.store.connection import connect
from mes.store.seed import SUMS, seed
from tests.conftest import SEEDS
from tests.databases import FIXTURES
from tests.lines import dump, held, step
from tests.pipeline import AT_MS, GRD, environment, event, rows, value

PATH = "nanjing/cells/32140-1"
PLAN = """
[[site.shift]]
from = 2026-11-24
name = "early"
start = 08:00:00
end = 16:00:00
breaks = [{ start = 12:30:00, end = 13:00:00 }, { start = 10:00:00, end = 10:15:00 }]

[[site.shift]]
from = 2026-11-24
name = "late"
start = 16:00:00
end = 08:00:00
breaks = [{ start = 03:00:00, end = 03:30:00 }, { start = 23:45:00, end = 00:15:00 }]
"""
HOLIDAYS = """
[[site.holiday]]
day = 2027-02-06
name = "Spring Festival"

[[site.holiday]]
day = 2026-11-22
name = "a day of the test"
"""
STOPS = """
[[site.planned_stop]]
from = 2026-12-01T06:00:00
to = 2026-12-01T12:00:00
reason = "power"

[[site.planned_stop]]
from = 2026-11-30T06:00:00
to = 2026-11-30T12:00:00
reason = "overhaul"
line = "nanjing/cells/32140-1"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(SEEDS, tmp_path / "seeds")
    return tmp_path / "seeds"


def append(folder: Path, text: str, file: str = "sites/nanjing.toml") -> None:
    path = folder / file
    path.write_text(path.read_text(encoding="utf-8") + text, encoding="utf-8")


def change(folder: Path, old: str, new: str) -> None:
    path = folder / "sites/nanjing.toml"
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


@pytest.mark.parametrize("databases", FIXTURES)
def test_what_is_seeded_is_read_back(request: pytest.FixtureRequest, databases: str, folder: Path) -> None:
    database = request.getfixturevalue(databases)()
    append(folder, PLAN + HOLIDAYS + STOPS + STOPS.replace('line = "nanjing/cells/32140-1"', "").replace("2026", "2025"))
    other = (folder / "lines/nanjing-32140-1.toml").read_text().replace('"32140-1"', '"32140-2"', 1)
    (folder / "lines/nanjing-32140-2.toml").write_text(other)
    for edit in (lambda: None, lambda: change(folder, HOLIDAYS, "")):  # the second time something is taken away
        edit()
        plant = load_plant(folder)
        assert seed(database, plant)
        with connect(database) as connection:
            found = line_calendars(connection)
            assert {entry.path: entry for entry in found.values()} == {
                path: LineCalendar(path, calendar.of_site(plant.sites[line.site], path)) for path, line in plant.lines.items()
            }
            assert [entry.path for entry in line_calendars(connection, PATH).values()] == [PATH]
            assert line_calendars(connection, "nowhere/a/b") == {}
    ids = dict(rows(database, "SELECT path, line_id FROM mes.line"))
    assert [len(found[ids[path]].calendar.stops) for path in (PATH, "nanjing/cells/32140-2", "dalian/cells/26650-1")] == [4, 3, 0]


def test_a_database_of_before_keeps_its_shifts_as_since_ever(database: str) -> None:
    assert rows(database, "SELECT DISTINCT from_day::text, position, name FROM mes.shift ORDER BY 2") == [
        ("0001-01-01", 0, "day"),
        ("0001-01-01", 1, "night"),
    ]


@pytest.fixture
def summed(database: str) -> str:
    """Three production days of good cells at Nanjing, from 2026-11-22, all summed."""
    with held(database, PATH) as line:
        line.put(GRD, *(event(n, timestamp_ms=AT_MS + n * 2_000_000) for n in range(100)[1:]))
    step(database)
    return database


def marks(database: str) -> list[tuple[str, str]]:
    return rows(database, "SELECT l.path, d.bucket::text FROM mes.dirty_bucket d JOIN mes.line l USING (line_id) ORDER BY d.bucket")


def test_a_holiday_marks_its_own_day_and_no_other(summed: str, folder: Path) -> None:
    append(folder, HOLIDAYS)
    assert seed(summed, load_plant(folder))
    assert marks(summed) == [(PATH, "2026-11-22 00:00:00+00")]


def test_a_plan_marks_the_days_from_its_own_on(summed: str, folder: Path) -> None:
    append(folder, PLAN)
    assert seed(summed, load_plant(folder))
    assert marks(summed) == [(PATH, "2026-11-24 00:00:00+00")]


def test_what_is_no_calendar_marks_nothing(summed: str, folder: Path) -> None:
    change(folder, 'name = "Nanjing cell plant"', 'name = "Nanjing"')
    assert seed(summed, load_plant(folder))
    assert marks(summed) == []


@pytest.mark.parametrize(
    ("old", "new"), [("08:00:00", "06:30:00"), ('"Asia/Shanghai"', '"America/New_York"')], ids=["start of the day", "zone"]
)
def test_where_days_begin_elsewhere_all_is_summed_anew(summed: str, folder: Path, old: str, new: str) -> None:
    before = dump(summed)
    change(folder, old, new)
    with psycopg.connect(summed, autocommit=True) as listener:
        listener.execute("LISTEN mes_marks")
        assert seed(summed, load_plant(folder))
        assert [note.payload for note in listener.notifies(timeout=30, stop_after=1)] == [PATH]
    assert all(value(summed, f"SELECT count(*) FROM kpi.{table}") == 0 for table in SUMS)
    step(summed)
    after = dump(summed)
    assert [r for r in after["station_sum"] if "bucket" in r] == [r for r in before["station_sum"] if "bucket" in r]
    assert after["line_day"] != before["line_day"]
    with psycopg.connect(summed, autocommit=True) as connection:  # the same from nothing
        tables = [name for (name,) in connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'kpi'")]
        for table in tables:
            connection.execute(sql.SQL("DELETE FROM {}").format(sql.Identifier("kpi", table)))
        connection.execute(
            "INSERT INTO mes.dirty_bucket (line_id, bucket) SELECT DISTINCT line_id, date_bin('5 minutes', at, 'epoch') FROM mes.cell_event"
        )
    step(summed)
    assert dump(summed) == after
    assert value(summed, "SELECT sum(good) FROM report.daily_throughput") == 99


def test_every_table_of_sums_is_emptied_where_days_begin_elsewhere(database: str) -> None:
    found = rows(database, "SELECT tablename FROM pg_tables WHERE schemaname = 'kpi'")
    assert {name for (name,) in found} == set(SUMS)


TARGET = '\n[[target]]\nline = "nanjing/cells/32140-1"\nfrom = 2021-02-03\ncells_per_day = 1\ngwh_per_year = 1.0\n'
TARGET += 'days_per_year = 300\nsource = "test"\n'

# file, edit of its text, what the message must hold
BAD: dict[str, tuple[str, Callable[[str], str], list[str]]] = {
    "overlapping target": ("targets.toml", lambda text: text + TARGET, ["target[2].from", "2021-02-03", "one target a line and date"]),
    "hole in the shifts": (
        "sites/nanjing.toml",
        lambda text: text.replace("start = 20:00:00", "start = 21:00:00"),
        ["site.shift[1].start", "21:00:00", "no hole"],
    ),
    "shifts overlap": (
        "sites/nanjing.toml",
        lambda text: text.replace("start = 20:00:00", "start = 19:00:00"),
        ["site.shift[1].start", "19:00:00", "do not overlap"],
    ),
    "unknown zone": (
        "sites/nanjing.toml",
        lambda text: text.replace("Asia/Shanghai", "Asia/Nanjing"),
        ["site.zone", "'Asia/Nanjing'", "not an IANA zone"],
    ),
    "holiday twice": ("sites/nanjing.toml", lambda text: text + HOLIDAYS + HOLIDAYS, ["site.holiday[2].day", "stands twice"]),
    "break outside": (
        "sites/nanjing.toml",
        lambda text: text + PLAN.replace("start = 12:30", "start = 07:30"),
        ["site.shift[2].breaks[0]", "07:30:00", "not within shift 'early'"],
    ),
    "stop of an unknown line": (
        "sites/nanjing.toml",
        lambda text: text + STOPS.replace("32140-1", "32140-9"),
        ["site.planned_stop[1].line", "32140-9", "use one of"],
    ),
    "phase twice": (
        "targets.toml",
        lambda text: text.replace('phase = "II"', 'phase = "I"'),
        ["site_capacity[1].phase", "'I'", "choose another"],
    ),
}


def everything(database: str) -> dict[str, list[tuple[object, ...]]]:
    tables = rows(database, "SELECT schemaname, tablename FROM pg_tables WHERE schemaname IN ('mes', 'kpi') ORDER BY 1, 2")
    return {
        f"{schema}.{table}": sorted(rows(database, f"SELECT t::text FROM {schema}.{table} t"))  # whole rows as text
        for schema, table in tables
    }


@pytest.mark.parametrize(("file", "edit", "parts"), BAD.values(), ids=BAD.keys())
def test_a_bad_folder_is_refused_in_one_line_and_changes_nothing(
    database: str, folder: Path, file: str, edit: Callable[[str], str], parts: list[str]
) -> None:
    append(folder, "", file)
    (folder / file).write_text(edit((folder / file).read_text(encoding="utf-8")), encoding="utf-8")
    before = everything(database)
    done = subprocess.run(
        [sys.executable, "-m", "mes", "seed", "--seeds", folder],
        env=environment(database, ""), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.strip().splitlines()
    assert [part for part in (str(folder / file), *parts) if part not in line] == []
    assert everything(database) == before
    assert len(before["mes.plant_version"]) == 1
