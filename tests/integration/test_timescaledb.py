"""The product on a real TimescaleDB whose `mes.cell_event` is a hypertable."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import psycopg
import pytest

from mes.seeds import load_plant
from mes.store.migrate import migrate
from mes.store.seed import seed
from tests.conftest import SEEDS
from tests.pipeline import AT_MS, GRD, WND, Gateway, event, rows, service, sessions_held, value
from tests.servers import wait_for
from tests.timescaledb import Missing, timescaledb

HYPERTABLE = "SELECT create_hypertable('mes.cell_event', by_range('at', INTERVAL '1 day'), create_default_indexes => false)"


@pytest.fixture(scope="module")
def hypertable() -> Iterator[str]:
    """URL of a migrated and seeded database with the hypertable. Skipped where the packages cannot be had: no mirror has to hold them."""
    with contextlib.ExitStack() as running:
        try:
            url = running.enter_context(timescaledb())
        except Missing as why:
            pytest.skip(str(why))
        migrate(url)
        seed(url, load_plant(SEEDS))
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(HYPERTABLE)
        yield url


def test_ingest_ledger_marks_and_rollup_work_on_a_hypertable(hypertable: str, embedded_broker: str) -> None:
    day_ms = 86_400_000
    first = [event(i) for i in range(1, 501)]
    later = [event(i, timestamp_ms=AT_MS + day_ms + i) for i in range(501, 701)]
    with Gateway(embedded_broker) as gateway, service("rollup", hypertable, embedded_broker):
        with service("ingest", hypertable, embedded_broker):
            sessions_held(hypertable)
            gateway.backlog(WND, first)
            gateway.backlog(WND, later)
            gateway.backlog(WND, first, 77)  # all of it again
            gateway.backlog(GRD, [event(i, channel=i) for i in range(1, 101)])
            wait_for(lambda: value(hypertable, "SELECT count(*) FROM mes.cell_event") >= 800, 60, "events stored")
            wait_for(lambda: value(hypertable, "SELECT sum(duplicates) FROM mes.machine_ledger") == 500, 60, "duplicates counted")
        rows(hypertable, "DELETE FROM mes.machine_ledger RETURNING 1")
        with service("ingest", hypertable, embedded_broker):  # the unique key of the chunks is the second line
            gateway.backlog(WND, first)
            gateway.cells(WND, [event(701)])
            wait_for(lambda: value(hypertable, "SELECT count(*) FROM mes.cell_event") >= 801, 60, "the last event")
        wait_for(lambda: value(hypertable, "SELECT count(*) FROM mes.dirty_bucket") == 0, 60, "marks taken")
    assert value(hypertable, "SELECT count(*) FROM timescaledb_information.chunks WHERE hypertable_name = 'cell_event'") == 2
    assert rows(hypertable, "SELECT count(*), count(DISTINCT (machine_id, boot, seq)) FROM mes.cell_event") == [(801, 801)]
    assert rows(hypertable, "SELECT received::text, duplicates FROM mes.machine_ledger") == [("{[1,501),[701,702)}", 500)]
    assert rows(hypertable, "SELECT production_day::text, good, events FROM report.daily_throughput ORDER BY 1") == [
        ("2026-11-22", 100, 601),
        ("2026-11-23", 0, 200),
    ]
