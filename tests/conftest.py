"""Servers once a session, a fresh database for each test: a clone of a template that is migrated and seeded once."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest

from mes.embedded.broker import EmbeddedBroker
from mes.embedded.postgres import EmbeddedPostgres
from mes.seeds import load_plant
from mes.store.migrate import migrate
from mes.store.seed import seed
from tests.servers import Mosquitto, debian_postgres, free_port, of_its_own

ROOT = Path(__file__).resolve().parent.parent
SEEDS = ROOT / "seeds"

_numbers = itertools.count(1)

Databases = Callable[[], str]
"""Makes a migrated and seeded database, returns its URL."""


def _other(url: str, database: str) -> str:
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc, f"/{database}", "", ""))


def _cloner(server: str) -> Databases:
    template = "mes_template"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {template}")
    migrate(_other(server, template))
    seed(_other(server, template), load_plant(SEEDS))

    def clone() -> str:
        name = f"mes_test_{next(_numbers)}"
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return of_its_own(_other(server, name))

    return clone


@pytest.fixture(scope="session")
def embedded_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of the embedded PostgreSQL."""
    with EmbeddedPostgres(tmp_path_factory.mktemp("postgres"), settings={"fsync": "off"}) as server:
        yield server.url


@pytest.fixture(scope="session")
def embedded_databases(embedded_server: str) -> Databases:
    return _cloner(embedded_server)


@pytest.fixture(scope="session")
def debian_databases() -> Iterator[Databases]:
    with debian_postgres() as url:
        yield _cloner(url)


@pytest.fixture(scope="session")
def embedded_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of the embedded broker."""
    with EmbeddedBroker(tmp_path_factory.mktemp("broker"), free_port()) as broker:
        yield broker.url


@pytest.fixture(scope="session")
def mosquitto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of Debian's Mosquitto."""
    with Mosquitto(tmp_path_factory.mktemp("mosquitto")) as broker:
        yield broker.url


@pytest.fixture
def mosquitto_of_mine(tmp_path: Path) -> Iterator[Mosquitto]:
    """A Mosquitto for one test, which may kill it."""
    with Mosquitto(tmp_path / "mosquitto") as broker:
        yield broker


@pytest.fixture
def database(embedded_databases: Databases) -> str:
    """URL of a fresh database on the embedded server."""
    return embedded_databases()


@pytest.fixture(params=["embedded", "debian"])
def parts(request: pytest.FixtureRequest) -> tuple[str, str]:
    """(database URL, broker URL): the embedded parts, then Debian's PostgreSQL and Mosquitto."""
    databases, broker = {"embedded": ("embedded_databases", "embedded_broker"), "debian": ("debian_databases", "mosquitto")}[request.param]
    return request.getfixturevalue(databases)(), request.getfixturevalue(broker)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fault-seed", type=int, default=1, help="draws the moments at which the tests break things")


@pytest.fixture
def fault_seed(request: pytest.FixtureRequest) -> int:
    return int(request.config.getoption("--fault-seed"))


@pytest.fixture
def tell(request: pytest.FixtureRequest) -> Callable[[object], None]:
    """Says a line at the end of the run, also where the test passes."""
    return lambda line: request.node.user_properties.append(("account", str(line)))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tests that count say what they have counted, also when they pass."""
    told = [
        (report.nodeid.partition("::")[2], line)
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", "") == "call"
        for name, line in report.user_properties
        if name == "account"
    ]
    if told:
        terminalreporter.section("accounts")
        for test, line in told:
            terminalreporter.write_line(f"{test}: {line}")
