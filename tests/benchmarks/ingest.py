"""`./run bench ingest`: from a publisher to the commit, at QoS 1, beside mq-bridge and plain aiomqtt; same broker, same database, one run.

When rows were committed the database itself says (`track_commit_timestamp`), so nothing has to watch while it is measured.

backlog  all messages wait at the broker, then the worker starts: events a second from its connection to the last commit
live     a publisher sends as fast as the broker acknowledges: events a second from its first publish to the last commit
"""

from __future__ import annotations

import contextlib
import datetime as dt
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import numpy as np
import psycopg

from mes import contract
from mes.embedded.broker import EmbeddedBroker
from mes.embedded.postgres import SETTINGS, EmbeddedPostgres
from mes.seeds import load_plant
from mes.store.migrate import migrate
from mes.store.seed import seed
from simulators.scenario import Scenario
from simulators.stream import Stream
from tests.benchmarks import wire
from tests.benchmarks.processes import Most, parent_of, say, tree_seconds
from tests.servers import Mosquitto, stopped_at_the_end, wait_for
from tests.timescaledb import Missing, timescaledb

ROOT = Path(__file__).resolve().parents[2]
PATH = "nanjing/cells/32140-1"
PATTERN = contract.line_filters(*PATH.split("/"))[0]
ARRAYS, SINGLES = 600_000, 200_000  # events
ARRAY = 100
PACED, PACED_S = 5_000, 10
STALLED_S = 15
PATIENCE_S = 120
DATABASE = {**SETTINGS, "track_commit_timestamp": "on", "fsync": "on"}
PLAIN = """
CREATE SCHEMA bench;
CREATE TABLE bench.plain (topic text, boot bigint, seq bigint, timestamp_ms bigint, unit text, attempt bigint, result text,
    cycle_s double precision, defect text, channel bigint, meas text)"""

Messages = list[tuple[str, bytes]]


class Failed(Exception):
    """A way did not do it; says what happened."""


@dataclass(frozen=True)
class Way:
    """A program that takes messages from a session into a table."""

    name: str
    client_id: str
    table: str
    command: Callable[[str, str], list[str]]

    @contextlib.contextmanager
    def run(self, database: str, broker: str) -> Iterator[subprocess.Popen[bytes]]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("MES_")}
        environment = {**clean, "MES_DATABASE_URL": database, "MES_BROKER_URL": broker, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", *self.command(database, broker)]
        with tempfile.TemporaryFile() as said:
            process = subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True, stdout=said, stderr=said)
            with stopped_at_the_end(process):
                yield process
                if (code := process.poll()) is not None:
                    said.seek(0)
                    lines = said.read().decode(errors="replace").strip().splitlines() or ["nothing said"]
                    raise Failed(f"{self.name} ended with {code}: {lines[-1][:200]}")


def _peer(module: str, *more: str) -> Callable[[str, str], list[str]]:
    return lambda database, broker: [f"tests.benchmarks.{module}", database, str(urlsplit(broker).port), "bench", *more]


SITE, _, LINE = PATH.split("/")
OURS = Way("mes ingest", contract.session_id(SITE, LINE), "mes.cell_event", lambda *_: ["mes", "ingest", "--line", PATH])
BRIDGE = Way("mq-bridge", "bench", "bench.plain", _peer("bridge", PATTERN))
PLAINLY = Way("aiomqtt", "bench", "bench.plain", _peer("obvious"))


class Events:
    """A simulated line's events, as objects and as arrays, encoded once."""

    def __init__(self) -> None:
        whole = load_plant(ROOT / "seeds")
        line = whole.lines[PATH]
        stream = Stream(Scenario(line, whole.sites[line.site]), 1, dt.date(2026, 11, 2))
        self.objects: Messages = []
        topics = stream.scenario.topics
        until = stream.begin
        while len(self.objects) < ARRAYS:
            until += 3600 * 1_000_000
            self.objects += [(topics[m.machine], m.payload) for m in stream.objects(stream.advance(until))]
        del self.objects[ARRAYS:]
        self.machines = len({topic for topic, _ in self.objects})

    def arrays(self) -> Messages:
        """Backlogs of the machines, earliest first."""
        waiting: dict[str, list[tuple[int, bytes]]] = defaultdict(list)
        found: list[tuple[int, str, bytes]] = []
        for number, (topic, payload) in enumerate(self.objects):
            waiting[topic].append((number, payload))
        for topic, events in waiting.items():
            for i in range(0, len(events), ARRAY):
                found.append((events[i][0], topic, b"[" + b",".join(payload for _, payload in events[i : i + ARRAY]) + b"]"))
        return [(topic, payload) for _, topic, payload in sorted(found)]


