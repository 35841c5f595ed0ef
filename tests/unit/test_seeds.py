"""The repository's seeds carry the facts of the domain tables (tests/oracles), all of them and nothing else."""

from __future__ import annotations

import csv
import math
import re
from pathlib import Path

import pytest

from mes import plant
from mes.seeds import load_plant

ROOT = Path(__file__).resolve().parents[2]
ORACLES = ROOT / "tests" / "oracles"
PLANT = load_plant(ROOT / "seeds")

# route of the tables: line of the seeds, column of its machines, cells a day
ROUTES = {
    "26650_tabbed": ("dalian/cells/26650-1", "machines_for_100k_per_day", 100_000),
    "32140_tabless": ("nanjing/cells/32140-1", "machines_for_50k_per_day", 50_000),
}
CHANNELS_OF_A_CABINET = 512


def table(name: str) -> list[dict[str, str]]:
    with (ORACLES / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


STATIONS = table("stations.csv")
MEASUREMENTS = table("measurements.csv")


def line_of(row: dict[str, str]) -> plant.Line:
    return PLANT.lines[ROUTES[row["route"]][0]]


def station_of(row: dict[str, str]) -> plant.Station:
    return next(s for s in line_of(row).station if s.code == row["station"].lower())


def test_the_tables_and_the_seeds_hold_the_same_stations() -> None:
    assert {(row["route"], row["station"].lower(), int(row["seq"])) for row in STATIONS} == {
        (route, station.code, station.seq) for route, (line, _, _) in ROUTES.items() for station in PLANT.lines[line].station
    }
    assert set(PLANT.lines) == {line for line, _, _ in ROUTES.values()}


@pytest.mark.parametrize("row", STATIONS, ids=lambda row: f"{row['route']}-{row['station']}")
def test_station(row: dict[str, str]) -> None:
    station = station_of(row)
    assert station.name == row["name"]
    assert station.kind == row["kind"]
    assert station.cycle_s == float(row["cycle_s"])
    assert station.plan_oee == float(row["plan_oee"])
    assert (station.mtbf_min, station.mttr_min) == (float(row["mtbf_min"]), float(row["mttr_min"]))
    assert station.buffer_after == int(row["out_buffer_slots"])
    assert station.basis == row["basis"]
    together = int(row["parts_per_cycle"])
    machines = int(row[ROUTES[row["route"]][1]])
    if row["machine_unit"] == "channels":
        assert (station.machines, station.positions) == (math.ceil(machines / CHANNELS_OF_A_CABINET), CHANNELS_OF_A_CABINET)
    elif row["kind"] == "dwell":
        assert (station.machines, station.positions, station.cells_per_cycle) == (machines, together, 1)
    else:
        assert (station.machines, station.positions, station.cells_per_cycle) == (machines, 1, together)


@pytest.mark.parametrize("row", STATIONS, ids=lambda row: f"{row['route']}-{row['station']}")
def test_quality(row: dict[str, str]) -> None:
    station = station_of(row)
    found = re.findall(r"(\w+)=(.*?) \((\d+) ppm\)(?:; |$)", row["defect_codes"])
    assert [(d.code, d.name, d.ppm) for d in station.defect if d.ppm] == [(code, name, float(ppm)) for code, name, ppm in found]
    # Further defects are readings beyond a limit and nothing else.
    beyond = {code for c in station.characteristic for code in (c.below, c.above)}
    assert {d.code for d in station.defect if not d.ppm} <= beyond
    if row["rework"] == "no":
        assert station.rework is None
    else:
        assert station.rework is not None
        assert f"yes max {station.rework.max}" == row["rework"]
        assert (station.rework.share, station.rework.success) == (float(row["rework_share_of_fails"]), float(row["rework_success"]))


@pytest.mark.parametrize("row", STATIONS, ids=lambda row: f"{row['route']}-{row['station']}")
def test_first_pass_yield_follows_from_the_defects_and_limits_of_the_seeds(row: dict[str, str]) -> None:
    station = station_of(row)
    outside = [float(m["p_out_of_spec_ppm"]) for m in MEASUREMENTS if (m["route"], m["station"]) == (row["route"], row["station"])]
    sampled = [c.sampling for c in station.characteristic]
    misses = [d.ppm for d in station.defect] + [ppm for ppm, share in zip(outside, sampled, strict=True) if share == 1]
    assert math.prod(1 - ppm / 1e6 for ppm in misses) == pytest.approx(float(row["fpy"]), abs=1.5e-5)


def test_the_tables_and_the_seeds_hold_the_same_measurements() -> None:
    assert [(row["route"], row["station"].lower(), row["quantity"]) for row in MEASUREMENTS] == [
        (route, station.code, c.name)
        for route, (line, _, _) in ROUTES.items()
        for station in PLANT.lines[line].station
        for c in station.characteristic
    ]


@pytest.mark.parametrize("row", MEASUREMENTS, ids=lambda row: f"{row['route']}-{row['station']}-{row['quantity']}")
def test_a_reading_beyond_a_limit_that_every_cell_has_is_a_named_defect(row: dict[str, str]) -> None:
    station = station_of(row)
    c = next(c for c in station.characteristic if c.name == row["quantity"])
    inspected = row["sampling"].startswith("100%")
    assert (c.below is not None, c.above is not None) == (inspected and c.lsl is not None, inspected and c.usl is not None)


@pytest.mark.parametrize("row", MEASUREMENTS, ids=lambda row: f"{row['route']}-{row['station']}-{row['quantity']}")
def test_measurement(row: dict[str, str]) -> None:
    c = next(c for c in station_of(row).characteristic if c.name == row["quantity"])
    assert c.unit == row["unit"]
    assert (c.nominal, c.sigma) == (float(row["nominal"]), float(row["sigma"]))
    assert c.lsl == (float(row["LSL"]) if row["LSL"] else None)
    assert c.usl == (float(row["USL"]) if row["USL"] else None)
    assert c.distribution == row["distribution"].partition(" ")[0]
    assert (c.sampling_basis, c.basis) == (row["sampling"], row["basis"])


@pytest.mark.parametrize("row", MEASUREMENTS, ids=lambda row: f"{row['route']}-{row['station']}-{row['quantity']}")
def test_sampling_is_the_share_that_its_words_mean(row: dict[str, str]) -> None:
    station = station_of(row)
    c = next(c for c in station.characteristic if c.name == row["quantity"])
    cells_a_day = ROUTES[row["route"]][2]
    words = row["sampling"]
    if words.startswith("100%"):
        expected = 1.0
    elif words == "sample":
        expected = 1 / 1000  # judgement: the table gives no number
    else:
        expected = {
            "5 pcs/2 h destructive": 5 * 12 / cells_a_day,
            "1/min": 24 * 60 / cells_a_day,
            "1/h": 24 / cells_a_day,
            "sample 1/1000": 1 / 1000,
            "3 cells/oven (Karl Fischer)": 3 / station.cells_per_cycle,
            "per batch": 1 / station.cells_per_cycle,
        }[words]
    assert c.sampling == pytest.approx(expected, rel=1e-5)


def test_products_hold_what_voltage_times_capacity_gives() -> None:
    assert {p.code: (p.nominal_voltage_v, p.capacity_ah, p.energy_wh) for p in PLANT.products.values()} == {
        "26650": (3.2, 4.0, 12.8),
        "32140": (3.2, 15.0, 48.0),
    }
    for p in PLANT.products.values():
        assert p.energy_wh == pytest.approx(p.nominal_voltage_v * p.capacity_ah)


def test_targets_are_those_announced_and_their_figures_agree() -> None:
    targets = {t.line: t for t in PLANT.targets}
    assert len(targets) == len(PLANT.targets)
    assert {line: (t.cells_per_day, t.gwh_per_year, t.from_.isoformat()) for line, t in targets.items()} == {
        "nanjing/cells/32140-1": (50_000, 0.7, "2021-02-03"),
        "dalian/cells/26650-1": (100_000, 0.4, "2021-02-03"),
    }
    for t in targets.values():
        energy_wh = PLANT.products[PLANT.lines[t.line].product].energy_wh
        assert t.cells_per_day * energy_wh * t.days_per_year / 1e9 == pytest.approx(t.gwh_per_year, rel=1e-8)
    assert [(c.site, c.phase, c.gwh_per_year) for c in PLANT.capacities] == [("nanjing", "I", 2.0), ("nanjing", "II", 6.0)]


def test_every_fact_has_a_source() -> None:
    things = [*PLANT.sites.values(), *PLANT.products.values(), *PLANT.lines.values(), *PLANT.targets, *PLANT.capacities, *PLANT.alerts]
    assert all(thing.source.strip() for thing in things)


def test_both_plants_keep_the_same_clock() -> None:
    for site in PLANT.sites.values():
        assert (site.zone, site.day_start.isoformat()) == ("Asia/Shanghai", "08:00:00")
        assert [(s.start.hour, s.end.hour) for s in site.shift] == [(8, 20), (20, 8)]
