"""Grids and moments: the certified values of NIST, exact merging, and grids that keep what a float32 holds."""

from __future__ import annotations

import csv
import json
import math
import statistics
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mes.kpi.grid import Grid
from mes.kpi.moments import Moments
from mes.kpi.passes import moments

ORACLES = Path(__file__).resolve().parents[1] / "oracles"
PROPERTY = settings(deadline=None, max_examples=200)


def alternating(middle: float, one: float, other: float, n: int) -> list[float]:
    return [middle, *(one if i % 2 == 0 else other for i in range(n - 1))]


SETS = {
    name: (found["values"], *found["certified"][:2]) for name, found in json.loads((ORACLES / "strd_univariate.json").read_text()).items()
}
SETS |= {
    "NumAcc1": ([10000001.0, 10000003.0, 10000002.0], 10000002.0, 1.0),
    "NumAcc2": (alternating(1.2, 1.1, 1.3, 1001), 1.2, 0.1),
    "NumAcc3": (alternating(1000000.2, 1000000.1, 1000000.3, 1001), 1000000.2, 0.1),
    "NumAcc4": (alternating(10000000.2, 10000000.1, 10000000.3, 1001), 10000000.2, 0.1),
}
INPUT_LIMITS = {"NumAcc3", "NumAcc4"}  # as float64 the values themselves spread by 0.1 only to 6e-10 and 6e-9


@pytest.mark.parametrize("name", SETS)
def test_nist_certified_mean_and_standard_deviation(name: str) -> None:
    values, mean, sd = SETS[name]
    origin = round(values[0])
    # Steps so fine that they hold every bit of these values, and so coarse that the values are below 2^52 of them.
    step = 2.0 ** -(51 - max(1, math.ceil(math.log2(max(abs(x - origin) for x in values) + 1))))
    found = moments(np.array(values), Grid(float(origin), step))
    exact_mean, exact_variance = statistics.mean(map(Fraction, values)), statistics.variance(map(Fraction, values))
    assert found.mean() == pytest.approx(mean, rel=1e-12, abs=0)
    assert found.mean() == pytest.approx(float(exact_mean), rel=1e-15, abs=0)
    assert found.sd() == pytest.approx(math.sqrt(exact_variance), rel=1e-12, abs=0)
    if name in INPUT_LIMITS:
        assert math.sqrt(exact_variance) != pytest.approx(sd, rel=1e-12, abs=0), "the certified one can be had after all: ask for it"
    else:
        assert found.sd() == pytest.approx(sd, rel=1e-12, abs=0)


GRID = Grid(5.0, 2.0**-21)
VALUES = st.lists(st.floats(-1000, 1000, width=32), max_size=30)


def of(values: list[float]) -> Moments:
    return moments(np.array(values, np.float64), GRID)


@given(VALUES)
@PROPERTY
def test_moments_are_those_of_fractions(values: list[float]) -> None:
    found = of([*values, math.nan])
    on_grid = [GRID.origin + round((Fraction(x) - 5) * 2**21) * Fraction(GRID.step) for x in values]
    assert found.n == len(values)
    assert (found.low, found.high) == ((min(values), max(values)) if values else (math.inf, -math.inf))
    assert found.mean() == (float(statistics.mean(on_grid)) if values else None)
    if len(values) < 2:
        assert found.variance() is found.sd() is None
        return
    variance = Fraction(statistics.variance(on_grid))
    assert found.variance() == float(variance)
    sd = found.sd()
    assert sd is not None
    assert abs(Fraction(sd) ** 2 - variance) <= variance * Fraction(1, 2**51)
    assert (sd == 0) == (variance == 0)


@given(VALUES, VALUES, VALUES)
@PROPERTY
def test_moments_merge_exactly(a: list[float], b: list[float], c: list[float]) -> None:
    assert of(a).merge(of(b)) == of(b).merge(of(a)) == of(a + b)
    assert of(a).merge(of(b)).merge(of(c)) == of(a).merge(of(b).merge(of(c))) == of(c + b + a)
    assert of(a).merge(Moments(GRID)) == of(a)


