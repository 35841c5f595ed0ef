"""Reading the schema `report` as anyone may: rows as dictionaries."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any, Literal

from psycopg.rows import dict_row

from mes.errors import ConfigError
from mes.store.connection import Connection, queries, translated

Name = Literal[
    "daily_report", "shift_report", "yield_report", "pareto_report", "completeness_report", "hourly_report",
    "restatement_report", "alert_report",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Selection:
    """Of each line a stretch of production days, both ends included."""

    lines: list[str]
    firsts: list[dt.date]
    lasts: list[dt.date]
    zones: dict[str, str]
    names: dict[str, str]

    def __bool__(self) -> bool:
        return bool(self.lines)


def select(
    connection: Connection, line: str | None, first: dt.date | None, last: dt.date | None, default: Literal["all", "newest", "over"]
) -> Selection:
    """The days from `first` to `last` of a line (path, or code or site where only one has it), or of all.

    Without either end it is, by `default`, all days, the newest that has begun, or the newest that is over. Nothing is selected where no
    day has figures yet. ConfigError where line or days are unknown.
    """
    known = rows(connection, "reported_days", {})
    if line is None:
        wanted = [row for row in known if row["is_active"] or row["first"]]
    else:
        wanted = [row for row in known if row["line"] == line] or [row for row in known if line in row["line"].split("/")]
        if len(wanted) != 1:
            what = "not the name of one line only" if wanted else "unknown"
            raise ConfigError(f"line {line!r} is {what}: use one of {', '.join(row['line'] for row in known)}")
    if first and last and first > last:
        raise ConfigError(f"the stretch from {first} to {last} ends before it begins: exchange them")
    reported = [row for row in wanted if row["first"]]
    found = []
    for row in reported:
        newest = {"all": row["first"], "newest": row["last"], "over": row["over"]}[default]
        begin = first or (row["first"] if last else newest)
        end = last or (row["last"] if first or default != "over" else row["over"])
        if begin and end and begin <= row["last"] and end >= row["first"]:
            found.append((row["line"], begin, end))
    if reported and not found:
        days = f"{first or '...'} to {last or '...'}" if first != last else f"{first}"
        reach = f"from {min(row['first'] for row in reported)} to {max(row['last'] for row in reported)}"
        of = f" of line {wanted[0]['line']}" if line else ""
        if first or last:
            raise ConfigError(f"production day {days} has no figures: there are those {reach}{of}")
    lines, firsts, lasts = (list(column) for column in zip(*found, strict=True)) if found else ([], [], [])
    return Selection(lines, firsts, lasts, {row["line"]: row["zone"] for row in known}, {row["line"]: row["name"] for row in known})


def read(connection: Connection, name: Name, selection: Selection, most: int, **values: Any) -> list[dict[str, Any]]:
    """At most so many rows of a report: of the view or views that its query names, all columns. `values` are those of the query."""
    of = {"lines": selection.lines, "firsts": selection.firsts, "lasts": selection.lasts, "most": most}
    return rows(connection, name, {**of, **values})


def check_station(connection: Connection, selection: Selection, station: str | None) -> None:
    """ConfigError where no line of the selection has that station."""
    if station is None:
        return
    known = [row["code"] for row in rows(connection, "stations_of_lines", {"lines": selection.lines})]
    if station not in known:
        raise ConfigError(f"station {station!r} is unknown: use one of {', '.join(dict.fromkeys(known))}")


def unit(connection: Connection, serial: str) -> list[dict[str, Any]]:
    """The visits of one cell in order of time."""
    with translated(connection), connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(queries()["unit_history"], [serial]).fetchall()


def lines(connection: Connection) -> list[str]:
    """Paths of the lines that are seeded."""
    return [row["line"] for row in rows(connection, "line_paths", {})]


def newest_days(connection: Connection) -> list[dict[str, Any]]:
    """Each active line with the newest production day that has begun; figures are NULL for a line without any."""
    return rows(connection, "newest_days", {})


def rows(connection: Connection, name: str, values: dict[str, Any]) -> list[dict[str, Any]]:
    """What a named query finds."""
    with translated(connection), connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(queries()[name], values).fetchall()
