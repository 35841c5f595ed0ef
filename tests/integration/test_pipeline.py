"""From the topic to the view, through real brokers and databases and the real processes."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from mes import contract
from tests.pipeline import AT_MS, GRD, WND, Gateway, environment, event, rows, service, sessions_held, subscriber, value
from tests.servers import wait_for

Parts = tuple[str, str]


def stored(database: str, n: int) -> None:
    wait_for(lambda: value(database, "SELECT count(*) FROM mes.cell_event") >= n, 30, f"{n} events stored")


def rolled_up(database: str) -> None:
    wait_for(lambda: value(database, "SELECT count(*) FROM mes.dirty_bucket") == 0, 30, "marks taken")


def test_events_become_figures(parts: Parts) -> None:
    database, broker = parts
    with service("ingest", database, broker), service("rollup", database, broker), Gateway(broker) as gateway:
        sessions_held(database)
        gateway.cells(WND, [event(i, meas={"electrode_tension": 12.03}) for i in range(1, 51)])
        gateway.backlog(WND, [event(i) for i in range(51, 251)])
        gateway.backlog(GRD, [event(i, channel=i) for i in range(1, 91)])
        gateway.backlog(GRD, [event(i, result="scrap", defect="R01") for i in range(91, 101)])
        stored(database, 350)
        rolled_up(database)
        assert rows(database, "SELECT production_day::text, good, target, attainment, scrap, events FROM report.daily_throughput") == [
            ("2026-11-22", 90, 50000, 90 / 50000, 10, 350)
        ]
        assert rows(database, "SELECT output_yield, rolled_throughput_yield FROM report.daily_yield") == [(0.9, None)]
        assert rows(
            database,
            "SELECT station, inspected, first_pass_good, first_pass_yield, good, scrap FROM report.station_yield ORDER BY station_seq",
        ) == [("wnd", 250, 250, 1.0, 250, 0), ("grd", 100, 90, 0.9, 90, 10)]
        assert rows(database, "SELECT hour_of_day, good FROM report.hourly_throughput WHERE good > 0") == [(2, 90)]
        with subscriber(broker, "umh/v1/cbak/+/+/+/_kpi_v1/#") as topics:
            topic = contract.kpi_topic("nanjing", "cells", "32140-1", "throughput_day")
            wait_for(lambda: topics.get(topic, {}).get("value") == 90, what="retained figure")
            assert topics[topic]["production_day"] == "2026-11-22"
            assert topics[topic]["attainment"] == 90 / 50000
            assert topics[topic]["timestamp_ms"] == AT_MS + 250_000


def test_what_is_not_understood_is_kept_and_its_neighbours_stored(parts: Parts) -> None:
    database, broker = parts
    good = contract.encode(event(1))
    bad = contract.encode(event(2)).replace(b'"cycle_s":7.0', b'"cycle_s":"seven"')
    unknown = WND.replace("/wnd/01/", "/wnd/99/")
    with service("ingest", database, broker), Gateway(broker) as gateway:
        sessions_held(database)
        gateway.send([(WND, b"[" + good + b"," + bad + b"," + contract.encode(event(3)) + b"]"), (WND, b"\xff{"), (unknown, good)])
        gateway.send([(WND, contract.encode(event(4)) + b" " * 5000)])
        gateway.cells(WND, [event(5)])
        stored(database, 3)
        wait_for(lambda: value(database, "SELECT count(*) FROM mes.quarantine") == 4, what="quarantine")
    assert [seq for (seq,) in rows(database, "SELECT seq FROM mes.cell_event ORDER BY seq")] == [1, 3, 5]
    kept = rows(database, "SELECT reason, topic, payload, seq FROM mes.quarantine ORDER BY reason, topic")
    assert [(reason, topic, seq) for reason, topic, _, seq in kept] == [
        ("invalid", WND, 2), ("not_json", WND, None), ("oversize", WND, 4), ("unknown_machine", unknown, None),
    ]  # fmt: skip
    assert kept[0][2] == bad
    assert kept[3][2] == good
    # a quarantined event whose identity can be read counts as received
    assert value(database, "SELECT received::text FROM mes.machine_ledger") == "{[1,6)}"


def test_duplicates_change_nothing(parts: Parts) -> None:
    database, broker = parts
    events = [event(i) for i in range(1, 501)]
    with service("ingest", database, broker), Gateway(broker) as gateway:
        sessions_held(database)
        gateway.backlog(WND, events)
        gateway.backlog(WND, events, 77)
        gateway.cells(WND, events[:20])
        gateway.backlog(WND, [event(i) for i in range(490, 511)])
        stored(database, 510)
        wait_for(lambda: value(database, "SELECT sum(duplicates) FROM mes.machine_ledger") == 531, what="duplicates counted")
    with service("ingest", database, broker), Gateway(broker) as gateway:  # and after a restart
        gateway.backlog(WND, events)
        wait_for(lambda: value(database, "SELECT sum(duplicates) FROM mes.machine_ledger") == 1031, what="duplicates counted")
    assert value(database, "SELECT count(*) FROM mes.cell_event") == 510
    assert value(database, "SELECT received::text FROM mes.machine_ledger") == "{[1,511)}"


def test_rows_that_the_ledger_does_not_know_fall_back_to_the_slow_path(parts: Parts) -> None:
    database, broker = parts
    events = [event(i) for i in range(1, 101)]
    with service("ingest", database, broker), Gateway(broker) as gateway:
        sessions_held(database)
        gateway.backlog(WND, events[:50])
        stored(database, 50)
    rows(database, "DELETE FROM mes.machine_ledger RETURNING 1")
    with service("ingest", database, broker), Gateway(broker) as gateway:
        gateway.backlog(WND, events)
        stored(database, 100)
    assert rows(database, "SELECT count(*), count(DISTINCT seq) FROM mes.cell_event") == [(100, 100)]
    assert value(database, "SELECT sum(duplicates) FROM mes.machine_ledger") == 50


def test_two_workers_share_the_lines(parts: Parts) -> None:
    database, broker = parts
    with service("ingest", database, broker) as first, Gateway(broker) as gateway:
        sessions_held(database)
        with service("ingest", database, broker):
            gateway.backlog(WND, [event(i) for i in range(1, 1001)])
            stored(database, 1000)
            first.kill()
            gateway.backlog(WND, [event(i) for i in range(1001, 2001)])
            stored(database, 2000)
    assert rows(database, "SELECT count(*), count(DISTINCT seq) FROM mes.cell_event") == [(2000, 2000)]


def test_sigterm_drains_and_ends_with_zero(parts: Parts) -> None:
    database, broker = parts
    with service("ingest", database, broker) as ingest, Gateway(broker) as gateway:
        sessions_held(database)
        gateway.backlog(WND, [event(i) for i in range(1, 5001)])
        ingest.send_signal(signal.SIGTERM)
        assert ingest.wait(5) == 0
    with service("ingest", database, broker):
        stored(database, 5000)
    assert rows(database, "SELECT count(*), count(DISTINCT seq) FROM mes.cell_event") == [(5000, 5000)]


@pytest.mark.parametrize("command", ["ingest", "rollup"])
def test_a_database_without_schema_is_refused_in_one_line(server_url: str, embedded_broker: str, command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mes", command],
        env=environment(server_url, embedded_broker),
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1] == "mes: the database has no schema yet: run `mes migrate`"
