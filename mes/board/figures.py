"""What the page shows: rows of the views with, beside each figure, the text that people read."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from typing import Any, Final
from zoneinfo import ZoneInfo

from mes.present import count, percent

Row = Mapping[str, Any]

_OF_LINE: Final = ("line", "name", "site_name", "zone", "product")
_OF_DAY: Final = (
    "production_day", "good", "target", "attainment", "gap", "scrap", "events", "last_event_at", "is_over", "completeness",
    "output_yield", "rolled_throughput_yield",
)  # fmt: skip


def lines_now(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Lines in the order of `rows` (see mes.store.report.board), each with `day`, the newest production day that
    has begun, and `previous`, the one before it; None where there is none.

    Figures are those of the views, NULL as None; `text` holds them as people read them, times in the zone of the site.
    """
    lines: dict[str, dict[str, Any]] = {}
    for row in rows:
        line = lines.setdefault(row["line"], {name: row[name] for name in _OF_LINE} | {"day": None, "previous": None})
        if row["nth"] is not None:
            line["day" if row["nth"] == 1 else "previous"] = _day(row)
    return list(lines.values())


def _day(row: Row) -> dict[str, Any]:
    zone = ZoneInfo(row["zone"])
    day = {name: row[name] for name in _OF_DAY}
    last = row["last_event_at"].astimezone(zone) if row["last_event_at"] else None
    day["text"] = {
        "good": count(row["good"]),
        "target": count(row["target"]),
        "attainment": percent(row["attainment"]),
        "gap": _gap(row["gap"]),
        "scrap": count(row["scrap"]),
        "output_yield": percent(row["output_yield"]),
        "rolled_throughput_yield": percent(row["rolled_throughput_yield"]),
        "last_event_time": last.strftime("%H:%M:%S") if last else "–",
        "last_event_date": last.strftime("%Y-%m-%d") if last else "",
    }
    if row["hours"] is not None:
        day["hours"] = [_hour(hour, zone) for hour in row["hours"]]
    return day


def _hour(hour: Row, zone: ZoneInfo) -> dict[str, Any]:
    target = hour["target"]
    return dict(hour) | {
        "text": {
            "hour": dt.datetime.fromisoformat(hour["hour_starts_at"]).astimezone(zone).strftime("%H:%M"),
            "good": count(hour["good"]),
            "scrap": count(hour["scrap"]),
            "target": count(None if target is None else round(target)),
        }
    }


def _gap(gap: int | None) -> str:
    if gap is None:
        return "no target set"
    if gap == 0:
        return "target reached"
    return f"{count(-gap)} to go" if gap < 0 else f"{count(gap)} over"
