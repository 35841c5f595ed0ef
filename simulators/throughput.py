"""The throughput of an abstract line, with a confidence interval by batch means."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from mes.errors import ConfigError
from simulators import abstract, flow
from simulators.abstract import Scenario
from simulators.jit import Array
from simulators.verdict import PASS

BATCHES: Final = 30
STUDENT: Final = 3.659405  # two-sided 99.9 % quantile of Student's t with 29 degrees of freedom
LEAST_PARTS: Final = 10 * BATCHES
MOST_PARTS: Final = 1_000_000_000
_WARM_UP: Final = 0.1
_EVENTS_AT_ONCE: Final = 1 << 16


@dataclass(frozen=True)
class StationShares:
    """Shares of the machines' time: working, under repair, holding what cannot leave, waiting for cells."""

    name: str
    execute: float
    down: float
    blocked: float
    starved: float


@dataclass(frozen=True)
class Throughput:
    """Good cells a time unit in the long run.

    half_width   of the 99.9 % confidence interval: batch means of the times between departures, without the warm-up
    makespan     instant at which the last of `parts` left the line, which began empty at 0
    lost         share of the cells that left for want of room
    """

    throughput: float
    half_width: float
    parts: int
    makespan: float
    lost: float
    stations: list[StationShares]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def departures(line: flow.Line, numbers: Array) -> Array:
    """Instants in ticks at which the good cells of these numbers (from 0 on, sorted) leave the line, int64 like `numbers`."""
    room = int(line.station["size"].max())
    scratch = np.zeros(max(_EVENTS_AT_ONCE, 2 * room), flow.EVENT)
    out, n, last = np.empty(len(numbers), np.int64), 0, len(line.station) - 1
    while n <= numbers[-1]:
        events = scratch[: flow.advance(line, flow.NEVER, scratch, room)]
        left = events["t"][(events["station"] == last) & (events["result"] == PASS)]
        if not len(left) and events["seq"][-1] > 100 * (numbers[-1] + 1):
            raise ConfigError(f"only {n} cells have left after {int(events['seq'][-1])} cycles of a machine: are all of them scrapped?")
        begin, end = np.searchsorted(numbers, (n, n + len(left)))
        out[begin:end] = left[numbers[begin:end] - n]
        n += len(left)
    return out


def measure(scenario: Scenario, parts: int, seed: int) -> Throughput:
    """Run the line until `parts` good cells have left it."""
    if not LEAST_PARTS <= parts <= MOST_PARTS:
        raise ConfigError(f"--parts {parts}: batch means need {LEAST_PARTS} to {MOST_PARTS:,}")
    line, unit = abstract.build(scenario, seed, parts), abstract.ticks_per_unit(scenario)
    # A batch of whole rounds of all machines: then a line without chance comes out exactly.
    size = int(parts * (1 - _WARM_UP)) // BATCHES
    rounds = math.lcm(*(s.machines * s.batch for s in scenario.station))
    size -= size % rounds if rounds <= size else 0
    borders = departures(line, parts - 1 - size * np.arange(BATCHES, -1, -1))
    between = np.diff(borders)
    rate = BATCHES * size / (int(borders[-1] - borders[0]) / unit)
    spread = float((between - between[0]).std(ddof=1)) / (size * unit)
    half_width = STUDENT * spread / math.sqrt(BATCHES) * rate**2
    lost = int(line.station["lost"].sum()) / int(line.station["arrived"][0])
    return Throughput(rate, half_width, parts, int(borders[-1]) / unit, lost, _shares(scenario, line))


def _shares(scenario: Scenario, line: flow.Line) -> list[StationShares]:
    now = int(max(line.machine["since"]))
    spent = flow.states(line, now)
    found = []
    for s, at in zip(scenario.station, line.station, strict=True):
        mine = spent[at["first"] : at["first"] + at["machines"]].sum(axis=0) / (now * s.machines)
        shares = dict(zip(flow.STATES, mine.tolist(), strict=True))
        found.append(StationShares(s.name, *(round(shares[name], 6) for name in ("execute", "down", "blocked", "starved"))))
    return found
