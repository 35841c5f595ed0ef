"""Ingest: from the broker's session of a line into the database, acknowledged when committed.

One task a line. It waits for the line's lease, then lets messages flow: `decode` fills a batch with what has arrived
while the batch before it is being committed, `commit` stores it, and only then are its messages acked. Whatever breaks,
connection and session are dropped and begun anew: what was not acked comes again, what was committed the ledger knows.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from mes import contract
from mes.batch import Batch
from mes.broker import Message, Publisher, Session, answers
from mes.equipment import Line
from mes.errors import MesError, Unavailable
from mes.health import Health
from mes.marks import INTERVAL_S, WORKER, Holding, Marks, refuse_second_backend
from mes.metrics import Meter
from mes.promises import promises
from mes.store.events import Writer, active_lines
from mes.tasks import set_within, task_group, unless

log = logging.getLogger(__name__)

BATCH_BYTES = 2 << 20  # the size that closes a batch: some 8,000 events
LINGER_S = 0.02  # the age that closes a batch: how long its first message waits for company
LEASE_RETRY_S = 1.0
LAST_MARKS_S = 1.0  # for the marks of the last batch, when the worker is to stop
PLANT_CHECK_S = 2.0
BROKER_CHECK_S = 10.0  # how often a worker that holds no line sees whether it could
_HOLDS, _WAITS = "holds the line", "waits for the lease"
RETRY_S = (0.5, 5.0)  # first and longest pause before beginning anew: another may wait for a successor, for ten seconds at most


async def ingest_line(line: Line, database: str, broker: str, draining: asyncio.Event, health: Health) -> None:
    """Hold the line's lease and session until `draining` is set; then commit, ack and mark what was taken, and return."""
    meter = Meter(line.path)
    with ThreadPoolExecutor(1, f"store {line.path}") as thread:  # one connection, one thread: calls and close never overlap
        store_call = partial(asyncio.get_running_loop().run_in_executor, thread)
        store: Writer = await store_call(Writer.open, database, line)
        try:
            while not await store_call(store.acquire):
                health.well(line.path, _WAITS)
                if await set_within(draining, LEASE_RETRY_S):
                    return
            await _flow(line, store, store_call, broker, draining, meter, health)
        finally:
            meter.released()
            await store_call(store.close)


async def _flow(
    line: Line, store: Writer, store_call: Callable[..., Awaitable[Any]], broker: str, draining: asyncio.Event, meter: Meter, health: Health
) -> None:
    """With the lease in hand: messages become batches, batches are committed, then acked, then marked."""
    health.ill(line.path, "has the lease, not yet the session")
    identity = await store_call(store.database)
    await refuse_second_backend(broker, line, identity)
    equipment = await store_call(store.equipment)
    ledger = await store_call(store.ledger)
    filters = contract.line_filters(line.site, line.area, line.code)
    retired = [old for old in await store_call(store.session_filters) if old not in filters]
    promised = await promises(broker, line, equipment, identity)
    publisher = Publisher(broker, f"mes-marks-{line.site}-{line.code}-{WORKER}")
    promised.take_back_foreign(publisher)
    marks, holding = Marks(equipment, publisher), Holding(line, identity, publisher)
    filled: asyncio.Queue[tuple[Batch, list[Message]] | None] = asyncio.Queue(1)
    drained = asyncio.Event()

    async with Session(broker, contract.session_id(line.site, line.code), filters, retired=retired) as session:
        log.info("line %s: lease and session held", line.path, extra={"line": line.path})
        meter.held(session, publisher)

        async def decode() -> None:
            while (messages := await unless(draining, session.receive(BATCH_BYTES, LINGER_S))) is not None:
                batch = Batch()
                for message in messages:
                    batch.add(message.topic, message.payload, equipment, ledger)
                await filled.put((batch, messages))
            await filled.put(None)

        async def commit() -> None:
            while (taken := await filled.get()) is not None:
                batch, messages = taken
                with meter.committing(batch):
                    await store_call(store.commit, batch)
                    session.ack(messages)
                marks.sent(batch)
                _say(line, batch)
            drained.set()

        async def mark() -> None:
            going_on = True
            while going_on:
                if promised.made:
                    promised.found(await store_call(store.unkept, promised.made))
                holding.renew()
                marks.tell(await store_call(store.marks), promised.unkept)
                health.well(line.path, _HOLDS)
                going_on = not await set_within(drained, INTERVAL_S)
            marks.tell(await store_call(store.marks), promised.unkept)
            holding.end()
            await publisher.drained(LAST_MARKS_S)
            publishing.cancel()

        async def announce() -> None:
            await unless(draining, session.established.wait())
            if promised.foreign:
                await publisher.drained(LAST_MARKS_S)
            await store_call(store.announce, filters)

        async with task_group() as tasks:
            publishing = tasks.create_task(publisher.run(), name=f"publish {line.path}")
            for work in (decode, commit, mark, announce):
                tasks.create_task(work(), name=f"{work.__name__} {line.path}")


