"""What the board shows of a line: rows of the views with, beside the figures, the text that people read."""

from __future__ import annotations

import datetime as dt
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final
from zoneinfo import ZoneInfo

from mes.present import count, percent

Row = Mapping[str, Any]

DASH: Final = "–"
_OF_LINE: Final = ("line", "name", "site_name", "zone", "product")
_OF_DAY: Final = (
    "production_day", "starts_at", "ends_at", "good", "target", "attainment", "gap", "scrap", "events", "last_event_at", "is_over",
    "is_closed", "version", "energy_mwh", "scheduled_h", "completeness", "missing", "quarantined", "late", "output_yield",
    "rolled_throughput_yield", "is_behind", "target_so_far", "pace_per_h", "projected", "remaining_per_h", "scheduled_h_left", "wip",
)  # fmt: skip
_NOTHING: Final = dict.fromkeys(("inspected", "first_pass_yield", "good", "rework", "scrap", "cycle_p50_s", "cycle_p95_s"))
"""The yields of a station that has reported nothing in a day."""


def line(row: Row) -> dict[str, Any]:
    """A line (a row of mes.store.board.lines) with the `alerts` that are raised, and `day`, its production day, None where it has none.

    Figures are those of the views, NULL as None; `text` holds them as people read them, times in the zone of the site.
    """
    alerts = [_alert(alert, ZoneInfo(row["zone"])) for alert in row["alerts"] or ()]
    return {name: row[name] for name in _OF_LINE} | {"alerts": alerts, "day": _day(row) if row["production_day"] else None}


def days(rows: Iterable[Row]) -> dict[str, list[dict[str, Any]]]:
    """By line its production days, oldest first (see mes.store.board.days)."""
    lines: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        day = {name: value for name, value in row.items() if name != "line"}
        texts = of_day(row) | {"day": f"{row['production_day'].day}", "whole_percent": whole_percent(row["attainment"])}
        lines.setdefault(row["line"], []).append(day | {"weekday": row["production_day"].isoweekday(), "text": texts})
    return lines


def of_day(row: Row) -> dict[str, str]:
    """The texts that every row of a production day has."""
    return {
        "date": date(row["production_day"]),
        "good": count(row["good"]),
        "target": count(row["target"]),
        "attainment": percent(row["attainment"]),
        "gap": gap(row["gap"]),
        "scrap": count(row["scrap"]),
        "output_yield": percent(row["output_yield"]),
        "rolled_throughput_yield": percent(row["rolled_throughput_yield"]),
        "completeness": percent(row["completeness"]),
    }


def date(day: dt.date) -> str:
    return f"{day:%a} {day}"


def clock(at: dt.datetime | None, zone: ZoneInfo) -> str:
    """The time of the day at the site."""
    return f"{at.astimezone(zone):%H:%M:%S}" if at else DASH


def whole(number: float | None) -> str:
    """A figure without its decimals."""
    return DASH if number is None else count(round(number))


def whole_percent(ratio: float | None) -> str:
    """Rounded down, so that what misses the target never reads 100 %."""
    return DASH if ratio is None else percent(ratio).partition(".")[0] + " %"


def plain(number: float | None, digits: int = 4) -> str:
    """A measured figure with so many digits that count."""
    if number is None:
        return DASH
    power = math.floor(math.log10(abs(number))) if number else 0
    return f"{number:.{digits - 1}e}" if power < -4 else f"{number:,.{max(0, digits - 1 - power)}f}"


def gap(cells: int | None) -> str:
    """How far a day is from its target."""
    if cells is None:
        return "no target set"
    if cells == 0:
        return "target reached"
    return f"{count(-cells)} to go" if cells < 0 else f"{count(cells)} over"


