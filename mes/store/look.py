"""A connection for looking: it reads, gives up on a statement that takes long, and cannot write even by mistake."""

from __future__ import annotations

import os
import time
from typing import Any, Final

from psycopg.conninfo import conninfo_to_dict

from mes.store.connection import connect, queries, translated
from mes.store.migrate import standing

STATEMENT_S: Final = 10


def address(url: str) -> tuple[str, int]:
    """Host (or folder of the socket) and port that a URL leads to, the first of several; Refused where it cannot be read."""
    with translated(url):
        parts = conninfo_to_dict(url)
    host = str(parts.get("hostaddr") or parts.get("host") or os.environ.get("PGHOST") or "")
    port = str(parts.get("port") or os.environ.get("PGPORT") or "5432")
    return host.split(",")[0], int(port.split(",")[0] or 5432)


class Look:
    """What `mes doctor` sees of a database. Statements are those of sql/doctor.sql, by name. For one thread."""

    def __init__(self, url: str, is_embedded: bool = False) -> None:
        """Connect; Unavailable or Refused where that cannot be had. `answered_s` is what one question took."""
        self.is_embedded = is_embedded
        self.connection = connect(url, application="mes doctor")
        with translated(url):
            self.connection.execute(f"SET default_transaction_read_only = on; SET statement_timeout = '{STATEMENT_S}s'")
            began = time.perf_counter()
            self.connection.execute("SELECT 1")
            self.answered_s = time.perf_counter() - began

    def close(self) -> None:
        self.connection.close()

    @property
    def server_version(self) -> int:
        """150018 is 15.18."""
        return self.connection.info.server_version

    @property
    def at(self) -> tuple[str, int]:
        """Host (or folder of the socket) and port of the server."""
        return self.connection.info.host, self.connection.info.port

    def rows(self, name: str, *values: Any, **named: Any) -> list[tuple[Any, ...]]:
        with translated():
            return self.connection.execute(queries()[name], named or values or None).fetchall()

    def row(self, name: str, *values: Any, **named: Any) -> tuple[Any, ...]:
        """The one row of a statement that always has one."""
        [row] = self.rows(name, *values, **named)
        return row

    def has(self, table: str) -> bool:
        """Whether a table is there."""
        return bool(self.row("doctor_has", table)[0])

    def schema(self) -> tuple[int, int, list[str]]:
        """See `mes.store.migrate.standing`."""
        return standing(self.connection)
