"""Rollups that work bucket by bucket, day by day, many at once: whatever way the sums come about, they are the same."""

from __future__ import annotations

import contextlib
import datetime as dt
import threading
from collections.abc import Callable

import numpy as np
import psycopg
import pytest

from mes.contract import CellEvent
from mes.rollup import recompute_all
from mes.store.seed import SUMS
from mes.store.sums import Rollup
from tests.databases import Databases
from tests.lines import Line, dump, held, look_at_days, step
from tests.pipeline import event, rows, value

NANJING = "nanjing/cells/32140-1"
DAY_MS = 1_795_305_600_000  # 2026-11-22 08:00 in Nanjing
BUCKET_MS, HOUR_MS = 300_000, 3_600_000
STATIONS = {"wnd": "W01", "grd": "R01"}


def wanderers(seed: int, n: int, cells: int, hours: float) -> list[tuple[str, CellEvent]]:
    """Reports of a few cells that come again and again at two stations, within some hours, in no order."""
    numbers = np.random.default_rng(seed)
    out = []
    for seq in range(1, n + 1):
        station = str(numbers.choice(list(STATIONS)))
        result = str(numbers.choice(["pass", "pass", "rework", "scrap"]))
        more = {} if result == "pass" else {"defect": STATIONS[station]}
        at = DAY_MS + int(numbers.integers(0, int(hours * HOUR_MS) // 60_000)) * 60_000  # many at the same instant
        out.append(
            (
                station,
                event(seq, unit=f"S{numbers.integers(cells)}", timestamp_ms=at, result=result, attempt=int(numbers.integers(1, 4)), **more),
            )
        )
    return out


def put(line: Line, reports: list[tuple[str, CellEvent]]) -> None:
    for station in STATIONS:
        if events := [e for s, e in reports if s == station]:
            line.put(line.topic(f"{station}/01"), *events)


@pytest.mark.parametrize("hours", [1.0, 6.0, 30.0])
@pytest.mark.parametrize("seed", range(3))
def test_sums_in_small_steps_are_those_of_whole_days(new_database: Databases, seed: int, hours: float) -> None:
    """Each step sums a few buckets, whose cells report in others too, before and behind."""
    database = new_database()
    reports = wanderers(seed, 240, 12, hours)
    with held(database, NANJING) as line:
        for start in range(0, len(reports), 8):
            put(line, reports[start : start + 8])
            step(database)
    before = dump(database)
    for table in SUMS:
        rows(database, f"DELETE FROM kpi.{table} RETURNING 1")
    recompute_all(database, None, None, None, lambda _done, _total: None)
    after = dump(database)
    for table in SUMS:
        days = [row for row in after[table] if ",0,0," not in str(row)] if table in ("line_day", "line_shift") else after[table]
        assert set(days) <= set(before[table]), table  # days without events are opened by the second alone
        assert set(before[table]) <= set(after[table]), table
    counted = rows(database, "SELECT sum(inspected), sum(passed), sum(retests) FROM kpi.station_sum WHERE grain = 'day'")[0]
    assert all(0 < n < len(reports) for n in counted)


def test_rollups_share_the_work_while_events_come(new_database: Databases) -> None:
    """Three at once, in each other's way; what they leave is what one alone would."""
    database = new_database()
    reports = wanderers(9, 1200, 100, 60.0)
    coming = threading.Event()
    broken: list[BaseException] = []

    def work() -> None:
        try:
            while not coming.is_set():
                step(database)
        except BaseException as why:
            broken.append(why)
            raise

    workers = [threading.Thread(target=work) for _ in range(3)]
    for worker in workers:
        worker.start()
    with held(database, NANJING) as line:
        for start in range(0, len(reports), 20):
            put(line, reports[start : start + 20])
    coming.set()
    for worker in workers:
        worker.join()
    assert not broken
    step(database)
    assert value(database, "SELECT count(*) FROM mes.dirty_bucket") == 0
    before = dump(database)
    recompute_all(database, None, None, None, lambda _done, _total: None)
    after = dump(database)
    assert {table: set(before[table]) - set(after[table]) for table in SUMS} == {table: set() for table in SUMS}
    assert after["station_sum"] == before["station_sum"]


def test_progress_ends_at_the_whole(new_database: Databases) -> None:
    database = new_database()
    with held(database, NANJING) as line:
        put(line, wanderers(1, 200, 20, 90.0))
    said: list[tuple[int, int]] = []
    tell: Callable[[int, int], None] = lambda done, total: said.append((done, total))  # noqa: E731
    n = recompute_all(database, NANJING, None, None, tell)
    assert said[-1] == (n, n)
    assert [done for done, _ in said] == sorted(done for done, _ in said)
    assert all(done <= total for done, total in said)
    assert value(database, "SELECT sum(events) FROM report.daily_throughput") == 200


def test_a_part_of_history_leaves_the_rest_alone(new_database: Databases) -> None:
    database = new_database()
    with held(database, NANJING) as line:
        put(line, wanderers(1, 200, 20, 90.0))
    step(database)
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("UPDATE kpi.line_day SET good = 77777")
    recompute_all(database, NANJING, dt.date(2026, 11, 23), dt.date(2026, 11, 23), lambda _done, _total: None)
    wrong = rows(database, "SELECT production_day::text FROM kpi.line_day WHERE good = 77777 ORDER BY 1")
    assert ("2026-11-23",) not in wrong
    assert ("2026-11-22",) in wrong


def test_an_old_day_that_is_marked_all_the_time_keeps_no_other_from_being_summed(new_database: Databases) -> None:
    database = new_database()
    day_ms = 24 * HOUR_MS
    with held(database, NANJING) as line:
        for day in range(5):
            line.put(line.topic("grd/01"), event(day + 1, unit=f"S{day}", timestamp_ms=DAY_MS + day * day_ms))
        with contextlib.closing(Rollup(database)) as rollup:
            for n in range(4):
                line.put(line.topic("grd/01"), event(n + 6, unit=f"T{n}", timestamp_ms=DAY_MS))
                rollup.step()
                if n == 0:
                    newest = "SELECT good FROM report.daily_throughput ORDER BY production_day DESC LIMIT 1"
                    assert value(database, newest) == 1, "the newest day comes first"
    assert value(database, "SELECT count(*) FROM report.daily_throughput WHERE good > 0") == 5


def test_who_shows_figures_is_told_of_the_line_when_they_have_changed(new_database: Databases) -> None:
    """In the transaction that changes them: whoever reads when told finds them."""
    database = new_database()
    with psycopg.connect(database, autocommit=True) as listening:
        listening.execute("LISTEN mes_figures")
        with held(database, NANJING) as line:
            line.put(line.topic("wnd/01"), *(event(n, timestamp_ms=DAY_MS) for n in range(1, 41)))
            assert list(listening.notifies(timeout=0.1)) == [], "nothing is summed yet"
            step(database)
            assert {notice.payload for notice in listening.notifies(timeout=5, stop_after=1)} == {NANJING}
            assert value(database, "SELECT events FROM report.daily_throughput") == 40
            line.put(line.topic("wnd/01"), event(41, timestamp_ms=DAY_MS))
            step(database)
            assert {notice.payload for notice in listening.notifies(timeout=5, stop_after=1)} == {NANJING}
            rows(database, "UPDATE mes.machine_ledger SET received = '{[1,42),[50,51)}' RETURNING 1")
            look_at_days(database)
            assert {notice.payload for notice in listening.notifies(timeout=5, stop_after=1)} == {NANJING}, "more is known to be missing"
            step(database)
            assert list(listening.notifies(timeout=0.1)) == [], "nothing has changed"
