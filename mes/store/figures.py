"""What rollup tells of the lines, read from the views; the states of their alerts, read and changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from psycopg.rows import dict_row

from mes.store.connection import Connection, queries, translated

Row = Mapping[str, Any]

_LEAD = 0x6D657366  # "mesf": the advisory lock of who publishes figures


class Figures:
    """The figures of all lines, on a connection of rollup's. For one thread."""

    def __init__(self, url: str, connection: Connection) -> None:
        self._url = url
        self._connection = connection
        self._leads = False

    def read(self) -> list[dict[str, Any]]:
        """A row for each alert of each active line (see the query), all as of one moment."""
        with translated(self._url), self._connection.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(queries()["figures"]).fetchall()

    def change(self, changed: Iterable[tuple[Row, Row]]) -> None:
        """Write new states of alerts (state, since, pending_since, reason, said_at), each with the row of `read` that it was judged
        by: what another rollup has changed since then stays."""
        with translated(self._url):
            for row, state in changed:
                was = {f"was_{name}": row[name] for name in ("state", "since", "pending_since", "said_at")}
                self._connection.execute(queries()["change_alert"], {"line_id": row["line_id"], "alert": row["alert"], **was, **state})

    def lead(self) -> bool:
        """Whether this is the one rollup that publishes: whoever asks first, until its connection ends."""
        if not self._leads:
            with translated(self._url):
                row = self._connection.execute(queries()["lead"], [_LEAD]).fetchone()
            self._leads = bool(row and row[0])
        return self._leads