@dataclass
class Figure:
    rate: float
    worker_us: float
    database_us: float
    mb: float

    def __str__(self) -> str:
        return f"{self.rate / 1e3:>7.1f} k/s {self.worker_us:>6.1f} {self.database_us:>6.1f} us {self.mb:>5.0f} MiB"


class Course:
    """One database and one broker, and what runs between them."""

    def __init__(self, database: str, broker: str) -> None:
        self.broker = broker
        self.url = database
        self._connection = psycopg.connect(database, autocommit=True)
        self._postgres = parent_of(self._connection.info.backend_pid)
        self._start_s: dict[str, float] = {}  # a core's time to start each way, which is no event's

    def close(self) -> None:
        self._connection.close()

    def ask(self, statement: str) -> list[tuple[Any, ...]]:
        return self._connection.execute(statement.encode()).fetchall()

    def prepare(self, way: Way) -> None:
        """Empty tables, nothing left to write back, and a session that keeps what comes."""
        self._connection.execute("TRUNCATE mes.cell_event, mes.machine_ledger, mes.dirty_bucket, mes.quarantine, bench.plain")
        self._connection.execute("CHECKPOINT")
        wire.forget_session(self.broker, way.client_id)
        wire.hold_session(self.broker, way.client_id, PATTERN)

    def stored(self, way: Way) -> int:
        return int(self.ask(f"SELECT count(*) FROM {way.table}")[0][0])

    def all_stored(self, way: Way, n: int, process: subprocess.Popen[bytes]) -> None:
        end = time.monotonic() + PATIENCE_S
        while (now := self.stored(way)) < n and process.poll() is None:
            if time.monotonic() > end:
                raise Failed(f"{way.name}: {now:,} of {n:,} stored within {PATIENCE_S} s")
            time.sleep(0.5)
        if now < n:
            return
        if way is OURS:
            found = self.ask(
                "SELECT count(*), count(DISTINCT (machine_id, boot, seq)), (SELECT count(*) FROM mes.quarantine) FROM mes.cell_event"
            )
            received = self.ask("SELECT coalesce(sum(upper(r) - lower(r)), 0) FROM mes.machine_ledger, unnest(received) AS r")
            counts = (*found[0], int(received[0][0]))
            if counts != (n, n, 0, n):
                raise Failed(f"{n:,} published; stored, distinct, quarantined, in the ledger: {counts}")
        elif now != n:
            say(f"    {way.name} stored {now:,} rows for {n:,} events")

    def last_commit(self, way: Way) -> float:
        """Its instant, s since 1970."""
        transactions = f"SELECT DISTINCT xmin AS x FROM {way.table}"
        return float(self.ask(f"SELECT max(extract(epoch FROM pg_xact_commit_timestamp(x))) FROM ({transactions}) t")[0][0])

    @contextlib.contextmanager
    def measured(self, way: Way, process: subprocess.Popen[bytes], n: int, figure: Figure) -> Iterator[None]:
        """Processor time and memory of a run that begins here."""
        before = tree_seconds(self._postgres)
        own = self._start_s.get(way.name, 0.0)
        with Most(process.pid) as memory:
            yield
        figure.worker_us = (tree_seconds(process.pid) - own) / n * 1e6
        figure.database_us = (tree_seconds(self._postgres) - before) / n * 1e6
        figure.mb = memory.mb

    def backlog(self, way: Way, messages: Messages) -> Figure:
        self.prepare(way)
        n = events_in(messages)
        wire.publish(self.broker, wire.publishes(messages))
        figure = Figure(0, 0, 0, 0)
        with way.run(self.url, self.broker) as process, self.measured(way, process, n, figure):
            while not connections(self.broker) and process.poll() is None:
                time.sleep(0.002)
            began = time.time()
            self.all_stored(way, n, process)
        figure.rate = n / (self.last_commit(way) - began)
        return figure

    def live(self, way: Way, messages: Messages) -> Figure:
        self.prepare(way)
        packets = wire.publishes(messages)
        figure = Figure(0, 0, 0, 0)
        with way.run(self.url, self.broker) as process:
            self.settled(process)
            self._start_s[way.name] = tree_seconds(process.pid)
            with self.measured(way, process, len(messages), figure):
                sent = wire.publish(self.broker, packets)
                self.all_stored(way, len(messages), process)
        figure.rate = len(messages) / (self.last_commit(way) - sent[0])
        return figure

    def settled(self, process: subprocess.Popen[bytes]) -> None:
        """Wait until a worker has started and waits for messages: it takes no processor time any more."""
        time.sleep(1.5)
        before = -1.0
        while (now := tree_seconds(process.pid)) > before:
            before = now
            time.sleep(0.3)

    def paced(self, messages: Messages) -> None:
        """Publish at a steady rate, with a tap between broker and worker; then put the instants of every event side by side."""
        self.prepare(OURS)
        with wire.Tap(self.broker) as tap, OURS.run(self.url, tap.url) as process:
            self.settled(process)
            sent = wire.publish(self.broker, wire.publishes(messages), PACED)
            self.all_stored(OURS, len(messages), process)
            wait_for(lambda: sum(map(len, tap.acked.values())) >= len(messages), 60, "acknowledgements")
        machine_ids = dict(self.ask(_MACHINES))
        committed = {
            (machine, seq): at
            for machine, seq, at in self.ask(
                "SELECT machine_id, seq, extract(epoch FROM pg_xact_commit_timestamp(xmin))::float8 FROM mes.cell_event"
            )
        }
        seq_of = msgspec.json.Decoder(_Seq)
        publish_to_commit = [
            committed[machine_ids[topic], seq_of.decode(payload).seq] - at for (topic, payload), at in zip(messages, sent, strict=True)
        ]
        turn: dict[tuple[int, int], int] = defaultdict(int)
        delivery_to_ack, commit_to_ack = [], []
        for at, topic, payload, handle in tap.delivered:
            if topic in machine_ids:
                ack = tap.acked[handle][turn[handle]]
                turn[handle] += 1
                delivery_to_ack.append(ack - at)
                commit_to_ack.append(ack - committed[machine_ids[topic], seq_of.decode(payload).seq])
        say(f"  {PACED:,} events/s for {PACED_S} s, one a message, ms:           p50      p99     most")
        for name, seconds in (
            ("publish to commit", publish_to_commit),
            ("delivery to ack (includes the commit)", delivery_to_ack),
            ("commit to ack", commit_to_ack),
        ):
            p50, p99, most = np.percentile(np.array(seconds) * 1e3, [50, 99, 100])
            say(f"    {name:<48} {p50:>7.1f}  {p99:>7.1f}  {most:>7.1f}")

    def stalled(self, messages: Messages, kind: str) -> None:
        """The table is locked by another session while messages pour in."""
        self.prepare(OURS)
        n = events_in(messages)
        with OURS.run(self.url, self.broker) as process:
            self.settled(process)
            with Most(process.pid) as memory:
                with psycopg.connect(self.url) as other:
                    other.execute("LOCK TABLE mes.cell_event IN ACCESS EXCLUSIVE MODE")
                    wire.publish(self.broker, wire.publishes(messages))
                    time.sleep(STALLED_S)
                    other.rollback()
                self.all_stored(OURS, n, process)
        say(f"  table locked for {STALLED_S} s, {n:,} events in {kind} came: all stored; ingest at most {memory.mb:.0f} MiB")


