"""The flow and its text: determinism, conservation, order, yields, throughput."""

from __future__ import annotations

import csv
import datetime as dt
import math
from collections import Counter
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import NormalDist
from typing import Any

import msgspec
import numpy as np
import pytest

from mes import plant
from mes.contract import MAX_BACKLOG, MAX_MESSAGE_BYTES, CellEvent
from mes.contract import Station as Decoder
from simulators import quality
from simulators.flow import EXECUTE, NO_CHANNEL
from simulators.ledger import Ledger
from simulators.scenario import TICKS, Scenario, load
from simulators.stream import Slice, Stream
from simulators.verdict import MISSED, PASS, SCRAP

SEEDS = Path(__file__).resolve().parents[2] / "seeds"
DAY = dt.date(2026, 11, 20)
HOUR = 3600 * TICKS
LINES = ("dalian-26650-1", "nanjing-32140-1")


@dataclass
class Day:
    """A whole production day of a line."""

    scenario: Scenario
    stream: Stream
    slices: list[Slice]
    events: Any
    before: Any
    inside_before: Any


def run_day(name: str, hours: int = 24) -> Day:
    scenario = load(SEEDS, name)
    stream = Stream(scenario, 1, DAY)
    before, inside = stream.counts, stream.inside
    slices = [stream.advance(stream.begin + h * HOUR) for h in range(1, hours + 1)]
    return Day(scenario, stream, slices, np.concatenate([s.events for s in slices]), before, inside)


@pytest.fixture(scope="module", params=LINES)
def day(request: pytest.FixtureRequest) -> Day:
    return run_day(request.param)


def texts(stream: Stream, hours: list[float]) -> bytes:
    return b"\n".join(m.payload for h in hours for m in stream.objects(stream.advance(stream.begin + int(h * HOUR))))


def beyond(c: plant.Characteristic) -> tuple[float, float]:
    """Shares of a characteristic's distribution below its lower limit and above its upper one."""
    of = NormalDist(math.log(c.nominal) if c.distribution == "lognormal" else c.nominal, c.sigma)
    limit = math.log if c.distribution == "lognormal" else float
    return 0.0 if c.lsl is None else of.cdf(limit(c.lsl)), 0.0 if c.usl is None else 1 - of.cdf(limit(c.usl))


def decoders(scenario: Scenario) -> list[Decoder]:
    """One for each machine."""
    one = {s.code: Decoder((c.name for c in s.characteristic), (d.code for d in s.defect)) for s in scenario.line.station}
    return [one[station] for station, _ in scenario.machine_codes]


def changed(scenario: Scenario, stations: list[plant.Station]) -> Scenario:
    return replace(scenario, line=msgspec.structs.replace(scenario.line, station=stations))


def test_same_seed_same_bytes_however_it_is_sliced() -> None:
    scenario = load(SEEDS, LINES[0])
    whole = texts(Stream(scenario, 7, DAY), [0.5])
    assert whole == texts(Stream(scenario, 7, DAY), [0.001, 0.25, 0.2501, 0.4, 0.5])
    assert whole != texts(Stream(scenario, 8, DAY), [0.5])


def test_days_are_the_same_whether_run_hourly_or_at_once() -> None:
    scenario = load(SEEDS, LINES[0])
    at_once, hourly = Stream(scenario, 3, DAY), Stream(scenario, 3, DAY)
    a = at_once.advance(at_once.begin + 26 * HOUR)
    hourly_slices = [hourly.advance(hourly.begin + h * HOUR) for h in range(1, 27)]
    assert a.events.tobytes() == np.concatenate([s.events for s in hourly_slices]).tobytes()
    # The serial's day changes at the production day's start, also in the middle of a slice.
    last = [m.payload for m in at_once.objects(replace(a, events=a.events[-100:]))]
    assert last == [m.payload for m in hourly.objects(hourly_slices[-1])][-100:]


def test_cells_are_conserved_at_every_station(day: Day) -> None:
    counts = day.stream.counts
    arrived, left, scrapped = (counts[name] - day.before[name] for name in ("arrived", "left", "scrapped"))
    assert (arrived == left + scrapped + day.stream.inside - day.inside_before).all()
    assert (arrived[1:] == left[:-1]).all()


