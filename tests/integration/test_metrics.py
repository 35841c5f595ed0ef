"""What ingest says of itself to Prometheus is what is in the database."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from mes.contract import encode
from tests.pipeline import GRD, WND, Gateway, environment, event, service, sessions_held, value
from tests.servers import accepts, free_port, wait_for

LINE = {"line": "nanjing/cells/32140-1"}
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scrape(port: int) -> Samples:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    return {(s.name, frozenset(s.labels.items())): s.value for family in text_string_to_metric_families(text) for s in family.samples}


def listening(port: int) -> list[str]:
    """The addresses on which somebody listens on this port, as the kernel writes them."""
    sockets = [
        line.split()[1:4] for name in ("tcp", "tcp6") for line in Path("/proc/net", name).read_text(encoding="ascii").splitlines()[1:]
    ]
    return [local.partition(":")[0] for local, _, state in sockets if state == "0A" and int(local.partition(":")[2], 16) == port]


def figure(samples: Samples, name: str, **labels: str) -> float | None:
    return samples.get((name, frozenset((LINE | labels).items())))


def test_metrics_count_what_is_committed(database: str, embedded_broker: str) -> None:
    port = free_port()
    began = time.time()
    with service("ingest", database, embedded_broker, "--metrics-port", str(port)), Gateway(embedded_broker) as gateway:
        sessions_held(database)
        assert figure(scrape(port), "mes_events_stored_total") == 0
        assert listening(port) == ["0100007F"]  # 127.0.0.1 and nothing else
        gateway.backlog(WND, [event(i) for i in range(1, 301)])
        gateway.cells(GRD, [event(i) for i in range(1, 21)])
        gateway.cells(WND, [event(i) for i in range(1, 8)])
        wait_for(lambda: figure(scrape(port), "mes_events_stored_total") == 320, what="stored")
        newest_ms = int(time.time() * 1000) - 7000
        gateway.cells(GRD, [event(21, timestamp_ms=newest_ms)])
        wait_for(lambda: figure(scrape(port), "mes_events_stored_total") == 321, what="stored")
        gateway.send(
            [(WND, b"{"), (WND, b"["), (WND, encode(event(301, result="scrap", defect="X99"))), (WND.replace("/wnd/01/", "/wnd/99/"), b"")]
        )
        wait_for(lambda: value(database, "SELECT count(*) FROM mes.quarantine") == 4, what="quarantine")
        wait_for(lambda: figure(scrape(port), "mes_events_duplicate_total") == 7, what="duplicates")
        wait_for(lambda: figure(scrape(port), "mes_quarantined_total", reason="unknown_machine") == 1, what="all counted")
        samples = scrape(port)
        assert figure(samples, "mes_events_stored_total") == 321
        assert figure(samples, "mes_quarantined_total", reason="not_json") == 2
        assert figure(samples, "mes_quarantined_total", reason="unknown_defect") == 1
        assert figure(samples, "mes_waiting_bytes") == 0
        assert figure(samples, "mes_lease_held") == 1
        assert figure(samples, "mes_last_event_timestamp_seconds") == newest_ms / 1000
        lag = figure(samples, "mes_event_lag_seconds")
        assert lag is not None
        assert abs(lag - (time.time() - newest_ms / 1000)) < 60
        assert figure(samples, "mes_batches_failed_total") == 0
        wait_for(lambda: figure(scrape(port), "mes_publish_waiting_values") == 0, what="marks taken by the broker")
        batches = figure(samples, "mes_commit_seconds_count")
        assert batches is not None
        assert batches >= 1
        assert batches == figure(samples, "mes_batches_committed_total")
        acks = figure(samples, "mes_ack_seconds_count")
        assert acks is not None
        assert 1 <= acks <= batches
        last = figure(samples, "mes_last_commit_timestamp_seconds")
        assert last is not None
        assert began <= last <= time.time()
        assert figure(samples, "mes_ack_seconds_sum") >= figure(samples, "mes_commit_seconds_sum") / batches  # type: ignore[operator]


def test_metrics_are_off_unless_asked_for_and_a_taken_port_is_said_plainly(database: str, embedded_broker: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "mes", "ingest", "--metrics-port", str(port)]
        done = subprocess.run(command, env=environment(database, embedded_broker), capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 2
        assert done.stderr.strip().splitlines()[-1].startswith(f"mes: metrics cannot be served on 127.0.0.1:{port}: ")
    port = free_port()
    with service("ingest", database, embedded_broker):
        sessions_held(database)
        assert not accepts(port)
