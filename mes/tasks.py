"""Small helpers for asyncio services: one error out of a group, waits that end when the service stops."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, TypeVar

from mes.errors import Unavailable

T = TypeVar("T")

STOP_WITHIN_S = 4.5

log = logging.getLogger(__name__)


@contextlib.asynccontextmanager
async def task_group() -> AsyncIterator[asyncio.TaskGroup]:
    """A TaskGroup that raises one plain error: what waiting cannot mend goes before what it can."""
    parent = asyncio.current_task()
    assert parent
    before = parent.cancelling()
    try:
        async with asyncio.TaskGroup() as tasks:
            yield tasks
    except BaseExceptionGroup as failures:
        # A TaskGroup that waits at its end when a task fails leaves its parent marked as being cancelled, and in Python 3.11.2
        # asyncio.timeout then cancels the parent instead of ending the wait: whoever tried again later never did.
        if parent.cancelling() > before:
            parent.uncancel()
        causes = _leaves(failures)
        raise next((why for why in causes if not isinstance(why, Unavailable)), causes[0]) from failures


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    return [leaf for why in group.exceptions for leaf in (_leaves(why) if isinstance(why, BaseExceptionGroup) else [why])]


async def set_within(event: asyncio.Event, seconds: float) -> bool:
    """Wait for the event, but not for longer; whether it is set."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):  # wait_for of Python 3.11 forgets a cancellation that comes with the event
            await event.wait()
    return event.is_set()


async def unless(event: asyncio.Event, work: Coroutine[Any, Any, T]) -> T | None:
    """The result of `work`, or None, and `work` cancelled, as soon as the event is set."""
    working = asyncio.ensure_future(work)
    stopping = asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait((working, stopping), return_when=asyncio.FIRST_COMPLETED)
        return None if event.is_set() else working.result()
    finally:
        stopping.cancel()
        working.cancel()


def within(seconds: float, call: Callable[[], T]) -> T:
    """The result of a call that is tried again, for so many seconds, while a server is Unavailable: of what runs once, at boot."""
    end = time.monotonic() + seconds
    pause = 0.5
    while True:
        try:
            return call()
        except Unavailable as why:
            if time.monotonic() + pause > end:
                raise
            log.warning("%s; trying again in %.1f s", why, pause)
        time.sleep(pause)
        pause = min(pause * 2, 15.0)


def stop_on_signals(within: float = STOP_WITHIN_S) -> asyncio.Event:
    """An event that SIGTERM and SIGINT set, for services that stop gracefully; who has not ended after so many seconds
    ends all the same. That loses nothing: what is not committed is not acked."""
    stopping = asyncio.Event()

    def leave() -> None:
        log.warning("not everything under way could be finished within %.1f s: it will come again", within)
        logging.shutdown()
        os._exit(0)

    def stop() -> None:
        if not stopping.is_set():
            stopping.set()
            last = threading.Timer(within, leave)  # a thread: a call that hangs may hold the loop
            last.daemon = True
            last.start()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    return stopping
