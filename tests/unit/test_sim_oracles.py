"""Every row of tests/oracles/sim_oracles.csv: what theory says of a line is what the simulated line does.

A throughput has to lie within its own 99.9 % interval, which may be half a percent wide at most; what has no chance in it is exact.
"""

from __future__ import annotations

import csv
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simulators import abstract, flow
from simulators.throughput import BATCHES, STUDENT, Throughput, departures, measure

ROOT = Path(__file__).resolve().parents[2]
with (ROOT / "tests" / "oracles" / "sim_oracles.csv").open(encoding="utf-8", newline="") as file:
    ROWS = {row["name"]: row for row in csv.DictReader(file)}
WIDEST = 0.005
Station = dict[str, Any]


def exponential(rate: float, **more: Any) -> Station:
    return {"service": {"dist": "exponential", "mean": 1 / rate}, **more}


def steady(mean: float, **more: Any) -> Station:
    return {"service": {"dist": "deterministic", "mean": mean}, **more}


def with_buffers(stations: list[Station], buffers: list[int]) -> list[Station]:
    return [{**s, "buffer": b} for s, b in zip(stations, [0, *buffers], strict=True)]


def toml(stations: list[Station]) -> str:
    def value(of: Any) -> str:
        if isinstance(of, dict):
            return "{" + ", ".join(f"{k} = {value(v)}" for k, v in of.items()) + "}"
        return json.dumps(of)

    return "\n".join(
        "[[station]]\n" + "\n".join(f"{k} = {value(v)}" for k, v in {"name": f"m{n}", **s}.items()) for n, s in enumerate(stations, 1)
    )


def written(folder: Path, stations: list[Station]) -> Path:
    path = folder / "line.toml"
    path.write_text(toml(stations), encoding="utf-8")
    return path


def line_of(name: str, p: dict[str, Any]) -> tuple[list[Station], int, float]:
    """The line of a throughput row, the cells to make, and the time units of the row in one of the scenario."""
    match name.split("_")[0]:
        case "HB":
            mu = p["mu"]
            return with_buffers([exponential(m) for m in mu], [p["buffer"]] * (len(mu) - 1)), 1_000_000, 1
        case "SimOpt" | "exp":
            if "mu_per_server" in p:
                stations = [exponential(m, machines=c) for m, c in zip(p["mu_per_server"], p["servers"], strict=True)]
            else:
                stations = [exponential(m) for m in p["mu"]]
            return with_buffers(stations, p["buffers"]), 1_000_000, 1
        case "exp3":
            fails = [{"mode": "operation", "mtbf": 1 / a, "mttr": 1 / b} for a, b in zip(p["p"], p["r"], strict=True)]
            return with_buffers([exponential(m, failures=f) for m, f in zip(p["mu"], fails, strict=True)], p["buffers"]), 1_000_000, 1
        case "2st":
            one = {"service": {"dist": "uniform", "low": 0, "high": 2}} if "uniform" in name else exponential(1)
            return [one, {**one, "buffer": 0}], 1_000_000, 1
        case "packaging" | "det":
            t, n = p["t"], len(p["t"])
            stations = [steady(s, machines=c) for s, c in zip(t, p.get("servers", [1] * n), strict=True)]
            return with_buffers(stations, [p["buffers"]] * (n - 1)), 100_000, 1
        case "Buzacott":  # a fluid line without buffer: cells that are small beside the times between failures
            grain = 0.05
            fails = [{"mode": "operation", "mtbf": 1 / a, "mttr": 1 / b} for a, b in zip(p["p"], p["r"], strict=True)]
            return [steady(grain, failures=f) for f in fails], 40_000_000, grain
        case "isolated":
            return [steady(1, failures={"mode": "operation", "mtbf": p["MTBF"], "mttr": p["MTTR"]})], 6_000_000, 1
        case "slotted2" | "slotted3":
            stations = [{"service": {"dist": "slotted", "p": a, "r": b}} for a, b in zip(p["p"], p["r"], strict=True)]
            sizes = p["N"] if isinstance(p["N"], list) else [p["N"]]
            return with_buffers(stations, [n - 2 for n in sizes]), 3_000_000, 1
        case "fluid2":
            mode = "operation" if "ODF" in name else "time"
            parts = 60_000_000 if "1800" in name else 8_000_000
            fails = [{"mode": mode, "mtbf": a, "mttr": b} for a, b in zip(p["MTTF"], p["MTTR"], strict=True)]
            return (
                with_buffers([steady(1, failures=f) for f in fails], [p["discrete_buffer_slots"]]),
                parts,
                1,
            )
        case "bernoulli2" | "bernoulli5":  # blocked before service, and the buffer counts the machine's place
            up = p["p"]
            stations = [{"service": {"dist": "slotted", "p": 1 - u, "r": u}, "blocking": "repeat"} for u in up]
            sizes = p["N"] if isinstance(p["N"], list) else [p["N"]]
            return with_buffers(stations, [n - 1 for n in sizes]), 1_000_000, 1
    raise AssertionError(name)


