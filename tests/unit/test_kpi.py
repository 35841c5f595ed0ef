"""The sums of events: counts of a naive twin, the same bits in any order, and refusals instead of garbage."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mes.kpi import kernels
from mes.kpi.sums import BUCKET_US, EVENT_DTYPE, Sums, summarise
from tests import naive
from tests.naive import Row

ROOT = Path(__file__).resolve().parents[2]
FIRST_US = 1_795_305_600_000_000
BUCKETS = 3
STATIONS = np.array([2, 5, 900], np.int64)
DEFECTS = np.array([1, 7, 30_000], np.int64)


def table(rows: Iterable[Row]) -> NDArray[np.void]:
    """Rows as the database hands them over."""
    rows = list(rows)
    events = np.zeros(len(rows), EVENT_DTYPE)
    for field in dataclasses.fields(Row):
        events[field.name] = [getattr(row, field.name) for row in rows]
    return events


def summed(rows: Iterable[Row], first_us: int = FIRST_US, buckets: int = BUCKETS) -> Sums:
    return summarise(table(rows), first_us, buckets, STATIONS, DEFECTS)


def row(**changes: Any) -> Row:
    values = {"at": FIRST_US, "unit": 1, "seq": 1, "cycle_s": 7.0, "station_id": 5, "attempt": 1, "result": 0, "defect_id": 0}
    return Row(**(values | changes))


def filled(cells: Mapping[tuple[int, ...], int], shape: tuple[int, ...], *axes: NDArray[np.int64] | None) -> NDArray[np.int64]:
    """A dense array of counts; an axis of ids is translated, None is taken as it is."""
    out = np.zeros(shape, np.int64)
    for key, n in cells.items():
        out[tuple(k if ids is None else int(np.flatnonzero(ids == k)[0]) for k, ids in zip(key, axes, strict=True))] = n
    return out


def assert_like_the_twin(rows: list[Row]) -> Sums:
    found, expected = summed(rows), naive.summarise(rows, FIRST_US)
    by_station = (BUCKETS, STATIONS.size)
    for name, array in {
        "results": filled(expected.results, (*by_station, 3), None, STATIONS, None),
        "inspected": filled(expected.inspected, by_station, None, STATIONS),
        "first_pass_good": filled(expected.first_pass_good, by_station, None, STATIONS),
        "defects": filled(expected.defects, (BUCKETS, DEFECTS.size), None, DEFECTS),
        "histogram": filled(expected.histogram, (*by_station, naive.BINS), None, STATIONS, None),
    }.items():
        assert getattr(found, name).dtype == np.int64
        np.testing.assert_array_equal(getattr(found, name), array, err_msg=name)
    counted = found.results.sum(axis=2) > 0
    np.testing.assert_array_equal(found.last_at[counted], filled(expected.last_at, by_station, None, STATIONS)[counted])
    return found


def assert_same(a: Sums, b: Sums) -> None:
    for field in dataclasses.fields(Sums):
        np.testing.assert_array_equal(getattr(a, field.name), getattr(b, field.name), err_msg=field.name)


CYCLES = st.one_of(st.sampled_from([0.0, 1e-9, 2.0**-7, 0.5, 1.0, 6.98, 7.0, 43200.0, 2.0**25, 1e9, 3.4e38]), st.floats(0, 1e9))
AT = st.one_of(st.sampled_from([0, 1, BUCKET_US - 1, BUCKET_US, 3 * BUCKET_US - 1]), st.integers(0, 3 * BUCKET_US - 1)).map(
    FIRST_US.__add__
)
UNITS = st.one_of(st.integers(0, 5), st.sampled_from([-(2**63), -1, 2**63 - 1, 2**32, 2**32 + 1]), st.integers(-(2**63), 2**63 - 1))


@st.composite
def some_rows(draw: st.DrawFn) -> Row:
    result = draw(st.integers(0, 2))
    return Row(
        at=draw(AT),
        unit=draw(UNITS),
        seq=draw(st.integers(1, 4)),
        cycle_s=draw(CYCLES),
        station_id=int(draw(st.sampled_from(list(STATIONS)))),
        attempt=draw(st.sampled_from([1, 1, 1, 2, 32767])),
        result=result,
        defect_id=0 if result == 0 else int(draw(st.sampled_from(list(DEFECTS)))),
    )


@given(st.lists(some_rows(), max_size=40))
@settings(deadline=None, max_examples=60)
def test_counts_are_those_of_the_twin(rows: list[Row]) -> None:
    assert_like_the_twin(rows)


@given(st.lists(some_rows(), max_size=40), st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=60)
def test_any_order_gives_the_same_arrays(rows: list[Row], shuffler: random.Random) -> None:
    shuffled = rows.copy()
    shuffler.shuffle(shuffled)
    assert_same(summed(rows), summed(shuffled))
    assert_same(summed(rows), summed(sorted(rows, key=lambda r: (-r.at, -r.seq, r.result))))


@given(st.lists(some_rows(), max_size=40))
@settings(deadline=None, max_examples=60)
def test_buckets_summed_alone_and_put_together_are_the_whole(rows: list[Row]) -> None:
    whole = summed(rows)
    alone = [summed([r for r in rows if (r.at - FIRST_US) // BUCKET_US == n], FIRST_US + n * BUCKET_US, 1) for n in range(BUCKETS)]
    together = Sums(**{f.name: np.concatenate([getattr(part, f.name) for part in alone]) for f in dataclasses.fields(Sums)})
    assert_same(whole, together)


@given(st.lists(some_rows(), max_size=40))
@settings(deadline=None, max_examples=60)
def test_a_bucket_that_is_summed_with_empty_neighbours_adds_up(rows: list[Row]) -> None:
    whole = summed(rows)
    parts = [summed([r for r in rows if (r.at - FIRST_US) // BUCKET_US == n]) for n in range(BUCKETS)]
    for name in ("results", "inspected", "first_pass_good", "defects", "histogram"):
        np.testing.assert_array_equal(sum(getattr(part, name) for part in parts), getattr(whole, name), err_msg=name)


@given(st.lists(some_rows(), max_size=60))
@settings(deadline=None, max_examples=60)
def test_the_sums_agree_with_one_another(rows: list[Row]) -> None:
    s = summed(rows)
    assert s.results.sum() == s.histogram.sum() == len(rows)
    np.testing.assert_array_equal(s.results.sum(axis=2), s.histogram.sum(axis=2))
    np.testing.assert_array_equal(s.results[:, :, 1:].sum(axis=(1, 2)), s.defects.sum(axis=1))
    assert (s.first_pass_good <= s.inspected).all()
    assert (s.inspected <= s.results.sum(axis=2)).all()


def test_many_units_that_crowd_the_table() -> None:
    rng = np.random.default_rng(20261122)
    events = np.zeros(12_000, EVENT_DTYPE)
    events["unit"] = rng.integers(-1500, 1500, events.size) * 2**20
    events["at"] = FIRST_US + rng.integers(0, 3 * BUCKET_US, events.size)
    events["seq"] = rng.integers(1, 2**40, events.size)
    events["station_id"] = rng.choice(STATIONS, events.size)
    events["attempt"] = 1
    events["result"] = rng.integers(0, 3, events.size)
    s = summarise(events, FIRST_US, BUCKETS, STATIONS, DEFECTS)
    expected = naive.summarise((Row(**{name: e[name].item() for name in EVENT_DTYPE.names or ()}) for e in events), FIRST_US)
    np.testing.assert_array_equal(s.inspected, filled(expected.inspected, s.inspected.shape, None, STATIONS))
    np.testing.assert_array_equal(s.first_pass_good, filled(expected.first_pass_good, s.inspected.shape, None, STATIONS))


# --- the first report counts -------------------------------------------------------------------------------------------

PASS, REWORK, SCRAP = 0, 1, 2


def good_of(*rows: Row) -> tuple[int, int]:
    """(inspected, first pass good) of station 5 in the first bucket, checked in both orders."""
    found = [(int(s.inspected[0, 1]), int(s.first_pass_good[0, 1])) for s in (summed(rows), summed(rows[::-1]))]
    assert found[0] == found[1]
    return found[0]


def test_rework_and_pass_is_no_first_pass() -> None:
    assert good_of(row(result=REWORK, defect_id=7), row(at=FIRST_US + 5, seq=2, attempt=2)) == (1, 0)


def test_a_second_attempt_alone_was_not_inspected_here() -> None:
    assert good_of(row(attempt=2)) == (0, 0)


def test_the_earlier_of_two_first_reports_counts() -> None:
    assert good_of(row(), row(at=FIRST_US + 1, result=SCRAP, defect_id=7)) == (1, 1)
    assert good_of(row(result=SCRAP, defect_id=7), row(at=FIRST_US + 1)) == (1, 0)


def test_at_the_same_time_the_lower_number_counts() -> None:
    assert good_of(row(seq=1), row(seq=2, result=SCRAP, defect_id=7)) == (1, 1)
    assert good_of(row(seq=2), row(seq=1, result=SCRAP, defect_id=7)) == (1, 0)


def test_time_goes_before_number() -> None:
    assert good_of(row(at=FIRST_US, seq=9), row(at=FIRST_US + 1, seq=1, result=REWORK, defect_id=7)) == (1, 1)


def test_at_the_same_time_and_number_the_worse_result_counts() -> None:
    assert good_of(row(), row(result=REWORK, defect_id=7)) == (1, 0)
    assert good_of(row(result=SCRAP, defect_id=7), row(result=REWORK, defect_id=7), row()) == (1, 0)


def test_units_stations_and_buckets_are_apart() -> None:
    rows = [row(), row(unit=2), row(station_id=2), row(at=FIRST_US + BUCKET_US)]
    np.testing.assert_array_equal(summed(rows).inspected, [[1, 2, 0], [0, 1, 0], [0, 0, 0]])


def test_keys_that_meet_in_the_table_are_told_apart() -> None:
    for unit in range(200):  # of so few rows the table is so small that keys meet
        pairs = [row(unit=unit + 1), row(unit=unit, station_id=2), row(unit=unit, at=FIRST_US + BUCKET_US)]
        for other in pairs:
            assert summed([row(unit=unit), other]).inspected.sum() == 2
            assert summed([row(unit=unit), other, row(unit=unit), other]).inspected.sum() == 2


# --- edges -------------------------------------------------------------------------------------------------------------


def test_nothing_gives_zeros() -> None:
    s = assert_like_the_twin([])
    assert not any(getattr(s, name).any() for name in ("results", "inspected", "first_pass_good", "defects", "histogram"))


def test_nothing_of_nothing_has_no_rows() -> None:
    s = summarise(table([]), FIRST_US, 0, STATIONS, DEFECTS)
    assert (s.results.shape, s.histogram.shape) == ((0, 3, 3), (0, 3, naive.BINS))


def test_one_row() -> None:
    assert_like_the_twin([row(result=SCRAP, defect_id=30_000, cycle_s=0.25)])


def test_one_station_without_defects() -> None:
    s = summarise(table([row(), row(seq=2, unit=2)]), FIRST_US, 1, np.array([5]), np.array([], np.int64))
    assert (s.results.tolist(), s.inspected.tolist(), s.first_pass_good.tolist(), s.defects.sum()) == ([[[2, 0, 0]]], [[2]], [[2]], 0)


@pytest.mark.parametrize("cycle_s", [0.0, -0.0, 1e-45, 1e-9, 2.0**-7, 1.0, 2.0**25 - 2, 2.0**25, 1e9, 3.4028234e38])
def test_the_longest_and_shortest_cycles_have_a_bin(cycle_s: float) -> None:
    s = assert_like_the_twin([row(cycle_s=cycle_s)])
    assert s.histogram.sum() == 1


@given(st.floats(2.0**-7, 2.0**25 - 4, width=32))
@settings(deadline=None, max_examples=60)
def test_a_cycle_lies_between_the_edges_of_its_bin(cycle_s: float) -> None:
    n = int(summed([row(cycle_s=cycle_s)]).histogram[0, 1].argmax())
    assert naive.bin_edge(n) <= cycle_s < naive.bin_edge(n + 1)
    assert naive.bin_edge(n + 1) - naive.bin_edge(n) <= naive.bin_edge(n) / 32
    stored = n + kernels.FIRST_BIN  # as the tables hold it: the upper bits of the float32
    assert stored == np.float32(cycle_s).view(np.int32) >> kernels.BIN_SHIFT


REFUSED = {
    "station": row(station_id=6),
    "station beyond all": row(station_id=901),
    "station before all": row(station_id=0),
    "station negative": row(station_id=-2),
    "defect": row(result=SCRAP, defect_id=8),
    "defect beyond all": row(result=SCRAP, defect_id=30_001),
    "defect negative": row(result=SCRAP, defect_id=-1),
    "result": row(result=3),
    "result negative": row(result=-1),
    "before the first bucket": row(at=FIRST_US - 1),
    "behind the last bucket": row(at=FIRST_US + BUCKETS * BUCKET_US),
    "the end of time": row(at=2**63 - 1),
    "the beginning of time": row(at=-(2**63)),
}


@pytest.mark.parametrize("wrong", REFUSED.values(), ids=REFUSED.keys())
def test_what_has_no_place_is_refused(wrong: Row) -> None:
    with pytest.raises(ValueError, match="events"):
        summed([row(), wrong, row(unit=2)])


def test_events_of_no_station_at_all_are_refused() -> None:
    with pytest.raises(ValueError, match="events"):
        summarise(table([row()]), FIRST_US, 1, np.array([], np.int64), DEFECTS)


# --- with and without the compiler -------------------------------------------------------------------------------------

SMALL = """
import dataclasses, json, sys
import numpy as np
from mes.kpi.sums import EVENT_DTYPE, Sums, summarise
from mes.kpi import kernels
given = json.load(sys.stdin)
rows = np.array([tuple(row) for row in given["rows"]], dtype=EVENT_DTYPE)
with np.errstate(over="ignore"):
    s = summarise(rows, given["first_us"], 3, np.array(given["stations"]), np.array(given["defects"]))
