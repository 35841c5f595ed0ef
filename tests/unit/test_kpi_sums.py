"""The sums of a line's day: those of a slow twin, the same in any order and split, and refusals instead of garbage."""

from __future__ import annotations

import math
import os
import pickle
import random
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mes.kpi import kernels
from mes.kpi.events import Events, decode
from mes.kpi.sums import BUCKET_US, NEVER, Axes, Sums, summarise
from tests import naive
from tests.naive import Report

ROOT = Path(__file__).resolve().parents[2]
FIRST_US = 1_795_305_600_000_000
BUCKETS = 3
DAY_END_US = FIRST_US + 200 * BUCKET_US
STATIONS = np.array([2, 5, 900], np.int64)
DEFECTS = np.array([1, 7, 30_000], np.int64)
GRIDS = {(2, 0): (5.0, 2.0**-21), (2, 1): (0.0, 2.0**-149), (5, 0): (-3.0, 1.0), (5, 1): (1.5, 2.0**-23), (900, 0): (2.0**127, 2.0**104)}
SLOTS = 2
PASS, REWORK, SCRAP = 0, 1, 2


def axes() -> Axes:
    origin, step = np.full((2, STATIONS.size, SLOTS), np.nan)
    for (station, slot), (o, s) in GRIDS.items():
        origin[list(STATIONS).index(station), slot], step[list(STATIONS).index(station), slot] = o, s
    return Axes(STATIONS, DEFECTS, origin, step)


AXES = axes()


def table(reports: Iterable[Report], slots: int = SLOTS) -> Events:
    reports = list(reports)
    kinds = {f.name: getattr(Events.none(slots), f.name).dtype for f in fields(Events)}
    columns = {name: np.array([getattr(r, name) for r in reports], kind) for name, kind in kinds.items() if name != "meas"}
    return Events(**columns, meas=np.array([r.meas for r in reports], np.float32).reshape(len(reports), slots))


def summed(reports: Iterable[Report], witnesses: Iterable[Report] | None = None, first_us: int = FIRST_US, buckets: int = BUCKETS) -> Sums:
    seen = None if witnesses is None else table(witnesses)
    return summarise(table(reports), first_us, buckets, AXES, day_end_us=DAY_END_US, witnesses=seen)


def report(**changes: Any) -> Report:
    values = {
        "at": FIRST_US, "received_at": FIRST_US, "unit": 1, "seq": 1, "machine_id": 3, "boot": 0, "cycle_s": 7.0, "station_id": 5,
        "attempt": 1, "result": PASS, "defect_id": 0, "meas": (math.nan, math.nan),
    }  # fmt: skip
    return Report(**(values | changes))


def arrays(sums: Sums) -> dict[str, NDArray[Any]]:
    """All arrays by name."""
    parts = {f.name: getattr(sums, f.name) for f in fields(Sums)}
    readings, machines = parts.pop("readings"), parts.pop("machines")
    return parts | {f.name: getattr(part, f.name) for part in (readings, machines) for f in fields(part)}


def assert_same(a: Sums, b: Sums) -> None:
    for (name, x), y in zip(arrays(a).items(), arrays(b).values(), strict=True):
        np.testing.assert_array_equal(x, y, err_msg=name, strict=name != "squares")


def assert_like_the_twin(reports: Sequence[Report], witnesses: Sequence[Report] = ()) -> Sums:
    found = summed(reports, witnesses)
    assert_cells(found, naive.day_sums(reports, witnesses, FIRST_US, DAY_END_US, GRIDS))
    return found


def assert_cells(found: Sums, expected: dict[str, naive.Cells]) -> None:
    """Every cell of the twin is in the arrays, and they hold nothing else."""
    all_ = arrays(found)
    pairs = list(zip(all_.pop("machine_id").tolist(), all_.pop("boot").tolist(), strict=True))
    assert pairs == sorted({key[1:] for key in expected["received"]})
    for name, array in all_.items():
        cells = {}
        for where, n in expected[name].items():
            if name in ("received", "late", "ahead", "first_seq", "last_seq"):
                cells[where[0], pairs.index(where[1:])] = n
            else:
                ids = DEFECTS if name == "defects" else STATIONS
                cells[where[0], list(ids).index(where[1]), *where[2:]] = n
        nothing = {"low": math.inf, "high": -math.inf, "last_at": NEVER}.get(name, 0)
        assert array.dtype == {"low": np.float32, "high": np.float32, "histogram": np.int32}.get(name, np.int64) or name == "squares"
        filled = np.full(array.shape, nothing, object if name == "squares" else array.dtype)
        for where, n in cells.items():
            filled[where] = n
        np.testing.assert_array_equal(array, filled, err_msg=name)


