"""Connections, named queries, and the one place where driver errors become ours."""

from __future__ import annotations

import contextlib
import functools
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, LiteralString, cast

import psycopg
from psycopg import errors as pg
from psycopg.conninfo import conninfo_to_dict

from mes import settings
from mes.errors import MesError, Refused, Unavailable
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
    """Open a connection in UTC; Unavailable if the server does not answer, Refused if it says no.

    A URL without a password takes the one of MES_DATABASE_PASSWORD_FILE, which is ConfigError if it cannot be read.
    """
    with translated(url):
        own = conninfo_to_dict(url).get("password")
        return psycopg.connect(
            url,
            password=own or settings.database_password(),
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
    text = " ".join(str(why).split()) or type(why).__name__
    where = f"database {without_password(url)}: " if url else "database: "
    if why.sqlstate is not None:
        passes = why.sqlstate.startswith(_PASSES)
    else:
        passes = isinstance(why, psycopg.OperationalError | psycopg.InterfaceError) and _FINAL_TEXT.search(text) is None
    if passes:
        return Unavailable(f"{where}{text}")
    at_the_door = why.sqlstate is None or why.sqlstate.startswith(("28", "3D"))
    door = "check MES_DATABASE_URL" + (" and MES_DATABASE_PASSWORD_FILE" if os.environ.get("MES_DATABASE_PASSWORD_FILE") else "")
    hint = door if at_the_door else next((hint for kind, hint in _HINTS.items() if isinstance(why, kind)), "")
    return Refused(f"{where}{text}; {hint}" if hint else f"{where}{text}")


@functools.cache
def queries() -> dict[str, LiteralString]:
    """The named statements of sql/queries.sql: `-- name: what_it_does` above each."""
    parts = re.split(r"^-- name: (\w+)\s*$", (SQL / "queries.sql").read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {name: cast(LiteralString, body.strip()) for name, body in zip(parts[1::2], parts[2::2], strict=True)}
