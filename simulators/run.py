"""Run a line against a broker: pace, resume, progress. Simulated time is the stream's; here it meets the wall clock."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mes.errors import ConfigError
from simulators.ledger import Ledger, write_json
from simulators.scenario import TICKS, Scenario
from simulators.sinks import BrokerUrl, Publisher
from simulators.stream import Message, Slice, Stream

HOUR: Final = 3600 * TICKS
_TICK_S: Final = 0.1
# What is further behind goes out as arrays, as from a machine that drains its journal: ten minutes, or five seconds' worth.
_BULK_S: Final = 600.0
_BULK_WALL_S: Final = 5.0
_STALE_DAYS: Final = 3
_GRACE_S: Final = 0.5


@dataclass(frozen=True)
class Options:
    """What to run. speed: simulated seconds a second, None for as fast as it goes. days: None until stopped."""

    scenario: Scenario
    start: dt.date | None
    days: int | None
    speed: float | None
    seed: int | None
    broker: BrokerUrl
    window: int
    state: Path | None
    catch_up: bool
    ledger: Path | None


@dataclass
class State:
    """Which stream a line is in and how far it is acknowledged (microseconds since 1970 UTC); a small file per line."""

    boot: int
    seed: int
    start: dt.date
    acked_until: int
    fingerprint: str

    @classmethod
    def read(cls, path: Path) -> State | None:
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
            return cls(int(raw["boot"]), int(raw["seed"]), dt.date.fromisoformat(raw["start"]), int(raw["acked_until"]), str(raw["line"]))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as why:
            raise ConfigError(f"{path}: not a state file of linesim ({why}): delete it to begin afresh") from why

    def write(self, path: Path) -> None:
        try:
            stream = {"boot": self.boot, "seed": self.seed, "start": self.start.isoformat(), "line": self.fingerprint}
            write_json(path, {**stream, "acked_until": self.acked_until})
        except OSError as why:
            raise ConfigError(f"{path}: cannot be written ({why.strerror}): give --state a folder that can") from why


def now_ticks() -> int:
    return time.time_ns() // 1000


def yesterday(scenario: Scenario) -> dt.date:
    """The production day before the present one, in the site's zone."""
    return scenario.day_of(now_ticks()) - dt.timedelta(days=1)


def choose(options: Options, found: State | None) -> State:
    """Go on with the stream of a state file, or begin one with the next boot: when flags or the line changed, or when it is stale."""
    scenario = options.scenario
    seed = options.seed if options.seed is not None else (found.seed if found else 1)
    if found is not None:
        # A stream that has a given end is not stale: it is finished or goes on.
        stale = options.days is None and found.acked_until < now_ticks() - _STALE_DAYS * 24 * HOUR
        same = seed == found.seed and options.start in (None, found.start) and found.fingerprint == scenario.fingerprint
        if same and not stale:
            return found
    start = options.start or yesterday(scenario)
    return State(found.boot + 1 if found else 1, seed, start, scenario.day_start(start), scenario.fingerprint)


