"""`./run bench log`: what both lines, live at their own rate, have the database write to its log, and which tables it is for."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psycopg

from mes.embedded.broker import EmbeddedBroker
from mes.embedded.postgres import EmbeddedPostgres
from mes.seeds import load_plant
from mes.store.migrate import migrate
from mes.store.seed import seed
from tests.benchmarks.processes import say
from tests.servers import free_port, stopped_at_the_end, wait_for

ROOT = Path(__file__).resolve().parents[2]
SETTLE_S = 60.0  # programs start, the first checkpoint's full pages
SECONDS = 180.0

# Bytes that records carry for a page; their headers, a third of the log or so, belong to no table.
_TABLES = """
SELECT coalesce(t.relname, k.relname), sum(b.block_data_length + coalesce(b.block_fpi_length, 0)), count(*)
FROM pg_get_wal_block_info(%s, %s) b
JOIN pg_class c ON c.relfilenode = b.relfilenode
LEFT JOIN pg_index i ON i.indexrelid = c.oid
JOIN pg_class k ON k.oid = coalesce(i.indrelid, c.oid)
LEFT JOIN pg_class t ON t.reltoastrelid = k.oid
GROUP BY 1 ORDER BY 2 DESC LIMIT 12
"""


def log() -> None:
    """Both lines as machines send them, an event a message, ingest and rollup beside them."""
    say(f"\nlog: both lines live at their own rate, {SECONDS:.0f} s")
    with (
        tempfile.TemporaryDirectory() as home,
        EmbeddedPostgres(Path(home), say=lambda _: None) as server,
        EmbeddedBroker(Path(home), free_port(), say=lambda _: None) as broker,
        contextlib.ExitStack() as running,
    ):
        migrate(server.url)
        seed(server.url, load_plant(ROOT / "seeds"))
        setting = {**os.environ, "MES_DATABASE_URL": server.url, "MES_BROKER_URL": broker.url, "MES_LOG_LEVEL": "error"}

        def start(*words: str) -> None:
            child = subprocess.Popen([sys.executable, "-m", *words], env=setting, stdout=subprocess.DEVNULL)
            running.enter_context(stopped_at_the_end(child))

        with psycopg.connect(server.url, autocommit=True) as connection:

            def one(query: str, *values: Any) -> Any:
                row = connection.execute(query.encode(), values).fetchone()
                return row[0] if row else None

            connection.execute("CREATE EXTENSION pg_walinspect")
            start("mes", "ingest")
            wait_for(lambda: one("SELECT count(*) FROM mes.line_session") == 2, 60, "sessions")
            start("mes", "rollup")
            for line in ("nanjing", "dalian"):
                start("simulators", "run", "--line", line, "--speed", "1", "--state", f"{home}/{line}")
            time.sleep(SETTLE_S)
            connection.execute("CHECKPOINT")
            counted = "SELECT count(*) FROM mes.cell_event"
            first, before = one("SELECT pg_current_wal_lsn()"), one(counted)
            time.sleep(SECONDS)
            last, events = one("SELECT pg_current_wal_lsn()"), one(counted) - before
            total = float(one("SELECT %s::pg_lsn - %s::pg_lsn", last, first))
            say(f"  {events / SECONDS:.1f} events/s, {total / SECONDS / 1000:.0f} kB/s, {total / events:,.0f} bytes an event")
            found = connection.execute(_TABLES.encode(), [first, last]).fetchall()
            whole = sum(float(size) for _, size, _ in found)
            for table, size, records in found:
                say(f"    {table}: {float(size) / whole:.0%} of what is for tables, {records / SECONDS:.0f} records/s")
