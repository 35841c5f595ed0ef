"""`./run bench storage`: what a day of both lines takes on disk, and what is left of it when TimescaleDB has compressed it.

PostgreSQL and TimescaleDB's Apache edition hold the whole day, stored as ingest stores it. The Community edition is the one of
`tests/pglite.py`: it gets some hours of the same events, as many a station as fill its batches of a thousand several times.
"""

from __future__ import annotations

import datetime as dt
import sys
import tempfile
from pathlib import Path
from typing import Any

import psycopg

from mes.batch import Batch
from mes.embedded.postgres import EmbeddedPostgres
from mes.seeds import load_plant
from mes.store.blocks import COLUMNS
from mes.store.events import Writer, active_lines
from mes.store.migrate import migrate
from mes.store.seed import seed
from simulators.scenario import load
from simulators.stream import Stream
from tests.benchmarks.processes import say
from tests.chunks import server
from tests.pglite import Missing, pglite

ROOT = Path(__file__).resolve().parents[2]
LINES = ("dalian-26650-1", "nanjing-32140-1")
DAY = dt.date(2026, 11, 2)
HOURS = 2  # of the day, for the Community edition
HOUR_US = 3600 * 1_000_000
AT_ONCE = 100  # rows of an INSERT: that edition dies of a statement that is longer than one read of its socket, 64 KiB

_TABLE = """
SELECT sum(pg_relation_size(c.oid)) FILTER (WHERE NOT i.is_index), sum(pg_relation_size(c.oid)) FILTER (WHERE i.name LIKE '%pkey'),
    sum(pg_relation_size(c.oid)) FILTER (WHERE i.name LIKE '%unit')
FROM pg_class c CROSS JOIN LATERAL (SELECT c.relkind = 'i' AS is_index, c.relname::text AS name) AS i
WHERE c.relkind IN ('r', 'i') AND (c.relname LIKE '%cell_event%' OR c.relname LIKE '\\_hyper\\_%')
"""


def storage() -> None:
    say(f"\nstorage: production day {DAY} of both lines, bytes an event on disk")
    with tempfile.TemporaryDirectory() as home, EmbeddedPostgres(Path(home)) as plain:
        rows = measured("PostgreSQL", plain.url)
        with server({"unix_socket_directories": ""}) as empty:
            measured("TimescaleDB", empty())
        try:
            with pglite() as url:
                compressed(plain.url, url, rows)
        except Missing as why:
            say(f"  the Community edition is left out: {why}")


def measured(title: str, url: str) -> int:
    """Store the day and say what it takes; how many events it has."""
    migrate(url, say=lambda text: say(f"  {text}"))
    seed(url, load_plant(ROOT / "seeds"))
    for line in active_lines(url)[1]:
        writer = Writer.open(url, line)
        equipment, ledger = writer.equipment(), writer.ledger()
        stream = Stream(load(ROOT / "seeds", f"{line.site}-{line.code}"), 1, DAY)
        for _ in range(24):
            batch = Batch()
            for message in stream.arrays(stream.advance(stream.until + HOUR_US)):
                batch.add(stream.scenario.topics[message.machine], message.payload, equipment, ledger)
            writer.commit(batch)
        writer.close()
    with psycopg.connect(url, autocommit=True) as connection:
        n = one(connection, "SELECT count(*) FROM mes.cell_event")
        heap, key, unit = connection.execute(_TABLE.encode()).fetchone() or (0, 0, 0)
        whole = heap + key + unit
        wal = one(connection, "SELECT wal_bytes FROM pg_stat_wal")
    say(f"  {title}: {n:,} events, {whole / 2**20:,.0f} MiB a day")
    say(f"    bytes an event: heap {heap / n:.0f}, key {key / n:.0f}, index of serials {unit / n:.0f}, together {whole / n:.0f}")
    say(f"    bytes of write-ahead log an event, with ledger and marks: {float(wal) / n:.0f}")
    return int(n)


def compressed(plain: str, community: str, rows: int) -> None:
    """Some hours of the day in the Community edition, before and after."""
    migrate(community, "require", lambda text: say(f"  {text}"))
    with psycopg.connect(community) as connection:
        connection.execute("DEALLOCATE ALL")
    seed(community, load_plant(ROOT / "seeds"))
    names = ", ".join(COLUMNS)
    # Backlogs came in one message each; live events arrive by themselves, some milliseconds after they happened.
    late = names.replace("received_at", "at + (5 + 45 * random()) * interval '1 ms'").replace("lots", "lots::text")
    with (
        psycopg.connect(plain) as source,
        psycopg.connect(community, autocommit=True, cursor_factory=psycopg.ClientCursor) as target,
    ):
        target.execute("DEALLOCATE ALL")
        begin = one(source, "SELECT date_trunc('hour', min(at)) + interval '10 hours' FROM mes.cell_event")
        cursor = source.cursor("some")
        cursor.execute(
            f"SELECT {late} FROM mes.cell_event WHERE at >= %s AND at < %s ORDER BY at".encode(), [begin, begin + dt.timedelta(hours=HOURS)]
        )
        n = 0
        while some := cursor.fetchmany(AT_ONCE):
            places = ", ".join([f"({', '.join(['%s'] * len(COLUMNS))})"] * len(some))
            target.execute(f"INSERT INTO mes.cell_event ({names}) VALUES {places}".encode(), [value for row in some for value in row])
            n += len(some)
        target.execute("SELECT compress_chunk(c) FROM show_chunks('mes.cell_event') AS c")
        sizes = target.execute(
            "SELECT sum(before_compression_total_bytes), sum(after_compression_total_bytes)"
            " FROM hypertable_columnstore_stats('mes.cell_event')"
        ).fetchone()
    before, after = map(float, sizes or (0, 0))
    ratio = f"{before / n:.0f} bytes an event, compressed {after / n:.1f}: {before / after:.1f} times less"
    say(f"  Community: {n:,} events of {HOURS} hours, {ratio}")
    say(f"    a day of {rows:,} events: {before / n * rows / 2**20:,.0f} MiB, compressed {after / n * rows / 2**20:,.0f} MiB")


def one(connection: psycopg.Connection[Any], statement: str) -> Any:
    row = connection.execute(statement.encode()).fetchone()
    assert row
    return row[0]


if __name__ == "__main__":
    sys.exit(storage())
