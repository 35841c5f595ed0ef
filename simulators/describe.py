"""What a line can be expected to do, by theory, before anything runs: a plant's line at its target, an abstract one at its bounds."""

from __future__ import annotations

import datetime as dt
import math
from dataclasses import asdict, dataclass
from typing import Any, Final

from mes import calendar
from mes.errors import ConfigError
from mes.plant import Station, Target
from simulators import abstract, theory
from simulators.scenario import TICKS, Scenario
from simulators.verdict import is_judged, limits, share_below

_MOST_COMBINED: Final = 16  # stations whose mean longest service is a sum over all their combinations


@dataclass(frozen=True)
class StationFigures:
    """A station of the route at the target.

    places              cells that are in work at once, when all machines are loaded
    availability        share of its busy time that a machine works; 1 at dwell stations, which do not break down here
    capacity            good cells a day at the end of the line, if this station were the only limit, breakdowns counted;
                        unbroken: without breakdowns
    starts              cells that must come to it a day, so that the target leaves the line
    utilisation         share of its time that its machines work for them; load: the same of the time that they are available
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
    unbroken: float
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
    least        good cells a day with no buffers at all, if the machines of a station stopped together, and with them the line
                 (Buzacott 1967)
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


def target_on(scenario: Scenario, targets: list[Target], day: dt.date, until: int | None = None) -> int | None:
    """The target of a production day in proportion to its planned time, as the reports have it; what of it is due by the instant `until`
    (ticks), where that is said."""
    plan = target_of(targets, scenario.line.path, day)
    if plan is None:
        return None
    of = calendar.of_site(scenario.site, scenario.line.path)
    spans, regular = of.scheduled(day), calendar.seconds(of.regular(day))
    if until is not None:
        spans = calendar.clip(spans, of.starts_at(day), dt.datetime.fromtimestamp(until // TICKS, dt.UTC))
    return round(plan.cells_per_day * calendar.seconds(spans) / regular) if regular else 0


def describe(scenario: Scenario, target: int, day: dt.date) -> LineFigures:
    """The figures of a line for `target` good cells on a production day with its planned hours; ConfigError where none is planned."""
    of = calendar.of_site(scenario.site, scenario.line.path)
    planned, whole = calendar.seconds(of.scheduled(day)), calendar.seconds([of.bounds(day)])
    if not planned:
        raise ConfigError(f"line {scenario.line.path}: nothing is planned on {day}: choose another --day")
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
        time = planned if s.kind == "discrete" else whole  # ovens and chambers go on while crews rest
        used = theory.utilisation(starts * visits[n] / time, places, s.cycle_s)
        unbroken = theory.capacity(places, 1, s.cycle_s) * time / visits[n] * to_the_end
        rows.append(
            StationFigures(
                s.code,
                s.name,
                s.kind,
                s.machines,
                places,
                s.cycle_s,
                available,
                unbroken * available,
                unbroken,
                starts,
                used,
                used / available,
                first[n],
                final[n],
                s.buffer_after,
                theory.little(starts * visits[n] / time, s.cycle_s),
            )
        )
    narrow = min(rows, key=lambda row: row.capacity)
    most_unbroken = min(row.unbroken for row in rows)
    stops = sum(1 / row.availability - 1 for row in rows)
    return LineFigures(
        scenario.line.path,
        scenario.line.product,
        target,
        planned / 3600,
        theory.takt(planned, target),
        narrow.station,
        narrow.capacity,
        most_unbroken,
        most_unbroken / (1 + stops),
        theory.rolled_throughput_yield(first),
        math.prod(final),
        sum(row.wip for row in rows),
        sum(s.cycle_s for s in stations) / 3600,
        rows,
    )


@dataclass(frozen=True)
class AbstractStation:
    """A station of an abstract line. mean: of a cycle; capacity: good parts per time at the end of the line, if it were the only limit."""

    station: str
    machines: int
    batch: int
    buffer: int | str
    service: str
    mean: float
    availability: float
    first_pass_yield: float
    final_yield: float
    capacity: float


@dataclass(frozen=True)
class Bounds:
    """Good parts per time of an abstract line: at most with infinite buffers, at least without any; None where no bound is known."""

    bottleneck: str
    most: float
    least: float | None
    rolled_throughput_yield: float
    final_yield: float
    stations: list[AbstractStation]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def bounds(scenario: abstract.Scenario) -> Bounds:
    """What theory says of an abstract line without running it."""
    stations = scenario.station
    quality = [s.quality or abstract.Quality(miss=0.0) for s in stations]
    rework = [(1 - q.miss, q.rework_share, q.rework_success, q.rework_max) for q in quality]
    final = [theory.yield_with_rework(*r) for r in rework]
    rows = []
    for n, s in enumerate(stations):
        mean = abstract.mean(s.service)
        available = theory.availability(s.failures.mtbf, s.failures.mttr) if s.failures else 1.0
        capacity = theory.capacity(s.machines, s.batch, mean, available) / theory.visits_with_rework(*rework[n]) * math.prod(final[n:])
        service = str(type(s.service).__struct_config__.tag)
        rows.append(AbstractStation(s.name, s.machines, s.batch, s.buffer, service, mean, available, rework[n][0], final[n], capacity))
    narrow = min(rows, key=lambda row: row.capacity)
    rolled = theory.rolled_throughput_yield([row.first_pass_yield for row in rows])
    return Bounds(narrow.station, narrow.capacity, _least(stations), rolled, math.prod(final), rows)


def _least(stations: list[abstract.Station]) -> float | None:
    """Without buffers: known for single machines that lose nothing, whose services are all exponential or all fixed."""
    for s in stations:
        if s.machines > 1 or s.batch > 1 or s.quality or s.blocking != "after" or (s.failures and s.failures.mode == "time"):
            return None
    means = [abstract.mean(s.service) for s in stations]
    down = [(s.failures.mtbf, s.failures.mttr) if s.failures else (math.inf, 0.0) for s in stations]
    stops = sum(mean * mttr / mtbf for mean, (mtbf, mttr) in zip(means, down, strict=True))
    kinds = {type(s.service) for s in stations}
    if kinds == {abstract.Exponential} and len(stations) <= _MOST_COMBINED:
        return 1 / (1 / theory.paced_bound(means) + stops)
    return 1 / (max(means) + stops) if kinds == {abstract.Deterministic} else None
