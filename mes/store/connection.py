"""Connections, named queries, and the one place where driver errors become ours."""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, LiteralString, cast

import psycopg
from psycopg import errors as pg

from mes.errors import MesError, Refused, Unavailable
from mes.logs import said
from mes.settings import without_password

SQL = Path(__file__).resolve().parent.parent / "sql"

Connection = psycopg.Connection[tuple[Any, ...]]
Cursor = psycopg.Cursor[tuple[Any, ...]]

# What passes by itself or when someone makes room, by SQLSTATE or its class: the server goes, starts or is full, two
# transactions were in each other's way, a standby has not taken over yet. All else is Refused.
_PASSES = ("08", "25006", "25P03", "40", "53", "55006", "55P03", "57014", "57P01", "57P02", "57P03", "57P05", "58")
# A connection that was not made has no SQLSTATE, only the words of libpq or of the server.
_FINAL_TEXT = re.compile(
    r"password authentication failed|no password supplied|no pg_hba.conf entry|does not exist"
    r"|could not translate host name|failed to resolve host|certificate verify failed|server does not support SSL"
)
_HINTS = {
    pg.UndefinedTable: "run `mes migrate`",
    pg.UndefinedColumn: "run `mes migrate`",
    pg.UndefinedFunction: "run `mes migrate`",
    pg.InvalidSchemaName: "run `mes migrate`",
    pg.InsufficientPrivilege: "grant the role what it needs",
}


# The server, too, gives up a client that has vanished within eight seconds, and with it the client's lease: by
# keepalives where it waits for the client, by the user timeout where the client has not taken its last answer.
_OPTIONS = (
    "-c timezone=UTC -c datestyle=ISO"
    " -c tcp_keepalives_idle=4 -c tcp_keepalives_interval=2 -c tcp_keepalives_count=2 -c tcp_user_timeout=8000"
)


def connect(url: str, *, autocommit: bool = True, application: str = "mes") -> Connection:
    """Open a connection in UTC; Unavailable if the server does not answer, Refused if it says no."""
    with translated(url):
        return psycopg.connect(
            url,
            autocommit=autocommit,
            application_name=application,
            connect_timeout=10,
            options=_OPTIONS,
            tcp_user_timeout=15_000,  # a link that is cut without a word is an error after 15 s
            keepalives_idle=10,
            keepalives_interval=5,
            keepalives_count=3,
        )


@contextlib.contextmanager
def translated(url: str = "") -> Iterator[None]:
    """Turn driver errors into Unavailable (waiting can help) or Refused (it cannot), with the cause chained."""
    try:
        yield
    except psycopg.Error as why:
        raise _translate(why, url) from why


def _translate(why: psycopg.Error, url: str) -> MesError:
    text = said(why)
    where = f"database {without_password(url)}: " if url else "database: "
    if why.sqlstate is None and isinstance(why, psycopg.ProgrammingError):  # libpq quotes the part of the URL that it cannot read
        return Refused(f"{where}the URL cannot be read: check MES_DATABASE_URL, and write what is special in a password as %XX")
    if why.sqlstate is not None:
        passes = why.sqlstate.startswith(_PASSES)
    else:
        passes = isinstance(why, psycopg.OperationalError | psycopg.InterfaceError) and _FINAL_TEXT.search(text) is None
    if passes:
        return Unavailable(f"{where}{text}")
    at_the_door = why.sqlstate is None or why.sqlstate.startswith(("28", "3D"))
    hint = "check MES_DATABASE_URL" if at_the_door else next((hint for kind, hint in _HINTS.items() if isinstance(why, kind)), "")
    return Refused(f"{where}{text}; {hint}" if hint else f"{where}{text}")


@functools.cache
def queries() -> dict[str, LiteralString]:
    """The named statements of sql/queries.sql and sql/doctor.sql: `-- name: what_it_does` above each."""
    text = "\n".join((SQL / name).read_text(encoding="utf-8") for name in ("queries.sql", "doctor.sql"))
    parts = re.split(r"^-- name: (\w+)\s*$", text, flags=re.MULTILINE)
    return {name: cast(LiteralString, body.strip()) for name, body in zip(parts[1::2], parts[2::2], strict=True)}
