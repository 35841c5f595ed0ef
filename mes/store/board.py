"""What the board asks of the schema `report`, and how it is told that something has changed."""

from __future__ import annotations

import datetime as dt
from typing import Any

from mes.store.connection import Connection, translated
from mes.store.report import rows

MOST_DEFECTS = 5
"""As many of a line's defects stand on the board."""


def zones(connection: Connection) -> list[dict[str, Any]]:
    """`line` and `zone` of every line that there is or was."""
    return rows(connection, "zones", {})


def lines(connection: Connection, line: str | None = None, day: dt.date | None = None) -> list[dict[str, Any]]:
    """What the board shows of each active line, or of one, as of one moment: a production day, the newest unless one is given,
    with `hours`, `stations`, their `yields` and the most frequent `defects`. All figures are NULL for a line without such a day."""
    return rows(connection, "board", {"line": line, "day": day, "defects": MOST_DEFECTS})


def days(connection: Connection, days: int) -> list[dict[str, Any]]:
    """Production days of each active line that have begun within so many days, oldest first."""
    return rows(connection, "board_days", {"days": days})


def station(connection: Connection, line: str, station: str, day: dt.date | None = None) -> list[dict[str, Any]]:
    """A station in a production day, the newest unless one is given, with `machines`, `states` by machine, `hours` (machine, hour of
    day, events), `defects`, `cycle_times` (from, below, count), `characteristics` and cells that `missed`: one row, or none where
    nobody knows the station."""
    return rows(connection, "board_station", {"line": line, "station": station, "day": day})


def listen(connection: Connection) -> bool:
    """Ask to be told when figures change (see `changed`); False on a standby, which tells nobody anything."""
    with translated(connection):
        row = connection.execute("SELECT pg_is_in_recovery()").fetchone()
        if row and row[0]:
            return False
        connection.execute("LISTEN mes_figures")
        return True


def changed(connection: Connection, within: float) -> set[str]:
    """Paths of the lines whose figures have changed since the last call; waits for the first for so many seconds."""
    with translated(connection):
        return {notice.payload for notice in connection.notifies(timeout=within, stop_after=1)}
