"""Real TimescaleDB servers for tests that need one whatever the run is on, with databases that are empty or ready."""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Callable, Iterator, Mapping

import psycopg

from mes.seeds import load_plant
from mes.store.migrate import migrate
from mes.store.seed import seed
from tests.plants import SEEDS
from tests.servers import missing, postgres_server
from tests.timescaledb import SETTINGS, Missing, programs

Databases = Callable[[], str]
"""Makes a database, returns its URL."""


@contextlib.contextmanager
def server(settings: Mapping[str, str] | None = None) -> Iterator[Databases]:
    """A server whose databases have nothing in them yet."""
    try:
        found = programs()
    except Missing as why:
        missing(f"TimescaleDB ({why})", "nothing, but let apt reach a Debian mirror")
    # Background workers would hold on to databases that are to be cloned; the Apache edition has no jobs for them.
    with postgres_server(found, {**SETTINGS, "timescaledb.max_background_workers": "0", **(settings or {})}) as url:
        numbers = itertools.count(1)

        def empty() -> str:
            return _create(url, f"empty_{next(numbers)}")

        yield empty


@contextlib.contextmanager
def ready() -> Iterator[Databases]:
    """A server whose databases are clones of one that is migrated, and so has hypertables, and seeded."""
    with server() as empty:
        template = empty()
        migrate(template, "require")
        seed(template, load_plant(SEEDS))
        numbers = itertools.count(1)

        def clone() -> str:
            return _create(template, f"ready_{next(numbers)}", f"TEMPLATE {template.rpartition('/')[2]}")

        yield clone


def _create(url: str, name: str, options: str = "") -> str:
    base = url.rpartition("/")[0]
    with psycopg.connect(f"{base}/postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} {options}".encode())
    return f"{base}/{name}"


def version() -> str:
    """Of the TimescaleDB that Debian has now."""
    control = programs().parents[3] / "share/postgresql/17/extension/timescaledb.control"
    found = re.search(r"^default_version = '(.*)'$", control.read_text(), re.MULTILINE)
    assert found
    return found[1]
