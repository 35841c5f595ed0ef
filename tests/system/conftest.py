"""A database server that may be killed, and plants on it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults import Broker, Database, Databases, Plant, broker


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    with Database(tmp_path_factory.mktemp("server")) as started:
        yield started


@pytest.fixture(scope="session")
def databases(server: Database, tmp_path_factory: pytest.TempPathFactory) -> Databases:
    return Databases(server, tmp_path_factory.mktemp("plant"))


@pytest.fixture
def make_plant(databases: Databases, tmp_path: Path) -> Iterator[Callable[..., tuple[Plant, Broker]]]:
    """Makes a plant without workers, with a database and a broker of its own: "mosquitto" or "embedded"."""
    with contextlib.ExitStack() as stack:

        def make(kind: str = "mosquitto") -> tuple[Plant, Broker]:
            there = stack.enter_context(broker(kind, tmp_path / "broker"))
            return stack.enter_context(Plant(tmp_path / "plant", databases.new(), there.url, databases.seeds)), there

        yield make
