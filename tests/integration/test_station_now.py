"""Stations as they are now: against a plain count, and one situation of a line at a time."""

from __future__ import annotations

import datetime as dt
import random
import shutil
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from mes.contract import CellEvent
from mes.seeds import load_plant
from mes.store.connection import connect
from mes.store.corrections import unscrap
from mes.store.seed import seed
from tests.conftest import SEEDS
from tests.lines import Line, held, look_at_days, step
from tests.pipeline import event, rows
from tests.stations import station_now
from tests.told import Facts, Told

NANJING, DALIAN = "nanjing/cells/32140-1", "dalian/cells/26650-1"
MINUTE, HOUR = dt.timedelta(minutes=1), dt.timedelta(hours=1)
PLANT = load_plant(SEEDS)
ROUTE = [station.code for station in PLANT.lines[NANJING].station]


def ms(at: dt.datetime) -> int:
    return int(at.timestamp() * 1000)


def found(database: str, line: str = NANJING) -> list[dict[str, Any]]:
    with psycopg.connect(database, row_factory=dict_row) as connection:
        return connection.execute("SELECT * FROM report.station_now WHERE line = %s ORDER BY station_seq", [line]).fetchall()


def now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


def cells(line: Line, station: str, ages_min: list[float], first: int = 1, **changes: Any) -> None:
    """A cell each so many minutes ago."""
    at = now()
    line.put(line.topic(f"{station}/01"), *(
        event(first + n, unit=f"{station}{first + n}", timestamp_ms=ms(at - age * MINUTE), **changes)
        for n, age in enumerate(sorted(ages_min, reverse=True))
    ))  # fmt: skip


def state(database: str) -> dict[str, str]:
    return {row["station"]: row["state"] for row in found(database)}


def bottleneck(database: str) -> list[str]:
    return [row["station"] for row in found(database) if row["is_bottleneck"]]


def flow(line: str, chance: random.Random, days: float) -> list[tuple[str, CellEvent]]:
    """Cells that go down the route at random over some days, are worked again, tested twice, lost, and stand somewhere."""
    seqs: dict[str, int] = {}
    events = []
    for n in range(1200):
        at = now() - dt.timedelta(days=days * chance.random())
        for station in PLANT.lines[line].station:
            at += dt.timedelta(seconds=chance.choice([40, 400, 4000]) * chance.random())
            if at > now() or chance.random() < 0.01:
                break
            results = ["pass"]
            if station.defect and chance.random() < 0.1:
                results = chance.choice([["scrap"], ["rework", "pass"], ["rework", "scrap"], ["pass", "pass"]])
            for attempt, result in enumerate(results, 1):
                machine = f"{station.code}/{chance.choice(station.machine_codes)}"
                seq = seqs[machine] = seqs.get(machine, 0) + 1
                missed = {"defect": station.defect[0].code} if result != "pass" else {}
                values = {"unit": f"U{n}", "timestamp_ms": ms(at), "attempt": attempt, "result": result, **missed}
                events.append((machine, event(seq, **values)))
                at += dt.timedelta(seconds=1)
            if results[-1] == "scrap":
                break
    return [(machine, e) for machine, e in events if e.timestamp_ms < ms(now())]


