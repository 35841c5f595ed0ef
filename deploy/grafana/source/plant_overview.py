"""All lines: where they stand today, and how the last weeks went."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard
from panels import AIM, RATIO, bars, course, figures, listing, page


def plant_overview() -> dashboard.Dashboard:
    made = page("mes-plant", "Plant overview", "Every line against its target, today and over the last weeks.", "now-30d", "30s")
    made = made.with_panel(
        listing(
            "Now",
            "Good cells of the running production day, the pace, and the end of the day at that pace.",
            """
            SELECT n.line, l.name, n.production_day, n.good, n.target, n.good / nullif(n.target, 0)::float8 AS attainment,
                n.pace_per_h AS "pace, cells/h", n.remaining_per_h AS "needed, cells/h", n.projected, n.wip, n.completeness,
                n.last_event_at AS "last event", n.silent_s AS "silent for"
            FROM report.line_now n JOIN report.line l USING (line) ORDER BY n.line
            """,
            {
                "attainment": RATIO,
                "completeness": RATIO,
                "silent for": "s",
                "projected": "short",
                "pace, cells/h": "short",
                "needed, cells/h": "short",
            },
            {"line": "/d/mes-line?var-line=${__value.raw}"},
            height=6,
        )
    )
    made = made.with_panel(
        course(
            "Attainment",
            "Good cells over target of each production day that is over.",
            """
            SELECT starts_at AS time, line, attainment FROM report.daily_throughput
            WHERE is_over AND $__timeFilter(starts_at) ORDER BY starts_at, line
            """,
            RATIO,
        )
    )
    made = made.with_panel(
        course(
            "Output yield",
            "good / (good + scrap) of each production day.",
            """
            SELECT t.starts_at AS time, t.line, y.output_yield
            FROM report.daily_throughput t JOIN report.daily_yield y USING (line, production_day)
            WHERE $__timeFilter(t.starts_at) ORDER BY t.starts_at, t.line
            """,
            RATIO,
        )
    )
    made = made.with_panel(
        course(
            "Good cells",
            "By production day and line.",
            """
            SELECT starts_at AS time, line, good FROM report.daily_throughput
            WHERE $__timeFilter(starts_at) ORDER BY starts_at, line
            """,
            whole=True,
        )
    )
    made = made.with_panel(
        course(
            "Run rate against capacity",
            "A year at the rate of each production day, on the calendar basis of its target, beside the capacity programme.",
            """
            SELECT d.starts_at AS time, c.site, c.run_rate_gwh AS "run rate", c.planned_gwh AS planned
            FROM report.site_capacity c
            JOIN (SELECT l.site, t.production_day, min(t.starts_at) AS starts_at
                  FROM report.daily_throughput t JOIN report.line l USING (line) GROUP BY 1, 2) d USING (site, production_day)
            WHERE $__timeFilter(d.starts_at) ORDER BY d.starts_at, c.site
            """,
            "GWh",
            whole=True,
        )
    )
    made = made.with_panel(
        figures(
            "Last 30 days",
            "Sums of all lines; ratios are divided after adding.",
            """
            SELECT sum(good) AS good, sum(target) AS target, sum(good) / nullif(sum(target), 0)::float8 AS attainment,
                sum(good) / nullif(sum(good) + sum(scrap_restated), 0)::float8 AS "output yield", sum(energy_mwh) AS "energy, MWh"
            FROM report.daily_throughput WHERE is_over AND $__timeFilter(starts_at)
            """,
            {"good": "short", "target": "short", "attainment": RATIO, "output yield": RATIO, "energy, MWh": "short"},
            span=16,
            height=6,
        )
    )
    made = made.with_panel(
        bars(
            "Incomplete",
            "Events that are known to be missing or wait to be understood, by line.",
            """
            SELECT line, sum(missing) AS missing, sum(quarantined) AS quarantined FROM report.daily_throughput
            WHERE $__timeFilter(starts_at) GROUP BY line ORDER BY line
            """,
            "line",
            color=AIM,
            height=6,
        )
    )
    return made.with_panel(
        listing(
            "Days",
            "Each production day of each line, newest first.",
            """
            SELECT t.production_day, t.line, t.good, t.target, t.attainment, t.gap, t.scrap, y.output_yield, y.rolled_throughput_yield,
                t.run_rate_gwh AS "run rate, GWh/a", t.run_rate_days_per_year AS "days/a", t.completeness, t.is_closed AS closed, t.version
            FROM report.daily_throughput t JOIN report.daily_yield y USING (line, production_day)
            WHERE $__timeFilter(t.starts_at) ORDER BY t.production_day DESC, t.line
            """,
            {"attainment": RATIO, "output_yield": RATIO, "rolled_throughput_yield": RATIO, "completeness": RATIO},
            {"production_day": "/d/mes-line?var-line=${__data.fields.line}&var-day=${__value.raw}"},
            height=10,
        )
    )
