"""Migrations: numbered files, applied once each, in order, under a lock; views and grants are made anew each time.

A runner of our own because what it does fits a screen, and it needs what tools of this kind do not do together: one
transaction for everything, a refusal when an applied file has changed or the schema is newer than the program, and
views that follow their files.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path

from mes.errors import Refused
from mes.store import timescale
from mes.store.connection import SQL, Connection, connect, translated

log = logging.getLogger(__name__)

_LOCK = 0x6D65735F  # "mes_"
_OWNER = "mes_owner"


def migrations() -> list[tuple[int, str, str]]:
    """(number, name, text) of each migration file, in order."""
    found = [(int(path.name[:4]), path.stem[5:], path.read_text(encoding="utf-8")) for path in sorted((SQL / "migrations").glob("*.sql"))]
    assert [number for number, _, _ in found] == list(range(1, len(found) + 1)), "migrations are numbered from 0001 without gaps"
    return found


def views() -> list[Path]:
    """The files that make the schema `report`, in order."""
    return sorted((SQL / "views").glob("*.sql"))


def migrate(url: str, timescaledb: str = "auto", say: Callable[[str], None] = log.info) -> list[str]:
    """Bring the database up to this program; returns the names of what was applied. Safe to run at once from many places.

    timescaledb  auto: hypertables where the extension can be had; require: Refused where not; off
    say          takes one line: what was found of TimescaleDB and what could not be switched on
    """
    applied: list[str] = []
    problem = timescale.switch_on(url, timescaledb)
    with translated(url), connect(url, autocommit=False, application="mes migrate") as connection:
        _check_owner(connection)
        connection.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
        connection.execute("CREATE SCHEMA IF NOT EXISTS mes")
        connection.execute("CREATE SCHEMA IF NOT EXISTS kpi")
        connection.execute(
            "CREATE TABLE IF NOT EXISTS mes.schema_migration"
            " (number integer PRIMARY KEY, name text NOT NULL, digest text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
        )
        done = _done(connection)
        for number, name, text in migrations():
            digest = hashlib.sha256(text.encode()).hexdigest()
            if number in done:
                if done[number] != digest:
                    raise Refused(
                        f"migration {number:04d}_{name} has changed since it was applied: restore the file and put the change in a new one"
                    )
                continue
            connection.execute(text)
            connection.execute("INSERT INTO mes.schema_migration (number, name, digest) VALUES (%s, %s, %s)", [number, name, digest])
            applied.append(f"{number:04d}_{name}")
        connection.execute("DROP SCHEMA IF EXISTS report CASCADE")
        connection.execute("CREATE SCHEMA report")
        for path in views():
            connection.execute(path.read_text(encoding="utf-8"))
        found = timescale.adopt(connection, problem)
        connection.execute((SQL / "grants.sql").read_text(encoding="utf-8"))
    say(found)
    return applied


def _check_owner(connection: Connection) -> None:
    """Where the roles are in use, what a migration makes must belong to their owner: views read with the rights of theirs."""
    row = connection.execute(
        "SELECT current_user, pg_get_userbyid(datdba), datname FROM pg_database WHERE datname = current_database()"
    ).fetchone()
    assert row is not None
    user, owner, database = row
    if owner == _OWNER != user:
        raise Refused(f"role {user}: database {database} belongs to {_OWNER}: run `mes migrate` as {_OWNER}")


def _done(connection: Connection) -> dict[int, str]:
    done = {int(number): str(digest) for number, digest in connection.execute("SELECT number, digest FROM mes.schema_migration")}
    newest = len(migrations())
    if done and max(done) > newest:
        raise Refused(f"the database's schema is at {max(done):04d}, newer than this program's {newest:04d}: update the program")
    return done


def standing(connection: Connection) -> tuple[int, int, list[str]]:
    """Of the database's schema: its number, this program's, and what was applied and has changed since."""
    with translated():
        there = connection.execute("SELECT to_regclass('mes.schema_migration') IS NOT NULL").fetchone()
        rows = connection.execute("SELECT number, digest FROM mes.schema_migration").fetchall() if there and there[0] else []
    done = {int(number): str(digest) for number, digest in rows}
    ours = {number: (name, hashlib.sha256(text.encode()).hexdigest()) for number, name, text in migrations()}
    changed = [f"{n:04d}_{ours[n][0]}" for n in sorted(done.keys() & ours.keys()) if done[n] != ours[n][1]]
    return max(done, default=0), max(ours), changed


def check(connection: Connection) -> None:
    """Refuse to work on a schema that is older or newer than this program, or with a server that is too old."""
    with translated(connection):
        timescale.check_server(connection)
        there = connection.execute("SELECT to_regclass('mes.schema_migration') IS NOT NULL").fetchone()
        if not there or not there[0]:
            raise Refused("the database has no schema yet: run `mes migrate`")
        missing = len(migrations()) - len(_done(connection))
    if missing:
        raise Refused(f"the database's schema lacks {missing} migrations: run `mes migrate`")
