"""Readings of the stations' characteristics, as integers on a decimal grid.

A reading is `mantissa / 10**decimals`; the grid is a three-hundredth of the characteristic's sigma or finer, so that a reading
has about six digits at most and the text of a message is exact. What every cell is inspected for reads beyond a limit where that was
the cause of a miss, and within the limits otherwise; what is sampled follows its distribution, whatever became of the cell.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from mes.plant import Characteristic
from simulators import disturbance
from simulators.disturbance import Disturbance, Disturbances
from simulators.draws import READING, key_of, normal_quantile, uniform
from simulators.jit import Array, kernel
from simulators.scenario import Scenario
from simulators.verdict import is_judged, limits

ABSENT = np.iinfo(np.int64).min
_EDGE = 1e-12  # keeps quantiles finite where there is no limit
_ROOT_HALF = math.sqrt(0.5)

# low, high: limits in sigmas from the mean; below, within: shares of the distribution below `low` and between the two;
# lsl, usl: limits on the grid, inwards; judged: 1 where every cell is inspected for it
CHARACTERISTIC = np.dtype([
    ("nominal", np.float64), ("sigma", np.float64), ("sampling", np.float64), ("low", np.float64), ("high", np.float64),
    ("below", np.float64), ("within", np.float64), ("lsl", np.int64), ("usl", np.int64), ("judged", np.int64), ("lognormal", np.int64),
    ("disturbed", np.int64), ("scale", np.float64), ("decimals", np.int64),
])  # fmt: skip


class Quality(NamedTuple):
    """first (S + 1): where a station's rows begin in `characteristic`; key (S): its random stream; origin (M): first machine of each
    machine's station; disturbances: of each row."""

    first: Array
    characteristic: Array
    key: Array
    origin: Array
    disturbances: Disturbances


def decimals_of(c: Characteristic) -> int:
    """Digits after the point, so that the last one is worth at most a three-hundredth of sigma."""
    sigma = c.sigma * c.nominal if c.distribution == "lognormal" else c.sigma
    return max(0, math.ceil(2.5 - math.log10(sigma)))


def build(scenario: Scenario, seed: int, disturbances: Sequence[Disturbance] = ()) -> Quality:
    """The characteristics of a line's stations, in route order."""
    stations = scenario.line.station
    first = np.zeros(len(stations) + 1, np.int64)
    first[1:] = np.cumsum([len(s.characteristic) for s in stations])
    moved = disturbance.build(scenario, disturbances)
    table = np.zeros(int(first[-1]) + 1, CHARACTERISTIC)
    for n, c in enumerate(c for s in stations for c in s.characteristic):
        row = table[n]
        decimals = decimals_of(c)
        row["nominal"] = math.log(c.nominal) if c.distribution == "lognormal" else c.nominal
        row["sigma"], row["sampling"], row["lognormal"] = c.sigma, c.sampling, c.distribution == "lognormal"
        row["low"], row["high"] = limits(c)
        row["below"], row["within"] = _shares(float(row["low"]), float(row["high"]))
        row["scale"], row["decimals"], row["judged"] = 10.0**decimals, decimals, is_judged(c)
        row["disturbed"] = moved.first[n + 1] > moved.first[n]
        # Limits on the grid, inwards: rounding must not carry a good reading out.
        row["lsl"] = -(2**62) if c.lsl is None else math.ceil(c.lsl * 10.0**decimals - 1e-6)
        row["usl"] = 2**62 if c.usl is None else math.floor(c.usl * 10.0**decimals + 1e-6)
    machines = np.array([s.machines for s in stations])
    origin = np.repeat(np.cumsum(machines) - machines, machines)
    return Quality(first, table, np.array([key_of(seed, s.code) for s in stations], np.uint64), origin, moved)


def _shares(low: float, high: float) -> tuple[float, float]:
    below = 0.5 * math.erfc(-low * _ROOT_HALF)
    return below, max(0.0, 1.0 - below - 0.5 * math.erfc(high * _ROOT_HALF))


@kernel
def read(quality: Any, events: Any, out: Any) -> None:
    """Fill `out` (n events, width) with mantissas, ABSENT where a characteristic was not sampled."""
    for i in range(len(events)):
        event = events[i]
        key = quality.key[event.station]
        begin = quality.first[event.station]
        for k in range(quality.first[event.station + 1] - begin):
            c = quality.characteristic[begin + k]
            purpose = READING + 2 * k
            if c.sampling < 1.0 and uniform(key, event.unit, event.attempt, purpose) >= c.sampling:
                out[i, k] = ABSENT
                continue
            off, below, within = 0.0, c.below, c.within
            if c.disturbed != 0:
                off = disturbance.shift(quality.disturbances, begin + k, event.machine - quality.origin[event.machine], event.t)
                below = 0.5 * math.erfc((off - c.low) * _ROOT_HALF)
                within = max(0.0, 1.0 - below - 0.5 * math.erfc((c.high - off) * _ROOT_HALF))
            u = uniform(key, event.unit, event.attempt, purpose + 1)
            side = np.int64(0)
            if c.judged != 0:
                if event.cause == 2 * k:
                    u *= below
                    side = np.int64(-1)
                elif event.cause == 2 * k + 1:  # the upper tail as a lower one: near 1 there are few numbers
                    u *= 1.0 - below - within
                    side = np.int64(1)
                else:
                    u = below + u * within
            z = -normal_quantile(max(u, _EDGE)) if side == 1 else normal_quantile(min(max(u, _EDGE), 1.0 - _EDGE))
            value = c.nominal + c.sigma * (z + off)
            if c.lognormal != 0:
                value = math.exp(value)
            mantissa = np.int64(math.floor(value * c.scale + 0.5))
            if side == -1:
                mantissa = min(mantissa, c.lsl - 1)
            elif side == 1:
                mantissa = max(mantissa, c.usl + 1)
            elif c.judged != 0:
                mantissa = min(max(mantissa, c.lsl), c.usl)
            out[i, k] = mantissa


def readings(quality: Quality, events: Array) -> Array:
    """Mantissas of the readings of these events, int64 (n, width)."""
    width = int(np.diff(quality.first).max(initial=1)) or 1
    out = np.full((len(events), width), ABSENT)
    read(quality, events, out)
    return out
