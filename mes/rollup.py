"""Rollup: marked buckets are summed anew from their events; alerts are judged, and what changed is published."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import logging
import os
import socket
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from functools import partial
from typing import Any

from mes.broker import Publisher
from mes.errors import MesError, Unavailable
from mes.health import Health
from mes.kpi.sums import warm_up
from mes.publish import Teller
from mes.store import retention
from mes.store.sums import Rollup
from mes.tasks import set_within, task_group
from mes.watch import MARKS_S, Watch

log = logging.getLogger(__name__)

INTERVAL_S = 0.3  # a line is summed at most this often, so that a figure is on the board within a second; marks that come in between wait
SHARE = 0.3  # and the work takes at most about this share of the time, so that ingest keeps its core
LONGEST_S = 5.0  # but no figure is older than this by choice
DAYS_S = 5.0  # how often days are looked for that have begun without events or are over for good
POLL_S = 1.0
RETENTION_S = 3600.0  # how often it is looked for events that need not be kept any longer,
RETENTION_RETRY_S = 60.0  # and when again, after somebody was in the way
WAIT_S = 0.2  # until another rollup is done with a day
WORKERS = min(4, os.cpu_count() or 1)  # days that `--all` sums at once
RETRY_S = (0.5, 15.0)


async def rollup(
    database: str, broker: str | None, stopping: asyncio.Event, health: Health | None = None, marks_s: float = MARKS_S
) -> None:
    """Keep the sums true and, with a broker, the retained topics too, until `stopping` is set.

    marks_s    seconds; with marks that have waited for longer the service is not ready
    """
    health = health or Health()
    publisher = Publisher(broker, f"mes-rollup-{socket.gethostname()}-{os.getpid()}") if broker else None
    watch = Watch(health, publisher, marks_s)
    publishing: asyncio.Task[None] | None = None
    with ThreadPoolExecutor(1, "rollup") as thread:
        call = partial(asyncio.get_running_loop().run_in_executor, thread)
        async with task_group() as tasks:
            tasks.create_task(_retain(database, stopping), name="retention")
            pause = RETRY_S[0]
            while not stopping.is_set():
                try:
                    sums: Rollup = await call(Rollup, database)
                    if publisher and publishing is None:  # not before the database has been seen to be one of ours
                        publishing = tasks.create_task(publisher.run(), name="publish")
                    teller = Teller(sums.figures, publisher, call)
                    try:
                        await _work(sums, call, teller, stopping, watch)
                    finally:
                        teller.close()
                        await call(sums.close)
                    pause = RETRY_S[0]
                except Unavailable as why:
                    health.ill("database", why)
                    log.warning("%s; trying again in %.1f s", why, pause, extra={"retry_s": pause})
                    await set_within(stopping, pause)
                    pause = min(pause * 2, RETRY_S[1])
            health.ill("service", "is told to stop")
            if publishing:
                publishing.cancel()


async def _work(sums: Rollup, call: Callable[..., Awaitable[Any]], teller: Teller, stopping: asyncio.Event, watch: Watch) -> None:
    """Sum and tell until `stopping` is set; Unavailable when the database goes."""
    clock = asyncio.get_running_loop().time
    await call(warm_up)
    looked = -DAYS_S
    while not stopping.is_set():
        began = clock()
        if began - looked >= DAYS_S:
            looked = began
            await call(sums.open_and_close_days)
        if watch.is_due():
            watch.look(*await call(sums.waiting))
        stepping = clock()
        done = await call(sums.step)
        watch.stepped(clock() - stepping, done)
        await teller.tell(clock())
        spent = clock() - began
        if done:
            await set_within(stopping, max(INTERVAL_S - spent, min(spent / SHARE - spent, LONGEST_S)))
        else:
            await call(sums.wait, POLL_S)


async def _retain(database: str, stopping: asyncio.Event) -> None:
    """Drop events that the settings let go, by the hour. What goes wrong with it is no reason to sum nothing."""

    def drop() -> None:
        for end in retention.run(database, stopping.is_set):
            log.info("events before %s dropped", f"{end:%Y-%m-%d %H:%M}Z")

    while not stopping.is_set():
        pause = RETENTION_S
        try:
            await asyncio.to_thread(drop)
        except MesError as why:
            log.warning("retention: %s", why)
            pause = RETENTION_RETRY_S if isinstance(why, Unavailable) else RETENTION_S
        await set_within(stopping, pause)


def recompute_all(
    database: str,
    path: str | None,
    first: dt.date | None,
    last: dt.date | None,
    progress: Callable[[int, int], None],
    say: Callable[[str], None] = log.info,
) -> int:
    """Sum history anew (of a line, of production days first to last); returns the number of buckets.

    As many days at once as there are cores, and other rollups may share the work. `progress(done, total)` is called as
    it goes on, `say` for each line of which days stay as they are, as their events are gone.
    """
    stopping = threading.Event()
    with contextlib.closing(Rollup(database)) as watching, ThreadPoolExecutor(WORKERS, "rollup") as threads:
        for text in watching.mark_history(path, first, last):
            say(text)
        total = left = watching.marked()
        working = [threads.submit(_sum_all, database, stopping) for _ in range(WORKERS)]
        try:
            while left:
                progress(total - left, max(total, left))
                done, _ = wait(working, WAIT_S, FIRST_EXCEPTION)
                for worker in done:
                    worker.result()
                left = watching.marked()
        finally:
            stopping.set()
        for worker in working:
            worker.result()
        watching.open_and_close_days()
        while watching.step():
            pass
    progress(total, total)
    return total


def _sum_all(database: str, stopping: threading.Event) -> None:
    """Sum what is marked until nothing is, or until `stopping` is set."""
    with contextlib.closing(Rollup(database)) as sums:
        while not stopping.is_set():
            if not sums.step():
                if not sums.marked():
                    return
                sums.wait(WAIT_S)
