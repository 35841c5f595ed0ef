"""What is retained of a line: its figures on `_kpi_v1/`, its alerts on `_alert_v1/`. Payloads, one type a topic.

A figure is what the view of the schema `report` says, read from it; one that is undefined is null. Counts are cells or events, ratios
parts of one, `timestamp_ms` milliseconds since 1970 (UTC). A value is published when it has changed, at most once a second; that
`timestamp_ms` alone is another is no change.
"""

from __future__ import annotations

import datetime as dt
from typing import ClassVar, Literal

import msgspec

from mes.contract import Topic

AlertName = Literal["behind_target", "yield_low", "line_silent", "data_incomplete"]
AlertState = Literal["raised", "cleared"]
StationState = Literal["running", "stopped", "idle", "silent", "unscheduled", "unknown"]


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """A figure of a line: `value`, and what explains it.

    production_day  the local date on which the production day began at the site
    """

    name: ClassVar[str]
    timestamp_ms: int | None
    production_day: dt.date | None

    @classmethod
    def topic(cls, site: str, area: str, line: str) -> str:
        return str(Topic(site, area, line, None, None, "_kpi_v1", cls.name))


class ThroughputDay(Figure, frozen=True, kw_only=True):
    """Good cells of the newest production day that has begun (report.daily_throughput).

    value       good cells; attainment = value / target
    timestamp_ms  of the latest event that is counted
    """

    name = "throughput_day"
    value: int
    target: int | None
    attainment: float | None
    scrap: int
    output_yield: float | None
    rolled_throughput_yield: float | None


class YieldDay(Figure, frozen=True, kw_only=True):
    """Yield of the newest production day that has begun (report.daily_yield).

    value       output yield: good / (good + scrap)
    timestamp_ms  of the latest event that is counted
    """

    name = "yield_day"
    value: float | None
    good: int
    scrap: int
    rolled_throughput_yield: float | None
    first_pass_yield: float | None


class Pace(Figure, frozen=True, kw_only=True):
    """Where the production day that runs now will end (report.line_now), each number to four significant digits: time alone
    changes them, and no more of them means anything.

    value            good cells for each scheduled hour that has passed
    projected        good cells at the end of the day, if the pace stays
    remaining_per_h  good cells for each scheduled hour left that reach the target
    timestamp_ms     when they were read
    """

    name = "pace"
    value: float | None
    projected: float | None
    remaining_per_h: float | None
    target: int | None


class Wip(Figure, frozen=True, kw_only=True):
    """Cells between the first and the last station (report.line_now).

    value         started, neither good nor scrapped, over all days that are stored
    timestamp_ms  when it was read
    """

    name = "wip"
    value: int | None


class Completeness(Figure, frozen=True, kw_only=True):
    """How much of what the machines sent of the newest production day is in its figures (report.daily_throughput).

    value         events / (events + missing + quarantined)
    timestamp_ms  of the latest event that is counted
    """

    name = "completeness"
    value: float | None
    missing: int
    quarantined: int


class Bottleneck(Figure, frozen=True, kw_only=True):
    """The station that holds the line back (report.station_now), null where none does.

    value         code of the station
    state         stopped where it stands while cells come to it, else it is the one with the highest utilisation
    utilisation   visits / what its machines can do, rounded down to whole percents
    timestamp_ms  when it was read
    """

    name = "bottleneck"
    value: str | None
    station_name: str | None
    state: StationState | None
    utilisation: float | None


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """An alert of a line, raised or cleared: retained either way, so who comes late knows too.

    state         raised or cleared
    since_ms      since when, milliseconds since 1970
    reason        the figures behind it, in words
    raise_at      threshold from which it is raised, clear_at: from which it is cleared; hold_s: seconds for which it must be so
    timestamp_ms  when the reason was written: once a minute while it is raised
    """

    timestamp_ms: int
    state: AlertState
    since_ms: int
    reason: str
    raise_at: float
    clear_at: float
    hold_s: float

    @staticmethod
    def topic(site: str, area: str, line: str, name: str) -> str:
        return str(Topic(site, area, line, None, None, "_alert_v1", name))


FIGURES: tuple[type[Figure], ...] = (ThroughputDay, YieldDay, Pace, Wip, Completeness, Bottleneck)
ALERTS: dict[AlertName, str] = {
    "behind_target": "The line lacks a part of the day's target of what was due by now.",
    "yield_low": "The output yield of the day is low.",
    "line_silent": "No cell has come from the line for a while of scheduled time.",
    "data_incomplete": "Not all that the machines sent of the day has come.",
}
