"""Random numbers, readings, ledger, against plain calculations."""

from __future__ import annotations

import datetime as dt
import math
import statistics
from collections import Counter
from dataclasses import replace
from pathlib import Path
from statistics import NormalDist
from typing import Any

import msgspec
import numpy as np
import pytest

from mes import plant
from mes.contract import CellEvent
from mes.errors import ConfigError
from simulators import draws, quality
from simulators.disturbance import Disturbance, check
from simulators.ledger import Ledger
from simulators.scenario import TICKS, Scenario, day_code, load
from simulators.stream import Stream
from simulators.verdict import PASS

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
        first = (events["station"] == n) & (events["attempt"] == 1)
        for k, c in enumerate(station.characteristic):
            column = read[first, k]
            share = np.count_nonzero(column != quality.ABSENT) / len(column)
            assert share == pytest.approx(c.sampling, abs=5 * (c.sampling / len(column)) ** 0.5 if c.sampling < 1 else 0)
            if c.sampling == 1:
                values = column / 10.0 ** quality.decimals_of(c)
                z = (np.log(values / c.nominal) if c.distribution == "lognormal" else values - c.nominal) / c.sigma
                assert abs(z.mean()) < 5 / len(z) ** 0.5
                assert z.std() == pytest.approx(1, abs=5 / (2 * len(z)) ** 0.5)


def widened(scenario: Scenario, ppm: float = 2_000) -> Scenario:
    """The line with its limits 2.3 sigmas from the mean, so that one reading in fifty is beyond them."""

    def limit(c: plant.Characteristic, sigmas: float) -> float:
        return c.nominal * math.exp(sigmas * c.sigma) if c.distribution == "lognormal" else c.nominal + sigmas * c.sigma

    def narrow(c: plant.Characteristic) -> plant.Characteristic:
        lsl, usl = (None if at is None else limit(c, sigmas) for at, sigmas in ((c.lsl, -2.3), (c.usl, 2.3)))
        return msgspec.structs.replace(c, lsl=lsl, usl=usl)

    stations = [
        msgspec.structs.replace(
            s,
            defect=[msgspec.structs.replace(d, ppm=ppm) for d in s.defect],
            characteristic=[narrow(c) for c in s.characteristic],
        )
        for s in scenario.line.station
    ]
    return replace(scenario, line=msgspec.structs.replace(scenario.line, station=stations))


def test_a_reading_beyond_a_limit_and_its_defect_belong_together(scenario: Scenario) -> None:
    tight = widened(scenario)
    stream = Stream(tight, 1, DAY)
    codes = 0
    for m in stream.objects(stream.advance(stream.begin + HOUR)):
        event = msgspec.json.decode(m.payload, type=CellEvent)
        station = next(s for s in tight.line.station if s.code == tight.machine_codes[m.machine][0])
        beyond = []
        for c in station.characteristic:
            value = event.meas.get(c.name) if isinstance(event.meas, dict) else None
            if value is None or c.sampling < 1:
                continue
            if c.lsl is not None and value < c.lsl:
                beyond.append(c.below)
            if c.usl is not None and value > c.usl:
                beyond.append(c.above)
        if event.result == "pass":
            assert beyond == []
        else:
            assert len(beyond) <= 1  # one cause a miss
            assert beyond in ([], [event.defect])
            codes += bool(beyond)
    assert codes > 1_000


def test_what_is_sampled_decides_nothing(scenario: Scenario) -> None:
    """Destructive and sampled tests are recorded: the cell goes on whatever they say."""
    tight = widened(scenario, ppm=0)
    stream = Stream(tight, 1, DAY)
    part = stream.advance(stream.begin + 2 * HOUR)
    n = next(i for i, s in enumerate(tight.line.station) if s.code == "ccw")
    station = tight.line.station[n]
    k = next(i for i, c in enumerate(station.characteristic) if c.name == "peel_force")
    every = msgspec.structs.replace(station.characteristic[k], sampling=0.999999)
    changed = msgspec.structs.replace(station, characteristic=[*station.characteristic[:k], every, *station.characteristic[k + 1 :]])
    stations = [changed if s is station else s for s in tight.line.station]
    table = quality.build(replace(tight, line=msgspec.structs.replace(tight.line, station=stations)), 1)
    events = part.events[part.events["station"] == n]
    force = quality.readings(table, events)[:, k] / 10.0 ** quality.decimals_of(every)
    assert every.lsl is not None
    low = force < every.lsl
    passed = events["result"] == PASS
    assert low[passed].mean() == pytest.approx(0.0107, abs=0.006)
    assert low[passed].mean() == pytest.approx(low.mean(), abs=0.002)


def disturbed(scenario: Scenario, **more: Any) -> tuple[Any, Any, plant.Characteristic, int]:
    """First attempts at the cathode weld within six hours, their weld resistance in sigmas from nominal, and the share of misses."""
    one = msgspec.convert({"station": "ccw", "characteristic": "weld_resistance", **more}, Disturbance)
    check("here", scenario, [one])
    stream = Stream(scenario, 1, DAY, disturbances=[one])
    part = stream.advance(stream.begin + 6 * HOUR)
    n = next(i for i, s in enumerate(scenario.line.station) if s.code == "ccw")
    c = next(c for c in scenario.line.station[n].characteristic if c.name == "weld_resistance")
    events = part.events[(part.events["station"] == n) & (part.events["attempt"] == 1)]
    values = quality.readings(quality.build(scenario, 1, [one]), events)[:, 0] / 10.0 ** quality.decimals_of(c)
    hours = (events["t"] - stream.begin) / HOUR
    return hours, (values - c.nominal) / c.sigma, c, events


