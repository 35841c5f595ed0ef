"""Whether a visit passes, and why not: defects with a share of their own, and readings beyond their limits.

A station's causes of a miss exclude each other: each of its defects by its ppm, and each side of each limited characteristic that
every cell is inspected for, by the share of its distribution beyond that limit. One number decides among them. The
readings are drawn to match (simulators.quality): beyond the limit where that was the cause, within all limits otherwise. So what a
station measures over all its cells keeps its distribution, and a reading beyond a limit always has its defect.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from simulators import disturbance
from simulators.disturbance import DISTURBANCE, Disturbances
from simulators.draws import MISS, REWORK, uniform
from simulators.jit import fixed, part
from simulators.scenario import ramp

if TYPE_CHECKING:
    from mes.plant import Characteristic
    from simulators.jit import Array
    from simulators.scenario import Scenario

PASS, MISSED, SCRAP = (fixed(n) for n in range(3))  # pass, rework, scrap: the order of mes.contract.RESULTS
NO_DEFECT: Final = fixed(-1)
NO_CAUSE: Final = fixed(-1)
_PPM: Final = 1e-6
_ROOT_HALF: Final = math.sqrt(0.5)
FAR: Final = 40.0  # sigmas: where there is no limit

# chance: of a first attempt; defect: index within the station; row: characteristic of the line, -1: the defect by itself;
# index: what the event's `cause` says; side: -1 below the lower limit, +1 above the upper; limit: in sigmas from the mean
CAUSE = np.dtype([
    ("chance", np.float64), ("defect", np.int64), ("row", np.int64), ("index", np.int64), ("side", np.int64), ("limit", np.float64),
])  # fmt: skip


class Verdict(NamedTuple):
    """first (S + 1): where a station's causes begin in `cause`; miss (S): their sum; disturbed (S): whether they change with time."""

    first: Array
    cause: Array
    miss: Array
    disturbed: Array
    disturbances: Disturbances


def limits(c: Characteristic) -> tuple[float, float]:
    """The limits of a characteristic in sigmas from its mean, of the logarithm where it is lognormal; FAR where there is none."""

    def z(limit: float) -> float:
        if c.distribution == "lognormal":
            return math.log(limit / c.nominal) / c.sigma if limit > 0 else -FAR
        return (limit - c.nominal) / c.sigma

    return -FAR if c.lsl is None else max(-FAR, z(c.lsl)), FAR if c.usl is None else min(FAR, z(c.usl))


def share_below(z: float) -> float:
    """The share of a standard normal distribution below z."""
    return 0.5 * math.erfc(-z * _ROOT_HALF)


def is_judged(c: Characteristic) -> bool:
    """Whether every cell is inspected for it, so that a reading beyond a limit is a miss."""
    return c.sampling == 1.0 and (c.lsl is not None or c.usl is not None)


def build(scenario: Scenario, disturbances: Disturbances, ramp_up: float = 0.0) -> Verdict:
    """All causes of a line's misses. `ramp_up` multiplies the ppm of defects, see scenario.ramp."""
    causes: list[tuple[Any, ...]] = []
    first, miss, disturbed = [0], [], []
    row = 0
    for s in scenario.line.station:
        codes = [d.code for d in s.defect]
        causes += [(d.ppm * _PPM * ramp(ramp_up), n, -1, NO_CAUSE, 0, 0.0) for n, d in enumerate(s.defect) if d.ppm > 0]
        moves = False
        for k, c in enumerate(s.characteristic):
            if is_judged(c) and codes:
                low, high = limits(c)
                if c.lsl is not None:
                    causes.append((share_below(low), codes.index(c.below or codes[0]), row, 2 * k, -1, low))
                if c.usl is not None:
                    causes.append((share_below(-high), codes.index(c.above or codes[0]), row, 2 * k + 1, 1, high))
                moves |= bool(disturbances.first[row + 1] > disturbances.first[row])
            row += 1
        miss.append(sum(c[0] for c in causes[first[-1] :]))
        disturbed.append(moves)
        first.append(len(causes))
    table = np.array([*causes, (0.0, 0, -1, -1, 0, 0.0)], CAUSE)
    return Verdict(np.array(first, np.int64), table, np.array(miss), np.array(disturbed, np.int64), disturbances)


def plain(misses: Sequence[float]) -> Verdict:
    """Stations with one cause of a miss each, of this chance."""
    n = len(misses)
    table = np.zeros(n + 1, CAUSE)
    table["chance"][:n], table["row"], table["index"] = misses, -1, NO_CAUSE
    none = Disturbances(np.zeros(1, np.int64), np.zeros(1, DISTURBANCE))
    return Verdict(np.arange(n + 1), table, np.array(misses, np.float64), np.zeros(n, np.int64), none)


@part
def _chance(verdict: Any, i: int, machine: int, now: int) -> float:
    cause = verdict.cause[i]
    if cause.row < 0:
        return cause.chance  # type: ignore[no-any-return]
    off = disturbance.shift(verdict.disturbances, cause.row, machine, now)
    return 0.5 * math.erfc((cause.limit - off) * np.float64(cause.side) * _ROOT_HALF)


@part
def judge(verdict: Any, station: Any, s: int, machine: int, unit: int, attempt: int, now: int) -> tuple[int, int, int]:
    """Result, defect (index within the station) and cause of a visit to station `s` that ends `now` on this machine of it."""
    miss = verdict.miss[s]
    begin, end = verdict.first[s], verdict.first[s + 1]
    if verdict.disturbed[s] != 0:
        miss = 0.0
        for i in range(begin, end):
            miss += _chance(verdict, i, machine, now)
    u = uniform(station.key, unit, attempt, MISS)
    if attempt == 1:
        if u >= miss:
            return PASS, NO_DEFECT, NO_CAUSE
    elif u < station.success or miss == 0.0:
        return PASS, NO_DEFECT, NO_CAUSE
    else:
        u = (u - station.success) / (1.0 - station.success) * miss
    i = begin
    while i < end - 1:
        u -= _chance(verdict, i, machine, now) if verdict.disturbed[s] != 0 else verdict.cause[i].chance
        if u < 0.0:
            break
        i += 1
    cause = verdict.cause[i]
    if attempt <= station.rework_max and uniform(station.key, unit, attempt, REWORK) < station.share:
        return MISSED, cause.defect, cause.index
    return SCRAP, cause.defect, cause.index
