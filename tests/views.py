"""The views of a database against the truth."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import psycopg
from psycopg.rows import dict_row

from tests.truth import Row, Truth

KEYS = {
    "daily_throughput": ("line", "production_day"),
    "daily_yield": ("line", "production_day"),
    "station_yield": ("line", "production_day", "station"),
    "cycle_time": ("line", "production_day", "station", "from_s"),
    "hourly_machine": ("line", "production_day", "station", "machine", "hour_of_day"),
    "shift_throughput": ("line", "production_day", "shift_of_day"),
    "hourly_throughput": ("line", "production_day", "hour_of_day"),
    "defect_pareto": ("line", "production_day", "station", "defect"),
    "daily_characteristic": ("line", "production_day", "station", "characteristic"),
    "completeness": ("line", "production_day", "station", "machine"),
    "site_capacity": ("site", "production_day"),
    "line_now": ("line",),
}
OF_THE_MOMENT = {
    "daily_throughput": {"is_over", "is_closed", "version"},
    "shift_throughput": {"pace_per_h", "is_over"},
    "hourly_throughput": {"pace_per_h"},
    "line_now": {"target_so_far", "pace_per_h", "projected", "remaining_per_h", "scheduled_h_left", "silent_s"},
    "unit_history": {"unscrapped_at"},
}
"""Columns that depend on when one asks."""


def check(database: str, truth: Truth, units: Iterable[str] = ()) -> int:
    """Fail on any difference between the views and the truth, naming some; returns how many values are equal."""
    with psycopg.connect(database, row_factory=dict_row) as connection:

        def ask(query: str, *values: Any) -> list[Row]:
            return connection.execute(query.encode(), values).fetchall()

        found = {name: ask(f"SELECT * FROM report.{name}") for name in KEYS}
        lives = {unit: ask("SELECT * FROM report.unit_history(%s)", unit) for unit in units}
        cohorts = {(line, day): ask("SELECT * FROM report.cohort_yield(%s, %s, %s)", line, day, day) for line, day in truth.by_day}
    equal = 0
    for name, key in KEYS.items():
        count: Callable[[], list[Row]] = getattr(truth, name)
        equal += _compare(name, _keyed(found[name], key), _keyed(count(), key))
    for unit, life in lives.items():
        key = ("at", "station", "attempt", "boot", "seq")
        assert [(v["at"], v["station"], v["attempt"]) for v in life] == [
            (v["at"], v["station"], v["attempt"]) for v in truth.unit_history(unit)
        ], f"unit_history {unit}"
        equal += _compare("unit_history", _keyed(life, key), _keyed(truth.unit_history(unit), key))
    for where, cohort in cohorts.items():
        counted = truth.cohort_yield(*where)
        equal += _compare("cohort_yield", _keyed(cohort, KEYS["daily_yield"]), _keyed([counted] if counted else [], KEYS["daily_yield"]))
    return equal


def _keyed(rows: Iterable[Row], key: Sequence[str]) -> dict[tuple[Any, ...], Row]:
    rows = list(rows)
    found = {tuple(row[column] for column in key): row for row in rows}
    assert len(found) == len(rows), f"rows that share {key}"
    return found


def _compare(name: str, found: Mapping[Any, Row], counted: Mapping[Any, Row]) -> int:
    assert not (few := counted.keys() - found.keys()), f"{name}: {len(few)} rows are missing: {sorted(few)[:3]}"
    assert not (many := found.keys() - counted.keys()), f"{name}: {len(many)} rows too many: {sorted(many)[:3]}"
    wrong, equal = [], 0
    for key, row in counted.items():
        assert row.keys() == found[key].keys() - OF_THE_MOMENT.get(name, set()), f"{name}: columns nobody counts, or that are not there"
        different = [
            f"{key} {column}: is {found[key][column]!r}, counted {value!r}" for column, value in row.items() if value != found[key][column]
        ]
        wrong += different
        equal += len(row) - len(different)
    assert not wrong, f"report.{name}: {len(wrong)} values differ:\n" + "\n".join(wrong[:12])
    return equal
