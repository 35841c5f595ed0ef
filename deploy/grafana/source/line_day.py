"""One production day of one line: hour by hour, station by station."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard
from panels import AIM, BAD, GOOD, LINE, MUTED, RATIO, bars, course, figures, hours, listing, page, variable

_DAY = "line = ${line:sqlstring} AND production_day = ${day:sqlstring}::date"


def line_day() -> dashboard.Dashboard:
    made = page("mes-line", "Line day", "A production day of a line: hours, shifts, stations, defects.", "now-24h", "30s")
    made = made.with_variable(variable("line", "line", LINE)).with_variable(
        variable(
            "day",
            "production day",
            """
            SELECT production_day::text FROM report.daily_throughput WHERE line = ${line:sqlstring} AND starts_at <= now()
            ORDER BY production_day DESC LIMIT 400
            """,
        )
    )
    made = made.with_panel(
        figures(
            "The day",
            "Good cells at the count point against the target in force; yields of the day.",
            f"""
            SELECT t.good, t.target, t.attainment, t.scrap_restated AS scrap, y.output_yield AS "output yield",
                y.rolled_throughput_yield AS "rolled throughput yield", t.completeness
            FROM report.daily_throughput t JOIN report.daily_yield y USING (line, production_day) WHERE {_DAY}
            """,
            {
                "good": "short",
                "target": "short",
                "attainment": RATIO,
                "scrap": "short",
                "output yield": RATIO,
                "rolled throughput yield": RATIO,
                "completeness": RATIO,
            },
            height=5,
        )
    )
    made = made.with_panel(
        listing(
            "By the hour",
            "Good cells of each elapsed hour of the production day against the target in proportion to its scheduled time.",
            f"""
            SELECT hour_starts_at AS "hour", good, target, scrap, good - target AS gap, pace_per_h AS "pace, cells/h"
            FROM report.hourly_throughput WHERE {_DAY} ORDER BY hour_starts_at
            """,
            {"target": "short", "gap": "short", "pace, cells/h": "short"},
            span=8,
            height=9,
        )
    )
    made = made.with_panel(
        bars(
            "Good cells by the hour of the day",
            "Hour 0 is the first of the production day.",
            f"SELECT hour_of_day::text AS hour, good, target FROM report.hourly_throughput WHERE {_DAY} ORDER BY hour_of_day",
            "hour",
            color=GOOD,
            span=8,
        )
    )
    made = made.with_panel(
        bars(
            "Defects",
            "What was found, most frequent first.",
            f"""
            SELECT station || ' ' || defect_name AS defect, count FROM report.defect_pareto WHERE {_DAY} ORDER BY rank, defect LIMIT 12
            """,
            "defect",
            color=BAD,
            span=8,
        )
    )
    made = made.with_panel(
        hours(
            "Good cells by the hour, over the time range",
            "Hours of all days in the time range of the dashboard.",
            """
            SELECT hour_starts_at AS time, good, scrap, target FROM report.hourly_throughput
            WHERE line = ${line:sqlstring} AND $__timeFilter(hour_starts_at) ORDER BY hour_starts_at
            """,
        )
    )
    made = made.with_panel(
        course(
            "Pace",
            "Good cells for each scheduled hour that has passed, beside what the target asks for.",
            """
            SELECT hour_starts_at AS time, pace_per_h AS pace, target AS asked FROM report.hourly_throughput
            WHERE line = ${line:sqlstring} AND $__timeFilter(hour_starts_at) ORDER BY hour_starts_at
            """,
            "short",
            {"pace": MUTED, "asked": AIM},
            ("asked",),
            span=8,
            height=9,
            whole=True,
        )
    )
    made = made.with_panel(
        listing(
            "Route now",
            "Each station of the running day in route order: its rate over the last hour or day, what waits before it, the bottleneck.",
            """
            SELECT station, station_name AS name, state, CASE WHEN is_bottleneck THEN 'bottleneck' END AS mark,
                rate_per_h AS "rate, cells/h", utilisation, wip_before AS waiting, first_pass_yield,
                machines, nominal_per_h AS "can, cells/h", as_of AS "as of"
            FROM report.station_now WHERE line = ${line:sqlstring} ORDER BY station_seq
            """,
            {"utilisation": RATIO, "first_pass_yield": RATIO, "rate, cells/h": "short", "can, cells/h": "short"},
            {"station": "/d/mes-station?var-line=${line}&var-station=${__value.raw}"},
            height=12,
        )
    )
    made = made.with_panel(
        listing(
            "Shifts",
            "A night shift belongs to the day on which it began.",
            f"""
            SELECT shift, starts_at AS "from", ends_at AS "to", good, target, attainment, gap, scrap, pace_per_h AS "pace, cells/h"
            FROM report.shift_throughput WHERE {_DAY} ORDER BY shift_of_day
            """,
            {"attainment": RATIO, "target": "short", "gap": "short", "pace, cells/h": "short"},
            height=5,
        )
    )
    made = made.with_panel(
        listing(
            "Stations",
            "Yields and cycle times in route order.",
            f"""
            SELECT station, station_name AS name, section, inspected, first_pass_yield, final_yield, good, rework, scrap, fall_off_ratio,
                cycle_p50_s AS "cycle p50", cycle_p95_s AS "cycle p95"
            FROM report.station_yield WHERE {_DAY} ORDER BY station_seq
            """,
            {"first_pass_yield": RATIO, "final_yield": RATIO, "fall_off_ratio": RATIO, "cycle p50": "s", "cycle p95": "s"},
            {"station": "/d/mes-station?var-line=${line}&var-station=${__value.raw}"},
            height=12,
        )
    )
    made = made.with_panel(
        listing(
            "Machines that did not deliver all",
            "By their own count of messages.",
            f"""
            SELECT station, machine, expected, received, missing, quarantined, duplicates, late, completeness
            FROM report.completeness WHERE {_DAY}
            ORDER BY completeness NULLS LAST, missing DESC, station, machine LIMIT 20
            """,
            {"completeness": RATIO},
            span=16,
            height=8,
        )
    )
    return made.with_panel(
        listing(
            "Restated",
            "Changes of this line's days after they were closed; empty is good.",
            """
            SELECT production_day, version, restated_at, good_before, good, scrap_before, scrap FROM report.restatements
            WHERE line = ${line:sqlstring} ORDER BY restated_at DESC LIMIT 20
            """,
            span=8,
            height=8,
        )
    )
