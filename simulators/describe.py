"""What a line can be expected to do, by theory, before anything runs."""

from __future__ import annotations

import datetime as dt
import math
from dataclasses import asdict, dataclass
from typing import Any

from mes import calendar
from mes.plant import Station, Target
from simulators import theory
from simulators.scenario import Scenario
from simulators.verdict import is_judged, limits, share_below


@dataclass(frozen=True)
class StationFigures:
    """A station of the route at the target.

    places              cells that are in work at once, when all machines are loaded
    availability        share of its busy time that a machine works; 1 at dwell stations, which do not break down here
    capacity            good cells a day at the end of the line, if this station were the only limit, breakdowns counted
    starts              cells that must come to it a day, so that the target leaves the line
    utilisation         share of the planned time that its machines work for them; load: the same of the time that they are available
    first_pass_yield    share of first attempts that pass; final_yield: of cells that leave it good, rework counted
    wip                 cells in work at the target (Little)
    """

    station: str
    name: str
    kind: str
    machines: int
    places: int
    cycle_s: float
    availability: float
    capacity: float
    starts: float
    utilisation: float
    load: float
    first_pass_yield: float
    final_yield: float
    buffer_after: int
    wip: float


@dataclass(frozen=True)
class LineFigures:
    """A line at its target.

    takt_s       planned time for each cell of the target
    most         good cells a day at most: infinite buffers, so the bottleneck alone counts; unbroken: without breakdowns
    least        good cells a day with no buffers at all, where a stop of any machine stops the line (Buzacott 1967)
    lead_time_h  time in work of a cell that is tried once everywhere
    """

    line: str
    product: str
    target: int
    planned_h: float
    takt_s: float
    bottleneck: str
    most: float
    most_unbroken: float
    least: float
    rolled_throughput_yield: float
    final_yield: float
    wip: float
    lead_time_h: float
    stations: list[StationFigures]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def first_pass_yield(station: Station) -> float:
    """Share of first attempts that have none of the station's defects and read within all limits that every cell is inspected for."""
    share = math.prod(1 - d.ppm / 1e6 for d in station.defect)
    for c in station.characteristic:
        if is_judged(c) and station.defect:
            low, high = limits(c)
            share *= 1 - share_below(low) - share_below(-high)
    return share


def target_of(targets: list[Target], line: str, day: dt.date) -> Target | None:
    """The target of a line that is in force on a production day; the first one before it begins."""
    mine = sorted((t for t in targets if t.line == line), key=lambda t: t.from_)
    return next((t for t in reversed(mine) if t.from_ <= day), mine[0] if mine else None)


def describe(scenario: Scenario, target: int, day: dt.date) -> LineFigures:
    """The figures of a line for `target` good cells on a production day with its planned hours."""
    planned = calendar.seconds(calendar.of_site(scenario.site, scenario.line.path).scheduled(day)) or 86_400
    stations = scenario.line.station
    first = [first_pass_yield(s) for s in stations]
    rework = [(s.rework.share, s.rework.success, s.rework.max) if s.rework else (0.0, 0.0, 0) for s in stations]
    final = [theory.yield_with_rework(f, *r) for f, r in zip(first, rework, strict=True)]
    visits = [theory.visits_with_rework(f, *r) for f, r in zip(first, rework, strict=True)]
    rows = []
    for n, s in enumerate(stations):
        to_the_end = math.prod(final[n:])
        starts = target / to_the_end
        available = 1.0 if s.kind == "dwell" else theory.availability(s.mtbf_min, s.mttr_min)
        places = s.machines * s.positions * s.cells_per_cycle
        used = theory.utilisation(starts * visits[n] / planned, places, s.cycle_s)
        rows.append(
            StationFigures(
                s.code,
                s.name,
                s.kind,
                s.machines,
                places,
                s.cycle_s,
                available,
                theory.capacity(places, 1, s.cycle_s, available) * planned / visits[n] * to_the_end,
                starts,
                used,
                used / available,
                first[n],
                final[n],
                s.buffer_after,
                theory.little(starts * visits[n] / planned, s.cycle_s),
            )
        )
    narrow = min(rows, key=lambda row: row.capacity)
    unbroken = min(row.capacity / row.availability for row in rows)
    stops = sum(1 / row.availability - 1 for row in rows)
    return LineFigures(
        scenario.line.path,
        scenario.line.product,
        target,
        planned / 3600,
        theory.takt(planned, target),
        narrow.station,
        narrow.capacity,
        unbroken,
        unbroken / (1 + stops),
        theory.rolled_throughput_yield(first),
        math.prod(final),
        sum(row.wip for row in rows),
        sum(s.cycle_s for s in stations) / 3600,
        rows,
    )
