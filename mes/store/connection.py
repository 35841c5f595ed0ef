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
from mes.logs import said
from mes.settings import without_password

SQL = Path(__file__).resolve().parent.parent / "sql"

Connection = psycopg.Connection[tuple[Any, ...]]
Cursor = psycopg.Cursor[tuple[Any, ...]]

OLDEST = 15
"""The oldest PostgreSQL that will do."""

# What passes by itself or when someone makes room, by SQLSTATE or its class: the server goes, starts or is full, two
# transactions were in each other's way, a standby has not taken over yet. All else is Refused.
_PASSES = ("08", "25006", "25P03", "40", "53", "55006", "55P03", "57014", "57P01", "57P02", "57P03", "57P05", "58")
_URL = "check MES_DATABASE_URL"
_READ_ONLY = "it is a standby, or kept from filling up: wait, or name the primary in MES_DATABASE_URL"
_ROOM = "make room on the database's disk"
_SLOTS = "end what is connected and not needed, or raise max_connections"
_HINTS: dict[type[psycopg.Error], str] = {
    pg.UndefinedTable: "run `mes migrate`",
    pg.UndefinedColumn: "run `mes migrate`",
    pg.UndefinedFunction: "run `mes migrate`",
    pg.InvalidSchemaName: "run `mes migrate`",
    pg.InsufficientPrivilege: "use a role that may (deploy/database/README.md), or renew the grants: `mes migrate` as mes_owner",
    pg.ReadOnlySqlTransaction: _READ_ONLY,
    pg.DiskFull: _ROOM,
    pg.TooManyConnections: _SLOTS,
}
# A connection that was not made has no SQLSTATE, only the words of libpq or of the server. These stay until someone corrects them.
_FINAL_TEXT = {
    r"certificate verify failed": "it has expired, or no CA in sslrootcert has signed it: renew it, or correct MES_DATABASE_URL",
    r"server certificate for .* does not match host name": "name the server in MES_DATABASE_URL as its certificate does",
    r"alert .*(certificate|ca\b)|valid client certificate": "give one that the server knows: sslcert and sslkey in MES_DATABASE_URL",
    r"password authentication failed|no password supplied|pg_hba\.conf|does not exist|not permitted to log in"
    r"|permission denied for database|server does not support SSL|invalid .*(value|option|port|URI)"
    r"|could not (read|load|open|get) .*(certificate|key|home)|private key file|certificate present"
    r"|channel binding|require_auth|authentication method": _URL,
}
_PASSING_TEXT = {
    r"could not translate host name|failed to resolve host": "start it, if its name comes with it, or check MES_DATABASE_URL",
    r"timeout expired|timed out|No route to host|unreachable": "check that host and port in MES_DATABASE_URL can be reached from here",
    r"too many clients|too many connections|connection slots": _SLOTS,
    r"read-only|hot standby": _READ_ONLY,
    r"No space left": _ROOM,
}
# Debian's and other Apache packages of TimescaleDB start with timescaledb.license = 'timescale', and then fail in every session.
_NO_COMMUNITY = re.compile(r"could not access file .*timescaledb-tsl")


# The server, too, gives up a client that has vanished within eight seconds, and with it the client's lease: by
# keepalives where it waits for the client, by the user timeout where the client has not taken its last answer.
_OPTIONS = (
    "-c timezone=UTC -c datestyle=ISO"
    " -c tcp_keepalives_idle=4 -c tcp_keepalives_interval=2 -c tcp_keepalives_count=2 -c tcp_user_timeout=8000"
)


def connect(url: str, *, autocommit: bool = True, application: str = "mes") -> Connection:
    """Open a connection in UTC; Unavailable if the server does not answer, Refused if it says no or is too old.

    A URL without a password takes the one of MES_DATABASE_PASSWORD_FILE, which is ConfigError if it cannot be read.
    """
    with translated(url):
        own = conninfo_to_dict(url).get("password")
        connection = psycopg.connect(
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
    if connection.info.server_version < OLDEST * 10_000:
        version = connection.info.parameter_status("server_version")
        connection.close()
        raise Refused(f"database {without_password(url)}: PostgreSQL {version} is too old: upgrade the server to {OLDEST} or newer")
    return connection


def check_writable(connection: Connection) -> None:
    """Unavailable on a standby, before a service takes what it could not store."""
    with translated(connection):
        row = connection.execute("SELECT current_setting('transaction_read_only')").fetchone()
    if row != ("off",):
        raise Unavailable(f"database {_place(connection)[0]}: cannot be written; {_READ_ONLY}")


@contextlib.contextmanager
def translated(at: str | Connection = "") -> Iterator[None]:
    """Turn driver errors into Unavailable (waiting can help) or Refused (it cannot), with the cause chained.

    at    URL of the database, or a connection to it
    """
    try:
        yield
    except psycopg.Error as why:
        raise _translate(why, *_place(at)) from why


def _place(at: str | Connection) -> tuple[str, str]:
    """The database as it may be printed, and the role that asks; empty where they are not known."""
    try:
        if isinstance(at, psycopg.Connection):
            info = at.info
            return f"postgresql://{info.user}@{info.host}:{info.port}/{info.dbname}", info.user
        return without_password(at), str(conninfo_to_dict(at).get("user") or os.environ.get("PGUSER", ""))
    except psycopg.Error:  # the connection is closed, or that is no URL
        return without_password(at) if isinstance(at, str) else "", ""


def _translate(why: psycopg.Error, place: str, role: str) -> MesError:
    text = said(why)
    where = f"database {place}: " if place else "database: "
    if _NO_COMMUNITY.search(text):
        return Refused(f"{where}Apache packages of TimescaleDB with timescaledb.license = 'timescale': set it to 'apache' ({text})")
    if why.sqlstate is None and isinstance(why, psycopg.ProgrammingError):  # libpq quotes the part of the URL that it cannot read
        return Refused(f"{where}the URL cannot be read: check MES_DATABASE_URL, and write what is special in a password as %XX")
    if why.sqlstate is not None:
        passes = why.sqlstate.startswith(_PASSES)
        hint = _URL if why.sqlstate.startswith(("28", "3D")) else next((h for kind, h in _HINTS.items() if isinstance(why, kind)), "")
        if role and isinstance(why, pg.InsufficientPrivilege):
            where += f"role {role}: "
    else:
        final = _found(_FINAL_TEXT, text)
        passes = not final and isinstance(why, psycopg.OperationalError | psycopg.InterfaceError)
        hint = _found(_PASSING_TEXT, text) if passes else final or _URL
    if hint == _URL and os.environ.get("MES_DATABASE_PASSWORD_FILE"):
        hint += " and MES_DATABASE_PASSWORD_FILE"
    return (Unavailable if passes else Refused)(f"{where}{text}; {hint}" if hint else f"{where}{text}")


def _found(hints: dict[str, str], text: str) -> str:
    return next((hint for pattern, hint in hints.items() if re.search(pattern, text)), "")


@functools.cache
def queries() -> dict[str, LiteralString]:
    """The named statements of sql/queries.sql and sql/doctor.sql: `-- name: what_it_does` above each."""
    text = "\n".join((SQL / name).read_text(encoding="utf-8") for name in ("queries.sql", "doctor.sql"))
    parts = re.split(r"^-- name: (\w+)\s*$", text, flags=re.MULTILINE)
    return {name: cast(LiteralString, body.strip()) for name, body in zip(parts[1::2], parts[2::2], strict=True)}