CYCLES = st.one_of(st.sampled_from([0.0, 1e-9, 2.0**-7, 1.0, 7.0, 43200.0, 2.0**25, 3.4028234e38]), st.floats(0, 1e9, width=32))
AT = st.one_of(st.sampled_from([0, 1, BUCKET_US - 1, BUCKET_US, 3 * BUCKET_US - 1]), st.integers(0, 3 * BUCKET_US - 1)).map(
    FIRST_US.__add__
)
UNITS = st.one_of(st.integers(0, 3), st.sampled_from([-(2**63), -1, 2**63 - 1, 2**32]), st.integers(-(2**63), 2**63 - 1))
EDGES = [
    5.0,
    5.0 + 2.0**-21,
    5.0 + 2.0**10,
    5.0 - 2.0**10,
    2.0**31 - 128,
    2.0**31,
    -(2.0**31),
    -(2.0**31) - 256,
    0.0,
    -0.0,
    2.0**-149,
    2.0**-118,
]
READINGS = st.one_of(st.just(math.nan), st.sampled_from(EDGES), st.floats(width=32), st.floats(4.5, 5.5, width=32))


@st.composite
def some_reports(draw: st.DrawFn) -> Report:
    result = draw(st.integers(0, 2))
    at = draw(AT)
    return Report(
        at=at,
        received_at=draw(
            st.one_of(st.integers(at - 2 * BUCKET_US, at + 2 * BUCKET_US), st.sampled_from([at - BUCKET_US, DAY_END_US - 1, DAY_END_US]))
        ),
        unit=draw(UNITS),
        seq=draw(st.integers(1, 4)),
        machine_id=draw(st.integers(1, 3)),
        boot=draw(st.sampled_from([0, 1, 2**31 - 1])),
        cycle_s=draw(CYCLES),
        station_id=int(draw(st.sampled_from(list(STATIONS)))),
        attempt=draw(st.sampled_from([1, 1, 1, 2, 32767])),
        result=result,
        defect_id=0 if result == 0 else int(draw(st.sampled_from(list(DEFECTS)))),
        meas=draw(st.tuples(READINGS, READINGS)),
    )


SOME = st.lists(some_reports(), max_size=40)
PROPERTY = settings(deadline=None, max_examples=100)


@given(SOME)
@PROPERTY
def test_sums_are_those_of_the_twin(reports: list[Report]) -> None:
    assert_like_the_twin(reports)


@given(SOME, st.integers(0, 3), st.integers(0, 3))
@PROPERTY
def test_witnesses_take_part_in_chains_and_count_nowhere(reports: list[Report], a: int, b: int) -> None:
    begin, end = FIRST_US + min(a, b) * BUCKET_US, FIRST_US + max(a, b) * BUCKET_US
    inside = [r for r in reports if begin <= r.at < end]
    others = [r for r in reports if not begin <= r.at < end]
    found = summed(inside, others, begin, abs(a - b))
    assert_cells(found, naive.day_sums(inside, others, begin, DAY_END_US, GRIDS))


@given(SOME, st.randoms(use_true_random=False))
@PROPERTY
def test_any_order_gives_the_same_arrays(reports: list[Report], shuffler: random.Random) -> None:
    shuffled = reports.copy()
    shuffler.shuffle(shuffled)
    assert_same(summed(reports), summed(shuffled))
    assert_same(summed(reports), summed(sorted(reports, key=lambda r: (-r.at, -r.seq, r.result))))


