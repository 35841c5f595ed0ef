"""A line's state at the beginning: empty and at rest, then filled as if it had always run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from simulators import verdict
from simulators.breakdown import HEALTHY_FOR_EVER
from simulators.disturbance import Disturbances
from simulators.draws import TIME_TO_FAILURE, exponential, key_of
from simulators.flow import AWAKE, CELL, EXECUTE, FREE, INSIDE, MACHINE, NEVER, NOW, RING, STATES, STATION, Line
from simulators.scenario import DWELL, KINDS, SPREAD, TICKS, Scenario, capacity, ramp
from simulators.service import SERVICES
from simulators.verdict import Verdict

# A line whose narrowest station lies far down backs up: what stands before it runs this much ahead.
_AHEAD: Final = 1.02


@dataclass(frozen=True)
class Layout:
    """A station as the flow needs it; times are ticks.

    buffer        slots in front, of the first station without meaning
    service       one of simulators.service.SERVICES with its parameters a and b; cycle: ticks of a dwell, or of a slot
    by_clock      breakdowns by the clock, not by busy time; mtbf 0: none
    """

    key: int
    machines: int
    buffer: int
    service: str
    a: float
    b: float = 0.0
    cycle: int = 0
    kind: str = "discrete"
    size: int = 1
    positions: int = 1
    by_clock: bool = False
    mtbf: float = 0.0
    mttr: float = 0.0
    rework_max: int = 0
    share: float = 0.0
    success: float = 0.0
    blocking: int = 0


def build(scenario: Scenario, seed: int, disturbances: Disturbances, ramp_up: float = 0.0) -> Line:
    """An empty line of a plant at rest. A tick is a microsecond, so `SPREAD` and minutes are converted here."""
    layouts = []
    for before, s in zip((None, *scenario.line.station), scenario.line.station, strict=False):
        rework = {"rework_max": s.rework.max, "share": s.rework.share, "success": s.rework.success} if s.rework else {}
        layouts.append(
            Layout(
                key_of(seed, s.code),
                s.machines,
                before.buffer_after if before else 0,
                "triangular",
                float(round(s.cycle_s * TICKS)),
                SPREAD[s.kind],
                round(s.cycle_s * TICKS),
                s.kind,
                s.cells_per_cycle,
                s.positions,
                mtbf=s.mtbf_min * 60 * TICKS / ramp(ramp_up),
                mttr=s.mttr_min * 60 * TICKS,
                **rework,  # type: ignore[arg-type]
            )
        )
    return assemble(layouts, verdict.build(scenario, disturbances, ramp_up))


def assemble(layouts: Sequence[Layout], causes: Verdict) -> Line:
    """An empty line at rest, at instant 0."""
    station = np.zeros(len(layouts), STATION)
    machine = np.zeros(sum(s.machines for s in layouts), MACHINE)
    ring = np.zeros((len(layouts), 5), RING)
    first = cells = 0
    for n, s in enumerate(layouts):
        at = station[n]
        for name in ("size", "cycle", "machines", "positions", "rework_max", "blocking", "by_clock", "key", "a", "b", "share", "success"):
            at[name] = getattr(s, name)
        at["kind"], at["service"] = KINDS.index(s.kind), SERVICES.index(s.service)
        at["first"], at["idle"], at["mtbf"], at["mttr"] = first, s.machines, s.mtbf, s.mttr
        inside = s.machines * (s.positions if s.kind == "dwell" else s.size)
        dwell = inside if s.kind == "dwell" else 0
        # Retries at most fill all machines, plus one machine's load on its way.
        gathering = s.size if s.kind == "batch" else 0
        rooms = (s.buffer + gathering if n else 0, 0 if dwell else inside + s.size, inside, dwell, dwell)
        for which, room in enumerate(rooms):
            ring[n, which]["first"], ring[n, which]["room"] = cells, room
            cells += room
        for place in range(s.machines):
            m = machine[first + place]
            m["end"], m["healthy"] = NEVER, HEALTHY_FOR_EVER
            if not dwell:
                m["cells"] = cells
                cells += s.size
                if s.mtbf:
                    m["healthy"] = 1 + int(exponential(at["key"], 0, place, TIME_TO_FAILURE, s.mtbf))
        first += s.machines
    never, clock = np.full(len(layouts), NEVER), np.zeros(3, np.int64)
    stops, spent = np.zeros((0, 2), np.int64), np.zeros((len(machine), len(STATES)), np.int64)
    line = Line(station, machine, ring, np.zeros(cells + 1, CELL), never, causes, stops, clock, spent)
    for n, s in enumerate(layouts):
        if s.kind == "dwell":
            free = ring[n, FREE]
            line.cell["place"][free["first"] : free["first"] + free["room"]] = np.arange(free["room"])
            free["count"] = free["room"]
    line.clock[AWAKE] = len(layouts)
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
        here = slice(station["first"], station["first"] + station["machines"])
        if station["kind"] == DWELL:
            inside_ring, free = line.ring[n, INSIDE], line.ring[n, FREE]
            block = line.cell[inside_ring["first"] : inside_ring["first"] + cells]
            block["unit"] = np.arange(unit, unit + cells)
            block["at"] = now + (np.arange(1, cells + 1) * int(station["cycle"])) // max(1, cells)
            block["attempt"], block["place"] = 1, np.arange(cells)
            inside_ring["count"] = cells
            free["head"] = cells % max(1, free["room"])
            free["count"] = free["room"] - cells
            line.machine["load"][here] = np.bincount(block["place"] // station["positions"], minlength=station["machines"])
            line.spent[here, EXECUTE] -= line.machine["load"][here] * now
            line.next_at[n] = block["at"][0] if cells else NEVER
        else:
            busy = cells // int(station["size"])
            for place in range(busy):
                m = line.machine[station["first"] + place]
                block = line.cell[m["cells"] : m["cells"] + station["size"]]
                block["unit"] = np.arange(unit, unit + station["size"]) + place * station["size"]
                block["attempt"] = 1
                m["load"], m["cycle"] = station["size"], station["cycle"]
                m["state"] = EXECUTE
                m["end"] = now + 1 + place * int(station["cycle"]) // busy
            station["idle"], station["turn"] = station["machines"] - busy, busy % int(station["machines"])
            line.next_at[n] = line.machine["end"][here].min()
        station["arrived"] = cells
        unit += cells
    line.machine["since"] = now
    line.clock[NOW] = now
    return total, rate
