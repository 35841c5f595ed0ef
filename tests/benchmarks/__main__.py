"""`./run bench [decode] [store] [sums] [start] [once] [ingest] [kpi] [sim] [storage] [log]`: figures, and ratios of ways.

Absolute figures are those of this machine at this hour; ratios travel.
"""

from __future__ import annotations

import json
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psycopg

from mes.batch import Batch
from mes.contract import CellEvent, encode
from mes.embedded.postgres import EmbeddedPostgres
from mes.equipment import Equipment
from mes.ledger import Ledger
from mes.seeds import load_plant
from mes.store.blocks import COLUMNS
from mes.store.events import Writer, active_lines
from mes.store.migrate import migrate
from mes.store.seed import seed
from mes.store.sums import Rollup
from tests.benchmarks.ingest import ingest
from tests.benchmarks.kpi import kpi
from tests.benchmarks.log import log
from tests.benchmarks.processes import cpu_seconds, resident_mb, say
from tests.benchmarks.sim import sim
from tests.benchmarks.storage import storage
from tests.servers import free_port

ROOT = Path(__file__).resolve().parents[2]
PATH = "dalian/cells/26650-1"
AT_MS = 1_795_219_200_000


def main(names: list[str]) -> None:
    chosen = names or ["decode", "store", "sums", "start", "once", "ingest", "kpi", "sim", "storage", "log"]
    say(f"machine: {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, load {os.getloadavg()[0]:.1f}")
    if {"decode", "store", "sums"} & set(chosen):
        with tempfile.TemporaryDirectory() as home, EmbeddedPostgres(Path(home)) as server:
            migrate(server.url)
            seed(server.url, load_plant(ROOT / "seeds"))
            bench = Bench(server.url)
            for name in ("decode", "store", "sums"):
                if name in chosen:
                    getattr(bench, name)()
            bench.writer.close()
    if "start" in chosen:
        start()
    if "once" in chosen:
        once()
    if "ingest" in chosen:
        ingest()
    if "kpi" in chosen:
        kpi()
    if "sim" in chosen:
        sim()
    if "storage" in chosen:
        storage()
    if "log" in chosen:
        log()


def best(work: Callable[[], Any], times: int = 3) -> float:
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def compare(title: str, n: int, ways: dict[str, float]) -> None:
    """Print events a second of each way, and how many times as fast as the last one it is."""
    say(f"\n{title}, {n:,} events")
    slowest = list(ways.values())[-1]
    for name, seconds in ways.items():
        say(f"  {name:<44} {n / seconds / 1e3:>9,.0f} k/s   {slowest / seconds:>6.1f} x")


class Bench:
    """Steps of the path by themselves, on an embedded PostgreSQL with a line's real equipment."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.writer = Writer.open(url, next(line for line in active_lines(url)[1] if line.path == PATH))
        self.equipment = self.writer.equipment()
        self.messages = messages(200)

    def batch(self, equipment: Equipment) -> Batch:
        batch, ledger = Batch(), Ledger()
        for topic, payload in self.messages:
            batch.add(topic, payload, equipment, ledger)
        return batch

    def decode(self) -> None:
        """JSON arrays into a batch: strict decoding, duplicates, grouping; beside json.loads alone."""
        n = self.batch(self.equipment).events
        compare(
            "decode, arrays of 200",
            n,
            {
                "Batch.add (strict, duplicates, grouping)": best(lambda: self.batch(self.equipment)),
                "json.loads alone": best(lambda: [json.loads(payload) for _, payload in self.messages]),
            },
        )

    def store(self) -> None:
        """One transaction of rows, ledger and marks; beside plain ways to insert the same rows, without ledger and marks."""
        batch = self.batch(self.equipment)
        with psycopg.connect(self.url, autocommit=True) as connection:

            def commit() -> None:
                connection.execute("TRUNCATE mes.cell_event, mes.machine_ledger, mes.dirty_bucket")
                self.writer.commit(batch)

            ours = best(commit)
            rows = connection.execute(f"SELECT {', '.join(COLUMNS)} FROM mes.cell_event").fetchall()
            types = ["timestamptz"] * 2 + ["int8"] + ["int4"] * 3 + ["float4"] + ["int2"] * 5 + ["text", "float4[]", "jsonb"]

            def write_row() -> None:
                connection.execute("TRUNCATE mes.cell_event")
                with (
                    connection.cursor() as cursor,
                    cursor.copy(f"COPY mes.cell_event ({', '.join(COLUMNS)}) FROM STDIN (FORMAT BINARY)") as copy,
                ):
                    copy.set_types(types)
                    for row in rows:
                        copy.write_row(row)

            def executemany() -> None:
                connection.execute("TRUNCATE mes.cell_event")
                with connection.transaction(), connection.cursor() as cursor:
                    cursor.executemany(f"INSERT INTO mes.cell_event VALUES ({', '.join(['%s'] * len(COLUMNS))})", rows)

            ways = {
                "Writer.commit (numpy blocks, ledger, marks)": ours,
                "binary COPY, write_row": best(write_row),
                "executemany": best(executemany, 1),
            }
        compare("store, one transaction", len(rows), ways)

    def sums(self) -> None:
        """A rollup of everything stored, reading included; beside counting alone with GROUP BY in the database."""
        rollup = Rollup(self.url)
        self.writer.commit(self.batch(self.equipment))
        while rollup.step():
            pass

        def again() -> None:
            rollup.mark_history(PATH, None, None)
            while rollup.step():
                pass

        with psycopg.connect(self.url, autocommit=True) as connection:
            n = connection.execute("SELECT count(*) FROM mes.cell_event").fetchone()
            group_by = (
                "SELECT date_bin('5 minutes', at, 'epoch'), station_id, count(*) FILTER (WHERE result = 0),"
                " count(*) FILTER (WHERE result = 1), count(*) FILTER (WHERE result = 2), count(DISTINCT unit) FILTER (WHERE attempt = 1),"
                " percentile_cont(ARRAY[0.5, 0.95]) WITHIN GROUP (ORDER BY cycle_s) FROM mes.cell_event GROUP BY 1, 2"
            )
            ways = {
                "rollup --all (buckets, hours, days)": best(again),
                "GROUP BY (buckets only)": best(lambda: connection.execute(group_by).fetchall()),
            }
        rollup.close()
        compare("sums, reading included", n[0] if n else 0, ways)


def messages(size: int) -> list[tuple[str, bytes]]:
    """Two hours of a line's cells, machine 01 of every station, in arrays."""
    numbers = np.random.default_rng(1)
    out = []
    for station in load_plant(ROOT / "seeds").lines[PATH].station:
        topic = f"umh/v1/cbak/{PATH}/{station.code}/01/_cell_v1/completed"
        for first in range(0, 5000, size):
            events = [
                CellEvent(
                    boot=1,
                    seq=first + i + 1,
                    timestamp_ms=AT_MS + (first + i) * 1440,
                    unit=f"DL1-26K21-{first + i:07d}",
                    attempt=1,
                    result="pass",
                    cycle_s=round(float(numbers.normal(station.cycle_s, station.cycle_s / 50)), 3),
                    meas={c.name: float(f"{numbers.normal(c.nominal, c.sigma):.5g}") for c in station.characteristic},
                )
                for i in range(size)
            ]
            out.append((topic, encode(events)))
    return out


