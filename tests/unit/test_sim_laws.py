"""What must hold of every line, whatever its figures: monotone in its buffers, reversible, Little's law, cells and time conserved.

And two twins of the flow: the recursion of departure instants in plain Python, and SimPy, both to the tick.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulators import abstract, breakdown, draws, flow, service
from simulators.abstract import Scenario
from simulators.throughput import departures, measure
from simulators.verdict import MISSED, PASS, SCRAP
from tests import simpy_line

SETTINGS = settings(max_examples=25, deadline=None)
CELLS = 400

services = st.one_of(
    st.floats(0.2, 3).map(lambda m: {"dist": "exponential", "mean": m}),
    st.floats(0.2, 3).map(lambda m: {"dist": "deterministic", "mean": round(m, 2)}),
    st.tuples(st.floats(0, 1), st.floats(1.1, 3)).map(lambda x: {"dist": "uniform", "low": x[0], "high": x[1]}),
    st.tuples(st.integers(2, 5), st.floats(0.2, 3)).map(lambda x: {"dist": "erlang", "k": x[0], "mean": x[1]}),
    st.tuples(st.floats(0.2, 3), st.floats(0.1, 2)).map(lambda x: {"dist": "lognormal", "mean": x[0], "cv": x[1]}),
    st.tuples(st.floats(0, 0.5), st.floats(0.1, 1)).map(lambda x: {"dist": "slotted", "p": x[0], "r": x[1]}),
)
durations = st.tuples(st.floats(5, 50), st.floats(0.1, 10))
busy = durations.map(lambda x: {"mode": "operation", "mtbf": x[0], "mttr": x[1]})
clock = durations.map(lambda x: {"mode": "time", "mtbf": x[0], "mttr": x[1]})
failures = st.one_of(st.none(), busy)
shares = st.floats(0, 1)
qualities = st.fixed_dictionaries(
    {"miss": st.floats(0, 0.6), "rework_max": st.integers(0, 3), "rework_share": shares, "rework_success": shares}
)
single_server_lines = st.lists(st.tuples(services, st.integers(0, 5), failures), min_size=1, max_size=6)
any_station = st.tuples(
    services, st.integers(0, 8), st.one_of(failures, clock), st.integers(1, 4), st.integers(1, 3), st.one_of(st.none(), qualities)
)
lines = st.lists(any_station, min_size=1, max_size=5)


def scenario(stations: list[dict[str, Any]]) -> Scenario:
    named = [{"name": f"m{n}", **{k: v for k, v in s.items() if v is not None}} for n, s in enumerate(stations)]
    return msgspec.convert({"station": named}, Scenario)


def single(drawn: list[tuple[Any, ...]]) -> Scenario:
    return scenario([{"service": s, "buffer": b, "failures": f} for s, b, f in drawn])


def times(of: Scenario, cells: int = CELLS, seed: int = 1) -> list[int]:
    return [int(t) for t in departures(abstract.build(of, seed, cells), np.arange(cells))]


def work_of(of: Scenario, seed: int) -> list[Callable[[int], int]]:
    """How long each machine is kept by cell n, repairs included, from the draws alone; call it in the order of the cells."""

    def station(line: Any, n: int) -> Callable[[int], int]:
        at = line.station[n]
        state = {"healthy": int(line.machine["healthy"][n]), "failures": 0}

        def keeps(cell: int) -> int:
            work = int(service.duration(at, cell, 1))
            total = work
            while at["mtbf"] and state["healthy"] < work:
                work -= state["healthy"]
                total += int(draws.exponential(at["key"], state["failures"], 0, draws.REPAIR, at["mttr"]))
                state["failures"] += 1
                state["healthy"] = 1 + int(draws.exponential(at["key"], state["failures"], 0, draws.TIME_TO_FAILURE, at["mtbf"]))
            state["healthy"] -= work if at["mtbf"] else 0
            return total

        return keeps

    line = abstract.build(of, seed, CELLS)
    return [station(line, n) for n in range(len(of.station))]


def by_the_clock(of: Scenario, seed: int, n: int) -> Callable[[int, int], int]:
    """When the cell that a machine has got at some instant is done, of a machine that fails by the clock, idle or not."""
    line = abstract.build(of, seed, CELLS)
    at, fails, failures = line.station[n], int(line.machine["healthy"][n]), 0

    def done(cell: int, now: int) -> int:
        nonlocal fails, failures
        left = int(service.duration(at, cell, 1))
        while True:
            if fails <= now:
                up = fails + int(draws.exponential(at["key"], failures, 0, draws.REPAIR, at["mttr"]))
                failures += 1
                fails = up + 1 + int(draws.exponential(at["key"], failures, 0, draws.TIME_TO_FAILURE, at["mtbf"]))
                now = max(now, up)
            elif fails - now < left:
                left -= fails - now
                now = fails
            else:
                return now + left

    return done


def recursion(of: Scenario, seed: int) -> list[int]:
    """Departure instants by the recursion for blocking after service: a cell leaves station j when it is done there and the
    one that is `buffer + 1` before it has left station j + 1."""
    work, m = work_of(of, seed), len(of.station)
    clock = {n: by_the_clock(of, seed, n) for n, s in enumerate(of.station) if s.failures and s.failures.mode == "time"}
    left = [[0] * CELLS for _ in range(m)]
    for n in range(CELLS):
        for j in range(m):
            begin = max(left[j - 1][n] if j else 0, left[j][n - 1] if n else 0)
            out = clock[j](n, begin) if j in clock else begin + work[j](n)
            if j + 1 < m:
                ahead = n - int(of.station[j + 1].buffer) - 1
                out = max(out, left[j + 1][ahead] if ahead >= 0 else 0)
            left[j][n] = out
    return left[-1]


@SETTINGS
@given(st.lists(st.tuples(services, st.integers(0, 5), st.one_of(failures, clock)), min_size=1, max_size=6), st.integers(0, 1000))
def test_single_servers_that_fail_by_the_clock_are_the_recursion(drawn: list[Any], seed: int) -> None:
    line = single(drawn)
    assert times(line, seed=seed) == recursion(line, seed)


@SETTINGS
@given(single_server_lines, st.integers(0, 1000))
def test_single_servers_are_the_recursion_to_the_tick(drawn: list[Any], seed: int) -> None:
    line = single(drawn)
    assert times(line, seed=seed) == recursion(line, seed)


@SETTINGS
@given(single_server_lines, st.integers(0, 1000))
def test_single_servers_are_simpy_to_the_tick(drawn: list[Any], seed: int) -> None:
    line = single(drawn)
    assert times(line, seed=seed) == simpy_line.departures([int(s.buffer) for s in line.station], work_of(line, seed), CELLS)


@SETTINGS
@given(single_server_lines, st.data())
def test_more_buffer_never_hurts(drawn: list[Any], data: st.DataObject) -> None:
    """Cell by cell: with the same draws no cell leaves later."""
    wider = [(s, b + data.draw(st.integers(0, 4)), f) for s, b, f in drawn]
    assert all(late >= early for late, early in zip(times(single(drawn)), times(single(wider)), strict=True))


@SETTINGS
@given(single_server_lines)
def test_between_no_buffer_and_endless_ones(drawn: list[Any]) -> None:
    none, endless = (times(single([(s, b, f) for s, _, f in drawn])) for b in (0, CELLS))
    assert all(a >= b >= c for a, b, c in zip(none, times(single(drawn)), endless, strict=True))
    assert times(scenario([{"service": s, "buffer": "infinite", "failures": f} for s, _, f in drawn])) == endless


UNLIKE = [
    {"dist": "uniform", "low": 0.0, "high": 2.0},
    {"dist": "erlang", "k": 2, "mean": 1.0},
    {"dist": "lognormal", "mean": 0.9, "cv": 1.0},
]


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize(
    ("stations", "buffers"),
    [
        ([{"dist": "exponential", "mean": m} for m in (1.0, 1.4, 0.7, 1.1)], [2, 1, 3]),
        (UNLIKE, [0, 4]),
        ([{"dist": "slotted", "p": 0.02, "r": r} for r in (0.1, 0.2, 0.05)], [3, 6]),
    ],
)
def test_a_line_and_its_reverse_make_the_same(stations: list[dict[str, Any]], buffers: list[int], seed: int) -> None:
    def made(s: list[dict[str, Any]], b: list[int]) -> tuple[float, float]:
        found = measure(scenario([{"service": x, "buffer": n} for x, n in zip(s, [0, *b], strict=True)]), 500_000, seed)
        return found.throughput, found.half_width

    (forth, a), (back, b) = made(stations, buffers), made(stations[::-1], buffers[::-1])
    assert abs(forth - back) <= (a * a + b * b) ** 0.5


def run(of: Scenario, events: int, seed: int = 1) -> tuple[flow.Line, Any, int]:
    """A line after so many events, the events, and the instant up to which they are complete."""
    line = abstract.build(of, seed, events)
    scratch = np.zeros(events + 100, flow.EVENT)
    room = int(line.station["size"].max())
    n = flow.advance(line, flow.NEVER, scratch[: events + room], room)
    return line, scratch[:n], int(scratch["t"][n - 1])


def inside(line: flow.Line) -> Any:
    loads = np.add.reduceat(line.machine["load"], line.station["first"])
    return loads + line.ring["count"][:, [flow.QUEUE, flow.AGAIN, flow.OUT]].sum(axis=1)


def any_line(drawn: list[Any]) -> Scenario:
    return scenario(
        [
            {"service": s, "buffer": max(b, batch), "failures": f, "machines": c, "batch": batch, "quality": q}
            for s, b, f, c, batch, q in drawn
        ]
    )


@SETTINGS
@given(lines, st.integers(0, 1000))
def test_cells_are_conserved_at_every_station(drawn: list[Any], seed: int) -> None:
    line, events, _ = run(any_line(drawn), 3_000, seed)
    arrived, left, scrapped = (line.station[name] for name in ("arrived", "left", "scrapped"))
    assert (arrived == left + scrapped + inside(line)).all()
    assert (arrived[1:] == left[:-1]).all()
    for n in range(len(line.station)):
        mine = events["result"][events["station"] == n]
        assert np.count_nonzero(mine == SCRAP) == scrapped[n]
        assert len(mine) == np.count_nonzero(mine == PASS) + np.count_nonzero(mine == MISSED) + scrapped[n]


@SETTINGS
@given(lines, st.integers(0, 1000), st.data())
def test_the_time_of_every_machine_is_accounted_for(drawn: list[Any], seed: int, data: st.DataObject) -> None:
    """States add up to the clock at any instant, never run back, and what was worked is what the events say."""
    of = any_line(drawn)
    line = abstract.build(of, seed, 3_000)
    room = int(line.station["size"].max())
    scratch = np.zeros(4_000, flow.EVENT)
    unit = abstract.ticks_per_unit(of)
    before = np.zeros((len(line.machine), len(flow.STATES)), np.int64)
    worked = np.zeros(len(line.machine), np.int64)
    at = 0
    for step in data.draw(st.lists(st.floats(0.01, 60), min_size=1, max_size=6)):
        at += int(step * unit)
        n = flow.advance(line, at, scratch, room)
        first = scratch[:n][np.unique(np.stack([scratch["machine"][:n], scratch["t"][:n]]), axis=1, return_index=True)[1]]
        np.add.at(worked, first["machine"], first["cycle"])  # a batch reports once a cell
        spent = flow.states(line, at)
        assert (spent.sum(axis=1) == at).all()
        assert (spent >= before).all()
        before = spent
    in_work = np.where(line.machine["load"] > 0, line.machine["cycle"], 0)
    execute = before[:, flow.EXECUTE]
    assert (execute >= worked).all()
    assert (execute <= worked + in_work).all()


@pytest.mark.parametrize("mode", ["operation", "time"])
def test_breakdowns_take_the_share_of_time_that_they_should(mode: str) -> None:
    """A machine that is never idle is down MTTR of MTBF + MTTR; one that is idle half of its time fails half as often by busy
    time, and as often by the clock, when it counts as down only while a cell waits for it."""
    of = scenario([{"service": {"dist": "deterministic", "mean": 1.0}, "failures": {"mode": mode, "mtbf": 50, "mttr": 5}}])
    found = measure(of, 2_000_000, 1)
    assert found.stations[0].down == pytest.approx(5 / 55, rel=0.02)
    assert found.throughput == pytest.approx(50 / 55, abs=found.half_width)
    slow = scenario(
        [
            {"service": {"dist": "deterministic", "mean": 2.0}},
            {"service": {"dist": "deterministic", "mean": 1.0}, "buffer": "infinite", "failures": {"mode": mode, "mtbf": 50, "mttr": 5}},
        ]
    )
    busy = measure(slow, 1_000_000, 1).stations[1]
    assert busy.execute == pytest.approx(0.5, rel=0.01)
    if mode == "operation":
        assert busy.down == pytest.approx(0.5 / 50 * 5, rel=0.05)
    else:
        assert 0.05 < busy.down < 5 / 55  # part of the repairs pass unnoticed


def test_an_idle_machine_that_is_up_is_preferred() -> None:
    """Two machines of which one is nearly always down: the other does the work."""
    half = {"mode": "time", "mtbf": 30, "mttr": 30}
    of = scenario(
        [
            {"service": {"dist": "deterministic", "mean": 2.0}},
            {"service": {"dist": "deterministic", "mean": 1.0}, "machines": 2, "buffer": 2, "failures": half},
        ]
    )
    # Two machines that are down half of their time are both down a quarter of it; a cell every 2 units needs one of them.
    found = measure(of, 400_000, 1)
    assert found.throughput > 0.5 * 0.78


def test_littles_law() -> None:
    """The cells inside, counted at regular instants, are the rate times the time that a cell is inside, by its events."""
    breaks = {"mode": "operation", "mtbf": 40, "mttr": 4}
    of = scenario(
        [
            {"service": {"dist": "exponential", "mean": 1.0}},
            {"service": {"dist": "erlang", "k": 2, "mean": 1.5}, "buffer": 6, "machines": 2},
            {
                "service": {"dist": "uniform", "low": 0.2, "high": 1.2},
                "buffer": 3,
                "failures": breaks,
            },
        ]
    )
    line, unit = abstract.build(of, 1, 1_000_000), abstract.ticks_per_unit(of)
    scratch = np.zeros(200_000, flow.EVENT)
    counts, chunks = [], []
    for k in range(1, 20_001):
        n = flow.advance(line, 10 * k * unit, scratch, 1)
        chunks.append(scratch[:n].copy())
        counts.append(int(inside(line).sum()))
    events = np.concatenate(chunks)
    first, last = (events[events["station"] == s] for s in (0, 2))
    begun = dict(zip(first["unit"].tolist(), (first["t"] - first["cycle"]).tolist(), strict=True))
    stays = [(t - begun[u]) / unit for u, t in zip(last["unit"].tolist(), last["t"].tolist(), strict=True)]
    rate = len(last) / (200_000)
    assert rate * float(np.mean(stays)) == pytest.approx(float(np.mean(counts)), rel=0.01)


def test_changing_a_station_leaves_the_others_draws_alone() -> None:
    before = scenario([{"service": {"dist": "exponential", "mean": m}, "buffer": 2} for m in (1.0, 1.2, 0.8)])
    breaks = {"mode": "time", "mtbf": 9, "mttr": 2}
    after = scenario(
        [
            {"service": {"dist": "exponential", "mean": 1.0}},
            {"service": {"dist": "slotted", "p": 0.3, "r": 0.2}, "buffer": 9, "machines": 3, "failures": breaks},
            {"service": {"dist": "exponential", "mean": 0.8}, "buffer": 2},
        ]
    )
    cycles = []
    for of in (before, after):
        _, events, _ = run(of, 3_000)
        cycles.append({s: dict(events[["unit", "cycle"]][events["station"] == s].tolist()) for s in (0, 2)})
    for s in (0, 2):
        shared = cycles[0][s].keys() & cycles[1][s].keys()
        assert len(shared) > 500
        assert all(cycles[0][s][u] == cycles[1][s][u] for u in shared)


def test_where_it_stops_changes_nothing() -> None:
    by_clock, by_work = ({"mode": mode, "mtbf": 20.0, "mttr": 3.0} for mode in ("time", "operation"))
    again = {"miss": 0.2, "rework_max": 2, "rework_success": 0.5}
    of = any_line(
        [
            ({"dist": "exponential", "mean": 1.0}, 3, by_clock, 2, 1, None),
            ({"dist": "uniform", "low": 0.1, "high": 1.0}, 4, by_work, 1, 2, again),
        ]
    )
    unit = abstract.ticks_per_unit(of)
    whole, parts = abstract.build(of, 1, 9_000), abstract.build(of, 1, 9_000)
    scratch = np.zeros(9_000, flow.EVENT)
    a = scratch[: flow.advance(whole, 1_000 * unit, scratch, 2)].copy()
    b = [scratch[: flow.advance(parts, int(at * unit), scratch, 2)].copy() for at in np.linspace(0.3, 1_000, 777)]
    assert a.tobytes() == np.concatenate(b).tobytes()
    assert (flow.states(whole, 1_000 * unit) == flow.states(parts, 1_000 * unit)).all()


def test_the_draws_of_a_service_have_its_mean_and_spread() -> None:
    expected = {
        "deterministic": ({"mean": 2.0}, 2.0, 0.0),
        "uniform": ({"low": 1.0, "high": 4.0}, 2.5, 3 / 12**0.5),
        "exponential": ({"mean": 2.0}, 2.0, 2.0),
        "erlang": ({"k": 4, "mean": 2.0}, 2.0, 1.0),
        "lognormal": ({"mean": 2.0, "cv": 0.5}, 2.0, 1.0),
        "slotted": ({"p": 0.3, "r": 0.2}, 2.5, (0.3 * (2 - 0.2) / 0.04 - 1.5**2) ** 0.5),
    }
    for dist, (words, mean, spread) in expected.items():
        of = scenario([{"service": {"dist": dist, **words}}])
        _, events, _ = run(of, 200_000)
        cycles = events["cycle"] / abstract.ticks_per_unit(of)
        assert cycles.mean() == pytest.approx(mean, abs=5 * spread / 200_000**0.5 + 1e-9), dist
        assert cycles.std() == pytest.approx(spread, rel=0.02, abs=1e-9), dist
    assert breakdown.HEALTHY_FOR_EVER > 10**18
