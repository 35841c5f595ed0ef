"""One station of one line over weeks: yield, cycle time, defects, characteristics, machines."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard
from panels import AIM, BAD, GOOD, LINE, MUTED, RATIO, bars, course, listing, page, variable

_HERE = "line = ${line:sqlstring} AND station = ${station:sqlstring}"
_DAYS = "JOIN report.daily_throughput t USING (line, production_day)"


def station_quality() -> dashboard.Dashboard:
    made = page(
        "mes-station", "Station and quality", "A station over the days: yield, cycle time, defects, characteristics.", "now-30d", "1m"
    )
    made = made.with_variable(variable("line", "line", LINE))
    made = made.with_variable(
        variable(
            "station",
            "station",
            """
            SELECT station AS __value, station_name AS __text FROM report.station_yield
            WHERE line = ${line:sqlstring}
                AND production_day = (SELECT max(production_day) FROM report.station_yield WHERE line = ${line:sqlstring})
            ORDER BY station_seq
            """,
        )
    )
    made = made.with_variable(
        variable(
            "characteristic",
            "characteristic",
            f"SELECT DISTINCT characteristic FROM report.daily_characteristic WHERE {_HERE} ORDER BY characteristic",
        )
    )
    made = made.with_panel(
        course(
            "First pass yield",
            "Cells that passed at their first attempt, of those inspected; final yield counts repeated attempts too.",
            f"""
            SELECT t.starts_at AS time, s.first_pass_yield AS "first pass", s.final_yield AS final
            FROM report.station_yield s {_DAYS} WHERE {_HERE} AND $__timeFilter(t.starts_at) ORDER BY t.starts_at
            """,
            RATIO,
            {"first pass": GOOD, "final": AIM},
            ("final",),
        )
    )
    made = made.with_panel(
        course(
            "Cycle time",
            "Median and 95th percentile of each production day; at most 1/32 of the value off.",
            f"""
            SELECT t.starts_at AS time, s.cycle_p50_s AS p50, s.cycle_p95_s AS p95
            FROM report.station_yield s {_DAYS} WHERE {_HERE} AND $__timeFilter(t.starts_at) ORDER BY t.starts_at
            """,
            "s",
            {"p50": MUTED, "p95": BAD},
            whole=True,
        )
    )
    made = made.with_panel(
        course(
            "${characteristic}: mean and limits",
            "Mean of each production day with one standard deviation, between the limits of the seeds.",
            f"""
            SELECT t.starts_at AS time, c.mean, c.mean - c.sd AS "mean - sd", c.mean + c.sd AS "mean + sd", c.nominal,
                c.lsl AS "lower limit", c.usl AS "upper limit"
            FROM report.daily_characteristic c {_DAYS}
            WHERE {_HERE} AND characteristic = ${{characteristic:sqlstring}} AND $__timeFilter(t.starts_at) ORDER BY t.starts_at
            """,
            "short",
            {"mean": GOOD, "mean - sd": MUTED, "mean + sd": MUTED, "nominal": AIM, "lower limit": BAD, "upper limit": BAD},
            ("mean - sd", "mean + sd", "nominal"),
            span=16,
            height=10,
        )
    )
    made = made.with_panel(
        bars(
            "Defects",
            "Found in the time range, most frequent first.",
            f"""
            SELECT p.defect_name AS defect, sum(p.count)::bigint AS count
            FROM report.defect_pareto p {_DAYS} WHERE {_HERE} AND $__timeFilter(t.starts_at)
            GROUP BY p.defect_name ORDER BY count DESC, defect LIMIT 12
            """,
            "defect",
            color=BAD,
            height=10,
        )
    )
    made = made.with_panel(
        course(
            "Rework and scrap",
            "Reports by result over all reports of the station.",
            f"""
            SELECT t.starts_at AS time, s.rework_ratio AS rework, s.scrap_ratio AS scrap
            FROM report.station_yield s {_DAYS} WHERE {_HERE} AND $__timeFilter(t.starts_at) ORDER BY t.starts_at
            """,
            RATIO,
            {"rework": MUTED, "scrap": BAD},
            whole=True,
        )
    )
    made = made.with_panel(
        listing(
            "Characteristics of the newest day",
            "In the units of the seeds.",
            f"""
            SELECT characteristic, unit, n, mean, sd, lowest, highest, nominal, lsl, usl, implausible FROM report.daily_characteristic
            WHERE {_HERE} AND production_day = (SELECT max(production_day) FROM report.daily_characteristic WHERE {_HERE})
            ORDER BY characteristic
            """,
            span=12,
            height=8,
        )
    )
    return made.with_panel(
        listing(
            "Machines",
            "What each machine delivered of the newest day, by its own count of messages.",
            f"""
            SELECT machine, expected, received, missing, quarantined, duplicates, late, clock_ahead, completeness FROM report.completeness
            WHERE {_HERE} AND production_day = (SELECT max(production_day) FROM report.daily_throughput WHERE line = ${{line:sqlstring}})
            ORDER BY machine
            """,
            {"completeness": RATIO},
            height=9,
        )
    )