def at(hour: int, minute: int = 0) -> dt.datetime:
    return dt.datetime.fromisoformat(f"2026-11-20T{8 + hour:02d}:{minute:02d}")  # local time; the day begins at 8


def test_a_step_moves_the_mean_and_the_misses(scenario: Scenario) -> None:
    hours, z, c, events = disturbed(scenario, kind="step", sigma=2.0, **{"from": at(2), "to": at(4)})
    inside = (hours >= 2) & (hours < 4)
    for part, mean in ((inside, 2.0), (~inside, 0.0)):
        assert z[part].mean() == pytest.approx(mean, abs=5 / part.sum() ** 0.5)
        assert z[part].std() == pytest.approx(1, abs=0.05)
    weld_gap = events["cause"] >= 0
    assert c.usl is not None
    share = 1 - NormalDist(2.0).cdf((c.usl - c.nominal) / c.sigma)
    assert weld_gap[inside].mean() == pytest.approx(share, abs=5 * (share / inside.sum()) ** 0.5)
    assert (z[weld_gap] > (c.usl - c.nominal) / c.sigma).all()
    assert (events["result"][weld_gap] != PASS).all()


def test_a_drift_moves_with_time(scenario: Scenario) -> None:
    hours, z, _, _ = disturbed(scenario, kind="drift", sigma_per_day=-8.0, **{"from": at(1)})
    slope, start = np.polyfit(hours[hours > 1] - 1, z[hours > 1], 1)
    assert slope == pytest.approx(-8 / 24, abs=0.02)
    assert start == pytest.approx(0, abs=0.06)
    assert abs(z[hours < 1].mean()) < 0.1


def test_tools_wear_and_are_changed_in_turn(scenario: Scenario) -> None:
    hours, z, _, events = disturbed(scenario, kind="wear", sigma=3.0, hours=2.0, **{"from": at(0)})
    machine = events["machine"] - events["machine"].min()
    assert set(machine.tolist()) == {0, 1}
    for m in (0, 1):
        here = machine == m
        phase = (hours[here] / 2 + m / 2) % 1
        slope, start = np.polyfit(phase, z[here], 1)
        assert (slope, start) == (pytest.approx(3, abs=0.15), pytest.approx(0, abs=0.1))


def test_a_bad_lot_on_one_machine_leaves_the_other_alone(scenario: Scenario) -> None:
    hours, z, _, events = disturbed(scenario, kind="lot", sigma=-2.5, machine="02", **{"from": at(1), "to": at(3)})
    machine = events["machine"] - events["machine"].min()
    hit = (machine == 1) & (hours >= 1) & (hours < 3)
    assert z[hit].mean() == pytest.approx(-2.5, abs=0.1)
    assert abs(z[~hit].mean()) < 0.05


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ({"station": "xyz"}, "disturbance[0].station 'xyz' is not on line nanjing/cells/32140-1: use one of wnd, flt"),
        ({"characteristic": "colour"}, "disturbance[0].characteristic 'colour' is not measured at 'ccw': use one of weld_resistance"),
        ({"sigma": 0.0}, "disturbance[0].sigma 0.0: write a number of sigmas"),
        ({"sigma": 99.0}, "disturbance[0].sigma 99.0: write a number of sigmas up to 30"),
        ({"hours": 2.0}, "disturbance[0].hours 2.0 does not go with kind 'step': leave it out"),
        ({"kind": "wear"}, "disturbance[0].hours is missing: kind 'wear' needs it"),
        ({"to": at(1)}, "is not after from 2026-11-20 10:00:00"),
        ({"machine": "09"}, "disturbance[0].machine '09' is not at 'ccw': use 01 to 02"),
    ],
)
def test_a_disturbance_that_cannot_be_is_refused(scenario: Scenario, words: dict[str, Any], says: str) -> None:
    step = {"station": "ccw", "characteristic": "weld_resistance", "kind": "step", "sigma": 1.0, "from": at(2)}
    with pytest.raises(ConfigError) as refused:
        check("s.toml", scenario, [msgspec.convert({**step, **words}, Disturbance)])
    assert str(refused.value).startswith("s.toml: ")
    assert says in str(refused.value)


def test_a_ramp_up_fails_more_often(scenario: Scenario) -> None:
    """Five times the misses by defects at 1, three times at a half; limits and readings are not touched."""
    for ramp_up, factor in ((0.5, 3), (1.0, 5)):
        stream = Stream(scenario, 1, DAY, ramp_up=ramp_up)
        events = stream.advance(stream.begin + 6 * HOUR).events
        for n, station in enumerate(scenario.line.station):
            here = events[(events["station"] == n) & (events["attempt"] == 1)]
            miss = np.count_nonzero((here["result"] != PASS) & (here["cause"] < 0)) / len(here)
            expected = factor * sum(d.ppm for d in station.defect) / 1e6
            assert miss == pytest.approx(expected, abs=5 * (expected / len(here)) ** 0.5 + 1e-9)


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
