"""The page of a production day: one file with its plots and no script, to be read in a mail, on a phone or on paper."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from mes.markup import Safe, joined, tag
from mes.plots import Column, bar, columns
from mes.present import clock, count, duration, figure, missing, percent, signed, whole
from mes.store import report
from mes.store.connection import Connection

Row = Mapping[str, Any]
Day = Mapping[str, Any]
"""What the views say of a line and a production day, by report; each a list of rows but `day`, which is one. Beside them the line's
`name` and `zone`."""

_STYLE: Final = Path(__file__).with_suffix(".css")
_MOST_MACHINES, _MOST_DEFECTS, _MOST_ROWS = 40, 12, 200
_NUMBERS: Final = frozenset({
    "Good", "Target", "Attainment", "Gap", "Output yield", "Scrap", "Complete", "Good an hour", "First pass yield", "Inspected", "Rework",
    "Cycle, s", "Count", "Share", "So far", "Received", "Missing", "Quarantined", "Late", "Twice", "For", "Version",
})  # fmt: skip
_PLOTS: Final = frozenset({"Missed at first", ""})
"""Titles of columns by what stands in them."""


def figures(connection: Connection, selection: report.Selection) -> list[Day]:
    """All that the page shows of each selected line and day."""

    def read(name: report.Name, **values: Any) -> list[dict[str, Any]]:
        return report.read(connection, name, selection, 10_000, **values)

    days = read("daily_report")
    found = {
        "shift": read("shift_report"),
        "hourly": read("hourly_report"),
        "yield": read("yield_report", station=None),
        "pareto": read("pareto_report", station=None),
        "completeness": read("completeness_report", station=None, every=False),
        "restatement": read("restatement_report"),
        "alert": read("alert_report"),
    }
    return [
        {name: [row for row in rows if row["line"] == day["line"]] for name, rows in found.items()}
        | {"day": day, "name": selection.names[day["line"]], "zone": selection.zones[day["line"]]}
        for day in sorted(days, key=lambda row: row["line"])
    ]


def page(days: Sequence[Day], now: dt.datetime | None = None) -> str:
    """The whole file."""
    now = now or dt.datetime.now(dt.UTC)
    dates = sorted({f"{day['day']['production_day']}" for day in days})
    title = f"Production day {', '.join(dates)}"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", http_equiv="Content-Security-Policy", content="default-src 'none'; style-src 'unsafe-inline'"),
        tag("title", title if len(days) != 1 else f"{title}: {days[0]['name']}"),
        tag("style", Safe(_STYLE.read_text(encoding="utf-8"))),
    )
    summary = _summary(days) if len(days) > 1 else None
    sections = [_line(day, now) for day in days]
    foot = tag("footer", f"Figures as of {now:%Y-%m-%d %H:%M} UTC, from the views of the schema report. Times are those of the plants.")
    body = tag("body", tag("header", tag("h1", title)), summary, sections, foot)
    return "<!doctype html>\n" + tag("html", head, body, lang="en") + "\n"


def _summary(days: Sequence[Day]) -> Safe:
    head = ("Line", "Good", "Target", "Attainment", "Gap", "Output yield", "Scrap", "Complete")
    rows = [
        (
            tag("a", day["name"], href=f"#{_anchor(day)}"), count(d["good"]), count(d["target"]), percent(d["attainment"]),
            signed(d["gap"]), percent(d["output_yield"]), count(d["scrap"]), percent(d["completeness"]),
        )
        for day in days
        for d in [day["day"]]
    ]  # fmt: skip
    return tag("section", _table(head, rows, name="lines"))


def _line(day: Day, now: dt.datetime) -> Safe:
    d = day["day"]
    return tag(
        "section",
        tag("h2", day["name"]),
        tag("p", f"{d['line']} · {d['product']} · production day {d['production_day']} · {_standing(d)}", class_="muted"),
        _headline(d),
        tag("p", " ".join(_words(day, now)), class_="lead"),
        _part("Hour by hour", _hours(day)),
        _part("Shifts", _shifts(day)),
        _part("First pass yield by station", _stations(day)),
        _part("What was wrong", _defects(day)),
        _part("How complete the figures are", _complete(day)),
        _part("Alerts", _alerts(day)) if day["alert"] else None,
        _part("What changed since the day was closed", _changes(day)) if day["restatement"] else None,
        id=_anchor(day),
        class_="line",
        data_line=d["line"],
    )


def _anchor(day: Day) -> str:
    return str(day["day"]["line"]).replace("/", "-")


def _part(title: str, content: Safe) -> Safe:
    return tag("section", tag("h3", title), content, class_="part")


def _standing(d: Row) -> str:
    if not d["is_over"]:
        return "still running"
    return "closed" if d["is_closed"] else "over, not closed yet: late events may still change it"


def _headline(d: Row) -> Safe:
    target, good = d["target"], d["good"]
    if not target:
        sign, verdict = "○", "no target"
    elif good >= target:
        sign, verdict = "▲", "target reached"
    else:
        sign, verdict = "▼", "behind the target" if not d["is_over"] else "target missed"
    of = f"of {count(target)} ({percent(d['attainment'])})" if target else "nothing was planned"
    good_ = tag(
        "div",
        tag("div", tag("b", count(good), data_figure="good"), " good cells ", tag("span", of, data_figure="target")),
        bar(good, max(good, target or 0), "made"),
        tag("div", f"{sign} {verdict}", f", {signed(d['gap'])}" if target else None, class_="verdict", data_figure="verdict"),
        class_="big",
    )
    rate = "–" if d["run_rate_gwh"] is None else f"{d['run_rate_gwh']:.3f} GWh"
    basis = "a year at this day's output" if d["run_rate_gwh"] is None else f"a year of {d['run_rate_days_per_year']:.1f} such days"
    others = (
        ("Output yield", percent(d["output_yield"]), "good of good and scrap", "output_yield"),
        ("Rolled throughput yield", percent(d["rolled_throughput_yield"]), "passed everywhere at once", "rolled_throughput_yield"),
        ("Scrap", count(d["scrap"]), "reports, as booked", "scrap"),
        ("Energy", f"{d['energy_mwh']:.1f} MWh", "of the good cells", "energy"),
        ("Run rate", rate, basis, "run_rate"),
        ("Complete", percent(d["completeness"]), f"of {count(d['events'])} events and what is missing", "completeness"),
    )
    cards = [
        tag("div", tag("dt", name), tag("dd", tag("b", value, data_figure=key), tag("span", what))) for name, value, what, key in others
    ]
    return tag("div", good_, tag("dl", cards), class_="headline")


def _words(day: Day, now: dt.datetime) -> list[str]:
    """What somebody would say who had read all of it."""
    d, said = day["day"], []
    scheduled = [hour for hour in day["hourly"] if hour["target"] and hour["hour_starts_at"] + dt.timedelta(hours=1) <= now]
    if d["target"] and scheduled:
        so_far = "" if d["is_over"] else " so far"
        short = [hour for hour in scheduled if hour["good"] < hour["target"]]
        worst = min(scheduled, key=lambda hour: hour["good"] / hour["target"])
        said.append(f"{count(len(short))} of {count(len(scheduled))} scheduled hours{so_far} were below their part of the target;")
        said.append(
            f"the weakest began at {clock(worst['hour_starts_at'], day['zone'])}, with {count(worst['good'])} of {whole(worst['target'])}."
        )
    scrap = sum(station["scrap"] for station in day["yield"])
    if scrap:
        most = max(day["yield"], key=lambda station: station["scrap"])
        said.append(f"Most was scrapped at {most['station']}: {count(most['scrap'])}, {percent(most['scrap'] / scrap)} of the day's scrap.")
    if day["pareto"]:
        first = day["pareto"][0]
        said.append(
            f"The most frequent defect was {first['defect_name']} ({first['station']} {first['defect']}), {count(first['count'])} times."
        )
    if not d["events"]:
        said.append("No machine of the line has reported anything on this day.")
    return said


def _hours(day: Day) -> Safe:
    shown = [Column(clock(hour["hour_starts_at"], day["zone"]), hour["good"], hour["target"]) for hour in day["hourly"]]
    legend = tag(
        "p", tag("span", tag("i", class_="made"), "good cells"), tag("span", tag("i", class_="short"), "good cells, below the target"),
        tag("span", tag("i", class_="aim"), "target of the hour"), class_="legend",
    )  # fmt: skip
    rows = [
        (column.name, count(column.value), whole(column.target), count(hour["scrap"]), whole(hour["pace_per_h"]))
        for column, hour in zip(shown, day["hourly"], strict=True)
    ]
    table = _table(("Hour", "Good", "Target", "Scrap", "Good an hour"), rows, name="hours")
    plot = columns(shown, f"Good cells by hour of {day['day']['production_day']}, each against its target")
    return joined((plot, legend, tag("details", tag("summary", "in numbers"), table)))


def _shifts(day: Day) -> Safe:
    zone = day["zone"]
    rows = [
        (
            row["shift"], f"{clock(row['starts_at'], zone)}–{clock(row['ends_at'], zone)}", count(row["good"]), whole(row["target"]),
            percent(row["attainment"]), signed(row["gap"]), count(row["scrap"]), whole(row["pace_per_h"]),
        )
        for row in day["shift"]
    ]  # fmt: skip
    return _table(("Shift", "Time", "Good", "Target", "Attainment", "Gap", "Scrap", "Good an hour"), rows, name="shifts")


def _stations(day: Day) -> Safe:
    if not day["yield"]:
        return tag("p", "No station has reported a cell.")
    missed = [(row["inspected"] - row["first_pass_good"]) / row["inspected"] if row["inspected"] else None for row in day["yield"]]
    most = max((part for part in missed if part is not None), default=0.0)
    rows = [
        (
            row["station"], row["station_name"], percent(row["first_pass_yield"]), bar(part, most, "short"), count(row["inspected"]),
            count(row["rework"]), count(row["scrap"]), figure(row["cycle_p50_s"]),
        )
        for row, part in zip(day["yield"], missed, strict=True)
    ]  # fmt: skip
    head = ("Station", "What it does", "First pass yield", "Missed at first", "Inspected", "Rework", "Scrap", "Cycle, s")
    return _table(head, rows, name="stations")


def _defects(day: Day) -> Safe:
    if not day["pareto"]:
        return tag("p", "No defect was reported.")
    shown, rest = day["pareto"][:_MOST_DEFECTS], day["pareto"][_MOST_DEFECTS:]
    most = shown[0]["count"]
    rows = [
        (
            row["station"], row["defect"], row["defect_name"], bar(row["count"], most), count(row["count"]), percent(row["share"]),
            percent(row["cumulative_share"]),
        )
        for row in shown
    ]  # fmt: skip
    head = ("Station", "Code", "Defect", "", "Count", "Share", "So far")
    table = _table(head, rows, name="defects")
    more = f"{count(len(rest))} more kinds, {count(sum(row['count'] for row in rest))} reports." if rest else None
    return joined((table, tag("p", more, class_="muted") if more else None))


def _complete(day: Day) -> Safe:
    d, lacking = day["day"], day["completeness"]
    again = sum(row["duplicates"] for row in lacking)
    if not any((d["missing"], d["quarantined"], d["late"], d["clock_ahead"], again)):
        return tag("p", f"All of them are here: {count(d['events'])} events, nothing missing, late, in quarantine or sent twice.")
    said = (
        f"{count(d['events'])} events. By the machines' own count {count(d['missing'])} are missing; {count(d['quarantined'])} wait in the"
        f" quarantine, {count(d['late'])} came after the day had ended, {count(again)} came twice and were counted once,"
        f" {count(d['clock_ahead'])} bear a time that had not come yet."
    )
    rows = [
        (
            f"{row['station']}/{row['machine']}", count(row["received"]), count(row["missing"]), count(row["quarantined"]),
            missing(row["missing_ranges"]),
        )
        for row in lacking
        if row["missing"] or row["quarantined"]
    ]  # fmt: skip
    table = _table(("Machine", "Received", "Missing", "Quarantined", "Which are missing"), rows[:_MOST_MACHINES], name="machines")
    more = tag("p", f"{count(len(rows) - _MOST_MACHINES)} more machines.", class_="muted") if len(rows) > _MOST_MACHINES else None
    return joined((tag("p", said), table if rows else None, more))


def _alerts(day: Day) -> Safe:
    rows = [
        (
            row["alert"].replace("_", " "), clock(row["raised_at"], day["zone"], "%m-%d %H:%M"), duration(row["lasted_min"] * 60),
            row["reason"], row["clear_reason"] or "still raised",
        )
        for row in day["alert"][:_MOST_ROWS]
    ]  # fmt: skip
    return _table(("Alert", "Raised", "For", "Because", "Cleared"), rows, name="alerts")


def _changes(day: Day) -> Safe:
    rows = [
        (
            row["version"], clock(row["restated_at"], day["zone"], "%Y-%m-%d %H:%M"),
            f"{count(row['good_before'])} → {count(row['good'])}", f"{count(row['scrap_before'])} → {count(row['scrap'])}",
        )
        for row in day["restatement"][:_MOST_ROWS]
    ]  # fmt: skip
    return _table(("Version", "At", "Good", "Scrap"), rows, name="restatements")


def _table(head: Sequence[str], rows: Sequence[Sequence[object]], name: str | None = None) -> Safe:
    """A table, numbers to the right. It scrolls by itself where it is too wide."""
    sides = ["number" if title in _NUMBERS else "plot-cell" if title in _PLOTS else None for title in head]
    body = (
        tag("tr", (tag("td", cell, class_=side, data_head=title) for title, side, cell in zip(head, sides, row, strict=True)))
        for row in rows
    )
    titles = tag("tr", (tag("th", title, scope="col", class_=side) for title, side in zip(head, sides, strict=True)))
    return tag("div", tag("table", tag("thead", titles), tag("tbody", body), data_table=name), class_="scroll")
