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
from mes.errors import ConfigError
from mes.seeds import load_plant
from simulators import abstract, screen
from simulators.describe import LineFigures, bounds, describe, target_of, target_on
from simulators.scenario import TICKS, Scenario, load
from simulators.stream import Stream

ROOT = Path(__file__).resolve().parents[2]
DAY = dt.date(2026, 11, 20)
LINES = {"26650_tabbed": ("dalian-26650-1", 100_000), "32140_tabless": ("nanjing-32140-1", 50_000)}
with (ROOT / "tests" / "oracles" / "stations.csv").open(encoding="utf-8", newline="") as file:
    TABLE = list(csv.DictReader(file))
with (ROOT / "tests" / "oracles" / "sim_oracles.csv").open(encoding="utf-8", newline="") as file:
    ROWS = {row["name"]: (json.loads(row["parameters"]), float(row["expected"])) for row in csv.DictReader(file)}


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
    shown = linesim("describe", "nanjing", "--target", "40000", "--day", DAY.isoformat()).stdout
    assert "target 40,000 a day in 24 planned hours, takt 2.160 s" in shown
    assert "\nbottleneck hta;" in shown
    assert all(f"\n{s.station} " in shown for s in figures("32140_tabless").stations[1:])
    refused = linesim("describe", "shanghai")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "'shanghai' is unknown: use one of" in refused.stderr


def test_the_bottleneck_has_a_mark_and_tables_keep_to_their_width() -> None:
    for route in LINES:
        console = Console(width=screen.WIDTH, record=True, file=io.StringIO())
        console.print(screen.described(figures(route)))
        rows = console.export_text().splitlines()
        assert [row.split()[0] for row in rows if row.split()[1:2] == ["<"]] == [figures(route).bottleneck]
        assert max(row.count("…") for row in rows) == 1  # a long name, no number
        assert len(rows) == 1 + len(figures(route).stations) + 4


def with_breaks(scenario: Scenario) -> Scenario:
    """Two shifts of twelve hours with an hour of rest each, and a holiday."""
    shifts = [
        msgspec.structs.replace(s, breaks=[plant.Break(start=at, end=at.replace(minute=59))])
        for s, at in zip(scenario.site.shift, RESTS, strict=True)
    ]
    site = msgspec.structs.replace(scenario.site, shift=shifts, holiday=[plant.Holiday(day=DAY, name="rest")])
    return replace(scenario, site=site)


RESTS = [dt.time(12, 0), dt.time(2, 0)]
REST_S = 2 * 59 * 60


def test_planned_hours_bind_crews_and_not_ovens() -> None:
    day = DAY + dt.timedelta(days=1)
    scenario = load(ROOT / "seeds", LINES["32140_tabless"][0])
    whole, rested = describe(scenario, 50_000, day), describe(with_breaks(scenario), 50_000, day)
    assert rested.planned_h * 3600 == 86_400 - REST_S
    assert rested.takt_s == pytest.approx((86_400 - REST_S) / 50_000)
    for a, b in zip(whole.stations, rested.stations, strict=True):
        share = 1 - REST_S / 86_400 if a.kind == "discrete" else 1.0
        assert b.capacity == pytest.approx(a.capacity * share)
        assert b.utilisation == pytest.approx(a.utilisation / share)


def test_the_target_is_in_proportion_to_planned_time() -> None:
    scenario = load(ROOT / "seeds", LINES["32140_tabless"][0])
    rested = with_breaks(scenario)
    whole = load_plant(ROOT / "seeds")
    begin = scenario.day_start(DAY)
    assert target_on(scenario, whole.targets, DAY) == 50_000
    assert target_on(scenario, whole.targets, DAY, begin) == 0
    assert target_on(scenario, whole.targets, DAY, begin + 6 * 3600 * TICKS) == 12_500
    assert target_on(scenario, whole.targets, DAY, begin + 30 * 3600 * TICKS) == 50_000
    assert target_on(rested, whole.targets, DAY) == 0
    day = DAY + dt.timedelta(days=1)
    # A break is no regular time: the target is for what is left. By 14:00 six hours have passed, one minute less than one of rest.
    assert target_on(rested, whole.targets, day) == 50_000
    due = 50_000 * (6 * 3600 - REST_S / 2) / (86_400 - REST_S)
    assert target_on(rested, whole.targets, day, rested.day_start(day) + 6 * 3600 * TICKS) == round(due)
    assert target_on(scenario, [], DAY) is None
    with pytest.raises(ConfigError, match="nothing is planned on 2026-11-20"):
        describe(rested, 50_000, DAY)


