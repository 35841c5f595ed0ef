"""Real services say whether they live and whether they are ready, and why not."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from prometheus_client import REGISTRY, CollectorRegistry

from mes import metrics
from mes.embedded.process import is_free
from mes.seeds import load_plant
from mes.store.calendars import TURN
from mes.store.migrate import migrate
from mes.store.seed import seed
from tests.conftest import SEEDS
from tests.faults import Database
from tests.integration.test_metrics import scrape
from tests.pipeline import WND, Gateway, environment, event, rows, service, sessions_held, value
from tests.servers import Mosquitto, free_port, stopped_at_the_end, wait_for

LINES = {"nanjing/cells/32140-1", "dalian/cells/26650-1"}


def ask(port: int, what: str) -> tuple[int, dict[str, Any]]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{what}", timeout=10) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as why:
        with why:
            return why.code, json.loads(why.read())
    except OSError:
        return 0, {"reasons": [], "parts": {}}


def ready(port: int, seconds: float = 60) -> dict[str, Any]:
    """Wait until it is; the parts."""
    parts: dict[str, Any] = wait_for(lambda: (found := ask(port, "readyz"))[0] == 200 and found[1]["parts"], seconds, "ready")
    return parts


def not_ready(port: int, part: str, seconds: float = 60) -> str:
    """Wait until it is not, because of this part; the reason."""

    def reason() -> str:
        code, body = ask(port, "readyz")
        return next((why for why in body["reasons"] if code == 503 and why.startswith(f"{part}: ")), "")

    return str(wait_for(reason, seconds, f"not ready because of {part}"))


@pytest.fixture
def own_database(tmp_path: Path) -> Iterator[Database]:
    with Database(tmp_path / "home") as server:
        migrate(server.url)
        seed(server.url, load_plant(SEEDS))
        yield server


def test_of_two_workers_the_one_that_waits_is_ready_too(database: str, tmp_path: Path) -> None:
    holds, waits = free_port(), free_port()
    with Mosquitto(tmp_path / "mosquitto") as broker, service("ingest", database, broker.url, "--metrics-port", str(waits)) as second:
        with service("ingest", database, broker.url, "--metrics-port", str(holds)):
            sessions_held(database)
            both = [ready(holds), ready(waits)]
            assert all(parts.keys() == {*LINES, "database", "broker"} for parts in both)
            assert [sorted(parts[line] for parts in both) for line in LINES] == [["holds the line", "waits for the lease"]] * 2
            held = [scrape(port)["mes_lease_held", frozenset({("line", line)})] for port in (holds, waits) for line in LINES]
            assert sum(held) == 2
        wait_for(lambda: set(map(ready(waits).get, LINES)) == {"holds the line"}, 60, "the other took over")
        broker.kill()
        assert "broker mqtt://127.0.0.1" in not_ready(waits, "nanjing/cells/32140-1")
        assert ask(waits, "healthz")[0] == 200
        broker.start()
        ready(waits)
        assert second.poll() is None


def test_a_worker_that_only_waits_sees_that_the_broker_is_away(database: str, tmp_path: Path) -> None:
    port = free_port()
    with contextlib.ExitStack() as leases:
        connection = leases.enter_context(psycopg.connect(database, autocommit=True))
        connection.execute("SELECT pg_advisory_lock(%s, line_id) FROM mes.line", [0x6D65736C])
        with Mosquitto(tmp_path / "mosquitto") as broker, service("ingest", database, broker.url, "--metrics-port", str(port)):
            assert set(map(ready(port).get, LINES)) == {"waits for the lease"}
            broker.kill()
            assert "refused" in not_ready(port, "broker")
            broker.start()
            ready(port)


def test_the_database_goes_and_comes_back(own_database: Database, embedded_broker: str) -> None:
    ingest, rollup = free_port(), free_port()
    with (
        service("ingest", own_database.url, embedded_broker, "--metrics-port", str(ingest)),
        service("rollup", own_database.url, embedded_broker, "--metrics-port", str(rollup)),
    ):
        ready(ingest)
        ready(rollup)
        own_database.kill()
        for port in (ingest, rollup):
            reason = not_ready(port, "database")
            assert "database postgresql://mes@127.0.0.1" in reason
            assert ask(port, "healthz")[0] == 200
        own_database.start()
        ready(ingest)
        ready(rollup)


def test_a_plant_that_is_not_loaded_is_said(database: str, embedded_broker: str) -> None:
    rows(database, "UPDATE mes.line SET active = false RETURNING 1")
    port = free_port()
    with service("ingest", database, embedded_broker, "--metrics-port", str(port)):
        assert "load one with `mes seed`" in not_ready(port, "plant")


def test_rollup_is_not_ready_while_marks_stand(database: str, embedded_broker: str) -> None:
    port = free_port()
    with (
        service("ingest", database, embedded_broker),
        service("rollup", database, embedded_broker, "--metrics-port", str(port), "--marks-within", "3"),
        Gateway(embedded_broker) as gateway,
        psycopg.connect(database, autocommit=True) as connection,
    ):
        sessions_held(database)
        assert ready(port).keys() == {"database", "marks"}
        connection.execute("SELECT pg_advisory_lock(%s, line_id) FROM mes.line", [TURN])  # as a seeding that does not end
        gateway.cells(WND, [event(n) for n in range(1, 400)])
        assert not_ready(port, "marks").startswith("marks: 2 buckets wait, the oldest for at least ")
        samples = scrape(port)
        assert samples["mes_rollup_marks_waiting", frozenset()] == 2
        assert samples["mes_rollup_oldest_mark_age_seconds", frozenset()] >= 3
        connection.execute("SELECT pg_advisory_unlock_all()")
        assert ready(port)["marks"] == "0 buckets wait"
        samples = scrape(port)
        assert samples["mes_rollup_buckets_summed_total", frozenset()] == 2
        assert samples["mes_rollup_step_seconds_count", frozenset()] >= 1
        assert samples["mes_rollup_marks_waiting", frozenset()] == 0
        assert samples["mes_rollup_oldest_mark_age_seconds", frozenset()] == 0
        wait_for(lambda: scrape(port)["mes_rollup_publish_waiting_values", frozenset()] == 0, what="published")
        assert value(database, "SELECT events FROM report.daily_throughput") == 399


@pytest.mark.parametrize("command", ["ingest", "rollup"])
def test_a_taken_port_is_said_plainly(command: str, database: str, embedded_broker: str) -> None:
    port = free_port()
    with service("rollup", database, embedded_broker, "--metrics-port", str(port)):
        ready(port)
        words = [sys.executable, "-m", "mes", command, "--metrics-port", str(port)]
        done = subprocess.run(words, env=environment(database, embedded_broker), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"mes: metrics cannot be served on 127.0.0.1:{port}: ")


def test_up_gives_each_service_a_port_of_its_own(database: str, embedded_broker: str, tmp_path: Path) -> None:
    ports = next(port for port in iter(free_port, 0) if is_free(port + 1))
    words = [sys.executable, "-m", "mes", "up", "--home", str(tmp_path / "home"), "--board-port", str(free_port())]
    setting = {**environment(database, embedded_broker), "MES_METRICS_PORT": str(ports)}
    with stopped_at_the_end(subprocess.Popen(words, env=setting, stdout=subprocess.DEVNULL, start_new_session=True)):
        assert ready(ports).keys() >= LINES
        assert ready(ports + 1).keys() == {"database", "marks"}


@pytest.mark.parametrize("registry", [metrics.INGEST, metrics.ROLLUP], ids=["ingest", "rollup"])
def test_names_follow_the_conventions_of_prometheus(registry: CollectorRegistry) -> None:
    """A prefix, base units, no type in the name, and words that say what it is."""
    families = [family for family in registry.collect() if not family.name.startswith("process_")]
    assert len(families) > 5
    for family in families:
        assert family.name.startswith("mes_"), family.name
        assert len(family.documentation) > 8, family.name
        assert family.documentation.endswith("."), family.name
        if family.type == "histogram":
            assert family.name.endswith("_seconds"), family.name
        if family.type == "gauge":
            assert family.name.endswith(("_seconds", "_bytes", "_held", "_waiting", "_values")), family.name
        assert not any(word in family.name for word in ("_ms", "_millis", "_counter", "_gauge", "_total_")), family.name
    assert not [family.name for family in REGISTRY.collect() if family.name.startswith("mes_")]
