"""The flow of cells through a line: an event kernel in integer virtual time.

Stations in series. A discrete station has machines that take up to `size` cells a cycle; in front of a batch station a
full load gathers beside the buffer, then enters an idle machine at once; a dwell station has positions, each cell stays
for the cycle. After its service a cell waits in place until the next station has room (blocking after service), so a full line backs up. The
first station is never starved, the last never blocked. A miss may be tried again at the same station.

The next event is the earliest completion over the stations; ties go to the station earlier in the route. All state is
in arrays, so the kernel stops at any instant and goes on later, and where it stops changes nothing.
"""

from __future__ import annotations

import math
from typing import Any, Final, NamedTuple

import numpy as np

from simulators.draws import MISS, REPAIR, REWORK, SERVICE, TIME_TO_FAILURE, exponential, key_of, triangle, uniform
from simulators.jit import Array, kernel, part
from simulators.scenario import BATCH, DISCRETE, DWELL, KINDS, SPREAD, TICKS, Scenario

NEVER: Final = np.iinfo(np.int64).max
PASS, MISSED, SCRAP = range(3)  # pass, rework, scrap: the order of mes.contract.RESULTS
NO_DEFECT: Final = -1
NO_CHANNEL: Final = -1

# Rings of a station: cells waiting in front, cells to be tried again, cells done that have not left,
# cells in their dwell in the order of their ends, and free positions.
QUEUE, AGAIN, OUT, INSIDE, FREE = range(5)
NEXT_UNIT: Final = 0  # index into Line.clock

_i8 = np.int64
EVENT = np.dtype([
    ("t", _i8), ("unit", _i8), ("seq", _i8), ("cycle", _i8), ("station", np.int32), ("machine", np.int32),
    ("attempt", np.int32), ("channel", np.int32), ("result", np.int32), ("defect", np.int32),
])  # fmt: skip
STATION = np.dtype([
    ("kind", _i8), ("size", _i8), ("cycle", _i8), ("first", _i8), ("machines", _i8), ("positions", _i8), ("rework_max", _i8),
    ("defect_first", _i8), ("defects", _i8), ("key", np.uint64), ("spread", np.float64), ("miss", np.float64), ("share", np.float64),
    ("success", np.float64), ("mtbf", np.float64), ("mttr", np.float64),
    ("turn", _i8), ("idle", _i8), ("arrived", _i8), ("left", _i8), ("scrapped", _i8),
])  # fmt: skip
MACHINE = np.dtype([("end", _i8), ("load", _i8), ("held", _i8), ("cells", _i8), ("seq", _i8), ("healthy", _i8), ("failures", _i8), ("cycle", _i8)])
RING = np.dtype([("first", _i8), ("room", _i8), ("head", _i8), ("count", _i8)])
CELL = np.dtype([("unit", _i8), ("at", _i8), ("attempt", np.int32), ("place", np.int32)])


class Line(NamedTuple):
    """The state of a line. station (S), machine (M), ring (S, 5), cell (all rings and loads), next_at (S), edge (defects), clock."""

    station: Array
    machine: Array
    ring: Array
    cell: Array
    next_at: Array
    edge: Array
    clock: Array


@part
def _push(line: Any, s: int, which: int, unit: int, at: int, attempt: int, place: int) -> None:
    ring = line.ring[s, which]
    i = ring.head + ring.count
    if i >= ring.room:
        i -= ring.room
    cell = line.cell[ring.first + i]
    cell.unit = unit
    cell.at = at
    cell.attempt = attempt
    cell.place = place
    ring.count += 1


@part
def _pop(line: Any, s: int, which: int) -> int:
    """Take the head out of a ring; returns its index in `cell`, valid until the next push."""
    ring = line.ring[s, which]
    i = ring.first + ring.head
    ring.head += 1
    if ring.head == ring.room:
        ring.head = 0
    ring.count -= 1
    return i  # type: ignore[no-any-return]