def test_counters_are_those_of_the_events(day: Day) -> None:
    counts = day.stream.counts
    for n in range(len(day.scenario.line.station)):
        here = day.events[day.events["station"] == n]
        assert np.count_nonzero(here["result"] == SCRAP) == counts["scrapped"][n] - day.before["scrapped"][n]


def test_events_are_in_order_of_time_and_seq_has_no_gap(day: Day) -> None:
    assert (np.diff(day.events["t"]) >= 0).all()
    assert day.events["t"][0] >= day.stream.begin
    assert day.events["t"][-1] < day.stream.until
    for machine in range(len(day.scenario.machine_codes)):
        seq = day.events["seq"][day.events["machine"] == machine]
        assert (seq == np.arange(1, len(seq) + 1)).all()


def test_a_cell_visits_in_route_order_and_never_after_scrap(day: Day) -> None:
    order = np.lexsort((np.arange(len(day.events)), day.events["unit"]))
    e = day.events[order]
    same = e["unit"][1:] == e["unit"][:-1]
    now, then = e[1:][same], e[:-1][same]
    assert (now["t"] - now["cycle"] >= then["t"]).all()  # work begins after it left
    advanced = now["station"] == then["station"] + 1
    again = (now["station"] == then["station"]) & (now["attempt"] == then["attempt"] + 1)
    assert (then["result"] != SCRAP).all()
    assert (advanced == (then["result"] == PASS)).all()
    assert (again == (then["result"] == MISSED)).all()
    assert (now["attempt"][advanced] == 1).all()


def test_a_batch_leaves_together_and_full(day: Day) -> None:
    n, station = next((n, s) for n, s in enumerate(day.scenario.line.station) if s.kind == "batch")
    here = day.events[day.events["station"] == n]
    assert len(here)
    _, counts = np.unique(np.stack([here["machine"], here["t"]]), axis=1, return_counts=True)
    assert (counts == station.cells_per_cycle).all()
    assert set(here["channel"][: station.cells_per_cycle].tolist()) == set(range(station.cells_per_cycle))


def test_dwell_takes_its_time_in_one_position(day: Day) -> None:
    for n, station in enumerate(day.scenario.line.station):
        here = day.events[day.events["station"] == n]
        if station.kind == "dwell":
            assert (here["cycle"] == round(station.cycle_s * TICKS)).all()
            assert here["channel"].min() >= 0
            assert here["channel"].max() < station.positions
            where = np.stack([here["machine"], here["channel"]])
            order = np.lexsort((here["t"], where[1], where[0]))
            same = (np.diff(where[:, order], axis=1) == 0).all(axis=0)
            assert (np.diff(here["t"][order])[same] >= round(station.cycle_s * TICKS)).all()
        elif station.kind == "discrete":
            assert (here["channel"] == NO_CHANNEL).all()


def test_a_machine_works_on_one_load_at_a_time(day: Day) -> None:
    for n, station in enumerate(day.scenario.line.station):
        if station.kind != "discrete":
            continue
        here = day.events[day.events["station"] == n]
        for machine in np.unique(here["machine"]):
            ends, loads = np.unique(here["t"][here["machine"] == machine], return_counts=True)
            assert loads.max() <= station.cells_per_cycle
            assert np.diff(ends).min() >= 0.9 * station.cycle_s * TICKS


def test_no_buffer_holds_more_than_its_slots() -> None:
    scenario = load(SEEDS, LINES[0])
    stream = Stream(scenario, 2, DAY)
    stations = scenario.line.station
    room = np.array([
        s.machines * s.cells_per_cycle * s.positions * (2 if s.rework and s.kind != "dwell" else 1)
        + (stations[n - 1].buffer_after if n else 0)
        + (s.cells_per_cycle if s.kind == "batch" else 0)
        for n, s in enumerate(stations)
    ])  # fmt: skip
    for h in range(1, 49):
        stream.advance(stream.begin + h * HOUR)
        assert (stream.inside <= room).all()