sums = {f.name: getattr(s, f.name).tolist() for f in dataclasses.fields(Sums)}
print(json.dumps({"compiled": hasattr(kernels.count, "signatures"), "sums": sums}))
"""


def test_without_the_compiler_the_sums_are_the_same() -> None:
    rng = random.Random(20261122)
    rows = [
        row(
            at=FIRST_US + rng.randrange(3 * BUCKET_US),
            unit=rng.choice([rng.randrange(20), rng.randrange(-(2**63), 2**63)]),
            seq=rng.randrange(1, 5),
            cycle_s=float(np.float32(rng.lognormvariate(2, 3))),
            station_id=int(rng.choice(STATIONS)),
            attempt=rng.choice([1, 1, 2]),
            result=(result := rng.randrange(3)),
            defect_id=int(rng.choice(DEFECTS)) if result else 0,
        )
        for _ in range(120)
    ]
    assert [f.name for f in dataclasses.fields(Row)] == list(EVENT_DTYPE.names or ())
    given_ = {
        "rows": [dataclasses.astuple(r) for r in rows],
        "first_us": FIRST_US,
        "stations": STATIONS.tolist(),
        "defects": DEFECTS.tolist(),
    }
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1", "PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        [sys.executable, "-c", SMALL], input=json.dumps(given_), env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert run.returncode == 0, run.stderr
    interpreted = json.loads(run.stdout)
    assert not interpreted["compiled"]
    assert hasattr(kernels.count, "signatures"), "this process runs the kernels compiled"
    compiled = assert_like_the_twin(rows)
    assert interpreted["sums"] == {f.name: getattr(compiled, f.name).tolist() for f in dataclasses.fields(Sums)}