@pytest.mark.parametrize("line", [NANJING, DALIAN])
def test_every_figure_is_that_of_a_plain_count(database: str, line: str) -> None:
    sent = flow(line, random.Random(line), 2.6)
    by_machine: dict[str, list[CellEvent]] = {}
    for machine, e in sent:
        by_machine.setdefault(machine, []).append(e)
    with held(database, line) as writer:
        for machine, events in by_machine.items():
            writer.put(writer.topic(machine), *events)
    scrapped = [e.unit for _, e in sent if e.result == "scrap"][:3]
    with connect(database) as connection:
        taken_back = {unit: unscrap(connection, unit, None, "found").booked_at for unit in scrapped}
    step(database)
    look_at_days(database)
    told = [
        Told(line, machine, e, now(), taken_back.get(e.unit) if e.result == "scrap" else None)
        for machine, e in sent
    ]  # fmt: skip
    there = found(database, line)
    as_of = there[0]["as_of"]
    assert abs(now() - as_of) < MINUTE
    counted = station_now(Facts(PLANT, told), line, as_of)
    assert len(there) == len(counted) > 10
    for is_, ought in zip(there, counted, strict=True):
        assert is_.keys() == ought.keys()
        assert {k: v for k, v in is_.items() if ought[k] != v} == {}, ought
    assert {row["state"] for row in there} <= {"running", "idle", "stopped"}
    assert sum(row["is_bottleneck"] for row in there) == 1
    assert any(row["wip_before"] for row in there)


def test_a_line_without_events_has_its_route_and_nothing_else(database: str) -> None:
    there = found(database)
    assert [row["station"] for row in there] == ROUTE
    assert {row["state"] for row in there} == {"unknown"}
    assert {row["rate_per_h"] for row in there} == {None}
    assert bottleneck(database) == []


def test_the_bottleneck_is_who_is_nearest_to_what_it_can_do(database: str) -> None:
    """100 cells at the one hi-pot tester of 3,000 an hour are more than 100 at six winders of 3,086."""
    with held(database, NANJING) as line:
        for station in ("wnd", "flt", "hpt"):
            cells(line, station, [n / 2 for n in range(1, 101)])
    step(database)
    there = {row["station"]: row for row in found(database)}
    assert {there[code]["state"] for code in ("wnd", "flt", "hpt")} == {"running"}
    assert there["hpt"]["nominal_per_h"] == pytest.approx(3000)
    assert there["hpt"]["utilisation"] == pytest.approx(there["hpt"]["rate_per_h"] / 3000)
    assert bottleneck(database) == ["flt"], "2,769 an hour"
    assert there["flt"]["wip_before"] == there["hpt"]["wip_before"] == 0


def test_a_station_that_stands_while_cells_come_is_the_bottleneck(database: str) -> None:
    """Hi-pot stands for 20 minutes; the station before it is full since 12, and those behind have nothing to do."""
    with held(database, NANJING) as line:
        cells(line, "wnd", [n / 10 for n in range(1, 500)])
        cells(line, "flt", [n / 10 for n in range(120, 500)])
        cells(line, "hpt", [n / 10 for n in range(200, 500)])
        cells(line, "ccw", [n / 10 for n in range(198, 500)])
    step(database)
    found_ = state(database)
    assert {code: found_[code] for code in ("wnd", "flt", "hpt", "ccw", "acw")} == {
        "wnd": "running", "flt": "stopped", "hpt": "stopped", "ccw": "idle", "acw": "unknown",
    }  # fmt: skip
    assert bottleneck(database) == ["hpt"]
    assert next(row["wip_before"] for row in found(database) if row["station"] == "hpt") == 80


def test_ovens_are_looked_at_over_a_day(database: str) -> None:
    """46 ovens of 1,200 cells a day each: an hour has one batch or two or none."""
    with held(database, NANJING) as line:
        cells(line, "bak", [n / 100 + 180 for n in range(1200)])
        cells(line, "sok", [100.0, 30.0])
    step(database)
    there = {row["station"]: row for row in found(database)}
    assert (there["bak"]["window_h"], there["sok"]["window_h"]) == (24, 1)
    assert there["bak"]["rate_per_h"] > 1200 / 24.1
    assert there["bak"]["state"] == "running"
    assert there["bak"]["nominal_per_h"] == pytest.approx(2300)
    assert there["sok"]["nominal_per_h"] == pytest.approx(39 * 2000 / 36)