def test_yields_and_throughput_are_the_tables(day: Day) -> None:
    truth = Ledger(day.scenario)
    truth.add(day.events)
    assert list(truth.days) == [DAY]
    counts = truth.days[DAY]
    target, ceiling, output_yield = {"26650-1": (100_000, 104_800, 0.987), "32140-1": (50_000, 53_900, 0.967)}[day.scenario.line.code]
    assert target <= counts["good"] <= ceiling
    assert counts["good"] / (counts["good"] + counts["scrap"]) == pytest.approx(output_yield, abs=0.003)
    for station in day.scenario.line.station:
        row = counts["stations"][station.code]
        shares = Counter({d.code: d.ppm / 1e6 for d in station.defect})
        for c in station.characteristic:
            if c.sampling == 1:
                below, above = beyond(c)
                shares[c.below or station.defect[0].code] += below
                shares[c.above or station.defect[0].code] += above
        miss = sum(shares.values())
        sigma = (miss * (1 - miss) / row["inspected"]) ** 0.5
        assert row["first_pass_good"] / row["inspected"] == pytest.approx(1 - miss, abs=5 * sigma + 1e-12)
        for defect in station.defect:
            expected = row["inspected"] * shares[defect.code]
            assert row["defects"].get(defect.code, 0) == pytest.approx(expected, abs=6 * expected**0.5 + expected * miss + 6)


def test_the_following_days_are_like_the_first() -> None:
    for name, target in zip(LINES, (100_000, 50_000), strict=True):
        scenario = load(SEEDS, name)
        stream = Stream(scenario, 5, DAY)
        last = len(scenario.line.station) - 1
        for d in range(1, 5):
            events = stream.advance(stream.begin + d * 24 * HOUR).events
            good = np.count_nonzero((events["station"] == last) & (events["result"] == PASS))
            assert target <= good <= 1.08 * target


def test_adding_a_station_leaves_the_others_draws_alone() -> None:
    scenario = load(SEEDS, LINES[0])
    stations = scenario.line.station
    extra = msgspec.structs.replace(stations[2], code="new", seq=stations[2].seq + 1)
    longer = changed(scenario, [*stations[:3], extra, *stations[3:]])

    def draws(of: Scenario) -> dict[str, dict[tuple[int, int], tuple[Any, ...]]]:
        stream = Stream(of, 4, DAY)
        part = stream.advance(stream.begin + HOUR)
        readings = quality.readings(quality.build(of, 4), part.events).tolist()
        found: dict[str, dict[tuple[int, int], tuple[Any, ...]]] = {}
        for e, row in zip(part.events.tolist(), readings, strict=True):
            event = dict(zip(part.events.dtype.names, e, strict=True))
            station = found.setdefault(of.line.station[event["station"]].code, {})
            station[event["unit"], event["attempt"]] = event["result"], event["defect"], row
        return found

    before, after = draws(scenario), draws(longer)
    for code in ("wnd", "can", "bwd", "slv"):
        a, b = before[code], after[code]
        shared = a.keys() & b.keys()
        assert len(shared) > 2_000
        assert all(a[k] == b[k] for k in shared)