def _day(row: Row) -> dict[str, Any]:
    zone = ZoneInfo(row["zone"])
    yields = row["yields"] or {}
    text = of_day(row) | _of_now(row)
    if row["is_over"] and not row["is_behind"] and (row["gap"] or 0) < 0:
        text["gap"] = f"{count(-row['gap'])} short"
    text["last_event_time"] = clock(row["last_event_at"], zone)
    text["missing"] = _missing(row)
    return {name: row[name] for name in _OF_DAY} | {
        "text": text,
        "hours": [_hour(hour, zone) for hour in row["hours"] or ()],
        "stations": [_station({**station, **_NOTHING, **yields.get(station["station"], {})}, zone) for station in row["stations"] or ()],
        "defects": [defect(found) for found in row["defects"] or ()],
    }


def _of_now(row: Row) -> dict[str, str]:
    """How the day goes; dashes once it is over."""
    ahead = None if row["target_so_far"] is None else row["good"] - round(row["target_so_far"])
    heading = None if row["projected"] is None or row["target"] is None else round(row["projected"]) - row["target"]
    return {
        "due": whole(row["target_so_far"]),
        "pace": DASH if ahead is None else "on pace" if ahead == 0 else f"{count(abs(ahead))} {'ahead of' if ahead > 0 else 'behind'} pace",
        "pace_per_h": whole(row["pace_per_h"]),
        "projected": whole(row["projected"]),
        "projected_gap": "" if heading is None else f"{count(abs(heading))} {'short' if heading < 0 else 'over'}",
        "remaining_per_h": whole(row["remaining_per_h"]),
        "left": DASH if row["scheduled_h_left"] is None else hours(row["scheduled_h_left"]),
        "wip": count(row["wip"]),
    }


def hours(number: float) -> str:
    """A duration of so many hours."""
    minutes = int(number * 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"


def _missing(row: Row) -> str:
    """What of a day is known not to be in its figures."""
    parts = [(row["missing"], "never came"), (row["quarantined"], "in the quarantine"), (row["late"], "came late")]
    return ", ".join(f"{count(n)} {what}" for n, what in parts if n)


def _alert(alert: Row, zone: ZoneInfo) -> dict[str, Any]:
    since = dt.datetime.fromisoformat(alert["since"]).astimezone(zone)
    return dict(alert) | {"text": {"name": alert["alert"].replace("_", " "), "since": f"{since:%H:%M}"}}


def _hour(hour: Row, zone: ZoneInfo) -> dict[str, Any]:
    begins = dt.datetime.fromisoformat(hour["hour_starts_at"])
    return dict(hour) | {
        "text": {
            "hour": f"{begins.astimezone(zone):%H:%M}",
            "good": count(hour["good"]),
            "scrap": count(hour["scrap"]),
            "target": whole(hour["target"]),
        }
    }


def _station(station: Row, zone: ZoneInfo) -> dict[str, Any]:
    last = station["last_event_at"]
    return dict(station) | {
        "text": {
            "name": short(station["name"]),
            "rate": whole(station["rate_per_h"]),
            "utilisation": whole_percent(station["utilisation"]),
            "wip": count(station["wip_before"]),
            "first_pass_yield": percent(station["first_pass_yield"]),
            "inspected": count(station["inspected"]),
            "good": count(station["good"]),
            "rework": count(station["rework"]),
            "scrap": count(station["scrap"]),
            "cycle_p50": seconds(station["cycle_p50_s"]),
            "cycle_p95": seconds(station["cycle_p95_s"]),
            "last_event": clock(dt.datetime.fromisoformat(last) if last else None, zone),
            "window": f"in the last {'hour' if station['window_h'] == 1 else str(station['window_h']) + ' hours'}",
        }
    }


def short(name: str) -> str:
    """What a station does, without the details in which its name ends."""
    return re.split(r", | \+ | / |: ", re.sub(r"\s*\([^)]*\)", "", name))[0] or name


def seconds(number: float | None) -> str:
    """How long something takes."""
    if number is None or number < 600:
        return DASH if number is None else f"{plain(number, 3)} s"
    return hours(number / 3600)


def defect(found: Row) -> dict[str, Any]:
    return dict(found) | {"text": {"count": count(found["count"]), "share": percent(found["share"])}}
