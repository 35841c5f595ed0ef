"""Targets by date, by shift and by hour, in proportion to the time that is planned for work; capacity against its programme."""

from __future__ import annotations

import datetime as dt
import shutil
from pathlib import Path
from typing import Any

import pytest

from mes.seeds import load_plant
from mes.store.seed import seed
from tests.conftest import SEEDS
from tests.lines import held, look_at_days, step
from tests.pipeline import event, rows

NANJING = "nanjing/cells/32140-1"
DAY_MS = 1_795_305_600_000  # 2026-11-22 08:00 in Nanjing
HOUR_MS = 3_600_000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(SEEDS, tmp_path / "seeds")
    return tmp_path / "seeds"


def add(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text)


def cells(database: str, hours: list[float]) -> None:
    """Good cells so many hours after the production day of 2026-11-22 began."""
    with held(database, NANJING) as line:
        events = [event(n, unit=f"S{n}", timestamp_ms=DAY_MS + round(hour * HOUR_MS)) for n, hour in enumerate(hours, 1)]
        line.put(line.topic("grd/01"), *events)
    step(database)


def days(database: str, columns: str) -> list[tuple[Any, ...]]:
    return rows(database, f"SELECT {columns} FROM report.daily_throughput WHERE line = '{NANJING}' ORDER BY production_day")


def test_a_ramp_up_is_a_target_a_date(database: str, folder: Path) -> None:
    ramp = '\n[[target]]\nline = "{}"\nfrom = {}\ncells_per_day = {}\ngwh_per_year = 0.7\ndays_per_year = 300\nsource = "ramp-up plan"\n'
    add(folder / "targets.toml", ramp.format(NANJING, "2026-11-23", 20_000) + ramp.format(NANJING, "2026-11-25", 35_000))
    seed(database, load_plant(folder))
    cells(database, [1, 25, 49, 73])
    found = days(database, "production_day::text, target, run_rate_days_per_year")
    assert found[:4] == [
        ("2026-11-22", 50_000, 291.666667), ("2026-11-23", 20_000, 300.0), ("2026-11-24", 20_000, 300.0), ("2026-11-25", 35_000, 300.0),
    ]  # fmt: skip


def test_an_adjusted_target_restates_what_is_read_and_no_event(database: str, folder: Path) -> None:
    cells(database, [1])
    text = (folder / "targets.toml").read_text()
    (folder / "targets.toml").write_text(text.replace("cells_per_day = 50000", "cells_per_day = 40000"))
    seed(database, load_plant(folder))
    assert days(database, "target, attainment, gap") == [(40_000, 1 / 40_000, 1 - 40_000)]


def test_a_planned_stop_takes_its_part_of_the_target(database: str, folder: Path) -> None:
    """Eight of the day's 24 hours: two thirds of the target are left, all of it in the hours that are."""
    cells(database, [1, 13])
    assert days(database, "target") == [(50_000,)]
    stop = '\n[[site.planned_stop]]\nfrom = 2026-11-22T16:00:00\nto = 2026-11-23T00:00:00\nreason = "oven maintenance"\n'
    add(folder / "sites/nanjing.toml", stop)
    seed(database, load_plant(folder))
    step(database)
    assert days(database, "target, scheduled_h") == [(33_333, 16.0)]
    shifts = rows(
        database, f"SELECT shift, target, scheduled_h FROM report.shift_throughput WHERE line = '{NANJING}' ORDER BY shift_of_day"
    )
    assert shifts == [("day", pytest.approx(33_333 / 2), 8.0), ("night", pytest.approx(33_333 / 2), 8.0)]
    hours = rows(database, f"SELECT target, pace_per_h FROM report.hourly_throughput WHERE line = '{NANJING}' ORDER BY hour_of_day")
    assert [target == 0.0 for target, _ in hours] == [8 <= n < 16 for n in range(24)]
    assert sum(target for target, _ in hours) == pytest.approx(33_333)
    assert [pace for _, pace in hours][7:9] == [0.0, None], "no pace where no work is planned"