@pytest.mark.parametrize("name", LINES)
def test_every_event_decodes_alone_and_in_arrays(name: str) -> None:
    day = run_day(name, hours=1)
    decode = decoders(day.scenario)
    singles: list[tuple[int, CellEvent]] = []
    lots: list[tuple[int, CellEvent]] = []
    for part in day.slices:
        for m in day.stream.objects(part):
            events, rejects = decode[m.machine].decode(m.payload)
            assert not rejects, rejects
            singles += [(m.machine, e) for e in events]
        for m in day.stream.arrays(part):
            assert len(m.payload) <= MAX_MESSAGE_BYTES
            events, rejects = decode[m.machine].decode(m.payload)
            assert not rejects, rejects
            assert len(events) == m.events <= MAX_BACKLOG
            assert [e.seq for e in events] == list(range(events[0].seq, events[0].seq + len(events)))
            lots += [(m.machine, e) for e in events]
    key = lambda pair: (pair[0], pair[1].seq)  # noqa: E731
    assert sorted(singles, key=key) == sorted(lots, key=key)
    assert len(singles) == len(day.events)
    for (machine, e), raw in zip(singles[::97], day.events[::97], strict=True):
        station = day.scenario.line.station[raw["station"]]
        assert (machine, e.seq, e.timestamp_ms, e.attempt) == (raw["machine"], raw["seq"], raw["t"] // 1000, raw["attempt"])
        assert e.cycle_s == pytest.approx(raw["cycle"] / TICKS, abs=0.0006)
        assert e.result == ("pass", "rework", "scrap")[raw["result"]]
        if e.result != "pass":
            assert e.defect == station.defect[raw["defect"]].code
        prefix, day_code, number = e.unit.split("-")
        assert prefix == day.scenario.line.serial_prefix
        assert len(day_code) == 5
        assert len(number) == 7


def test_arrays_are_long_and_machines_stay_in_order() -> None:
    day = run_day(LINES[0], hours=2)
    messages = [m for part in day.slices for m in day.stream.arrays(part)]
    assert sum(m.events for m in messages) / len(messages) >= 100
    last: dict[int, int] = {}
    for m in messages:
        for e in msgspec.json.decode(m.payload, type=list[CellEvent]):
            assert e.seq == last.get(m.machine, 0) + 1
            last[m.machine] = e.seq


def test_serials_are_of_one_cell_each_and_of_its_winding_day() -> None:
    scenario = load(SEEDS, LINES[0])
    stream = Stream(scenario, 1, DAY)
    serial: dict[int, str] = {}
    stream.advance(stream.begin + 23 * HOUR + HOUR // 2)
    for h in (24, 25):
        part = stream.advance(stream.begin + h * HOUR)
        for m, unit in zip(stream.objects(part), part.events["unit"].tolist(), strict=True):
            e = msgspec.json.decode(m.payload, type=CellEvent)
            assert serial.setdefault(unit, e.unit) == e.unit
    assert len(set(serial.values())) == len(serial)
    ordered = [serial[u] for u in sorted(serial)]
    codes = [s.split("-")[1] for s in ordered]
    assert codes == sorted(codes)
    assert {"26K20", "26K21"} <= set(codes)
    assert all(int(b.split("-")[2]) > int(a.split("-")[2]) for a, b in pairwise(ordered) if a.split("-")[1] == b.split("-")[1])


def test_another_boot_uses_other_serials() -> None:
    scenario = load(SEEDS, LINES[0])
    first, second = (Stream(scenario, 1, DAY, boot) for boot in (1, 2))
    units = []
    for stream in (first, second):
        part = stream.advance(stream.begin + HOUR)
        events = [msgspec.json.decode(m.payload, type=CellEvent) for m in stream.objects(part)]
        assert {e.boot for e in events} == {stream.boot}
        units.append({e.unit for e in events})
    assert not units[0] & units[1]


def test_a_line_without_defects_or_dwell_flows() -> None:
    scenario = load(SEEDS, LINES[0])
    bare = (msgspec.structs.replace(s, defect=[], characteristic=[], rework=None) for s in scenario.line.station)
    plain = [s for s in bare if s.code in ("wnd", "hpt", "can")]
    short = changed(scenario, plain)
    stream = Stream(short, 1, DAY)
    part = stream.advance(stream.begin + HOUR)
    assert (part.events["result"] == PASS).all()
    decode = decoders(short)
    assert all(not decode[m.machine].decode(m.payload)[1] for m in stream.objects(part))


def test_a_station_with_every_cell_missed_lets_none_through() -> None:
    scenario = load(SEEDS, LINES[0])
    stations = [s for s in scenario.line.station if s.code in ("wnd", "hpt", "can")]
    stations[1] = msgspec.structs.replace(
        stations[1],
        characteristic=[],
        defect=[plant.Defect(code="X", name="all", ppm=1e6)],
        rework=plant.Rework(max=3, share=1.0, success=0.0),
    )
    stream = Stream(changed(scenario, stations), 1, DAY)
    events = stream.advance(stream.begin + HOUR).events
    assert set(events["station"].tolist()) == {0, 1}
    tested = events[events["station"] == 1]
    assert set(tested["attempt"].tolist()) == {1, 2, 3, 4}
    assert (tested["result"][tested["attempt"] <= 3] == MISSED).all()
    assert (tested["result"][tested["attempt"] == 4] == SCRAP).all()


@pytest.mark.parametrize("name", LINES)
def test_a_day_alone_is_the_day_among_others(name: str) -> None:
    scenario = load(SEEDS, name)
    first = dt.date(2026, 11, 2)
    third = first + dt.timedelta(days=2)

    def day(stream: Stream, date: dt.date) -> list[Slice]:
        begin, end = scenario.day_start(date), scenario.day_start(date + dt.timedelta(days=1))
        while stream.until < begin:
            stream.advance(begin)
        return [stream.advance(end)]

    among, alone = (Stream(scenario, 1, start, None, origin=first) for start in (first, third))
    one, other = day(among, third), day(alone, third)
    assert [p.until for p in one] == [p.until for p in other] == [scenario.day_start(third + dt.timedelta(days=1))]
    assert among.lines(replace(one[0], events=one[0].events[::50])) == alone.lines(replace(other[0], events=other[0].events[::50]))
    assert one[0].events.tobytes() == other[0].events.tobytes()
    for machine in range(len(scenario.machine_codes)):
        seq = one[0].events["seq"][one[0].events["machine"] == machine]
        assert (seq == np.arange(1, len(seq) + 1)).all()
    assert one[0].boot == (third - dt.date(1999, 12, 31)).days * 1000


@pytest.mark.parametrize("name", LINES)
def test_ten_days_have_the_yields_of_the_tables(name: str) -> None:
    """First-pass yield of every station, the yield of the line and its output, within what chance allows."""
    scenario = load(SEEDS, name)
    route, target, output_yield = {"26650-1": ("26650_tabbed", 100_000, 0.987), "32140-1": ("32140_tabless", 50_000, 0.967)}[
        scenario.line.code
    ]
    with (Path(__file__).parents[1] / "oracles" / "stations.csv").open(encoding="utf-8", newline="") as file:
        table = {row["station"].lower(): float(row["fpy"]) for row in csv.DictReader(file) if row["route"] == route}
    stream, ledger = Stream(scenario, 2, DAY), Ledger(scenario)
    for d in range(1, 11):
        part = stream.advance(stream.begin + d * 24 * HOUR)
        ledger.add(part.events)
        ledger.end(part.ended)
    days = list(ledger.days.values())
    assert len(days) == 10
    for code, expected in table.items():
        inspected, passed = (sum(d["stations"][code][key] for d in days) for key in ("inspected", "first_pass_good"))
        sigma = (expected * (1 - expected) / inspected) ** 0.5
        assert passed / inspected == pytest.approx(expected, abs=4.5 * sigma + 1.5e-5), code  # the table has five digits
    good, scrap = (sum(d[key] for d in days) for key in ("good", "scrap"))
    assert good / (good + scrap) == pytest.approx(output_yield, abs=0.0015)
    assert target <= good / 10 <= 1.05 * target
    for s in scenario.line.station:  # a machine is down as often as its figures say, for the time that it works
        spent = [d["states"][f"{s.code}/{m}"] for d in days for m in s.machine_codes]
        worked, down = (sum(x.get(state, 0) for x in spent) for state in ("execute", "down"))
        if s.kind == "dwell":
            continue
        failures = worked / s.mtbf_min / 60
        assert down / 60 / s.mttr_min == pytest.approx(failures, abs=5 * (2 * failures) ** 0.5 + 3), s.code
    for before, after in pairwise(days):
        for machine, spent in after["states"].items():
            positions = next(s.positions for s in scenario.line.station if s.code == machine.partition("/")[0])
            assert sum(spent.values()) == pytest.approx(24 * 3600 * positions, rel=1e-12), machine
        for code, row in after["stations"].items():
            assert row["wip_begin"] == before["stations"][code]["wip_end"]
            assert row["wip_end"] == row["wip_begin"] + row["arrived"] - row["left"] - row["scrap"]


def planned(scenario: Scenario) -> Scenario:
    """Breaks at 12:00 and across midnight, a holiday after the first day, a stop of the line that ends in the third day."""
    day = plant.Shift(name="day", start=dt.time(8), end=dt.time(20), breaks=[plant.Break(start=dt.time(12), end=dt.time(12, 30))])
    night = plant.Shift(name="night", start=dt.time(20), end=dt.time(8), breaks=[plant.Break(start=dt.time(23, 50), end=dt.time(0, 20))])
    stop = plant.PlannedStop(
        from_=dt.datetime.fromisoformat("2026-11-22T06:00"), to=dt.datetime.fromisoformat("2026-11-22T10:00"), reason="cleaning"
    )
    holiday = plant.Holiday(day=DAY + dt.timedelta(days=1), name="founders' day")
    site = msgspec.structs.replace(scenario.site, shift=[day, night], planned_stop=[stop], holiday=[holiday])
    return replace(scenario, site=site)


def test_no_cycle_begins_in_a_planned_stop_and_chambers_go_on() -> None:
    scenario = planned(load(SEEDS, LINES[0]))
    stream = Stream(scenario, 1, DAY)
    at = lambda hours: (hours * 60 - 8 * 60) * HOUR // 60  # noqa: E731  hours of the clock since midnight of the first day
    # The holiday runs from its day's start, 8:00, to the next; the stop joins it and goes on until 10:00.
    stops = [(at(12), at(12.5)), (at(23 + 5 / 6), at(24 + 1 / 3)), (at(24 + 8), at(48 + 10)), (at(48 + 12), at(48 + 12.5))]
    events = np.concatenate([stream.advance(stream.begin + h * HOUR).events for h in (20, 40, 60)])
    discrete = np.array([s.kind == "discrete" for s in scenario.line.station])[events["station"]]
    # A cycle with a breakdown ends later than it began plus its cycle: so this is the latest instant at which it can have begun.
    begun = events["t"] - events["cycle"] - stream.begin
    longest = max(s.cycle_s for s in scenario.line.station if s.kind == "discrete") * 1.1 * TICKS
    for first, last in stops:
        ended = discrete & (events["t"] - stream.begin >= first + longest) & (events["t"] - stream.begin < last)
        broken = ended.sum()
        assert broken <= 12  # cycles that a breakdown caught before the stop
        if last < 60 * HOUR:
            assert (discrete & (begun >= last) & (begun < last + HOUR // 60)).sum() > 100
    long = ~discrete & (events["t"] - stream.begin >= at(36)) & (events["t"] - stream.begin < at(50))
    assert long.sum() > 1_000  # ovens and ageing chambers finish what is in them
    assert (np.diff(events["t"]) >= 0).all()


def test_stops_are_what_the_calendar_does_not_plan() -> None:
    scenario = planned(load(SEEDS, LINES[0]))
    clock = lambda instant: dt.datetime.fromtimestamp(instant / TICKS, scenario.site.tz).strftime("%d %H:%M")  # noqa: E731

    def stops(day: int) -> list[tuple[str, str]]:
        return [(clock(a), clock(b)) for a, b in scenario.stops(dt.date(2026, 11, day)).tolist()]

    assert stops(19) == [("19 12:00", "19 12:30"), ("19 23:50", "20 00:20")]
    assert stops(20) == [("20 12:00", "20 12:30"), ("20 23:50", "21 00:20")]
    assert stops(21) == [("21 08:00", "22 10:00")]
    assert stops(22) == [("22 08:00", "22 10:00"), ("22 12:00", "22 12:30"), ("22 23:50", "23 00:20")]
    assert load(SEEDS, LINES[0]).stops(DAY).shape == (0, 2)


def test_a_stop_that_never_ends_is_long() -> None:
    scenario = load(SEEDS, LINES[0])
    holidays = [plant.Holiday(day=DAY + dt.timedelta(days=n), name="closed") for n in range(400)]
    closed = replace(scenario, site=msgspec.structs.replace(scenario.site, holiday=holidays))
    [[begin, end]] = closed.stops(DAY).tolist()
    assert begin == closed.day_start(DAY)
    assert end > closed.day_start(DAY + dt.timedelta(days=366))


def test_the_time_in_a_chamber_is_that_of_its_cells() -> None:
    """Position ticks of a dwell station in a day, to the tick: each cell for as long as it was in its dwell on that day."""
    scenario = load(SEEDS, LINES[0])
    n = next(i for i, s in enumerate(scenario.line.station) if s.code == "sok")
    stream = Stream(scenario, 1, DAY)
    day = stream.advance(stream.begin + 24 * HOUR)
    later = stream.advance(stream.begin + 34 * HOUR)  # a dwell of eight hours: all that was in it has come out
    events = np.concatenate([day.events, later.events])
    mine = events[events["station"] == n]
    end = stream.begin + 24 * HOUR
    within = np.minimum(mine["t"], end) - np.maximum(mine["t"] - mine["cycle"], stream.begin)
    [ended] = day.ended
    machines = np.array([station == "sok" for station, _ in scenario.machine_codes])
    assert ended.spent[machines, EXECUTE].sum() == within[within > 0].sum()
    for index in np.flatnonzero(machines):
        one = within[mine["machine"] == index]
        assert ended.spent[index, EXECUTE] == one[one > 0].sum()