def test_nothing_from_the_whole_line_blames_nobody(database: str) -> None:
    with held(database, NANJING) as line:
        cells(line, "wnd", [7.0, 9.0])
        cells(line, "flt", [8.0])
    step(database)
    assert {state(database)[code] for code in ("wnd", "flt")} == {"silent"}
    assert bottleneck(database) == []


def test_what_stood_there_before_shows_once_it_has_gone(database: str) -> None:
    """Three cells come out of flattening that nobody saw go in; of four that are seen, two are still there."""
    with held(database, NANJING) as line:
        cells(line, "flt", [60 * 50, 60 * 49, 60 * 48.5])
        cells(line, "wnd", [4.0, 3.0, 2.0, 1.0])
        cells(line, "flt", [2.0, 1.0], first=4)
    step(database)
    look_at_days(database)
    assert next(row["wip_before"] for row in found(database) if row["station"] == "flt") == 2


def test_a_line_that_was_not_empty_when_it_was_connected_has_no_less_than_no_cells_on_it(database: str) -> None:
    """Three cells come out that nobody saw go in; of two that go in, one comes out."""
    with held(database, NANJING) as line:
        cells(line, "grd", [60 * 50, 60 * 49, 60 * 48.5])
    step(database)
    look_at_days(database)
    query = "SELECT wip FROM report.line_now WHERE line = %s"
    assert rows(database, query, NANJING) == [(0,)]
    with held(database, NANJING) as line:
        cells(line, "wnd", [3.0, 2.0])
        cells(line, "grd", [1.0], first=4)
    step(database)
    assert rows(database, query, NANJING) == [(1,)]


def test_a_line_that_is_behind_is_shown_where_it_has_got_to(database: str) -> None:
    """Its events are hours old, but they are coming; once they do not come any more, it is silent."""
    with held(database, NANJING) as line:
        cells(line, "wnd", [60 * 30 + n for n in range(50)])
    step(database)
    there = found(database)[0]
    assert there["as_of"] == there["last_event_at"]
    assert (there["rate_per_h"] or 0) > 40
    assert there["state"] == "running"
    assert bottleneck(database) == ["wnd"]
    rows(database, "UPDATE mes.day_report SET changed_at = now() - interval '6 minutes' RETURNING 1")
    there = found(database)[0]
    assert abs(now() - there["as_of"]) < MINUTE
    assert (there["state"], there["rate_per_h"]) == ("silent", 0) or there["production_day"] is None


def test_time_in_which_nothing_is_planned_counts_for_nothing(database: str, tmp_path: Path) -> None:
    """A stop that began 30 minutes ago: half an hour's cells by half an hour, and nobody is to blame for the silence."""
    folder = tmp_path / "seeds"
    shutil.copytree(SEEDS, folder)
    local = (now() + 8 * HOUR).replace(second=0, microsecond=0, tzinfo=None)
    stop = (
        f'\n[[site.planned_stop]]\nfrom = {(local - 30 * MINUTE).isoformat()}\nto = {(local + HOUR).isoformat()}\nreason = "maintenance"\n'
    )
    path = folder / "sites/nanjing.toml"
    path.write_text(path.read_text() + stop)
    seed(database, load_plant(folder))
    with held(database, NANJING) as line:
        cells(line, "wnd", [31 + n / 2 for n in range(40)] + [60.0 * 30])
    step(database)
    rows(database, "UPDATE mes.day_report SET changed_at = now() - interval '30 minutes' RETURNING 1")  # else it would be behind
    look_at_days(database)
    there = found(database)[0]
    assert there["state"] == "unscheduled"
    assert bottleneck(database) == []
    begin = there["as_of"] - HOUR - (there["as_of"] - HOUR - dt.datetime.fromtimestamp(0, dt.UTC)) % (5 * MINUTE)
    worked = (now() - 30 * MINUTE).replace(second=0, microsecond=0) - begin
    assert there["rate_per_h"] == pytest.approx(40 / (worked / HOUR), rel=0.05)