@part
def _leave(line: Any, s: int) -> int:
    """The cell that has waited longest after its service at `s` leaves it."""
    i = _pop(line, s, OUT)
    place = line.cell[i].place
    station = line.station[s]
    if station.kind == DWELL:
        _push(line, s, FREE, 0, 0, 0, place)
    else:
        machine = line.machine[station.first + place]
        machine.held -= 1
        if machine.held == 0:
            station.idle += 1
    station.left += 1
    line.station[s + 1].arrived += 1
    return i


@part
def _waiting(line: Any, s: int) -> bool:
    """Whether a machine or position of `s` that is free could begin."""
    if line.station[s].kind == BATCH and s > 0:
        return line.ring[s, AGAIN].count + line.ring[s, QUEUE].count >= line.station[s].size  # type: ignore[no-any-return]
    if s == 0 or line.ring[s, AGAIN].count > 0 or line.ring[s, QUEUE].count > 0:
        return True
    return line.ring[s - 1, OUT].count > 0  # type: ignore[no-any-return]


@part
def _take(line: Any, s: int) -> tuple[int, int]:
    """The next cell for a machine of `s`, as (unit, attempt): a retry first, then the buffer, then the station before."""
    if line.ring[s, AGAIN].count > 0:
        cell = line.cell[_pop(line, s, AGAIN)]
        return cell.unit, cell.attempt
    if s == 0:
        unit = line.clock[NEXT_UNIT]
        line.clock[NEXT_UNIT] += 1
        line.station[0].arrived += 1
        return unit, 1
    if line.ring[s, QUEUE].count > 0:
        return line.cell[_pop(line, s, QUEUE)].unit, 1
    return line.cell[_leave(line, s - 1)].unit, 1


@part
def _begin(line: Any, s: int, m: int, now: int) -> None:
    """Start machine `m` with its load; breakdowns come after busy time and delay the end, not the cycle."""
    station = line.station[s]
    machine = line.machine[m]
    first = line.cell[machine.cells]
    factor = 1.0 + station.spread * 2.449489742783178 * triangle(station.key, first.unit, first.attempt, SERVICE)
    work = max(1, int(station.cycle * factor + 0.5))
    machine.cycle = work
    end = now + work
    while machine.healthy < work:
        work -= machine.healthy
        place = m - station.first
        end += int(exponential(station.key, machine.failures, place, REPAIR, station.mttr))
        machine.failures += 1
        machine.healthy = 1 + int(exponential(station.key, machine.failures, place, TIME_TO_FAILURE, station.mtbf))
    machine.healthy -= work
    machine.end = end
    if end < line.next_at[s]:
        line.next_at[s] = end


@part
def _idle_machine(line: Any, s: int) -> int:
    """The next idle machine after the one that began last, so that work is shared evenly."""
    station = line.station[s]
    place = station.turn
    while True:
        machine = line.machine[station.first + place]
        place = place + 1 if place + 1 < station.machines else 0
        if machine.load == 0 and machine.held == 0:
            break
    station.turn = place
    return station.first + (place - 1 if place > 0 else station.machines - 1)  # type: ignore[no-any-return]


@part
def _start(line: Any, s: int, now: int) -> None:
    station = line.station[s]
    if station.kind == DWELL:
        while line.ring[s, FREE].count > 0 and _waiting(line, s):
            unit, attempt = _take(line, s)
            place = line.cell[_pop(line, s, FREE)].place
            _push(line, s, INSIDE, unit, now + station.cycle, attempt, place)
            if line.ring[s, INSIDE].count == 1:
                line.next_at[s] = now + station.cycle
    else:
        while station.idle > 0 and _waiting(line, s):
            m = _idle_machine(line, s)
            station.idle -= 1
            machine = line.machine[m]
            while machine.load < station.size and (machine.load == 0 or station.kind == BATCH or _waiting(line, s)):
                unit, attempt = _take(line, s)
                cell = line.cell[machine.cells + machine.load]
                cell.unit = unit
                cell.attempt = attempt
                machine.load += 1
            _begin(line, s, m, now)