class _Seq(msgspec.Struct):
    seq: int


_MACHINES = f"""
SELECT 'umh/v1/cbak/{PATH}/' || s.code || '/' || m.code || '/_cell_v1/completed', m.machine_id
FROM mes.machine m JOIN mes.station s USING (station_id) JOIN mes.line l USING (line_id) WHERE l.path = '{PATH}'"""


@contextlib.contextmanager
def embedded(home: Path) -> Iterator[str]:
    with EmbeddedPostgres(home, settings=DATABASE) as server:
        prepared(server.url)
        yield server.url


@contextlib.contextmanager
def hypertable(_: Path) -> Iterator[str]:
    with timescaledb({**DATABASE, "unix_socket_directories": ""}) as url:
        prepared(url)
        yield url


def prepared(url: str) -> None:
    migrate(url)
    seed(url, load_plant(ROOT / "seeds"))
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(PLAIN)


def ingest() -> None:
    """Every way on both databases; what a figure means stands in its head."""
    events = Events()
    arrays, singles = events.arrays(), events.objects[:SINGLES]
    size = sum(len(payload) for _, payload in singles) / len(singles)
    say(f"\ningest: {PATH}, {events.machines} machines, {size:.0f} bytes an event; QoS 1, fsync on")
    say("  ours: duplicates checked, unique key and unit index, ledger, marks. mq-bridge, aiomqtt: a plain table, no index, no check;")
    say("  mq-bridge leaves readings and topic out, aiomqtt acknowledges on receipt. us: a core's time an event, worker and database;")
    say("  last column: mes ingest's rate over that row's")
    bridge = importlib.util.find_spec("mq_bridge") is not None
    if not bridge:
        say("  mq-bridge is not installed (it has no package for this platform?): left out")
    databases = {"embedded PostgreSQL": embedded, "TimescaleDB": hypertable}
    for title, database in databases.items():
        with tempfile.TemporaryDirectory() as home, contextlib.ExitStack() as stack:
            try:
                url = stack.enter_context(database(Path(home)))
            except Missing as why:
                say(f"\n{title}: left out: {why}")
                continue
            mosquitto = stack.enter_context(Mosquitto(Path(home) / "mosquitto"))
            nats = stack.enter_context(EmbeddedBroker(Path(home)))
            course, on_nats = Course(url, mosquitto.url), Course(url, nats.url)
            say(f"\n{title}, Mosquitto (mes ingest also with the embedded broker)")
            peers = [BRIDGE, PLAINLY] if bridge else [PLAINLY]
            kinds: dict[str, Callable[[Course, Way], Figure]] = {
                "live, one event a message": lambda at, way: at.live(way, some(way, singles)),
                "backlog, one event a message": lambda at, way: at.backlog(way, some(way, singles)),
                f"backlog, arrays of {ARRAY}": lambda at, way: at.backlog(way, some(way, arrays)),
            }
            for kind, run in kinds.items():
                say(f"  {kind}")
                first = show("mes ingest", run, course, OURS)
                show("mes ingest, embedded broker", run, on_nats, OURS, first)
                for way in peers:
                    if way is not BRIDGE or "arrays" not in kind:
                        show(way.name, run, course, way, first)
            course.paced(events.objects[: PACED * PACED_S])
            course.stalled(arrays, "arrays")
            course.stalled(singles, "singles")
            course.close()
            on_nats.close()


def show(name: str, run: Callable[[Course, Way], Figure], course: Course, way: Way, first: float = 0.0) -> float:
    """Print a row of the table; returns the rate. What a way could not do is said, and the others go on."""
    try:
        figure = run(course, way)
    except Failed as why:
        say(f"    {name:<28} {why}")
        return 0.0
    beside = f"{first / figure.rate:>6.2f}" if first and figure.rate else ""
    say(f"    {name:<28} {figure} {beside}")
    return figure.rate


def some(way: Way, messages: Messages) -> Messages:
    """Fewer for aiomqtt, which would take minutes."""
    return messages[: len(messages) // 5] if way is PLAINLY else messages


def connections(broker: str) -> bool:
    """Whether anything is connected to this broker."""
    port = f":{urlsplit(broker).port:04X}"
    with open("/proc/net/tcp") as table:
        return any(fields[1].endswith(port) and fields[3] == "01" for fields in map(str.split, table))


def events_in(messages: Messages) -> int:
    return sum(payload.count(b'{"boot"') for _, payload in messages)