async def ingest(
    database: str, broker: str, draining: asyncio.Event, only: frozenset[str] = frozenset(), health: Health | None = None
) -> None:
    """Ingest all active lines, or those of `only` (paths), until `draining` is set. A changed plant is taken up anew.

    Ready is who holds or waits for each of its lines, and reaches database and broker.
    """
    health = health or Health()
    while (plant := await _plant(database, draining, health)) is not None:
        outdated = asyncio.Event()
        lines = [line for line in plant[1] if not only or line.path in only]
        async with task_group() as tasks:
            looking = tasks.create_task(_look(broker, lines, health), name="look")
            for line in lines:
                tasks.create_task(_keep(line, database, broker, outdated, health), name=line.path)
            while not await set_within(draining, PLANT_CHECK_S):
                now = await _plant(database, draining, health)
                if now is not None and now[0] != plant[0]:
                    log.info("the plant has changed: beginning anew")
                    break
            else:
                health.ill("service", "is told to stop")
            outdated.set()
            looking.cancel()


async def _look(broker: str, lines: list[Line], health: Health) -> None:
    """Report on the lines at first, and on the broker as long as none of them is held, until cancelled."""
    health.only(["database"])
    if not lines:
        health.ill("plant", "holds no active line: load one with `mes seed`")
    for line in lines:
        health.ill(line.path, "connects")
    while True:
        try:
            if not any(health.says(line.path) == _HOLDS for line in lines):
                await answers(broker, f"mes-look-{WORKER}")
            health.well("broker", "answers", 4 * BROKER_CHECK_S)
        except MesError as why:
            health.ill("broker", why)
        await asyncio.sleep(BROKER_CHECK_S)


async def _plant(database: str, draining: asyncio.Event, health: Health) -> tuple[int, list[Line]] | None:
    """The plant's version and active lines, waited for as long as the database is away; None when draining."""
    while not draining.is_set():
        try:
            plant = await asyncio.to_thread(active_lines, database)
            health.well("database", "answers")
            return plant
        except Unavailable as why:
            health.ill("database", why)
            log.warning("%s; trying again in %.0f s", why, PLANT_CHECK_S, extra={"retry_s": PLANT_CHECK_S})
        await set_within(draining, PLANT_CHECK_S)
    return None


async def _keep(line: Line, database: str, broker: str, draining: asyncio.Event, health: Health) -> None:
    """Ingest a line, again and again while waiting can help; Refused ends it."""
    clock = asyncio.get_running_loop().time
    pause = RETRY_S[0]
    while not draining.is_set():
        began = clock()
        try:
            await ingest_line(line, database, broker, draining, health)
            break
        except Unavailable as why:
            health.ill(line.path, why)
            if clock() - began > RETRY_S[1]:
                pause = RETRY_S[0]
            log.warning("line %s: %s; trying again in %.1f s", line.path, why, pause, extra={"line": line.path, "retry_s": pause})
        await set_within(draining, pause)
        pause = min(pause * 2, RETRY_S[1])


def relax_collector() -> None:
    """Look for reference cycles rarely: events make none, and looking through them all took 40 % of the decoding time."""
    gc.freeze()
    gc.set_threshold(100_000, 50, 50)


def _say(line: Line, batch: Batch) -> None:
    about = {"line": line.path, "events": batch.events, "duplicates": sum(batch.duplicates.values()), "quarantined": len(batch.quarantined)}
    if batch.quarantined:
        reasons = sorted({q.reject.reason for q in batch.quarantined})
        log.warning(
            "line %s: %d quarantined (%s)", line.path, len(batch.quarantined), ", ".join(reasons), extra=about | {"reasons": reasons}
        )
    log.debug("line %s: %d events, %d duplicates", line.path, batch.events, about["duplicates"], extra=about)
