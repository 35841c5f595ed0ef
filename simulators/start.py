"""A line's state at the beginning: empty and at rest, then filled as if it had always run."""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from simulators import verdict
from simulators.disturbance import Disturbances
from simulators.draws import TIME_TO_FAILURE, exponential, key_of
from simulators.flow import AWAKE, CELL, FREE, INSIDE, MACHINE, NEVER, NOW, RING, STATION, Line
from simulators.scenario import DWELL, KINDS, SPREAD, TICKS, Scenario, capacity, ramp

# A line whose narrowest station lies far down backs up: what stands before it runs this much ahead.
_AHEAD: Final = 1.02


def build(scenario: Scenario, seed: int, disturbances: Disturbances, ramp_up: float = 0.0) -> Line:
    """An empty line at rest. Times are ticks (microseconds), so `SPREAD`, minutes and ppm are converted here."""
    stations = scenario.line.station
    station = np.zeros(len(stations), STATION)
    machine = np.zeros(sum(s.machines for s in stations), MACHINE)
    ring = np.zeros((len(stations), 5), RING)
    first = cells = 0
    for n, s in enumerate(stations):
        at = station[n]
        at["kind"], at["size"], at["cycle"] = KINDS.index(s.kind), s.cells_per_cycle, round(s.cycle_s * TICKS)
        at["first"], at["machines"], at["positions"], at["idle"] = first, s.machines, s.positions, s.machines
        at["key"], at["spread"] = key_of(seed, s.code), SPREAD[s.kind]
        at["mtbf"], at["mttr"] = s.mtbf_min * 60 * TICKS / ramp(ramp_up), s.mttr_min * 60 * TICKS
        if s.rework is not None:
            at["rework_max"], at["share"], at["success"] = s.rework.max, s.rework.share, s.rework.success
        inside = s.machines * (s.positions if s.kind == "dwell" else s.cells_per_cycle)
        dwell = inside if s.kind == "dwell" else 0
        # Retries at most fill all machines, plus one machine's load on its way.
        gathering = s.cells_per_cycle if s.kind == "batch" else 0
        rooms = (stations[n - 1].buffer_after + gathering if n else 0, 0 if dwell else inside + s.cells_per_cycle, inside, dwell, dwell)
        for which, room in enumerate(rooms):
            ring[n, which]["first"], ring[n, which]["room"] = cells, room
            cells += room
        for place in range(s.machines):
            m = machine[first + place]
            m["end"] = NEVER
            if not dwell:
                m["cells"] = cells
                cells += s.cells_per_cycle
                m["healthy"] = 1 + int(exponential(at["key"], 0, place, TIME_TO_FAILURE, at["mtbf"]))
        first += s.machines
    never = np.full(len(stations), NEVER)
    line = Line(
        station,
        machine,
        ring,
        np.zeros(cells + 1, CELL),
        never,
        verdict.build(scenario, disturbances, ramp_up),
        np.zeros((0, 2), np.int64),
        np.zeros(3, np.int64),
    )
    for n, s in enumerate(stations):
        if s.kind == "dwell":
            free = ring[n, FREE]
            line.cell["place"][free["first"] : free["first"] + free["room"]] = np.arange(free["room"])
            free["count"] = free["room"]
    return line


def fill(line: Line, scenario: Scenario, now: int) -> tuple[int, float]:
    """Put the cells into ovens and dwell stations that a line in its stride holds; returns how many, and its rate in cells a second.

    The rate is that of the narrowest station; the stations before it run a little ahead of it, as those of a line that backs up do.
    The cells get the numbers -n ... -1, the ones furthest down the line first, so that the first cell wound is 0 whatever the line holds.
    """
    rates = [capacity(s) for s in scenario.line.station]
    rate = min(rates)
    plan: list[tuple[int, int]] = []
    for n, s in enumerate(scenario.line.station):
        inside = rate * s.cycle_s * (_AHEAD if n < rates.index(rate) else 1.0)
        if s.kind == "dwell":
            plan.append((n, min(s.machines * s.positions, int(inside))))
        elif s.kind == "batch":
            plan.append((n, min(s.machines, math.ceil(inside / s.cells_per_cycle)) * s.cells_per_cycle))
    unit = -sum(cells for _, cells in plan)
    total = -unit
    for n, cells in reversed(plan):
        station = line.station[n]
        if station["kind"] == DWELL:
            inside_ring, free = line.ring[n, INSIDE], line.ring[n, FREE]
            block = line.cell[inside_ring["first"] : inside_ring["first"] + cells]
            block["unit"] = np.arange(unit, unit + cells)
            block["at"] = now + (np.arange(1, cells + 1) * int(station["cycle"])) // max(1, cells)
            block["attempt"], block["place"] = 1, np.arange(cells)
            inside_ring["count"] = cells
            free["head"] = cells % max(1, free["room"])
            free["count"] = free["room"] - cells
            line.next_at[n] = block["at"][0] if cells else NEVER
        else:
            busy = cells // int(station["size"])
            for place in range(busy):
                m = line.machine[station["first"] + place]
                block = line.cell[m["cells"] : m["cells"] + station["size"]]
                block["unit"] = np.arange(unit, unit + station["size"]) + place * station["size"]
                block["attempt"] = 1
                m["load"], m["cycle"] = station["size"], station["cycle"]
                m["end"] = now + 1 + place * int(station["cycle"]) // busy
            station["idle"], station["turn"] = station["machines"] - busy, busy % int(station["machines"])
            line.next_at[n] = line.machine["end"][station["first"] : station["first"] + station["machines"]].min()
        station["arrived"] = cells
        unit += cells
    line.clock[NOW], line.clock[AWAKE] = now, len(line.station)
    return total, rate