def demo(home: str, *words: str) -> subprocess.Popen[bytes]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MES_")}
    command = [sys.executable, "-m", "mes", "demo", *words]
    return subprocess.Popen(
        command, env={**clean, "MES_HOME": home}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )


def start() -> None:
    """From the command to the first figure of the board, on a fresh home and then on one that is there."""
    say("\nstart to the first figure on the board")
    with tempfile.TemporaryDirectory() as home:
        for which in ("first start", "second start"):
            port = free_port()
            began = time.perf_counter()
            running = demo(home, "--board-port", str(port))
            while not figure(port):
                time.sleep(0.05)
            say(f"  {which:<44} {time.perf_counter() - began:>9.1f} s")
            began = time.perf_counter()
            os.killpg(running.pid, signal.SIGINT)
            running.communicate()
            say(f"  {'Ctrl-C to all stopped':<44} {time.perf_counter() - began:>9.1f} s")


def figure(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/now", timeout=1) as answer:
            return re.search(rb'"good":\s*[1-9]', answer.read()) is not None
    except OSError:
        return False


def once() -> None:
    """A production day of both lines through broker and database, with the memory of the backend's processes."""
    say("\n./run demo --once")
    with tempfile.TemporaryDirectory() as home:
        began = time.perf_counter()
        running = demo(home, "--once")
        most: dict[str, float] = {}
        spent: dict[tuple[int, str], float] = {}
        total = 0.0
        while running.poll() is None:
            spent |= cpu_seconds(running.pid)
            now = resident_mb(running.pid)
            total = max(total, sum(mb for name, mb in now.items() if name not in ("simulators", "other")))
            most = {name: max(mb, most.get(name, 0.0)) for name, mb in {**most, **now}.items()}
            time.sleep(0.5)
        output = running.communicate()[0].decode()
        say("  " + "\n  ".join(line for line in output.splitlines() if "simulated" not in line or "equals" in line))
        say(f"  {'all in, from the command to the exit':<44} {time.perf_counter() - began:>9.1f} s, exit {running.returncode}")
        say(f"  {'backend at most (broker, database, services)':<44} {total:>9.0f} MiB")
        for name, mb in sorted(most.items()):
            seconds = sum(s for (_, part), s in spent.items() if part == name)
            say(f"    {name:<42} {mb:>9.0f} MiB {seconds:>9.1f} s of a core")
        with EmbeddedPostgres(Path(home) / "once") as server:
            for which in ("first", "second"):
                seconds, most_mb = summed_anew(server.url)
                say(f"  {f'mes rollup --all of that day, {which} time':<44} {seconds:>9.1f} s, at most {most_mb:.0f} MiB")


def summed_anew(database: str) -> tuple[float, float]:
    """Seconds and memory of `mes rollup --all`, from the command to its end."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "mes", "rollup", "--all"]
    process = subprocess.Popen(command, env={**os.environ, "MES_DATABASE_URL": database}, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0
    return time.perf_counter() - began, usage.ru_maxrss / 1024


main(sys.argv[1:])