EXACT = ("packaging_line_det", "det_parallel_rate")
THROUGHPUTS = [name for name, row in ROWS.items() if row["measure"] in ("throughput", "availability")]


@pytest.mark.parametrize("name", THROUGHPUTS)
def test_throughput(name: str, tmp_path: Path) -> None:
    stations, parts, grain = line_of(name, json.loads(ROWS[name]["parameters"]))
    expected = float(ROWS[name]["expected"])
    found = measure(abstract.load(written(tmp_path, stations)), parts, seed=1)
    if name in EXACT:
        assert found.throughput == pytest.approx(expected, rel=1e-9)
        assert found.half_width == 0
        return
    assert found.half_width * grain <= WIDEST * expected
    assert abs(found.throughput * grain - expected) <= found.half_width * grain


def test_makespan_det_flow(tmp_path: Path) -> None:
    p = json.loads(ROWS["makespan_det_flow"]["parameters"])
    for buffer in (0, 3):
        path = written(tmp_path, with_buffers([steady(t) for t in p["t"]], [buffer] * (len(p["t"]) - 1)))
        assert measure(abstract.load(path), p["n"], 1).makespan == float(ROWS["makespan_det_flow"]["expected"])


def interval(values: Any) -> tuple[float, float]:
    """The mean of a long run and the half-width of its 99.9 % interval, by batch means."""
    values = np.asarray(values, float)[len(values) // 10 :]
    means = values[: len(values) // BATCHES * BATCHES].reshape(BATCHES, -1).mean(axis=1)
    return float(means.mean()), STUDENT * float(means.std(ddof=1)) / math.sqrt(BATCHES)


def visits(tmp_path: Path, stations: list[Station], parts: int) -> tuple[Any, list[Any], list[Any]]:
    """A first station that sends cells on as a Poisson process, before queues without end: arrival at the second, and by later
    station when each cell has left it and how long it was worked; all by cell, in time units."""
    scenario = abstract.load(written(tmp_path, [stations[0], *({**s, "buffer": "infinite"} for s in stations[1:])]))
    line, unit = abstract.build(scenario, 3, 4 * parts), abstract.ticks_per_unit(scenario)
    scratch = np.zeros(1 << 20, flow.EVENT)
    chunks = []
    while sum(len(c) for c in chunks) < parts * len(stations):
        chunks.append(scratch[: flow.advance(line, flow.NEVER, scratch, 1)].copy())
    events = np.concatenate(chunks)
    left: list[Any] = []
    worked: list[Any] = []
    for n in range(len(stations)):
        mine = events[events["station"] == n]
        order = np.argsort(mine["unit"])
        left.append(mine["t"][order] / unit)
        worked.append(mine["cycle"][order] / unit)
    n = min(map(len, left)) - 200  # the last ones are still in order of cells
    return left[0][:n], [x[:n] for x in left[1:]], [x[:n] for x in worked[1:]]


def service_of(name: str, p: dict[str, Any]) -> tuple[float, Station]:
    match name:
        case "MD1_Wq":
            return p["lam"], steady(p["t"])
        case "MG1_PK_Erlang2_Wq":
            return p["lam"], {"service": {"dist": "erlang", "k": round(1 / p["scv"]), "mean": p["mean"]}}
        case "MMc_Pwait_c4_a3.2":
            return p["a"], exponential(1, machines=p["c"])
        case "MMc_Wq_c4_a3.2":
            return p["lam"], exponential(p["mu"], machines=p["c"])
        case "MM1_L":
            return p["rho"], exponential(1)
        case _:
            return p["lam"], exponential(p["mu"])


@pytest.mark.parametrize("name", ["MM1_L", "MD1_Wq", "MM1_Wq", "MG1_PK_Erlang2_Wq", "MMc_Pwait_c4_a3.2", "MMc_Wq_c4_a3.2"])
def test_queue(name: str, tmp_path: Path) -> None:
    rate, server = service_of(name, json.loads(ROWS[name]["parameters"]))
    expected = float(ROWS[name]["expected"])
    arrived, [left], [worked] = visits(tmp_path, [exponential(rate), server], 2_500_000)
    waited = left - worked - arrived
    assert waited.min() > -1e-5
    match ROWS[name]["measure"]:
        case "mean wait":
            found, half_width = interval(waited)
        case "P(wait)":
            found, half_width = interval(waited > 1e-5)
        case _:  # Little: the mean number is the rate times the time in the system
            found, half_width = (rate * x for x in interval(left - arrived))
    assert half_width <= 0.06 * expected  # waits are correlated over thousands of cells: their intervals are wide
    assert abs(found - expected) <= half_width


def test_Jackson_tandem_3(tmp_path: Path) -> None:  # noqa: N802  the row's name
    row = ROWS["Jackson_tandem_3"]
    p = json.loads(row["parameters"])
    arrived, left, _ = visits(tmp_path, [exponential(p["lam"]), *(exponential(m) for m in p["mu"])], 1_500_000)
    found, half_width = (p["lam"] * x for x in interval(left[-1] - arrived))
    assert half_width <= 0.06 * float(row["expected"])
    assert abs(found - float(row["expected"])) <= half_width


def test_ErlangB_c10_a5(tmp_path: Path) -> None:  # noqa: N802  the row's name
    row = ROWS["ErlangB_c10_a5"]
    p = json.loads(row["parameters"])
    found = measure(abstract.load(written(tmp_path, [exponential(p["a"], blocking="lose"), exponential(1, machines=p["c"])])), 3_000_000, 1)
    assert found.lost == pytest.approx(float(row["expected"]), rel=0.02)
    assert found.throughput == pytest.approx(p["a"] * (1 - float(row["expected"])), abs=found.half_width)


def good_share(tmp_path: Path, qualities: list[dict[str, Any]], parts: int = 1_000_000) -> tuple[float, float, float]:
    """Good of started cells, the standard error of a first pass through all stations, and visits a cell at the first station."""
    stations = [steady(1, quality=q) for q in qualities]
    scenario = abstract.load(written(tmp_path, stations))
    line = abstract.build(scenario, 5, parts)
    departures(line, np.array([parts]))
    started = int(line.station["arrived"][0])
    rate = int(line.station["left"][-1]) / started
    return rate, (rate * (1 - rate) / started) ** 0.5, float(line.machine["seq"][0] / started)


def test_RTY(tmp_path: Path) -> None:  # noqa: N802  the row's name
    p = json.loads(ROWS["RTY"]["parameters"])
    found, error, _ = good_share(tmp_path, [{"miss": 1 - y} for y in p["fpy"]])
    assert found == pytest.approx(float(ROWS["RTY"]["expected"]), abs=4 * error)


def test_rework_immediate_yield(tmp_path: Path) -> None:
    row = ROWS["rework_immediate_yield"]
    p = json.loads(row["parameters"])
    rework = {"miss": 1 - p["first_pass"], "rework_max": p["max_rework"], "rework_success": p["rework_success"]}
    found, error, _ = good_share(tmp_path, [rework])
    assert found == pytest.approx(float(row["expected"]), abs=4 * error)


def test_geometric_rework_attempts(tmp_path: Path) -> None:
    row = ROWS["geometric_rework_attempts"]
    p = json.loads(row["parameters"])
    # A retry misses as often as a first attempt does, and may be tried again for ever.
    rework = {"miss": p["fail"], "rework_max": 100, "rework_share": p["rework_share"], "rework_success": 1 - p["fail"]}
    _, _, attempts = good_share(tmp_path, [rework])
    assert attempts == pytest.approx(float(row["expected"]), abs=4 * (0.02 / 1_000_000) ** 0.5)


def test_every_row_has_its_test() -> None:
    source = Path(__file__).read_text(encoding="utf-8")
    assert len(ROWS) == 60
    assert [name for name in ROWS if name not in THROUGHPUTS and name not in source] == []


def test_the_command_says_the_same(tmp_path: Path) -> None:
    path = written(tmp_path, with_buffers([exponential(1), exponential(1)], [2]))
    command = [sys.executable, "-m", "simulators", "throughput", str(path), "--parts", "30000", "--seed", "4"]
    told = subprocess.run([*command, "--json"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    figures = json.loads(told)
    assert list(figures)[:2] == ["throughput", "half_width"]
    found: Throughput = measure(abstract.load(path), 30_000, 4)
    assert figures == found.as_dict()
    table = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert f"throughput {found.throughput:.6g} +- " in table


GOOD = {"service": {"dist": "exponential", "mean": 1.0}}
BAD: list[tuple[list[Station], str]] = [
    ([{**GOOD, "colour": 1}], "Object contains unknown field `colour` - at `$.station[0]`"),
    ([{"service": {"dist": "gamma", "mean": 1}}], "gamma"),
    ([{"service": {"dist": "exponential", "mean": -1.0}}], "$.station[0].service.mean`, found -1.0"),
    ([{"service": {"dist": "exponential", "mean": 1.0, "cv": 1}}], "unknown field `cv`"),
    ([{"service": {"dist": "uniform", "low": 2, "high": 1}}], "station[0].service.low 2.0 must be below high 1.0"),
    ([{"service": {"dist": "erlang", "k": 0, "mean": 1}}], "$.station[0].service.k`, found 0"),
    ([{"service": {"dist": "slotted", "p": 0.1, "r": 0}}], "$.station[0].service.r`, found 0"),
    ([{**GOOD, "machines": 0}], "$.station[0].machines`, found 0"),
    ([{**GOOD, "buffer": -1}], "$.station[0].buffer`"),
    ([GOOD, {**GOOD, "buffer": 3, "batch": 4}], "station[1].buffer 3 can never fill a batch of 4: use 4 or more"),
    ([{**GOOD, "failures": {"mode": "sometimes", "mtbf": 1, "mttr": 1}}], "sometimes"),
    ([{**GOOD, "failures": {"mode": "time", "mtbf": 0, "mttr": 1}}], "$.station[0].failures.mtbf`, found 0"),
    ([{**GOOD, "quality": {"miss": 1.5}}], "$.station[0].quality.miss`, found 1.5"),
    ([{**GOOD, "name": "a"}, {**GOOD, "name": "a"}], "station[1].name 'a' stands twice"),
    ([], "no"),
]


@pytest.mark.parametrize(("stations", "says"), BAD)
def test_a_scenario_that_cannot_be_is_refused(stations: list[Station], says: str, tmp_path: Path) -> None:
    path = written(tmp_path, stations)
    done = subprocess.run(
        [sys.executable, "-m", "simulators", "throughput", str(path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert str(path) in done.stderr
    assert says in done.stderr or not stations