def test_a_holiday_has_no_target_and_a_cell_made_on_it_counts(database: str, folder: Path) -> None:
    add(folder / "sites/nanjing.toml", '\n[[site.holiday]]\nday = 2026-11-22\nname = "founding day"\n')
    seed(database, load_plant(folder))
    cells(database, [1])
    assert days(database, "good, target, attainment, scheduled_h") == [(1, 0, None, 0.0)]
    assert rows(database, f"SELECT DISTINCT target, pace_per_h FROM report.shift_throughput WHERE line = '{NANJING}'") == [(None, None)]


def test_breaks_have_no_target(database: str, folder: Path) -> None:
    text = (folder / "sites/nanjing.toml").read_text()
    at = 'name = "day"\nstart = 08:00:00\nend = 20:00:00\n'
    assert at in text
    (folder / "sites/nanjing.toml").write_text(text.replace(at, at + "breaks = [{ start = 12:00:00, end = 13:00:00 }]\n"))
    seed(database, load_plant(folder))
    cells(database, [1])
    assert days(database, "target, scheduled_h") == [(50_000, 23.0)], "a day with its usual breaks has the whole target"
    hours = rows(database, f"SELECT target FROM report.hourly_throughput WHERE line = '{NANJING}' ORDER BY hour_of_day")
    assert [n for n, (target,) in enumerate(hours) if target == 0] == [4]
    assert sum(target for (target,) in hours) == pytest.approx(50_000)


def test_a_day_of_23_hours_has_the_whole_target(database: str, folder: Path) -> None:
    """New York, 2026-03-07 08:00 to 2026-03-08 08:00: the clocks go forward in the night shift."""
    text = (folder / "sites/nanjing.toml").read_text().replace("Asia/Shanghai", "America/New_York")
    (folder / "sites/nanjing.toml").write_text(text)
    seed(database, load_plant(folder))
    begin = dt.datetime(2026, 3, 7, 13, tzinfo=dt.UTC)  # 08:00 in New York
    with held(database, NANJING) as line:
        events = [event(n, unit=f"S{n}", timestamp_ms=int(begin.timestamp() * 1000) + (n - 1) * HOUR_MS) for n in range(1, 25)]
        line.put(line.topic("grd/01"), *events)
    step(database)
    assert days(database, "production_day::text, good, target, scheduled_h")[:2] == [
        ("2026-03-07", 23, 50_000, 23.0), ("2026-03-08", 1, 50_000, 24.0),
    ]  # fmt: skip
    shifts = rows(
        database,
        "SELECT shift, good, scheduled_h, target FROM report.shift_throughput WHERE production_day = '2026-03-07' ORDER BY shift_of_day",
    )
    assert shifts == [("day", 12, 12.0, pytest.approx(50_000 * 12 / 23)), ("night", 11, 11.0, pytest.approx(50_000 * 11 / 23))]


def test_a_zone_that_changes_sums_history_by_the_new_days(database: str, folder: Path) -> None:
    cells(database, [1, 23])  # 09:00 and 07:00 of the next date in Nanjing
    assert days(database, "production_day::text, good") == [("2026-11-22", 2)]
    text = (folder / "sites/nanjing.toml").read_text().replace("Asia/Shanghai", "America/New_York")
    (folder / "sites/nanjing.toml").write_text(text)
    seed(database, load_plant(folder))
    step(database)
    assert days(database, "production_day::text, good") == [("2026-11-21", 1), ("2026-11-22", 1)]


def test_capacity_is_the_run_rate_against_the_programme(database: str) -> None:
    """50,000 cells of 48 Wh a day on 291.67 days are 0.7 GWh a year, of 2 + 6 in the programme."""
    cells(database, [n / 1000 for n in range(1000)])
    look_at_days(database)
    columns = "planned_gwh, phases, run_rate_gwh, attainment, energy_mwh"
    query = f"SELECT {columns} FROM report.site_capacity WHERE site = 'nanjing' ORDER BY production_day LIMIT 1"
    planned, phases, rate, attainment, energy = rows(database, query)[0]
    assert (planned, phases) == (8.0, "I, II")
    assert rate * 50 == pytest.approx(0.7, rel=1e-6)
    assert attainment == rate / 8.0
    assert energy == pytest.approx(0.048)
