"""What is seen of a rollup while it works: steps, what waits and for how long, whether it is ready."""

from __future__ import annotations

import time
from collections import deque
from typing import Final, Protocol

from mes.health import Health
from mes.metrics import RollupMeter

LOOK_S: Final = 5.0  # how often it is looked what waits
MARKS_S: Final = 300.0
_STEP_S: Final = 60.0  # within which a step is done, and the service heard of again


class _Publisher(Protocol):
    @property
    def waiting(self) -> int: ...


class Waiting:
    """What waits to be summed, and for how long this process has seen the oldest mark wait.

    Marks carry no time, but their numbers rise: a mark is at least as old as the first look that saw its number or a higher one.
    """

    def __init__(self) -> None:
        self.buckets = 0
        self._looks: deque[tuple[int, float]] = deque()  # newest number, when; both rising

    def look(self, at: float, buckets: int, oldest: int, newest: int) -> None:
        """Take note of what waits at an instant (monotonic seconds): buckets, and the numbers of their marks."""
        self.buckets = buckets
        if buckets and (not self._looks or newest > self._looks[-1][0]):
            self._looks.append((newest, at))
        while self._looks and (not buckets or self._looks[0][0] < oldest):
            self._looks.popleft()

    def age_s(self, now: float) -> float:
        """0 where nothing waits."""
        return now - self._looks[0][1] if self._looks else 0.0


class Watch:
    """Tells metrics and health what a rollup does. With marks that have waited for longer than `marks_s` it is not ready."""

    def __init__(self, health: Health, publisher: _Publisher | None, marks_s: float) -> None:
        self.health = health
        self._marks_s = marks_s
        self._waiting = Waiting()
        self._meter = RollupMeter(publisher, lambda: self._waiting.age_s(time.monotonic()))
        self._due = 0.0

    def is_due(self) -> bool:
        """Whether it is time to look what waits."""
        return time.monotonic() >= self._due

    def look(self, buckets: int, oldest: int, newest: int) -> None:
        """What waits now."""
        now = time.monotonic()
        self._due = now + LOOK_S
        self._waiting.look(now, buckets, oldest, newest)
        self._meter.waiting(buckets)
        age = self._waiting.age_s(now)
        if age > self._marks_s:
            self.health.ill("marks", f"{buckets} buckets wait, the oldest for at least {age:.0f} s")
        else:
            self.health.well("marks", f"{buckets} buckets wait", _STEP_S)

    def stepped(self, seconds: float, buckets: int) -> None:
        """So many buckets were summed."""
        self._meter.stepped(seconds, buckets)
        self.health.well("database", "answers", _STEP_S)
