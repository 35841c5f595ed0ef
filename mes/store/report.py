"""Reading the schema `report` as anyone may: rows as dictionaries."""

from __future__ import annotations

import datetime as dt
from typing import Any

from psycopg.rows import dict_row

from mes.store.connection import Connection, queries, translated


def daily(connection: Connection, line: str | None = None, day: dt.date | None = None, most: int = 20) -> list[dict[str, Any]]:
    """Throughput and yield of production days, newest first, of one line or all."""
    return _rows(connection, "daily_report", {"line": line, "day": day, "most": most})


def unit(connection: Connection, serial: str) -> list[dict[str, Any]]:
    """The visits of one cell in order of time."""
    with translated(connection), connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(queries()["unit_history"], [serial]).fetchall()


def lines(connection: Connection) -> list[str]:
    """Paths of the lines that are seeded."""
    return [row["line"] for row in _rows(connection, "line_paths", {})]


def board(connection: Connection) -> list[dict[str, Any]]:
    """What the board shows, as of one moment: a row for each active line and each of its two newest production days.

    `nth` is 1 for the newer day, which alone has `hours`, and NULL, like all figures, for a line without events.
    """
    return _rows(connection, "board", {})


def _rows(connection: Connection, name: str, values: dict[str, Any]) -> list[dict[str, Any]]:
    with translated(connection), connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(queries()[name], values).fetchall()
