"""Random numbers, readings, ledger, against plain calculations."""

from __future__ import annotations

import datetime as dt
import statistics
from collections import Counter
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from mes.contract import CellEvent
from simulators import draws, quality
from simulators.ledger import Ledger
from simulators.scenario import TICKS, Scenario, day_code, load
from simulators.stream import Stream

SEEDS = Path(__file__).resolve().parents[2] / "seeds"
DAY = dt.date(2026, 11, 20)
HOUR = 3600 * TICKS


@pytest.fixture(scope="module")
def scenario() -> Scenario:
    return load(SEEDS, "nanjing-32140-1")


def test_uniform_draws_are_uniform_and_unrelated() -> None:
    key = np.uint64(draws.key_of(1, "wnd"))
    u = np.array([[draws.uniform(key, unit, attempt, purpose) for unit in range(4000)] for attempt in (1, 2) for purpose in (1, 2)])
    assert abs(u.mean(axis=1) - 0.5).max() < 0.02
    assert abs(u.var(axis=1) - 1 / 12).max() < 0.005
    related = np.corrcoef(np.vstack([u, np.roll(u[0], 1)]))
    assert abs(related - np.eye(5)).max() < 0.06
    assert len({draws.key_of(s, c) for s in range(50) for c in ("wnd", "hpt", "a", "b")}) == 200


@pytest.mark.parametrize("p", [1e-12, 1e-6, 0.001, 0.02424, 0.02426, 0.3, 0.5, 0.7, 0.97574, 0.97576, 0.999999])
def test_normal_quantile_is_that_of_the_standard_library(p: float) -> None:
    assert draws.normal_quantile(p) == pytest.approx(statistics.NormalDist().inv_cdf(p), rel=2e-9, abs=1e-9)


def test_readings_follow_their_distribution_and_sampling(scenario: Scenario) -> None:
    stream = Stream(scenario, 1, DAY)
    events = stream.advance(stream.begin + 3 * HOUR).events
    table = quality.build(scenario, 1)
    read = quality.readings(table, events)
    for n, station in enumerate(scenario.line.station):
        here = events["station"] == n
        passed = here & (events["result"] == 0)
        for k, c in enumerate(station.characteristic):
            column = read[here, k]
            share = np.count_nonzero(column != quality.ABSENT) / len(column)
            assert share == pytest.approx(c.sampling, abs=5 * (c.sampling / len(column)) ** 0.5 if c.sampling < 1 else 0)
            mantissas = read[passed, k]
            values = mantissas[mantissas != quality.ABSENT] / 10.0 ** quality.decimals_of(c)
            assert (c.lsl is None) or (values >= c.lsl - 1e-12).all()
            assert (c.usl is None) or (values <= c.usl + 1e-12).all()
            if c.sampling == 1:
                z = (np.log(values / c.nominal) if c.distribution == "lognormal" else values - c.nominal) / c.sigma
                # Cutting at the limits lowers sigma a little; nowhere here by more than a twentieth.
                assert abs(z.mean()) < 0.08
                assert z.std() == pytest.approx(1, abs=0.06)


def test_readings_in_the_text_have_few_digits(scenario: Scenario) -> None:
    stream = Stream(scenario, 1, DAY)
    for m in stream.objects(stream.advance(stream.begin + HOUR // 6)):
        for value in msgspec.json.decode(m.payload, type=CellEvent).meas.values():
            assert float(f"{value:.7g}") == value


def test_serial_day_code() -> None:
    assert day_code(dt.date(2026, 11, 22)) == b"26K22"
    assert day_code(dt.date(2030, 1, 3)) == b"30A03"


def test_production_days_follow_the_zone(scenario: Scenario) -> None:
    chicago = replace(scenario, site=msgspec.structs.replace(scenario.site, zone="America/Chicago"))
    for day, hours in ((dt.date(2026, 3, 7), 23), (dt.date(2026, 10, 31), 25), (dt.date(2026, 7, 1), 24)):
        begin, end = chicago.day_start(day), chicago.day_start(day + dt.timedelta(days=1))
        assert end - begin == hours * HOUR
        assert chicago.day_of(begin) == day == chicago.day_of(end - 1)
        assert chicago.day_of(end) == day + dt.timedelta(days=1)


@pytest.mark.parametrize("zone", ["Asia/Shanghai", "America/Chicago"])
def test_the_ledger_counts_what_a_reader_of_the_messages_would(scenario: Scenario, zone: str) -> None:
    start = dt.date(2026, 10, 31)  # a day of 25 hours in Chicago
    there = replace(scenario, site=msgspec.structs.replace(scenario.site, zone=zone))
    stream = Stream(there, 1, start)
    ledger = Ledger(there)
    tomorrow = there.day_start(start + dt.timedelta(days=1))
    stream.advance(tomorrow - HOUR // 2)
    parts = [stream.advance(tomorrow - HOUR // 4), stream.advance(tomorrow + HOUR // 4)]
    seen: dict[dt.date, Counter[tuple[object, ...]]] = {start: Counter(), start + dt.timedelta(days=1): Counter()}
    machines: dict[tuple[dt.date, str], list[int]] = {}
    for part in parts:
        ledger.add(part.events)
        for m in stream.objects(part):
            e = msgspec.json.decode(m.payload, type=CellEvent)
            station, machine = there.machine_codes[m.machine]
            day = start if e.timestamp_ms * 1000 < tomorrow else start + dt.timedelta(days=1)
            count = seen[day]
            count["events"] += 1
            count[station, e.result] += 1
            if e.attempt == 1:
                count[station, "inspected"] += 1
                if e.result == "pass":
                    count[station, "first_pass_good"] += 1
            if e.result != "pass":
                count[station, "defect", e.defect] += 1
            if station == "grd" and e.result == "pass":
                count["good"] += 1
                count["hour", (e.timestamp_ms * 1000 - there.day_start(day)) // HOUR] += 1
            machines.setdefault((day, f"{station}/{machine}"), []).append(e.seq)
    assert set(ledger.days) == set(seen)
    for day, truth in ledger.days.items():
        count = seen[day]
        assert truth["events"] == count["events"]
        assert truth["good"] == count["good"]
        assert truth["starts"] == count["wnd", "inspected"]
        assert truth["scrap"] == sum(count[s.code, "scrap"] for s in there.line.station)
        assert len(truth["hourly_good"]) == (25 if zone == "America/Chicago" and day == start else 24)
        assert truth["hourly_good"] == [count["hour", h] for h in range(len(truth["hourly_good"]))]
        for s in there.line.station:
            row = truth["stations"][s.code]
            for name in ("pass", "rework", "scrap", "inspected", "first_pass_good"):
                assert row[name] == count[s.code, name]
            assert row["cycles"] == row["pass"] + row["rework"] + row["scrap"]
            assert row["defects"] == {d.code: count[s.code, "defect", d.code] for d in s.defect if count[s.code, "defect", d.code]}
        for name, row in truth["machines"].items():
            seqs = machines[day, name]
            assert (row["first_seq"], row["last_seq"], row["events"]) == (seqs[0], seqs[-1], len(seqs))
        assert len(truth["machines"]) == len([1 for d, _ in machines if d == day])
