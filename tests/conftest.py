"""Servers once a session, a fresh database for each test: a clone of a template that is migrated and seeded once."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mes.embedded.broker import EmbeddedBroker
from tests import databases, timescaledb
from tests.databases import Database, Databases, cloner
from tests.pipeline import forget_sessions
from tests.servers import Mosquitto, debian_postgres, free_port, running_with, wait_for

ROOT = Path(__file__).resolve().parent.parent
SEEDS = ROOT / "seeds"

SERVER = pytest.StashKey[str]()


def pytest_configure(config: pytest.Config) -> None:
    """First of all: the server of this run has to be had."""
    try:
        config.stash[SERVER] = databases.describe()
    except (ValueError, timescaledb.Missing) as why:
        raise pytest.UsageError(f"{databases.SWITCH}={databases.KIND}: {why}") from why


def pytest_report_header(config: pytest.Config) -> str:
    return f"database ({databases.SWITCH}={databases.KIND}): {config.stash[SERVER]}"


@pytest.fixture(scope="session", autouse=True)
def _nothing_is_left_running() -> Iterator[None]:
    """What tests have started ends with them, all of it."""
    run = uuid.uuid4().hex
    os.environ["MES_TEST_RUN"] = run
    yield
    with contextlib.suppress(AssertionError):
        wait_for(lambda: not running_with(f"MES_TEST_RUN={run}"), 10)
    left = running_with(f"MES_TEST_RUN={run}")
    assert not left, f"left running: {left}"


@pytest.fixture(scope="session")
def server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a database without our schema on the server of this run."""
    with Database(tmp_path_factory.mktemp("postgres"), settings={"fsync": "off"}) as server:
        yield server.url


@pytest.fixture(scope="session")
def new_database(server_url: str) -> Databases:
    """Makes databases on the server of this run."""
    return cloner(server_url, SEEDS)


@pytest.fixture(scope="session")
def debian_databases() -> Iterator[Databases]:
    """Makes databases on Debian's PostgreSQL."""
    with debian_postgres() as url:
        yield cloner(url, SEEDS)


@pytest.fixture(scope="session")
def embedded_broker_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of the embedded broker, which tests share."""
    with EmbeddedBroker(tmp_path_factory.mktemp("broker"), free_port()) as broker:
        yield broker.url


@pytest.fixture(scope="session")
def mosquitto_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of Debian's Mosquitto, which tests share."""
    with Mosquitto(tmp_path_factory.mktemp("mosquitto")) as broker:
        yield broker.url


@pytest.fixture
def embedded_broker(embedded_broker_server: str) -> str:
    """URL of the embedded broker, which holds no message of a test before this one."""
    forget_sessions(embedded_broker_server)
    return embedded_broker_server


@pytest.fixture
def mosquitto(mosquitto_server: str) -> str:
    """URL of Debian's Mosquitto, which holds no message of a test before this one."""
    forget_sessions(mosquitto_server)
    return mosquitto_server


@pytest.fixture
def mosquitto_of_mine(tmp_path: Path) -> Iterator[Mosquitto]:
    """A Mosquitto for one test, which may kill it."""
    with Mosquitto(tmp_path / "mosquitto") as broker:
        yield broker


@pytest.fixture
def database(new_database: Databases) -> str:
    """URL of a fresh database on the server of this run."""
    return new_database()


@pytest.fixture(params=["embedded", "debian"])
def parts(request: pytest.FixtureRequest) -> tuple[str, str]:
    """(database URL, broker URL): the embedded parts, then Debian's PostgreSQL and Mosquitto; on TimescaleDB it beside either broker."""
    first, last = databases.FIXTURES[0], databases.FIXTURES[-1]
    new, broker = {"embedded": (first, "embedded_broker"), "debian": (last, "mosquitto")}[request.param]
    return request.getfixturevalue(new)(), request.getfixturevalue(broker)


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
