"""Run a line against a broker: pace, resume, progress. Simulated time is the stream's; here it meets the wall clock.

What is generated goes into the machines' journals; the gateway publishes from there. So a run that was stopped, or killed,
goes on with what the journals hold, and with the stream from where they end.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mes.errors import ConfigError
from mes.plant import Target
from simulators.apart import Apart
from simulators.conditions import Conditions
from simulators.connection import BrokerUrl
from simulators.describe import target_on
from simulators.gateway import Gateway
from simulators.journal import Fsync, Journal, JournalFull
from simulators.ledger import Ledger, write_json
from simulators.machine import Machine
from simulators.scenario import TICKS, Scenario, origin_of
from simulators.stream import Records, Slice, Stream

HOUR: Final = 3600 * TICKS
_TICK_S: Final = 0.1
# What is further behind goes out as arrays, as from a machine that drains its journal: ten minutes, or five seconds' worth.
_BULK_S: Final = 600.0
_BULK_WALL_S: Final = 5.0
_MOST_UNCOMMITTED: Final = 300_000  # events: what the journals hold, and so the disk, stays bounded when the backend is slower
_RETRY_S: Final = 1.0
_STALE_DAYS: Final = 3
_GRACE_S: Final = 0.5
_SHOWN: Final = ("inspected", "first_pass_good", "pass", "rework", "scrap")


@dataclass(frozen=True)
class Options:
    """What to run.

    targets  of the plant, to show beside the good cells that are made
    speed    simulated seconds a second, None for as fast as it goes; days: None until stopped
    certificates   folder of `mes pki`: each machine has a connection with its own certificate; None: one gateway speaks for all
    """

    scenario: Scenario
    start: dt.date | None
    origin: dt.date | None
    conditions: Conditions
    targets: list[Target]
    days: int | None
    speed: float | None
    seed: int | None
    boot: int | None
    broker: BrokerUrl
    window: int
    marks: bool
    fsync: Fsync
    state: Path | None
    catch_up: bool
    ledger: Path | None
    certificates: Path | None = None


@dataclass
class State:
    """Which stream a line is in and up to when it is in the journals (microseconds since 1970 UTC); a small file per line."""

    boot: int
    seed: int
    start: dt.date
    origin: dt.date
    journaled_until: int
    fingerprint: str

    @classmethod
    def read(cls, path: Path) -> State | None:
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
            start, origin = (dt.date.fromisoformat(raw.get(key, raw["start"])) for key in ("start", "origin"))
            return cls(int(raw["boot"]), int(raw["seed"]), start, origin, int(raw["journaled_until"]), str(raw["line"]))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as why:
            raise ConfigError(f"{path}: not a state file of linesim ({why}): delete it to begin afresh") from why

    def write(self, path: Path) -> None:
        try:
            stream = {"boot": self.boot, "seed": self.seed, "start": self.start.isoformat(), "origin": self.origin.isoformat()}
            write_json(path, {**stream, "line": self.fingerprint, "journaled_until": self.journaled_until})
        except OSError as why:
            raise ConfigError(f"{path}: cannot be written ({why.strerror}): give --state a folder that can") from why


def now_ticks() -> int:
    return time.time_ns() // 1000


def yesterday(scenario: Scenario) -> dt.date:
    """The production day before the present one, in the site's zone."""
    return scenario.day_of(now_ticks()) - dt.timedelta(days=1)


def choose(options: Options, found: State | None, last_boot: int = 0) -> State:
    """Go on with the stream of a state file, or begin one with the next boot: when flags or the line changed, or when it is stale.

    last_boot   the newest boot that a journal of the line knows
    """
    scenario = options.scenario
    fingerprint = scenario.fingerprint + options.conditions.fingerprint
    seed = options.seed if options.seed is not None else (found.seed if found else 1)
    if found is not None:
        # A stream that has a given end is not stale: it is finished or goes on.
        stale = options.days is None and found.journaled_until < now_ticks() - _STALE_DAYS * 24 * HOUR
        same = (
            seed == found.seed
            and options.boot in (None, found.boot)
            and options.start in (None, found.start)
            and options.origin in (None, found.origin)
            and found.fingerprint == fingerprint
        )
        if same and not stale:
            return found
    start = options.start or yesterday(scenario)
    boot = options.boot or max(found.boot if found else 0, last_boot) + 1
    return State(boot, seed, start, options.origin or origin_of(start), scenario.day_start(start), fingerprint)


