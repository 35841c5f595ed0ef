"""Waits that end when they are told to, whatever else happens at that moment."""

from __future__ import annotations

import asyncio
import contextlib
import re
from pathlib import Path

import pytest

from mes.errors import Unavailable
from mes.tasks import set_within, task_group

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("turns", range(6))
def test_a_wait_that_is_cancelled_when_its_event_comes_is_cancelled(turns: int) -> None:
    """`asyncio.wait_for` of Python 3.11 forgets the cancellation then: a service that never ends, a gateway that never connects again."""

    async def scene() -> bool:
        event = asyncio.Event()

        async def work() -> None:
            while True:
                event.clear()
                await set_within(event, 60)

        working = asyncio.create_task(work())
        await asyncio.sleep(0.01)
        event.set()
        for _ in range(turns):
            await asyncio.sleep(0)
        working.cancel()
        await asyncio.wait({working}, timeout=5)
        done = working.cancelled()
        while not working.done():
            working.cancel()
            await asyncio.sleep(0)
        return done

    assert asyncio.run(scene())


def test_a_wait_ends_after_its_time_and_says_whether_the_event_came() -> None:
    async def scene() -> tuple[bool, bool]:
        event = asyncio.Event()
        before = await set_within(event, 0.01)
        event.set()
        return before, await set_within(event, 60)

    assert asyncio.run(scene()) == (False, True)


@pytest.mark.parametrize("inside", [False, True])
def test_a_group_that_has_failed_leaves_the_waits_behind_it_alone(inside: bool) -> None:
    """Debian's Python 3.11.2 cancelled a worker that had lost its connection instead of letting it try again."""

    async def scene() -> tuple[int, bool]:
        async def fail() -> None:
            raise Unavailable("away")

        with contextlib.suppress(Unavailable):
            async with task_group() as tasks:
                tasks.create_task(fail())
                if inside:
                    await asyncio.sleep(5)
        task = asyncio.current_task()
        assert task
        return task.cancelling(), await set_within(asyncio.Event(), 0.01)

    assert asyncio.run(scene()) == (0, False)


def test_nothing_waits_by_what_forgets_cancellations() -> None:
    for package in ("mes", "simulators"):
        for path in (ROOT / package).rglob("*.py"):
            assert not re.search(r"\bwait_for\(", path.read_text(encoding="utf-8")), f"{path}: use asyncio.timeout"
