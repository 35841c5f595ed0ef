"""A line by theory: the figures of the tables, and what is shown of them."""

from __future__ import annotations

import csv
import datetime as dt
import io
import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from rich.console import Console

from mes import plant
from mes.seeds import load_plant
from simulators import screen
from simulators.describe import LineFigures, describe, target_of
from simulators.scenario import load
from simulators.stream import Stream

ROOT = Path(__file__).resolve().parents[2]
DAY = dt.date(2026, 11, 20)
LINES = {"26650_tabbed": ("dalian-26650-1", 100_000), "32140_tabless": ("nanjing-32140-1", 50_000)}
with (ROOT / "tests" / "oracles" / "stations.csv").open(encoding="utf-8", newline="") as file:
    TABLE = list(csv.DictReader(file))


def figures(route: str) -> LineFigures:
    name, target = LINES[route]
    return describe(load(ROOT / "seeds", name), target, DAY)


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row['route']}-{row['station']}")
def test_a_station_is_that_of_the_table(row: dict[str, str]) -> None:
    s = next(s for s in figures(row["route"]).stations if s.station == row["station"].lower())
    assert s.first_pass_yield == pytest.approx(float(row["fpy"]), abs=1.5e-5)
    # Of a station that may try twice the table counts the first retry only.
    assert s.final_yield == pytest.approx(float(row["final_yield"]), abs=7e-5 if "max 2" in row["rework"] else 2e-5)
    assert s.starts == pytest.approx(float(row["starts_per_day_needed"]), rel=2e-4)
    if row["kind"] != "dwell":
        assert s.availability == pytest.approx(float(row["availability"]), abs=6e-5)
    # The table's utilisation counts first visits, of the machines for the larger of two targets; ours visits, of the machines there are.
    per_machine = s.places / s.machines / s.cycle_s
    first_visits = float(row["starts_per_day_needed"]) / 86_400 / per_machine / s.machines
    assert s.utilisation == pytest.approx(first_visits, rel=0.006)
    if row["wip_cells"]:
        assert s.wip == pytest.approx(float(row["wip_cells"]), rel=0.004)


@pytest.mark.parametrize(("route", "final"), [("26650_tabbed", 0.987), ("32140_tabless", 0.967)])
def test_the_line_as_a_whole(route: str, final: float) -> None:
    found = figures(route)
    assert found.final_yield == pytest.approx(final, abs=0.0006)
    assert found.rolled_throughput_yield == pytest.approx(math.prod(s.first_pass_yield for s in found.stations))
    assert found.takt_s == pytest.approx(86_400 / LINES[route][1])
    assert found.least < found.target < found.most < found.most_unbroken * (1 + 1e-12)
    assert found.bottleneck == min(found.stations, key=lambda s: s.capacity).station


def test_retries_take_capacity() -> None:
    """A station where half of the cells come back three times in vain works each cell 2.5 times, and half of them are lost."""
    scenario = load(ROOT / "seeds", LINES["26650_tabbed"][0])
    stations = list(scenario.line.station)
    every = [plant.Defect(code="X", name="half of them", ppm=5e5)]
    again = plant.Rework(max=3, share=1.0, success=0.0)
    stations[-2] = msgspec.structs.replace(stations[-2], characteristic=[], defect=every, rework=again)
    changed = replace(scenario, line=msgspec.structs.replace(scenario.line, station=stations))
    before, after = (describe(of, 100_000, DAY) for of in (scenario, changed))
    was, now = before.stations[-2], after.stations[-2]
    assert now.final_yield == 0.5
    assert now.capacity == pytest.approx(was.capacity / was.final_yield * 0.5 / (2.5 / (1 + 0.3 * (1 - was.first_pass_yield))))
    assert now.starts == pytest.approx(100_000 / before.stations[-1].final_yield / 0.5)
    assert now.utilisation == pytest.approx(now.starts * 2.5 * now.cycle_s / 86_400)


@pytest.mark.parametrize("route", LINES)
def test_a_simulated_week_stays_below_the_bound_and_comes_near_it(route: str) -> None:
    found = figures(route)
    scenario = load(ROOT / "seeds", LINES[route][0])
    stream = Stream(scenario, 1, DAY)
    before = stream.counts["left"][-1]
    stream.advance(scenario.day_start(DAY + dt.timedelta(days=7)))
    made = (stream.counts["left"][-1] - before) / 7
    assert 0.97 * found.most < made < 1.005 * found.most


def test_targets_are_those_of_the_day() -> None:
    whole = load_plant(ROOT / "seeds")
    for line in whole.lines:
        mine = sorted((t for t in whole.targets if t.line == line), key=lambda t: t.from_)
        for t in mine:
            assert target_of(whole.targets, line, t.from_) == t
        assert target_of(whole.targets, line, dt.date(2001, 1, 1)) == mine[0]
    assert target_of([], "a/b/c", DAY) is None


def linesim(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "simulators", *words], cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_command_shows_it() -> None:
    told = linesim("describe", "nanjing", "--day", DAY.isoformat(), "--json")
    assert json.loads(told.stdout) == json.loads(json.dumps(figures("32140_tabless").as_dict()))
    shown = linesim("describe", "nanjing", "--target", "40000").stdout
    assert "target 40,000 a day in 24 planned hours, takt 2.160 s" in shown
    assert "\nbottleneck hta;" in shown
    assert all(f"\n{s.station} " in shown for s in figures("32140_tabless").stations[1:])
    refused = linesim("describe", "shanghai")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "'shanghai' is unknown: use one of" in refused.stderr


def test_a_running_line_fits_a_hundred_columns() -> None:
    counts = {"inspected": 101_341, "first_pass_good": 100_945, "pass": 100_945, "rework": 0, "scrap": 396}
    station: dict[str, Any] = {"station": "wnd", **counts, "wip": 5}
    told = {
        "line": "dalian/cells/26650-1", "clock": "2026-11-20 23:59:59 CST", "day": "2026-11-20", "fraction": 0.98765, "speed": 86_400.0,
        "generated": 1_663_787, "published": 1_663_787, "acked": 1_663_787, "committed": 1_600_000, "good_today": 101_000,
        "scrap_today": 1_341, "target": 100_000, "wip": 355_123, "events_per_s": 61_234.5,
        "stations": [station, {**station, "station": "grd", "inspected": 0}],
    }  # fmt: skip
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(screen.running(told))
    shown = console.export_text()
    assert "good 101,000 of 100,000 (101.0 %)   scrap 1,341   WIP 355,123" in shown
    assert "99.61" in shown
    assert max(map(len, shown.splitlines())) <= 100
    console.print(screen.running({**told, "target": None, "fraction": None}))
    assert "good 101,000   scrap" in console.export_text()
