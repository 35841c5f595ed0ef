"""TimescaleDB where the server has it: events in chunks of a day, and what its licence allows beyond that.

The same migrations serve plain PostgreSQL. What is found decides: no extension, the Apache edition (hypertables), or the
Community edition, which also compresses and has background jobs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from psycopg import errors as pg
from psycopg import sql

from mes.errors import Refused
from mes.store import retention
from mes.store.connection import Connection, connect, queries, translated

# Before 2.19.1 an INSERT with ON CONFLICT DO NOTHING into a compressed chunk ends at the first conflict, and the rows behind it
# are lost without a word (timescale/timescaledb, issue 7672).
TIMESCALEDB: Final = (2, 19, 1)

_CHUNKED: Final = ("cell_event", "state_event")
_NOT_IN_THIS_EDITION = pg.FeatureNotSupported  # SQLSTATE 0A000


@dataclass(frozen=True, slots=True)
class Server:
    """What a database has of TimescaleDB.

    postgres    version of the server
    offered     version that its packages would make; None where there are none
    installed   version in this database; None where it is not switched on
    licence     apache or timescale; None where it is not switched on
    is_loaded   whether the server has loaded it at its start, without which it cannot be switched on
    database    name of the database
    role        who asks
    """

    postgres: str
    offered: str | None
    installed: str | None
    licence: str | None
    is_loaded: bool
    database: str
    role: str

    @classmethod
    def of(cls, connection: Connection) -> Server:
        row = connection.execute(queries()["timescaledb"]).fetchone()
        assert row is not None
        return cls(*row)


def check_server(connection: Connection) -> None:
    """Refuse a TimescaleDB that is too old while events lie in its chunks."""
    row = connection.execute(queries()["chunks_by"]).fetchone()
    if row and row[0]:
        _check_version(row[0], "run ALTER EXTENSION timescaledb UPDATE as the first statement of a session")


def switch_on(url: str, mode: str) -> str | None:
    """Have the extension in the database, if that can be had; None, or why there is none.

    Refused where `mode` is "require" and it cannot, and always where it is too old. By a connection of its own: a server that has not
    loaded the extension ends the session that asks for it.
    """
    with connect(url, application="mes migrate") as connection, translated(url):
        check_server(connection)
        if mode == "off":
            return "TimescaleDB is off (MES_TIMESCALEDB=off)"
        server = Server.of(connection)
        problem = _obstacle(server)
        if problem is None and server.installed is None:
            problem = _create(connection, server)
        if problem and mode == "require":
            raise Refused(f"{problem} (MES_TIMESCALEDB=require)")
        return problem


def _obstacle(server: Server) -> str | None:
    if server.installed:
        _check_version(server.installed, "install a newer package, then run ALTER EXTENSION timescaledb UPDATE")
        return None
    if server.offered is None:
        return "TimescaleDB is not installed on the server: install its package for this PostgreSQL"
    _check_version(server.offered, "install a newer package, or set MES_TIMESCALEDB=off")
    if not server.is_loaded:
        return f"TimescaleDB {server.offered} is not loaded: add timescaledb to shared_preload_libraries and restart the server"
    return None


def _create(connection: Connection, server: Server) -> str | None:
    try:
        connection.execute("CREATE EXTENSION IF NOT EXISTS timescaledb")
    except pg.InsufficientPrivilege:
        return (
            f"TimescaleDB {server.offered} is not switched on, and role {server.role} may not do it: "
            f"let a superuser run CREATE EXTENSION timescaledb in database {server.database}"
        )
    except pg.UniqueViolation:  # another `mes migrate` was a moment faster
        pass
    return None


def _check_version(version: str, cure: str) -> None:
    found = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", version)
    if found is None or tuple(int(part or 0) for part in found.groups()) < TIMESCALEDB:
        least = ".".join(map(str, TIMESCALEDB))
        raise Refused(f"TimescaleDB {version} is too old (it loses rows, its issue 7672): {least} or newer is needed; {cure}")


def adopt(connection: Connection, problem: str | None) -> str:
    """Make the tables of events hypertables, switch on what the edition has, and say in a line what there is.

    problem  why there is no extension, as `switch_on` says
    """
    server = Server.of(connection)
    if problem is not None:
        is_chunked = server.installed and all(_is_hypertable(connection, table) for table in _CHUNKED)
        kept = "hypertables stay" if is_chunked else "plain tables, and `mes rollup` deletes what is not to be kept"
        return f"PostgreSQL {server.postgres}: {problem}; {kept}"
    connection.execute(queries()["path_to_timescaledb"])
    moved = [f"mes.{table}" for table in _CHUNKED if _make_hypertable(connection, table)]
    hypertables = "hypertables by day" + (f" (rows of {' and '.join(moved)} moved into them)" if moved else "")
    try:
        with connection.transaction():
            edition, details = "Community", _with_jobs(connection)
    except _NOT_IN_THIS_EDITION:
        edition, details = "Apache", "compression and background jobs are not in this edition: `mes rollup` drops what is not to be kept"
    return f"TimescaleDB {server.installed} ({edition}): {hypertables}; {details}"


def _is_hypertable(connection: Connection, table: str) -> bool:
    return connection.execute(queries()["hypertable"], [table]).fetchone() is not None


def _make_hypertable(connection: Connection, table: str) -> bool:
    """Cut a table into days, unless it is; whether there were rows to move. Its key begins with line and time: no other index on time."""
    if _is_hypertable(connection, table):
        return False
    name = sql.Identifier("mes", table)
    row = connection.execute(sql.SQL("SELECT EXISTS (SELECT FROM {})").format(name)).fetchone()
    connection.execute(queries()["make_hypertable"], [f"mes.{table}"])
    return bool(row and row[0])


def _with_jobs(connection: Connection) -> str:
    """Compress and drop as the settings want it; what there is now. FeatureNotSupported where the licence does not allow it."""
    kept = retention.settings(connection)
    compress(connection, kept.compress_days)
    if connection.execute(queries()["retention_job"]).fetchone() is None:
        connection.execute("SELECT add_job('mes.run_retention', INTERVAL '1 hour')")
    said = f"compressed after {kept.compress_days} days, " if kept.compress_days else "not compressed, "
    said += f"kept {kept.keep_days} days" if kept.keep_days else "kept for ever"
    workers = connection.execute("SELECT current_setting('timescaledb.max_background_workers', true)").fetchone()
    if workers and workers[0] == "0":
        said += "; no job will run, as timescaledb.max_background_workers is 0"
    return said


def compress(connection: Connection, days: int | None) -> None:
    """Have events compressed, line by line and station by station, when they are so many days old; None: no more of them."""
    for table in _CHUNKED:
        found = connection.execute(queries()["compression"], [table]).fetchone()
        assert found is not None
        is_columnstore, now = found
        if days is not None and not is_columnstore:
            options = sql.SQL("timescaledb.enable_columnstore, timescaledb.segmentby = 'line_id, station_id', timescaledb.orderby = 'at'")
            connection.execute(sql.SQL("ALTER TABLE {} SET ({})").format(sql.Identifier("mes", table), options))
        if now is not None and now != days:
            connection.execute("CALL remove_columnstore_policy(%s::regclass)", [f"mes.{table}"])
        if days is not None and now != days:
            connection.execute("CALL add_columnstore_policy(%s::regclass, after => make_interval(days => %s))", [f"mes.{table}", days])


def set_compression(connection: Connection, days: int | None) -> str | None:
    """From now on compress after so many days, or no longer; None, or why nothing is compressed here all the same."""
    with translated():
        connection.execute(queries()["compress_events"], [days])
        if Server.of(connection).installed is None or not _is_hypertable(connection, _CHUNKED[0]):
            return "there is no TimescaleDB in this database"
        connection.execute(queries()["path_to_timescaledb"])
        try:
            with connection.transaction():
                compress(connection, days)
        except _NOT_IN_THIS_EDITION:
            return "TimescaleDB's Apache edition has no compression"
    return None
