"""Reading the schema `report` as anyone may: rows as dictionaries."""

from __future__ import annotations

import datetime as dt
from typing import Any

from psycopg.rows import dict_row

from mes.store.connection import Connection, queries, translated

MOST_DEFECTS = 5
"""As many of a line's defects stand on the board."""


def daily(connection: Connection, line: str | None = None, day: dt.date | None = None, most: int = 20) -> list[dict[str, Any]]:
    """Throughput and yield of production days, newest first, of one line or all."""
    return _rows(connection, "daily_report", {"line": line, "day": day, "most": most})


def unit(connection: Connection, serial: str) -> list[dict[str, Any]]:
    """The visits of one cell in order of time."""
    with translated(), connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(queries()["unit_history"], [serial]).fetchall()


def lines(connection: Connection) -> list[str]:
    """Paths of the lines that are seeded."""
    return [row["path"] for row in _rows(connection, "line_paths", {})]


def zones(connection: Connection) -> list[dict[str, Any]]:
    """`line` and `zone` of every line that there is or was."""
    return _rows(connection, "zones", {})


def newest_days(connection: Connection) -> list[dict[str, Any]]:
    """Each active line with the newest production day that has begun; figures are NULL for a line without any."""
    return _rows(connection, "newest_days", {})


def board(connection: Connection, line: str | None = None, day: dt.date | None = None) -> list[dict[str, Any]]:
    """What the board shows of each active line, or of one, as of one moment: a production day, the newest unless one is given,
    with `hours`, `stations` and the most frequent `defects`. All figures are NULL for a line without such a day."""
    return _rows(connection, "board", {"line": line, "day": day, "defects": MOST_DEFECTS})


def board_days(connection: Connection, days: int) -> list[dict[str, Any]]:
    """Production days of each active line that have begun within so many days, oldest first."""
    return _rows(connection, "board_days", {"days": days})


def board_station(connection: Connection, line: str, station: str, day: dt.date | None = None) -> list[dict[str, Any]]:
    """A station in a production day, the newest unless one is given, with `machines`, `hours` (machine, hour of day, events),
    `defects`, `cycle_times` (from, below, count) and `characteristics`: one row, or none where nobody knows the station."""
    return _rows(connection, "board_station", {"line": line, "station": station, "day": day})


def listen(connection: Connection) -> bool:
    """Ask to be told when figures change (see `changed`); False on a standby, which tells nobody anything."""
    with translated():
        row = connection.execute("SELECT pg_is_in_recovery()").fetchone()
        if row and row[0]:
            return False
        connection.execute("LISTEN mes_figures")
        return True


def changed(connection: Connection, within: float) -> set[str]:
    """Paths of the lines whose figures have changed since the last call; waits for the first for so many seconds."""
    with translated():
        return {notice.payload for notice in connection.notifies(timeout=within, stop_after=1)}


def _rows(connection: Connection, name: str, values: dict[str, Any]) -> list[dict[str, Any]]:
    with translated(), connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(queries()[name], values).fetchall()