@part
def _pull(line: Any, s: int, now: int) -> bool:
    """Start what can start at `s` and fill its buffer; returns whether the station before got rid of a cell."""
    before = line.ring[s - 1, OUT].count if s > 0 else 0
    _start(line, s, now)
    if s == 0:
        return False
    queue = line.ring[s, QUEUE]
    while queue.count < queue.room and line.ring[s - 1, OUT].count > 0:
        _push(line, s, QUEUE, line.cell[_leave(line, s - 1)].unit, 0, 1, 0)
        if line.station[s].kind == BATCH:
            _start(line, s, now)
    return line.ring[s - 1, OUT].count < before  # type: ignore[no-any-return]


@part
def _judge(line: Any, s: int, unit: int, attempt: int) -> tuple[int, int]:
    """The result of a visit and the index of its defect within the station."""
    station = line.station[s]
    if station.miss == 0.0:
        return PASS, NO_DEFECT
    u = uniform(station.key, unit, attempt, MISS)
    if attempt == 1:
        if u >= station.miss:
            return PASS, NO_DEFECT
        u /= station.miss
    else:
        if u < station.success:
            return PASS, NO_DEFECT
        u = (u - station.success) / (1.0 - station.success)
    defect = 0
    while defect < station.defects - 1 and u >= line.edge[station.defect_first + defect]:
        defect += 1
    if attempt <= station.rework_max and uniform(station.key, unit, attempt, REWORK) < station.share:
        return MISSED, defect
    return SCRAP, defect


@part
def _report(line: Any, event: Any, s: int, m: int, now: int, unit: int, attempt: int, channel: int, cycle: int) -> int:
    result, defect = _judge(line, s, unit, attempt)
    machine = line.machine[m]
    machine.seq += 1
    event.t = now
    event.unit = unit
    event.seq = machine.seq
    event.cycle = cycle
    event.station = s
    event.machine = m
    event.attempt = attempt
    event.channel = channel
    event.result = result
    event.defect = defect
    if result == SCRAP:
        line.station[s].scrapped += 1
    return result


@part
def _finish_dwell(line: Any, s: int, now: int, events: Any, n: int) -> int:
    station = line.station[s]
    cell = line.cell[_pop(line, s, INSIDE)]
    unit, attempt, place = cell.unit, cell.attempt, cell.place
    m = station.first + place // station.positions
    result = _report(line, events[n], s, m, now, unit, attempt, place % station.positions, station.cycle)
    if result == MISSED:
        _push(line, s, INSIDE, unit, now + station.cycle, attempt + 1, place)
    elif result == PASS and s + 1 < len(line.station):
        _push(line, s, OUT, unit, now, attempt, place)
    else:
        _push(line, s, FREE, 0, 0, 0, place)
        if result == PASS:
            station.left += 1
    ring = line.ring[s, INSIDE]
    line.next_at[s] = line.cell[ring.first + ring.head].at if ring.count > 0 else NEVER
    return n + 1


@part
def _finish_machine(line: Any, s: int, now: int, events: Any, n: int) -> int:
    station = line.station[s]
    m = station.first
    while line.machine[m].end != now:
        m += 1
    machine = line.machine[m]
    for i in range(machine.load):
        cell = line.cell[machine.cells + i]
        unit, attempt = cell.unit, cell.attempt
        channel = i if station.kind == BATCH else NO_CHANNEL
        result = _report(line, events[n], s, m, now, unit, attempt, channel, machine.cycle)
        n += 1
        if result == MISSED:
            _push(line, s, AGAIN, unit, 0, attempt + 1, 0)
        elif result == PASS:
            if s + 1 < len(line.station):
                _push(line, s, OUT, unit, now, attempt, m - station.first)
                machine.held += 1
            else:
                station.left += 1
    machine.load = 0
    machine.end = NEVER
    if machine.held == 0:
        station.idle += 1
    earliest = NEVER
    for other in range(station.first, station.first + station.machines):
        earliest = min(earliest, line.machine[other].end)
    line.next_at[s] = earliest
    return n