def test_moments_of_other_grids_do_not_merge() -> None:
    with pytest.raises(ValueError, match="cannot be merged"):
        Moments(GRID).merge(Moments(Grid(5.0, 1.0)))


@given(st.lists(st.integers(-(2**52) + 1, 2**52 - 1), min_size=1, max_size=30))
@PROPERTY
def test_wide_values_are_summed_exactly(steps: list[int]) -> None:
    found = moments(np.array(steps, np.float64), Grid(0.0, 1.0))
    assert (found.total, found.squares) == (sum(steps), sum(q * q for q in steps))


def test_many_wide_values_are_summed_exactly() -> None:
    found = moments(np.array([2.0**52 - 1, 1 - 2.0**52] * 3000), Grid(0.0, 1.0))
    assert (found.n, found.total, found.squares) == (6000, 0, 6000 * (2**52 - 1) ** 2)


@pytest.mark.parametrize("x", [2.0**52, -(2.0**52), math.inf])
def test_values_that_are_too_wide_are_refused(x: float) -> None:
    with pytest.raises(ValueError, match="1 of 2 values"):
        moments(np.array([1.0, x]), Grid(0.0, 1.0))


# --- grids --------------------------------------------------------------------------------------------------------------


def test_a_step_is_the_last_place_of_the_largest_of_nominal_limits_and_eight_sigma() -> None:
    assert Grid.of(5.0, 0.12, False, 4.4, 5.6) == Grid(5.0, 2.0**-21)
    assert Grid.of(0.0, 0.125, False, None, None) == Grid(0.0, 2.0**-23)
    assert Grid.of(0.0, 1e-12, False, -4.0, 1.0) == Grid(0.0, 2.0**-21)
    assert Grid.of(3.0, 100.0, True, None, None) == Grid(3.0, 2.0**-22), "the sigma of a lognormal is that of the logarithm"
    assert Grid.of(0.1, 0.001, False, None, 8.0).origin == round(0.1 * 2**20) / 2**20


def test_the_smallest_and_largest_have_a_grid() -> None:
    assert Grid.of(1e-45, 1e-46, True, None, None).step == 2.0**-149
    assert Grid.of(0.0, 1.0, True, None, 0.0) == Grid(0.0, 2.0**-24), "nothing says how large it is: as for 0.5 to 1"
    assert Grid.of(3.4e38, 1.0, True, None, None).step == 2.0**104
    with pytest.raises(ValueError, match="no grid"):
        Grid.of(math.inf, 1.0, False, None, None)


@given(
    st.floats(-1e30, 1e30), st.floats(1e-30, 1e30), st.booleans(), st.none() | st.floats(-1e30, 1e30), st.none() | st.floats(-1e30, 1e30)
)
@PROPERTY
def test_a_grid_loses_nothing_around_the_nominal(
    nominal: float, sigma: float, lognormal: bool, lsl: float | None, usl: float | None
) -> None:
    grid = Grid.of(nominal, sigma, lognormal, lsl, usl)
    base = np.float32(max(abs(nominal), abs(lsl or 0), abs(usl or 0), 0 if lognormal else 8 * sigma))
    assert math.frexp(grid.step)[0] == 0.5
    assert (grid.origin / grid.step).is_integer()
    assert abs(grid.origin / grid.step) <= 2**24
    assert base == 0 or np.spacing(base) / 2 <= grid.step <= np.spacing(base)
    if not lognormal:
        assert (abs(nominal) + 8 * sigma) / grid.step < 2**26, "what a machine measures is far from implausible"


def test_every_characteristic_of_the_seeds_lies_well_inside_its_grid() -> None:
    rows = list(csv.DictReader((ORACLES / "measurements.csv").read_text().splitlines()))
    for row in rows:
        limits = [float(row[name]) if row[name] else None for name in ("LSL", "USL")]
        nominal, sigma = float(row["nominal"]), float(row["sigma"])
        grid = Grid.of(nominal, sigma, row["distribution"] == "lognormal", *limits)
        spread = nominal * (math.exp(8 * sigma) - 1) if row["distribution"] == "lognormal" else 8 * sigma
        assert grid.step <= max(abs(nominal), sigma) * 2.0**-20
        assert spread / grid.step < 2**31, row
    assert len(rows) > 50