class Runner:
    """One line, from its state to its end. Counters are of this process."""

    def __init__(self, options: Options, say: Callable[[str], None]) -> None:
        self.options = options
        self.scenario = options.scenario
        line = self.scenario.line
        self._path = options.state / f"linesim-{line.site}-{line.code}.json" if options.state else None
        if options.catch_up and options.start is not None and self.scenario.day_start(options.start) > now_ticks():
            raise ConfigError(f"--start {options.start} has not begun: with --catch-up begin on a past production day")
        self._temporary = Path(tempfile.mkdtemp(prefix="linesim-")) if options.state is None else None
        journals = (options.state or self._temporary or Path()) / "journals" / f"{line.site}-{line.code}"
        self._folders = [journals / "-".join(codes) for codes in self.scenario.machine_codes]
        last_boot = max((Journal(folder, fsync="never").boot - 1 for folder in self._folders if folder.exists()), default=0)
        self.state = choose(options, State.read(self._path) if self._path else None, last_boot)
        self._save()
        self.end = self.scenario.day_start(self.state.start + dt.timedelta(days=options.days)) if options.days else None
        self._say = say
        self.ledger = Ledger(self.scenario)
        self.generated = 0
        self.good = 0
        self.gateway: Gateway | Apart | None = None

    def prepare(self) -> None:
        """Open the journals, build the stream and regenerate, in silence, what they hold or have held."""
        self.machines = [
            Machine(topic, Journal(folder, self.state.boot, self.options.fsync))
            for topic, folder in zip(self.scenario.topics, self._folders, strict=True)
        ]
        at, so = self.state, self.options.conditions
        self.stream = Stream(self.scenario, at.seed, at.start, at.boot, origin=at.origin, disturbances=so.disturbance, ramp_up=so.ramp_up)
        begin = self.stream.until
        resume = self.state.journaled_until if self.end is None else min(self.state.journaled_until, self.end)
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
        self.ledger.end(part.ended)
        self.generated += len(part.events)
        self.good = sum(d["good"] for d in self.ledger.days.values())
        if before and set(self.ledger.days) != before:
            self.write_ledger()

    def write_ledger(self) -> None:
        if self.options.ledger is not None:
            until_ms = self.stream.until // 1000
            at = self.state
            whole = self.ledger.as_dict(seed=at.seed, boot=at.boot, until_ms=until_ms, origin=at.origin.isoformat())
            write_json(self.options.ledger, {**whole, **self.options.conditions.told()})

    def _save(self) -> None:
        if self._path is not None:
            self.state.write(self._path)

    def progress(self) -> dict[str, Any]:
        """The figures of now, as JSON types; events_per_s is the mean since the start, speed in simulated seconds a second as well.

        day, good_today, scrap_today, target (in proportion to planned time; so far: to the planned time that has passed) and the counts
        of stations are of the present production day; wip is now. speed_asked None: as fast as it goes.
        """
        gateway = self.gateway
        sent = (gateway.published, gateway.acked, gateway.committed) if gateway else (0, 0, 0)
        until, begin = self.stream.until, self.stream.begin
        wall = max(1e-9, time.monotonic() - self._began)
        day = self.scenario.day_of(max(begin, until - 1))
        truth = self.ledger.days.get(day, {})
        wip = self.stream.inside.tolist()
        aims = self.scenario, self.options.targets, day
        counted = truth.get("stations", {})
        return {
            "line": self.scenario.line.path,
            "simulated_until": iso(until),
            "clock": dt.datetime.fromtimestamp(until / TICKS, self.scenario.site.tz).strftime("%Y-%m-%d %H:%M:%S %Z"),
            "day": day.isoformat(),
            "fraction": round((until - begin) / (self.end - begin), 6) if self.end else None,
            "speed_asked": self.options.speed,
            "speed": round((until - self._resumed) / TICKS / wall, 1),
            "generated": self.generated,
            "published": sent[0],
            "acked": sent[1],
            "committed": sent[2],
            "good": self.good,
            "good_today": truth.get("good", 0),
            "scrap_today": truth.get("scrap", 0),
            "target": target_on(*aims),
            "target_so_far": target_on(*aims, until),
            "wip": sum(wip),
            "events_per_s": round(sent[1] / wall, 1),
            "stations": [
                {"station": s.code, **{key: counted.get(s.code, {}).get(key, 0) for key in _SHOWN}, "wip": inside, "machines": s.machines}
                for s, inside in zip(self.scenario.line.station, wip, strict=True)
            ],
        }

    async def run(self, show: Callable[[dict[str, Any]], None]) -> None:
        """Publish until the end or a signal; raises Refused when the broker does."""
        line = self.scenario.line
        self._began, self._resumed = time.monotonic(), self.stream.until
        options = self.options
        gateway: Gateway | Apart
        if options.certificates is None:
            name = f"linesim-{line.site}-{line.code}"
            gateway = Gateway(options.broker, name, self.machines, marks=options.marks, window=options.window, say=self._say)
        else:
            gateway = Apart(options.broker, options.certificates, self.machines, marks=options.marks, window=options.window, say=self._say)
        self.gateway = gateway
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        serve = asyncio.create_task(gateway.serve(), name="serve")
        work = asyncio.create_task(self._work(gateway), name="work")
        stopped = asyncio.create_task(stop.wait(), name="stop")
        try:
            while True:
                done, _ = await asyncio.wait({serve, work, stopped}, timeout=1.0, return_when=asyncio.FIRST_COMPLETED)
                self._sync()
                self._save()
                show(self.progress())
                if done:
                    break
            for task in done - {stopped}:
                task.result()
            if stopped in done:
                work.cancel()
                with suppress(asyncio.CancelledError):
                    await work
                with suppress(TimeoutError):
                    async with asyncio.timeout(_GRACE_S):
                        await gateway.below(0)
        finally:
            for task in (work, stopped, serve):
                task.cancel()
            await asyncio.wait({work, stopped, serve}, timeout=_GRACE_S)
            self._sync()
            self._save()
            self.write_ledger()
            self._leave(gateway.uncommitted)
        show(self.progress())

    def _leave(self, uncommitted: int) -> None:
        if uncommitted:
            where = "have no journal any more: --state keeps them" if self._temporary else "are in the journals: the next start sends them"
            self._say(f"{self.scenario.line.path}: {uncommitted:,} events are not committed yet and {where}")
        if self._temporary:
            shutil.rmtree(self._temporary, ignore_errors=True)

    def _make(self, until: int) -> tuple[Slice, list[Records]]:
        part = self.stream.advance(until)
        return part, self.stream.records(part)

    async def _work(self, gateway: Gateway | Apart) -> None:
        """Generate what is due and have the machines write it down; an hour at a time when there is a backlog."""
        zero, began = self.stream.until, time.monotonic()
        speed = self.options.speed
        bulk = int(max(_BULK_S, min(HOUR / TICKS, _BULK_WALL_S * (speed or 0.0))) * TICKS)
        while self.end is None or self.stream.until < self.end:
            due = self.stream.until + HOUR if speed is None else zero + int((time.monotonic() - began) * speed * TICKS)
            if self.options.catch_up:
                due = min(due, now_ticks())
            if self.end is not None:
                due = min(due, self.end)
            if due > self.stream.until:
                until = min(due, self.stream.until + HOUR)
                backlog = until - self.stream.until >= bulk
                part, records = await asyncio.to_thread(self._make, until) if backlog else self._make(until)
                self._count(part)
                for record in records:
                    await self._write_down(gateway, record, backlog)
                self.state.journaled_until = until
                await gateway.below(_MOST_UNCOMMITTED)
            if due - self.stream.until < bulk and due != self.end:
                await asyncio.sleep(_TICK_S)
        await gateway.below(0)

    async def _write_down(self, gateway: Gateway | Apart, record: Records, backlog: bool) -> None:
        """Into the machine's journal; a full disk stops the line until there is room again."""
        said = False
        while True:
            try:
                gateway.append(self.machines[record.machine], record.lines, record.first, record.n, backlog)
                return
            except JournalFull as why:
                if not said:
                    self._say(f"{why}")
                    said = True
                await asyncio.sleep(_RETRY_S)

    def _sync(self) -> None:
        try:
            for machine in self.machines:
                machine.journal.sync()
        except JournalFull as why:
            self._say(f"{why}")


def iso(ticks: int) -> str:
    """An instant in ISO 8601, UTC, with milliseconds."""
    return dt.datetime.fromtimestamp(ticks / TICKS, dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
