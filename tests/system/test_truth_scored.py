"""What the backend reports of lines with every fault is, to the last count, what the simulator's ledger says."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.faults import PATIENCE_S, Broker, Plant
from tests.pipeline import ROOT
from tests.servers import wait_for

LINE = "nanjing/cells/32140-1"
START = "2026-11-18"
SCENARIO = """
ramp_up = 0.5

[[disturbance]]
station = "asm"
characteristic = "force"
kind = "step"
from = 2026-11-18T18:00:00
sigma = 3.0

[[fault]]
kind = "duplicate"
rate = 0.02

[[fault]]
kind = "reorder"
rate = 0.05

[[fault]]
kind = "late"
rate = 0.01

[[fault]]
kind = "skew"
seconds = -240
from = 2026-11-18T00:00:00
station = "asm"
machine = "02"

[[fault]]
kind = "restart"
rate = 0.001

[[fault]]
kind = "malformed"
rate = 0.005

[[fault]]
kind = "silence"
hours = 1
from = 2026-11-18T22:00:00

[[fault]]
kind = "silence"
hours = 3
rate = 0.02
station = "pck"
"""


def rows(plant: Plant, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(plant.database) as connection:
        return connection.execute(query.encode()).fetchall()


def start(*words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "simulators", *words]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def finish(child: subprocess.Popen[str]) -> str:
    try:
        out, err = child.communicate(timeout=PATIENCE_S)
    finally:
        child.kill()
    assert child.returncode == 0, err
    return out


def settle(plant: Plant, events: int) -> None:
    wait_for(lambda: plant.ask("SELECT count(*) FROM mes.cell_event") == events, PATIENCE_S, f"{events} events")
    wait_for(lambda: plant.ask("SELECT count(*) FROM mes.dirty_bucket") == 0, PATIENCE_S, "everything summed")


def check(plant: Plant, ledger: dict[str, Any]) -> None:
    """Every count of the public views is that of the ledger: the difference is zero."""
    days = ledger["days"]
    mine = f"WHERE line = '{LINE}' AND production_day IN ({', '.join(repr(day) for day in days)})"
    found = rows(plant, f"SELECT production_day::text, good, scrap FROM report.daily_throughput {mine} ORDER BY 1")
    assert found == [(day, truth["good"], truth["scrap"]) for day, truth in sorted(days.items())]
    columns = ("inspected", "first_pass_good", "pass", "rework", "scrap")
    found = rows(
        plant,
        "SELECT production_day::text, station, inspected, first_pass_good, good, rework, scrap"
        f" FROM report.station_yield {mine} ORDER BY 1, 2",
    )
    assert found == [
        (day, code, *(row[c] for c in columns))
        for day, truth in sorted(days.items())
        for code, row in sorted(truth["stations"].items())
        if row["cycles"]
    ]
    found = rows(plant, f"SELECT production_day::text, station, defect, count FROM report.defect_pareto {mine} ORDER BY 1, 2, 3")
    assert found == [
        (day, code, defect, count)
        for day, truth in sorted(days.items())
        for code, row in sorted(truth["stations"].items())
        for defect, count in sorted(row["defects"].items())
    ]
    found = rows(plant, f"SELECT production_day::text, hour_starts_at, good FROM report.hourly_throughput {mine} ORDER BY 1, 2")
    assert [(day, good) for day, _, good in found] == [
        (day, good) for day, truth in sorted(days.items()) for good in truth["hourly_good"][: sum(d == day for d, *_ in found)]
    ]
    assert sum(good for _, _, good in found) == sum(truth["good"] for truth in days.values())
    received = {
        (day, f"{station}/{machine}"): n
        for day, station, machine, n in rows(
            plant, f"SELECT production_day::text, station, machine, received FROM report.completeness {mine}"
        )
        if n
    }
    assert received == {(day, machine): row["events"] for day, truth in days.items() for machine, row in truth["machines"].items()}
    assert rows(plant, f"SELECT sum(missing)::bigint FROM report.completeness WHERE line = '{LINE}'") == [(0,)]


def faults(ledger: dict[str, Any], kind: str) -> int:
    return sum(f["count"] for f in ledger["faults"] if f["kind"] == kind)


@pytest.mark.parametrize("file", ["directly", "f.ndjson", "f.parquet"])
def test_two_days_with_every_fault_differ_by_nothing(make_plant: Callable[..., tuple[Plant, Broker]], tmp_path: Path, file: str) -> None:
    plant, _ = make_plant("embedded")
    plant.start("ingest", "rollup")
    plant.sessions_held()
    scenario, truth = tmp_path / "s.toml", tmp_path / "truth.json"
    scenario.write_text(SCENARIO, encoding="utf-8")
    what = ["--line", LINE, "--seeds", str(plant.seeds), "--start", START, "--days", "2", "--seed", "4", "--scenario", str(scenario)]
    what += ["--ledger", str(truth)]
    send = ["run", "--broker", plant.broker, "--speed", "max", "--progress", "json"]
    if file == "directly":
        out = finish(start(*send, *what))
    else:
        finish(start("generate", *what, "--out", str(tmp_path / file)))
        out = finish(start(*send, "--from", str(tmp_path / file)))
    figures = json.loads(out.splitlines()[-1])
    assert figures["committed"]
    ledger = json.loads(truth.read_text(encoding="utf-8"))
    events = sum(day["events"] for day in ledger["days"].values())
    assert events > 10_000
    assert all(f["count"] > 10 for f in ledger["faults"])
    settle(plant, events)
    check(plant, ledger)
    assert plant.ask("SELECT count(*) FROM mes.quarantine") == faults(ledger, "malformed")
    if figures["sent"] == figures["items"]:  # nothing had to be sent again
        assert plant.ask("SELECT sum(duplicates)::bigint FROM mes.machine_ledger") == faults(ledger, "duplicate")
    assert ledger["disturbances"][0]["sigma"] == 3.0


def test_a_broker_that_dies_in_the_middle_of_a_file_loses_nothing(make_plant: Callable[..., tuple[Plant, Broker]], tmp_path: Path) -> None:
    plant, broker = make_plant("mosquitto")
    plant.start("ingest", "rollup")
    plant.sessions_held()
    file, truth = tmp_path / "f.ndjson", tmp_path / "truth.json"
    what = ["--line", LINE, "--seeds", str(plant.seeds), "--start", START, "--days", "3"]
    finish(start("generate", *what, "--out", str(file), "--ledger", str(truth)))
    ledger = json.loads(truth.read_text(encoding="utf-8"))
    events = sum(day["events"] for day in ledger["days"].values())
    child = start("run", "--broker", plant.broker, "--speed", "40000", "--progress", "none", "--from", str(file))
    try:
        wait_for(lambda: (plant.ask("SELECT count(*) FROM mes.cell_event") or 0) > 300, PATIENCE_S, "the first events")
        broker.kill()
        assert plant.ask("SELECT count(*) FROM mes.cell_event") < events
        broker.start()
        finish(child)
    finally:
        child.kill()
    settle(plant, events)
    check(plant, ledger)
