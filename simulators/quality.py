"""Readings of the stations' characteristics, as integers on a decimal grid.

A reading is `mantissa / 10**decimals`; the grid is a three-hundredth of the characteristic's sigma or finer, so that a reading
has about six digits at most and the text of a message is exact. A cell that passed reads within the limits (the
distribution truncated to them); one that missed reads from the whole distribution.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from mes.plant import Characteristic
from simulators.draws import READING, key_of, normal_quantile, uniform
from simulators.flow import PASS
from simulators.jit import Array, kernel
from simulators.scenario import Scenario

ABSENT = np.iinfo(np.int64).min
_EDGE = 1e-12  # keeps quantiles finite where there is no limit

CHARACTERISTIC = np.dtype([
    ("nominal", np.float64), ("sigma", np.float64), ("sampling", np.float64), ("low", np.float64), ("high", np.float64),
    ("lsl", np.int64), ("usl", np.int64), ("lognormal", np.int64), ("scale", np.float64), ("decimals", np.int64),
])  # fmt: skip


class Quality(NamedTuple):
    """first (S + 1): where a station's rows begin in `characteristic`; key (S): its random stream; width: most rows of a station."""

    first: Array
    characteristic: Array
    key: Array


def decimals_of(c: Characteristic) -> int:
    """Digits after the point, so that the last one is worth at most a three-hundredth of sigma."""
    sigma = c.sigma * c.nominal if c.distribution == "lognormal" else c.sigma
    return max(0, math.ceil(2.5 - math.log10(sigma)))


def _share_below(c: Characteristic, limit: float) -> float:
    if c.distribution == "lognormal":
        if limit <= 0:
            return 0.0
        z = math.log(limit / c.nominal) / c.sigma
    else:
        z = (limit - c.nominal) / c.sigma
    return 0.5 * math.erfc(-z / math.sqrt(2.0))


def build(scenario: Scenario, seed: int) -> Quality:
    """The characteristics of a line's stations, in route order."""
    stations = scenario.line.station
    first = np.zeros(len(stations) + 1, np.int64)
    first[1:] = np.cumsum([len(s.characteristic) for s in stations])
    table = np.zeros(int(first[-1]) + 1, CHARACTERISTIC)
    for row, c in zip(table, (c for s in stations for c in s.characteristic), strict=False):
        decimals = decimals_of(c)
        row["nominal"] = math.log(c.nominal) if c.distribution == "lognormal" else c.nominal
        row["sigma"], row["sampling"], row["lognormal"] = c.sigma, c.sampling, c.distribution == "lognormal"
        row["low"] = _EDGE if c.lsl is None else _share_below(c, c.lsl)
        row["high"] = 1 - _EDGE if c.usl is None else _share_below(c, c.usl)
        row["scale"], row["decimals"] = 10.0**decimals, decimals
        # Limits on the grid, inwards: rounding must not carry a good reading out.
        row["lsl"] = -(2**62) if c.lsl is None else math.ceil(c.lsl * 10.0**decimals - 1e-6)
        row["usl"] = 2**62 if c.usl is None else math.floor(c.usl * 10.0**decimals + 1e-6)
    return Quality(first, table, np.array([key_of(seed, s.code) for s in stations], np.uint64))


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
            u = uniform(key, event.unit, event.attempt, purpose + 1)
            good = event.result == PASS
            u = c.low + u * (c.high - c.low) if good else u
            value = c.nominal + c.sigma * normal_quantile(min(max(u, _EDGE), 1.0 - _EDGE))
            if c.lognormal != 0:
                value = math.exp(value)
            mantissa = math.floor(value * c.scale + 0.5)
            out[i, k] = min(max(mantissa, c.lsl), c.usl) if good else mantissa


def readings(quality: Quality, events: Array) -> Array:
    """Mantissas of the readings of these events, int64 (n, width)."""
    width = int(np.diff(quality.first).max(initial=1)) or 1
    out = np.full((len(events), width), ABSENT)
    read(quality, events, out)
    return out
