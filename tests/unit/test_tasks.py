"""Waits that end when they are told to, whatever else happens at that moment."""

from __future__ import annotations

import asyncio
import contextlib
import re
from pathlib import Path

import pytest

from mes import tasks
from mes.errors import Refused, Unavailable
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


def test_a_call_is_tried_again_while_a_server_does_not_answer_and_not_for_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(tasks.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(tasks.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    calls: list[float] = []

    def answers_at(instant: float, error: Exception | None = None) -> str:
        calls.append(now[0])
        if now[0] < instant:
            raise Unavailable("away")
        if error:
            raise error
        return "there"

    assert tasks.within(30, lambda: answers_at(108.0)) == "there"
    assert calls == [100.0, 100.5, 101.5, 103.5, 107.5, 115.5], "with back-off"
    calls.clear()
    with pytest.raises(Unavailable):
        tasks.within(2, lambda: answers_at(1000.0))
    assert calls == [115.5, 116.0, 117.0], "two seconds, and no try after them"
    calls.clear()
    with pytest.raises(Refused):
        tasks.within(30, lambda: answers_at(0.0, Refused("no")))
    assert len(calls) == 1, "who says no is not asked again"