class Runner:
    """One line, from its state to its end. Counters are of this process."""

    def __init__(self, options: Options, say: Callable[[str], None]) -> None:
        self.options = options
        self.scenario = options.scenario
        line = self.scenario.line
        self._path = options.state / f"linesim-{line.site}-{line.code}.json" if options.state else None
        if options.catch_up and options.start is not None and self.scenario.day_start(options.start) > now_ticks():
            raise ConfigError(f"--start {options.start} has not begun: with --catch-up begin on a past production day")
        self.state = choose(options, State.read(self._path) if self._path else None)
        self._save()
        self.end = self.scenario.day_start(self.state.start + dt.timedelta(days=options.days)) if options.days else None
        self._bulk = int(max(_BULK_S, min(HOUR / TICKS, _BULK_WALL_S * (options.speed or 0.0))) * TICKS)
        self._say = say
        self.ledger = Ledger(self.scenario)
        self.generated = 0
        self.good = 0
        self.publisher: Publisher | None = None

    def prepare(self) -> None:
        """Build the stream and regenerate, in silence, what was acknowledged before."""
        self.stream = Stream(self.scenario, self.state.seed, self.state.start, self.state.boot)
        begin = self.stream.until
        resume = self.state.acked_until if self.end is None else min(self.state.acked_until, self.end)
        while self.stream.until < resume:
            part = self.stream.advance(min(resume, self.stream.until + HOUR))
            self._count(part)
        self.generated = 0
        if self.stream.until > begin:
            self._say(f"{self.scenario.line.path}: going on from {iso(self.stream.until)}")
        else:
            self.stream.compile()

    def _count(self, part: Slice) -> None:
        before = set(self.ledger.days)
        self.ledger.add(part.events)
        self.generated += len(part.events)
        self.good = sum(d["good"] for d in self.ledger.days.values())
        if before and set(self.ledger.days) != before:
            self.write_ledger()

    def write_ledger(self) -> None:
        if self.options.ledger is not None:
            until_ms = self.stream.until // 1000
            write_json(self.options.ledger, self.ledger.as_dict(seed=self.state.seed, boot=self.state.boot, until_ms=until_ms))

    def _save(self) -> None:
        if self._path is not None:
            self.state.write(self._path)

    def save(self) -> None:
        """Note how far everything is acknowledged."""
        if self.publisher is not None and self.publisher.acked_until is not None:
            self.state.acked_until = self.publisher.acked_until
            self._save()

    def progress(self) -> dict[str, Any]:
        """The figures of now, as JSON types; events_per_s is the mean since the start."""
        published, acked = (self.publisher.published, self.publisher.acked) if self.publisher else (0, 0)
        begin = self.stream.begin
        return {
            "line": self.scenario.line.path,
            "simulated_until": iso(self.stream.until),
            "fraction": round((self.stream.until - begin) / (self.end - begin), 6) if self.end else None,
            "generated": self.generated,
            "published": published,
            "acked": acked,
            "good": self.good,
            "events_per_s": round(acked / max(1e-9, time.monotonic() - self._began), 1),
        }

    async def run(self, show: Callable[[dict[str, Any]], None]) -> None:
        """Publish until the end or a signal; raises Refused when the broker does."""
        line = self.scenario.line
        self._began = time.monotonic()
        self.publisher = Publisher(self.options.broker, f"linesim-{line.site}-{line.code}", self.options.window, self._say)
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        serve = asyncio.create_task(self.publisher.serve(), name="serve")
        work = asyncio.create_task(self._work(self.publisher), name="work")
        stopped = asyncio.create_task(stop.wait(), name="stop")
        try:
            while True:
                done, _ = await asyncio.wait({serve, work, stopped}, timeout=1.0, return_when=asyncio.FIRST_COMPLETED)
                self.save()
                show(self.progress())
                if done:
                    break
            for task in done - {stopped}:
                task.result()
            if stopped in done:
                work.cancel()
                with suppress(asyncio.CancelledError):
                    await work
                await self.publisher.close(_GRACE_S)
        finally:
            for task in (work, stopped, serve):
                task.cancel()
            await asyncio.wait({work, stopped, serve}, timeout=_GRACE_S)
            self.save()
            self.write_ledger()
        show(self.progress())

    def _make(self, until: int) -> tuple[Slice, list[Message]]:
        bulk = until - self.stream.until >= self._bulk
        part = self.stream.advance(until)
        return part, self.stream.arrays(part) if bulk else self.stream.objects(part)

    async def _work(self, publisher: Publisher) -> None:
        """Generate what is due and hand it over; an hour at a time when there is a backlog."""
        zero, began = self.stream.until, time.monotonic()
        speed, topics = self.options.speed, self.scenario.topics
        while self.end is None or self.stream.until < self.end:
            due = self.stream.until + HOUR if speed is None else zero + int((time.monotonic() - began) * speed * TICKS)
            if self.options.catch_up:
                due = min(due, now_ticks())
            if self.end is not None:
                due = min(due, self.end)
            if due > self.stream.until:
                until = min(due, self.stream.until + HOUR)
                make = self._make(until) if until - self.stream.until < self._bulk else await asyncio.to_thread(self._make, until)
                part, messages = make
                self._count(part)
                await publisher.submit([(topics[m.machine], m.payload, m.events) for m in messages], until)
            if due - self.stream.until < self._bulk and due != self.end:
                await asyncio.sleep(_TICK_S)
        await publisher.drained()


def iso(ticks: int) -> str:
    """An instant in ISO 8601, UTC, with milliseconds."""
    return dt.datetime.fromtimestamp(ticks / TICKS, dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
