"""The flow of cells through a line: an event kernel in integer virtual time.

Stations in series. A discrete station has machines that take up to `size` cells a cycle; in front of a batch station a
full load gathers beside the buffer, then enters an idle machine at once; a dwell station has positions, each cell stays
for the cycle. After its service a cell waits in place until the next station has room (blocking after service), so a
full line backs up. The first station is never starved, the last never blocked. A miss may be tried again at the same station.
Where a station is told so, a cell that finds no room is worked again, or is lost, instead of waiting.

A machine breaks down after busy time (operation-dependent) or by the clock (time-dependent); the repair takes its time, then the
cycle goes on where it was. A machine that breaks down by the clock while it is idle may hold a cell that waits for its repair.

The next event is the earliest over the stations; ties go to the station further down the route. All state is in arrays, so the
kernel stops at any instant and goes on later, and where it stops changes nothing.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np

from simulators.breakdown import fail, is_up_from
from simulators.jit import Array, fixed, kernel, part
from simulators.scenario import BATCH, DISCRETE, DWELL
from simulators.service import duration
from simulators.verdict import MISSED, PASS, SCRAP, Verdict, judge

NEVER: Final = np.iinfo(np.int64).max
NO_CHANNEL: Final = fixed(-1)
AFTER, REPEAT, LOSE = (fixed(n) for n in range(3))  # what a cell does that finds no room: wait in place, be worked again, leave the line
WORK, FAILING, REPAIR, WAIT = (fixed(n) for n in range(4))  # what ends at a machine's `end`: the cycle, work before a failure, ...
STARVED, EXECUTE, DOWN, BLOCKED, STOPPED = (fixed(n) for n in range(5))  # states of a machine, columns of Line.spent
STATES: Final = ("starved", "execute", "down", "blocked", "stopped")
_ZERO: Final = fixed(0)
_FIRST: Final = fixed(1)  # attempt

# Rings of a station: cells waiting in front, cells to be tried again, cells done that have not left,
# cells in their dwell in the order of their ends, and free positions.
QUEUE, AGAIN, OUT, INSIDE, FREE = (fixed(n) for n in range(5))
NEXT_UNIT, NOW, AWAKE = range(3)  # indices into Line.clock

# EVENT     t: completion; cycle: time in work; machine: over the whole line, in route order; result: as above; defect: index
#           within the station; channel: position within a machine; cause: the reading beyond its limit, 2 * characteristic for the
#           lower limit and 1 more for the upper, -1: none. Times are ticks, of 1 us in a plant's line.
# STATION   size: cells a cycle; first, machines: its machines; key, share, success: random stream, share of misses tried again,
#           and of these that pass; service, a, b: duration of a cycle, see simulators.service; cycle: ticks of a dwell; by_clock, mtbf,
#           mttr: how machines break down, ticks, mtbf 0: never; blocking: AFTER ...; turn: whose turn it is; the rest counts cells.
# MACHINE   end: when what it does ends; phase: WORK ...; left: ticks of work still to do; load: cells in work; held: cells done that
#           cannot leave; cells: where its load lies in `cell`; seq: events so far; healthy: busy ticks until the next failure,
#           or its instant by the clock; up: end of the last repair; failures: so far; cycle: ticks of the cycle in work; again: how
#           often it was worked again; state, since: STARVED ... and since when. Of a dwell station's machine load and held are cells
#           in and after their dwell, and its states are counted in position ticks.
# RING      first, room: its place in `cell`; head, count: what is in it
# CELL      at: end of the dwell; place: the position or machine it is in
_i8 = np.int64
EVENT = np.dtype([
    ("t", _i8), ("unit", _i8), ("seq", _i8), ("cycle", _i8), ("station", _i8), ("machine", _i8),
    ("attempt", _i8), ("channel", _i8), ("result", _i8), ("defect", _i8),
    ("cause", _i8),
])  # fmt: skip
STATION = np.dtype([
    ("kind", _i8), ("size", _i8), ("cycle", _i8), ("first", _i8), ("machines", _i8), ("positions", _i8), ("rework_max", _i8),
    ("blocking", _i8), ("service", _i8), ("by_clock", _i8), ("key", np.uint64), ("a", np.float64), ("b", np.float64),
    ("share", np.float64), ("success", np.float64), ("mtbf", np.float64), ("mttr", np.float64),
    ("turn", _i8), ("idle", _i8), ("arrived", _i8), ("left", _i8), ("scrapped", _i8), ("lost", _i8),
])  # fmt: skip
MACHINE = np.dtype([
    (name, _i8)
    for name in (
        "end", "phase", "left", "load", "held", "cells", "seq", "healthy", "up", "failures", "cycle", "again", "state", "since",
    )
])  # fmt: skip
RING = np.dtype([("first", _i8), ("room", _i8), ("head", _i8), ("count", _i8)])
CELL = np.dtype([("unit", _i8), ("at", _i8), ("attempt", _i8), ("place", _i8)])


class Line(NamedTuple):
    """The state of a line.

    station (S), machine (M) and ring (S, 5) as declared above; cell: the cells of all rings and machines;
    next_at (S): the earliest completion of each station; verdict: causes of misses; stop (n, 2): planned stops, ticks [from, to)
    in order, in which no cycle of a discrete station begins; clock: see NEXT_UNIT; spent (M, 5): ticks in each state.
    """

    station: Array
    machine: Array
    ring: Array
    cell: Array
    next_at: Array
    verdict: Verdict
    stop: Array
    clock: Array
    spent: Array


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
def _enter(line: Any, m: int, state: int, now: int) -> None:
    """Machine `m` changes its state."""
    machine = line.machine[m]
    line.spent[m, machine.state] += now - machine.since
    machine.state = state
    machine.since = now


@part
def _leave(line: Any, s: int, now: int) -> int:
    """The cell that has waited longest after its service at `s` leaves it."""
    i = _pop(line, s, OUT)
    place = line.cell[i].place
    station = line.station[s]
    if station.kind == DWELL:
        m = station.first + place // station.positions
        line.machine[m].held -= 1
        line.spent[m, BLOCKED] += now
        _push(line, s, FREE, _ZERO, _ZERO, _ZERO, place)
    else:
        m = station.first + place
        machine = line.machine[m]
        machine.held -= 1
        if machine.held == 0:
            station.idle += 1
            _enter(line, m, STARVED, now)
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
def _take(line: Any, s: int, now: int) -> tuple[int, int]:
    """The next cell for a machine of `s`, as (unit, attempt): a retry first, then the buffer, then the station before."""
    if line.ring[s, AGAIN].count > 0:
        cell = line.cell[_pop(line, s, AGAIN)]
        return cell.unit, cell.attempt
    if s == 0:
        unit = line.clock[NEXT_UNIT]
        line.clock[NEXT_UNIT] += 1
        line.station[0].arrived += 1
        return unit, _FIRST
    if line.ring[s, QUEUE].count > 0:
        return line.cell[_pop(line, s, QUEUE)].unit, _FIRST
    return line.cell[_leave(line, s - 1, now)].unit, _FIRST


@part
def _resume(line: Any, now: int) -> int:
    """When work may begin: now, or at the end of the planned stop that this is in."""
    for i in range(len(line.stop)):
        if now < line.stop[i, 0]:
            break
        if now < line.stop[i, 1]:
            return line.stop[i, 1]  # type: ignore[no-any-return]
    return now


@part
def _due(line: Any, s: int, m: int, phase: int, end: int) -> None:
    machine = line.machine[m]
    machine.phase = phase
    machine.end = end
    if end < line.next_at[s]:
        line.next_at[s] = end


@part
def _begin(line: Any, s: int, m: int, now: int) -> None:
    """Start machine `m` with its load; in a planned stop it waits, a breakdown delays the end, not the cycle.

    A cycle that has begun is finished. Ovens and dwell stations go on through a stop with what is in them or comes to them.
    """
    station = line.station[s]
    machine = line.machine[m]
    first = line.cell[machine.cells]
    machine.cycle = duration(station, first.unit, first.attempt + (machine.again << 16))
    machine.left = machine.cycle
    resume = _resume(line, now) if station.kind == DISCRETE else now
    if resume > now:
        _enter(line, m, STOPPED, now)
        _due(line, s, m, WAIT, resume)
    else:
        _work(line, s, m, now)


@part
def _work(line: Any, s: int, m: int, now: int) -> None:
    """Machine `m` works on what is left of its cycle, until that ends or it fails."""
    station = line.station[s]
    machine = line.machine[m]
    if station.mtbf == 0.0:
        _enter(line, m, EXECUTE, now)
        _due(line, s, m, WORK, now + machine.left)
        return
    up = is_up_from(station, machine, m - station.first, now)
    if up > now:  # it has failed while it was idle
        _enter(line, m, DOWN, now)
        _due(line, s, m, REPAIR, up)
        return
    _enter(line, m, EXECUTE, now)
    healthy = machine.healthy - now if station.by_clock != 0 else machine.healthy
    if healthy < machine.left:
        machine.left -= healthy
        _due(line, s, m, FAILING, now + healthy)
        return
    if station.by_clock == 0:
        machine.healthy -= machine.left
    _due(line, s, m, WORK, now + machine.left)


@part
def _idle_machine(line: Any, s: int, now: int) -> int:
    """The next idle machine after the one that began last, so that work is shared evenly; one that is up goes before one that is down."""
    station = line.station[s]
    place = station.turn
    best, earliest = _ZERO - 1, NEVER
    for _ in range(station.machines):
        machine = line.machine[station.first + place]
        if machine.load == 0 and machine.held == 0:
            up = is_up_from(station, machine, place, now) if station.by_clock != 0 else now
            if up < earliest:
                best, earliest = place, up
            if up == now:
                break
        place = place + 1 if place + 1 < station.machines else _ZERO
    station.turn = best + 1 if best + 1 < station.machines else _ZERO
    return station.first + best  # type: ignore[no-any-return]


@part
def _start(line: Any, s: int, now: int) -> None:
    station = line.station[s]
    if station.kind == DWELL:
        while line.ring[s, FREE].count > 0 and _waiting(line, s):
            unit, attempt = _take(line, s, now)
            place = line.cell[_pop(line, s, FREE)].place
            m = station.first + place // station.positions
            line.machine[m].load += 1
            line.spent[m, EXECUTE] -= now
            _push(line, s, INSIDE, unit, now + station.cycle, attempt, place)
            if line.ring[s, INSIDE].count == 1:
                line.next_at[s] = now + station.cycle
    else:
        while station.idle > 0 and _waiting(line, s):
            m = _idle_machine(line, s, now)
            station.idle -= 1
            machine = line.machine[m]
            while machine.load < station.size and (machine.load == 0 or station.kind == BATCH or _waiting(line, s)):
                unit, attempt = _take(line, s, now)
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
        _push(line, s, QUEUE, line.cell[_leave(line, s - 1, now)].unit, _ZERO, _FIRST, _ZERO)
        if line.station[s].kind == BATCH:
            _start(line, s, now)
    return line.ring[s - 1, OUT].count < before  # type: ignore[no-any-return]


@part
def _report(line: Any, event: Any, s: int, m: int, now: int, unit: int, attempt: int, channel: int, cycle: int) -> int:
    station = line.station[s]
    result, defect, cause = judge(line.verdict, station, s, m - station.first, unit, attempt, now)
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
    event.cause = cause
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
        ring = line.ring[s, INSIDE]
        line.next_at[s] = line.cell[ring.first + ring.head].at
        return n + 1
    line.machine[m].load -= 1
    line.spent[m, EXECUTE] += now
    if result == PASS and s + 1 < len(line.station):
        line.machine[m].held += 1
        line.spent[m, BLOCKED] -= now
        _push(line, s, OUT, unit, now, attempt, place)
    else:
        _push(line, s, FREE, _ZERO, _ZERO, _ZERO, place)
        if result == PASS:
            station.left += 1
    ring = line.ring[s, INSIDE]
    line.next_at[s] = line.cell[ring.first + ring.head].at if ring.count > 0 else NEVER
    return n + 1


@part
def _has_room(line: Any, s: int) -> bool:
    """Whether station `s` takes a cell now, into its buffer, a machine or a position."""
    station = line.station[s]
    if line.ring[s, QUEUE].count < line.ring[s, QUEUE].room:
        return True
    return line.ring[s, FREE].count > 0 if station.kind == DWELL else station.idle > 0 and station.kind == DISCRETE  # type: ignore[no-any-return]


@part
def _earliest(line: Any, s: int) -> None:
    station = line.station[s]
    earliest = NEVER
    for m in range(station.first, station.first + station.machines):
        earliest = min(earliest, line.machine[m].end)
    line.next_at[s] = earliest


@part
def _go_on(line: Any, s: int, m: int, now: int) -> None:
    """Machine `m` fails, or has been repaired, or may begin after a planned stop."""
    station = line.station[s]
    machine = line.machine[m]
    machine.end = NEVER
    _earliest(line, s)
    if machine.phase == FAILING:
        _enter(line, m, DOWN, now)
        fail(station, machine, m - station.first, now)
        _due(line, s, m, REPAIR, machine.up)
    else:
        _work(line, s, m, now)


@part
def _finish_machine(line: Any, s: int, now: int, events: Any, n: int) -> int:
    station = line.station[s]
    m = station.first
    while line.machine[m].end != now:
        m += 1
    machine = line.machine[m]
    if machine.phase != WORK:
        _go_on(line, s, m, now)
        return n
    last = s + 1 == len(line.station)
    if station.blocking == REPEAT and not last and not _has_room(line, s + 1):
        machine.end = NEVER
        machine.again += 1
        _earliest(line, s)
        _begin(line, s, m, now)
        return n
    for i in range(machine.load):
        cell = line.cell[machine.cells + i]
        unit, attempt = cell.unit, cell.attempt
        channel = i if station.kind == BATCH else NO_CHANNEL
        result = _report(line, events[n], s, m, now, unit, attempt, channel, machine.cycle)
        n += 1
        if result == MISSED:
            _push(line, s, AGAIN, unit, _ZERO, attempt + 1, _ZERO)
        elif result == PASS:
            if last:
                station.left += 1
            elif station.blocking == LOSE and not _has_room(line, s + 1):
                station.lost += 1
            else:
                _push(line, s, OUT, unit, now, attempt, m - station.first)
                machine.held += 1
    machine.load = 0
    machine.again = 0
    machine.end = NEVER
    if machine.held == 0:
        station.idle += 1
        _enter(line, m, STARVED, now)
    else:
        _enter(line, m, BLOCKED, now)
    _earliest(line, s)
    return n


@kernel
def advance(line: Any, until: int, events: Any, room: int) -> int:
    """Run all events before `until`, or as many as surely fit when a station can report `room` at once; returns how many."""
    n = _ZERO
    last = len(line.station) - 1
    while n + room <= len(events):
        if line.clock[AWAKE] > 0:  # a line that was just filled: every station starts what it can, the last one first
            line.clock[AWAKE] -= 1
            s = line.clock[AWAKE]
            now = line.clock[NOW]
        else:
            s = _ZERO
            now = NEVER
            for i in range(last, -1, -1):
                if line.next_at[i] < now:
                    s = i
                    now = line.next_at[i]
            if now >= until:
                break
            n = _finish_dwell(line, s, now, events, n) if line.station[s].kind == DWELL else _finish_machine(line, s, now, events, n)
        # The next station may take what is done. Then a start makes room in front of it, which may let the station
        # before start, and so on up the line.
        at = min(s + 1, last)
        while _pull(line, at, now) or at > s:
            at -= 1
    return n


def states(line: Line, at: int) -> Array:
    """Ticks that each machine has spent in each state up to `at`, int64 (M, 5) in the order of STATES; see MACHINE for dwell stations."""
    machine, spent = line.machine, line.spent.copy()
    for station in line.station:
        here = slice(station["first"], station["first"] + station["machines"])
        if station["kind"] == DWELL:
            spent[here, EXECUTE] += machine["load"][here] * at
            spent[here, BLOCKED] += machine["held"][here] * at
            spent[here, STARVED] = station["positions"] * (at - machine["since"][here]) - spent[here, EXECUTE] - spent[here, BLOCKED]
        else:
            rows = np.arange(here.start, here.stop)
            spent[rows, machine["state"][here]] += at - machine["since"][here]
    return spent