def abstract_line(*stations: dict[str, Any]) -> abstract.Scenario:
    return msgspec.convert({"station": [{"name": f"m{n}", **s} for n, s in enumerate(stations)]}, abstract.Scenario)


EXPONENTIAL = {"service": {"dist": "exponential", "mean": 1.0}}


def test_bounds_of_an_abstract_line() -> None:
    two = bounds(abstract_line(EXPONENTIAL, EXPONENTIAL))
    assert (two.most, two.least) == (1.0, pytest.approx(2 / 3))
    broken = bounds(abstract_line(EXPONENTIAL, {**EXPONENTIAL, "failures": {"mode": "operation", "mtbf": 40, "mttr": 10}}))
    assert (broken.most, broken.least) == (0.8, pytest.approx(1 / (1.5 + 0.25)))
    fixed: dict[str, Any] = {"service": {"dist": "deterministic", "mean": 2.0}, "failures": {"mode": "operation", "mtbf": 90, "mttr": 10}}
    three = bounds(abstract_line(fixed, fixed, fixed))
    assert three.most == pytest.approx(0.45)
    assert three.least == pytest.approx(0.5 / (1 + 3 / 9))
    quality = {"miss": 0.1, "rework_max": 1, "rework_share": 0.5, "rework_success": 0.8}
    mixed = bounds(abstract_line({**EXPONENTIAL, "quality": quality}, {**EXPONENTIAL, "machines": 3, "batch": 2, "buffer": 2}))
    assert mixed.bottleneck == "m0"
    assert mixed.most == pytest.approx(0.94 / 1.05)
    assert mixed.least is None
    assert (mixed.rolled_throughput_yield, mixed.final_yield) == (0.9, pytest.approx(0.94))


@pytest.mark.parametrize("name", [name for name, (p, _) in ROWS.items() if "mu" in p and "buffers" in p])
def test_bounds_hold_for_exact_throughputs(name: str) -> None:
    p, expected = ROWS[name]
    stations: list[dict[str, Any]] = [{"service": {"dist": "exponential", "mean": 1 / mu}} for mu in p["mu"]]
    for n, buffer in enumerate(p["buffers"]):
        stations[n + 1]["buffer"] = buffer
    for station, fail, mend in zip(stations, p.get("p", []), p.get("r", []), strict=False):
        station["failures"] = {"mode": "operation", "mtbf": 1 / fail, "mttr": 1 / mend}
    found = bounds(abstract_line(*stations))
    assert found.least is not None
    assert found.least < expected < found.most


def test_the_command_describes_an_abstract_line(tmp_path: Path) -> None:
    path = tmp_path / "line.toml"
    station = '[[station]]\nname = "{}"\nservice = {{ dist = "exponential", mean = 1.0 }}\n'
    path.write_text(station.format("a") + station.format("b"), encoding="utf-8")
    shown = linesim("describe", str(path)).stdout
    assert "at most 1 good parts per time (infinite buffers), at least 0.666667 (no buffers)" in shown
    assert json.loads(linesim("describe", str(path), "--json").stdout)["most"] == 1.0
    for words in (["--target", "5"], ["--day", "2026-11-20"]):
        refused = linesim("describe", str(path), *words)
        assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    refused = linesim("describe", str(tmp_path / "none.toml"))
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