@given(SOME)
@PROPERTY
def test_buckets_summed_alone_with_witnesses_of_their_chains_are_the_whole(reports: list[Report]) -> None:
    whole = summed(reports)
    parts = []
    for n in range(BUCKETS):
        mine = [r for r in reports if (r.at - FIRST_US) // BUCKET_US == n]
        touched = {(r.unit, r.station_id) for r in mine}
        others = [r for r in reports if (r.at - FIRST_US) // BUCKET_US != n and (r.unit, r.station_id) in touched]
        parts.append(summed(mine, others, FIRST_US + n * BUCKET_US, 1))
    for name, array in arrays(whole).items():
        if name in ("machine_id", "boot", "received", "late", "ahead", "first_seq", "last_seq"):
            continue
        np.testing.assert_array_equal(np.concatenate([arrays(part)[name] for part in parts]), array, err_msg=name)


@given(SOME, st.integers(1, 5))
@PROPERTY
def test_parts_whose_chains_do_not_cross_merge_to_the_whole(reports: list[Report], n: int) -> None:
    whole = summed(reports)
    parts = [summed(r for r in reports if r.unit % n == i) for i in range(n)]
    merged = Sums.none(BUCKETS, AXES)
    for part in parts:
        merged = merged.merge(part)
    assert_same(merged, whole)
    backwards = parts[-1]
    for part in reversed(parts[:-1]):
        backwards = part.merge(backwards)
    assert_same(backwards, whole)
    assert_same(whole.merge(Sums.none(BUCKETS, AXES)), whole)


def test_many_units_that_grow_the_table_and_long_chains() -> None:
    rng = random.Random(20261124)
    reports = []
    for i in range(9_000):
        reports.append(
            report(
                at=FIRST_US + rng.randrange(3 * BUCKET_US), unit=rng.choice([rng.randrange(-2500, 2500) * 2**20, 7, i]), seq=i,
                station_id=int(rng.choice(STATIONS)), attempt=rng.choice([1, 1, 2]), result=(result := rng.randrange(3)),
                defect_id=7 if result else 0, machine_id=rng.randrange(2000), boot=rng.randrange(2), meas=(rng.gauss(5, 0.1), math.nan),
            )
        )  # fmt: skip
    reports = [replace(r, meas=tuple(float(np.float32(x)) for x in r.meas)) for r in reports]
    assert_like_the_twin(reports)


def test_the_first_and_the_last_microsecond_of_every_bucket_of_the_longest_day() -> None:
    first = FIRST_US + 123_456_789
    edges = [report(unit=b, at=first + b * BUCKET_US + us, seq=1 + us) for b in range(300) for us in (0, 1, BUCKET_US - 1)]
    sums = summed(edges, first_us=first, buckets=300)
    np.testing.assert_array_equal(sums.results[:, 1, 0], np.full(300, 3))
    np.testing.assert_array_equal(sums.inspected[:, 1], np.ones(300))


def test_two_hundred_stations_and_one_unit_everywhere() -> None:
    ids = np.arange(100, 300)
    everywhere = Axes(ids, DEFECTS, np.zeros((200, SLOTS)), np.ones((200, SLOTS)))
    reports = [report(station_id=int(i), unit=u, seq=u, at=FIRST_US + u, attempt=a) for i in ids for u in (1, 2) for a in (1, 1, 2)]
    sums = summarise(table(reports), FIRST_US, 1, everywhere, day_end_us=DAY_END_US)
    np.testing.assert_array_equal(sums.inspected, np.full((1, 200), 2))
    np.testing.assert_array_equal(sums.retests, np.full((1, 200), 4))
    np.testing.assert_array_equal(sums.results[:, :, 0], np.full((1, 200), 6))


# --- chains: the edge cases of domain/kpis.md ---------------------------------------------------------------------------


def at_station(*reports: Report) -> tuple[int, ...]:
    """Inspected, first pass good, passed, retests: all buckets of station 5, whatever the order of rows."""
    found = [assert_like_the_twin(rows) for rows in (list(reports), list(reversed(reports)))]
    assert_same(*found)
    return tuple(int(a[:, 1].sum()) for a in (found[0].inspected, found[0].first_pass_good, found[0].passed, found[0].retests))


def test_case_1_rework_and_pass_is_no_first_pass() -> None:
    again = report(at=FIRST_US + 5, seq=2, attempt=2)
    assert at_station(report(result=REWORK, defect_id=7), again) == (1, 0, 1, 0)
    assert at_station(report(result=SCRAP, defect_id=7), again) == (1, 0, 1, 1), "nobody called for rework: a re-test"
    assert at_station(report(), again) == (1, 1, 1, 1)


def test_case_2_the_same_result_again_raises_no_yield() -> None:
    assert at_station(report(), report(seq=2, at=FIRST_US + 1)) == (1, 1, 1, 1)
    assert at_station(report(result=REWORK, defect_id=7), report(seq=2, at=FIRST_US + 1)) == (1, 0, 1, 0)


def test_case_3_back_at_an_earlier_station_it_is_not_inspected_again() -> None:
    back = [report(seq=n, at=FIRST_US + n * BUCKET_US, attempt=a, station_id=s) for n, (a, s) in enumerate([(1, 5), (1, 900), (2, 5)])]
    assert at_station(*back) == (1, 1, 1, 1)


def test_case_11_nothing_is_zero_everywhere() -> None:
    sums = assert_like_the_twin([])
    assert not any(getattr(sums, f.name).any() for f in fields(Sums) if f.name not in ("last_at", "readings", "machines"))


def test_a_second_attempt_alone_was_not_inspected_here() -> None:
    assert at_station(report(attempt=2)) == (0, 0, 1, 0)


def test_time_goes_before_number_and_number_before_result() -> None:
    scrap = report(result=SCRAP, defect_id=7)
    assert at_station(report(seq=9), replace(scrap, at=FIRST_US + 1)) == (1, 1, 1, 1)
    assert at_station(report(), replace(scrap, seq=2)) == (1, 1, 1, 1)
    assert at_station(replace(scrap, result=REWORK), scrap, report()) == (1, 0, 1, 1)


# --- edges --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cycle_s", [0.0, -0.0, 1e-45, 2.0**-7, 2.0**25 - 2, 2.0**25, 1e9, 3.4028234e38, math.inf])
def test_the_longest_and_shortest_cycles_have_a_bin(cycle_s: float) -> None:
    assert summed([report(cycle_s=cycle_s)]).histogram.sum() == 1


@given(st.floats(2.0**-7, 2.0**25 - 4, width=32))
@PROPERTY
def test_a_cycle_lies_between_the_edges_of_its_bin(cycle_s: float) -> None:
    n = int(summed([report(cycle_s=cycle_s)]).histogram[0, 1].argmax())
    assert naive.bin_edge(n) <= cycle_s < naive.bin_edge(n + 1)
    assert naive.bin_edge(n + 1) - naive.bin_edge(n) <= naive.bin_edge(n) / 32
    stored = n + kernels.FIRST_BIN  # as the tables hold it: the upper bits of the float32
    assert stored == np.float32(cycle_s).view(np.int32) >> kernels.BIN_SHIFT


def test_zero_has_no_sign_whatever_comes_first() -> None:
    zeros = [report(unit=u, seq=u, station_id=2, meas=(math.nan, x)) for u, x in enumerate((-0.0, 0.0))]
    for reports in (zeros, zeros[::-1], zeros[:1]):
        r = summed(reports).readings
        assert not np.signbit([r.low[0, 0, 1], r.high[0, 0, 1]]).any()


def test_squares_that_no_int64_holds() -> None:
    widest = [report(unit=u, seq=u, meas=(2.0**31 - 128, math.nan)) for u in range(9)]
    sums = assert_like_the_twin(widest)
    assert sums.readings.squares.dtype == object
    assert int(sums.readings.squares[0, 1, 0]) > 2**64
    merged = summed(widest[:2]).merge(summed(widest[2:]))
    np.testing.assert_array_equal(merged.readings.squares, sums.readings.squares)
    assert summed(widest[:2]).readings.squares.dtype == np.int64
    assert summed(widest[:2]).merge(summed(widest[2:3])).readings.squares[0, 1, 0] == 3 * (2**31 - 125) ** 2
    assert summed(widest[:1]).merge(summed(widest[1:2])).readings.squares[0, 1, 0] == 2 * (2**31 - 125) ** 2


REFUSED = {
    "station": report(station_id=6),
    "station beyond all": report(station_id=901),
    "station before all": report(station_id=0),
    "station negative": report(station_id=-2),
    "defect": report(result=SCRAP, defect_id=8),
    "defect beyond all": report(result=SCRAP, defect_id=30_001),
    "defect negative": report(result=SCRAP, defect_id=-1),
    "result": report(result=3),
    "result negative": report(result=-1),
    "before the first bucket": report(at=FIRST_US - 1),
    "behind the last bucket": report(at=FIRST_US + BUCKETS * BUCKET_US),
    "the end of time": report(at=2**63 - 1),
    "the beginning of time": report(at=-(2**63)),
}


@pytest.mark.parametrize("wrong", REFUSED.values(), ids=REFUSED.keys())
def test_what_has_no_place_is_refused(wrong: Report) -> None:
    with pytest.raises(ValueError, match="events"):
        summed([report(), wrong, report(unit=2)])


def test_witnesses_inside_or_of_unknown_stations_are_refused() -> None:
    for wrong in (report(), report(at=FIRST_US - 1, station_id=6)):
        with pytest.raises(ValueError, match="witnesses"):
            summed([report()], [wrong])


def test_events_of_no_station_at_all_are_refused() -> None:
    nowhere = Axes(np.empty(0, np.int64), DEFECTS, np.empty((0, SLOTS)), np.empty((0, SLOTS)))
    with pytest.raises(ValueError, match="events"):
        summarise(table([report()]), FIRST_US, 1, nowhere, day_end_us=DAY_END_US)
    assert summarise(table([]), FIRST_US, 1, nowhere, day_end_us=DAY_END_US).results.shape == (1, 0, 3)


# --- with and without the compiler --------------------------------------------------------------------------------------

INTERPRETED = """
import pickle, sys, warnings
from mes.kpi import kernels
from mes.kpi.events import decode
from mes.kpi.sums import summarise
warnings.simplefilter("ignore", RuntimeWarning)  # numbers that wrap are meant to
data, witnesses, slots, arguments, day_end_us = pickle.load(sys.stdin.buffer)
sums = summarise(decode(data, slots), *arguments, day_end_us=day_end_us, witnesses=decode(witnesses, slots))
sys.stdout.buffer.write(pickle.dumps((hasattr(kernels.tally, "signatures"), sums)))
"""


def test_without_the_compiler_the_sums_are_the_same() -> None:
    rng = random.Random(20261124)
    reports = [
        report(
            at=FIRST_US + rng.randrange(3 * BUCKET_US), unit=rng.choice([rng.randrange(20), rng.randrange(-(2**63), 2**63)]),
            seq=rng.randrange(1, 5), cycle_s=rng.lognormvariate(2, 3), station_id=int(rng.choice(STATIONS)), attempt=rng.choice([1, 1, 2]),
            result=(result := rng.randrange(3)), defect_id=int(rng.choice(DEFECTS)) if result else 0, machine_id=rng.randrange(4),
            meas=(rng.choice([math.nan, rng.gauss(5, 0.1), 1e9, -math.inf]), rng.gauss(1.5, 1.0)),
        )
        for _ in range(150)
    ]  # fmt: skip
    first, end = FIRST_US + BUCKET_US, FIRST_US + 3 * BUCKET_US
    inside, others = ([r for r in reports if (first <= r.at < end) == wanted] for wanted in (True, False))
    data, witnesses = (b"".join(map(naive.record, rows)) for rows in (inside, others))
    given_ = pickle.dumps((data, witnesses, SLOTS, (first, 2, AXES), DAY_END_US))
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1", "PYTHONPATH": str(ROOT)}
    run = subprocess.run([sys.executable, "-c", INTERPRETED], input=given_, env=environment, capture_output=True, check=False, timeout=300)
    assert run.returncode == 0, run.stderr.decode()
    was_compiled, interpreted = pickle.loads(run.stdout)
    assert not was_compiled
    assert hasattr(kernels.tally, "signatures"), "this process runs the kernels compiled"
    compiled = summarise(decode(data, SLOTS), first, 2, AXES, day_end_us=DAY_END_US, witnesses=decode(witnesses, SLOTS))
    assert_same(compiled, interpreted)


def test_the_command_line_imports_no_compiler() -> None:
    code = "import sys, mes.cli; print([name for name in ('numba', 'llvmlite', 'numpy') if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120)
    assert run.stdout.strip() == "[]"
