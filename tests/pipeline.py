"""Helpers that drive the real pipeline in tests: services as child processes, events as a machine sends them."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import paho.mqtt.client as paho
import psycopg

from mes import contract
from mes.contract import CellEvent
from tests.servers import stopped_at_the_end, wait_for

ROOT = Path(__file__).resolve().parent.parent
WND = "umh/v1/cbak/nanjing/cells/32140-1/wnd/01/_cell_v1/completed"
GRD = "umh/v1/cbak/nanjing/cells/32140-1/grd/01/_cell_v1/completed"
LINES = (("nanjing", "32140-1"), ("dalian", "26650-1"))
AT_MS = 1_795_312_800_000  # 2026-11-22T02:00:00Z, 10:00 in Nanjing


def event(seq: int, **changes: Any) -> CellEvent:
    """A good event of the winding station, one every second."""
    values: dict[str, Any] = {
        "boot": 1, "seq": seq, "timestamp_ms": AT_MS + 1000 * seq, "unit": f"NJ1-26K22-{seq:07d}", "attempt": 1,
        "result": "pass", "cycle_s": 7.0, "meas": {},
    }  # fmt: skip
    return CellEvent(**{**values, **changes})


def environment(database: str, broker: str) -> dict[str, str]:
    return {**os.environ, "MES_DATABASE_URL": database, "MES_BROKER_URL": broker, "PYTHONPATH": str(ROOT)}


@contextlib.contextmanager
def service(name: str, database: str, broker: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """`mes NAME` as a child process."""
    process = subprocess.Popen([sys.executable, "-m", "mes", name, *arguments], env=environment(database, broker), start_new_session=True)
    with stopped_at_the_end(process):
        yield process


def rows(database: str, query: str, *values: Any) -> list[tuple[Any, ...]]:
    with psycopg.connect(database, autocommit=True) as connection:
        return connection.execute(query, values or None).fetchall()  # type: ignore[arg-type]


def value(database: str, query: str, *values: Any) -> Any:
    return rows(database, query, *values)[0][0]


def sessions_held(database: str, lines: int = 2) -> None:
    """Wait until the broker keeps a session for every line: from then on nothing that is published is missed."""
    wait_for(lambda: value(database, "SELECT count(*) FROM mes.line_session") >= lines, what="sessions")


def forget_sessions(broker: str) -> None:
    """End the lines' persistent sessions: what a test's last worker left there unacked would come to the next test's database."""
    at = urlsplit(broker)
    for line in LINES:
        gone = threading.Event()
        client = paho.Client(paho.CallbackAPIVersion.VERSION2, contract.session_id(*line), clean_session=True)
        client.on_connect = lambda client, *_: client.disconnect()
        client.on_disconnect = lambda *_, gone=gone: gone.set()
        client.connect(at.hostname or "127.0.0.1", at.port or 1883)
        client.loop_start()
        assert gone.wait(10)
        client.loop_stop()


class Gateway:
    """Publishes with QoS 1 and waits for every PUBACK."""

    def __init__(self, broker: str) -> None:
        parts = urlsplit(broker)
        self._client = paho.Client(paho.CallbackAPIVersion.VERSION2)
        self._client.max_inflight_messages_set(500)
        if parts.username:
            self._client.username_pw_set(parts.username, parts.password)
        self._client.connect(parts.hostname or "127.0.0.1", parts.port or 1883)
        self._client.loop_start()

    def __enter__(self) -> Gateway:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def send(self, messages: Iterable[tuple[str, bytes]]) -> None:
        for sent in [self._client.publish(topic, payload, qos=1) for topic, payload in messages]:
            sent.wait_for_publish(30)
            assert sent.is_published()

    def retain(self, topic: str, payload: bytes) -> None:
        self._client.publish(topic, payload, qos=1, retain=True).wait_for_publish(30)

    def cells(self, topic: str, events: Iterable[CellEvent]) -> None:
        self.send((topic, contract.encode(e)) for e in events)

    def backlog(self, topic: str, events: list[CellEvent], size: int = 100) -> None:
        self.send((topic, contract.encode(events[i : i + size])) for i in range(0, len(events), size))


@contextlib.contextmanager
def subscriber(broker: str, pattern: str) -> Iterator[dict[str, Any]]:
    """The latest JSON payload by topic, as a dashboard that subscribes late would see it."""
    parts = urlsplit(broker)
    seen: dict[str, Any] = {}
    ready = threading.Event()
    client = paho.Client(paho.CallbackAPIVersion.VERSION2)
    client.on_message = lambda _c, _u, message: (
        seen.__setitem__(message.topic, msgspec.json.decode(message.payload)) if message.payload else seen.pop(message.topic, None)
    )
    client.on_subscribe = lambda *_: ready.set()
    client.connect(parts.hostname or "127.0.0.1", parts.port or 1883)
    client.subscribe(pattern, 1)
    client.loop_start()
    assert ready.wait(10)
    try:
        yield seen
    finally:
        client.disconnect()
        client.loop_stop()