@kernel
def advance(line: Any, until: int, events: Any, room: int) -> int:
    """Run all events before `until`, or as many as surely fit when a station can report `room` at once; returns how many."""
    n = 0
    last = len(line.station) - 1
    while n + room <= len(events):
        s = 0
        now = line.next_at[0]
        for i in range(1, last + 1):
            if line.next_at[i] < now:
                s = i
                now = line.next_at[i]
        if now >= until:
            break
        n = _finish_dwell(line, s, now, events, n) if line.station[s].kind == DWELL else _finish_machine(line, s, now, events, n)
        if s < last:
            _pull(line, s + 1, now)
        # A start makes room in front of it, which may let the station before start, and so on up the line.
        while _pull(line, s, now):
            s -= 1
    return n


@kernel
def settle(line: Any, now: int) -> None:
    """Start everything that can start at `now`."""
    for s in range(len(line.station) - 1, -1, -1):
        at = s
        while _pull(line, at, now):
            at -= 1


def build(scenario: Scenario, seed: int) -> Line:
    """An empty line at rest. Times are ticks (microseconds), so `SPREAD`, minutes and ppm are converted here."""
    stations = scenario.line.station
    station = np.zeros(len(stations), STATION)
    machine = np.zeros(sum(s.machines for s in stations), MACHINE)
    ring = np.zeros((len(stations), 5), RING)
    edges: list[float] = []
    first = cells = 0
    for n, s in enumerate(stations):
        at = station[n]
        at["kind"], at["size"], at["cycle"] = KINDS.index(s.kind), s.cells_per_cycle, round(s.cycle_s * TICKS)
        at["first"], at["machines"], at["positions"], at["idle"] = first, s.machines, s.positions, s.machines
        at["key"], at["spread"] = key_of(seed, s.code), SPREAD[s.kind]
        at["mtbf"], at["mttr"] = s.mtbf_min * 60 * TICKS, s.mttr_min * 60 * TICKS
        ppm = np.array([d.ppm for d in s.defect])
        at["defect_first"], at["defects"], at["miss"] = len(edges), len(ppm), ppm.sum() / 1e6
        edges += list(np.cumsum(ppm) / ppm.sum()) if ppm.sum() > 0 else [1.0] * len(ppm)
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
    line = Line(station, machine, ring, np.zeros(cells + 1, CELL), np.full(len(stations), NEVER), np.array(edges or [1.0]), np.zeros(1, np.int64))
    for n, s in enumerate(stations):
        if s.kind == "dwell":
            free = ring[n, FREE]
            line.cell["place"][free["first"] : free["first"] + free["room"]] = np.arange(free["room"])
            free["count"] = free["room"]
    return line


def fill(line: Line, scenario: Scenario, now: int, rate: float) -> int:
    """Put the cells into ovens and dwell stations that a line at `rate` (cells a second) holds; returns how many.

    They get the numbers -n ... -1, the ones furthest down the line first, so that the first cell wound is 0 whatever the line holds.
    """
    unit = 0
    plan: list[tuple[int, int]] = []
    for n, s in enumerate(scenario.line.station):
        inside = rate * s.cycle_s
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
                m["end"] = now + (place + 1) * int(station["cycle"]) // busy
            station["idle"], station["turn"] = station["machines"] - busy, busy % int(station["machines"])
            line.next_at[n] = line.machine["end"][station["first"] : station["first"] + station["machines"]].min()
        station["arrived"] = cells
        unit += cells
    return total
