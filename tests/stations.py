"""`report.station_now`, counted plainly from a list of events: no code of the rollup, no SQL."""

from __future__ import annotations

import datetime as dt
from typing import Any

from mes.plant import Station
from tests.told import Facts, Near, near

HOUR = dt.timedelta(hours=1)
FIVE = dt.timedelta(minutes=5)
MONTH = dt.timedelta(days=31)
EPOCH = dt.datetime.fromtimestamp(0, dt.UTC)


def station_now(truth: Facts, line: str, as_of: dt.datetime) -> list[dict[str, Any]]:
    """Rows of a line as of an instant, for a line that is planned to work all the time."""
    route = truth.plant.lines[line].station
    last = {s.code: max((t.at for t in _of(truth, line, s) if t.at > as_of - MONTH), default=None) for s in route}
    silent = min(patience(s) for s in route)
    newest = max((at for at in last.values() if at), default=None)
    rows: list[dict[str, Any]] = []
    for n, station in enumerate(route):
        by_day = station.kind == "batch" and 48 * station.cycle_s / station.machines > 3600
        begin = hour_of(truth, line, as_of) - 23 * HOUR if by_day else as_of - HOUR - (as_of - HOUR - EPOCH) % FIVE
        planned = sum((max(dt.timedelta(), min(z, as_of) - max(a, begin)) for a, z in bounds(truth, line)), dt.timedelta()) / HOUR
        reports = [t for t in _of(truth, line, station) if begin <= t.at < as_of]
        nominal = station.machines * station.cells_per_cycle * station.positions / station.cycle_s * 3600
        today = truth.day_of(line, as_of)
        seen = truth.inspected(line, today, station.code)
        mine, before = last[station.code], last[route[n - 1].code] if n else None
        rows.append({
            "line": line, "production_day": today if (line, today) in truth.days else None, "station": station.code,
            "station_seq": station.seq, "section": station.section, "station_name": station.name, "kind": station.kind,
            "machines": station.machines, "nominal_per_h": Near(nominal), "as_of": as_of, "window_h": 24 if by_day else 1,
            "rate_per_h": near(sum(t.event.result == "pass" for t in reports) / planned if planned else None),
            "utilisation": near(len(reports) / planned / nominal if planned else None),
            "wip_before": waiting(truth, line, route[n - 1], station, as_of) if n else None,
            "inspected": len(seen) or None,
            "first_pass_yield": sum(t.event.result == "pass" for t in seen) / len(seen) if seen else None,
            "last_event_at": mine,
            "state": "unknown" if mine is None
            else "silent" if newest is None or newest < as_of - silent
            else "running" if mine >= as_of - (24 * HOUR if by_day else patience(station))
            else "stopped" if station.kind == "discrete" and (not n or (before is not None and before > mine))
            else "idle",
        })  # fmt: skip
    stopped = [row for row in rows if row["state"] == "stopped"]
    busy = [row for row in rows if row["state"] in ("running", "idle") and row["utilisation"] and row["utilisation"].value > 0]
    first = (
        min(stopped, key=lambda row: row["last_event_at"]) if stopped else max(busy, key=lambda row: row["utilisation"].value, default=None)
    )
    return [row | {"is_bottleneck": row is first} for row in rows]


def patience(station: Station) -> dt.timedelta:
    """For how long nothing may come of a station that runs."""
    return max(FIVE, dt.timedelta(seconds=10 * station.cycle_s / station.machines) if station.kind == "discrete" else HOUR)


def bounds(truth: Facts, line: str) -> list[tuple[dt.datetime, dt.datetime]]:
    return [truth.bounds(path, day) for path, day in truth.days if path == line]


def hour_of(truth: Facts, line: str, at: dt.datetime) -> dt.datetime:
    """When the elapsed hour of the production day began."""
    begin = truth.bounds(line, truth.day_of(line, at))[0]
    return at - (at - begin) % HOUR


def waiting(truth: Facts, line: str, before: Station, station: Station, as_of: dt.datetime) -> int:
    """What has come and not gone, day by day; what it ever fell short by had been there before."""
    level = lowest = 0
    for path, day in truth.days:
        begin = truth.bounds(path, day)[0]
        if path == line and as_of - MONTH < begin <= as_of:
            scrap = sum(
                t.event.result == "scrap" and not t.unscrapped for t in truth.by_day.get((line, day), []) if t.station == station.code
            )
            level += len(truth.passed(line, day, before.code)) - len(truth.passed(line, day, station.code)) - scrap
            lowest = min(lowest, level)
    return level - lowest


def _of(truth: Facts, line: str, station: Station) -> list[Any]:
    return [t for t in truth.events if t.line == line and t.station == station.code]
