"""The events of a line, slice by slice: flow, then readings, then text. The same seed gives the same bytes however it is sliced."""

from __future__ import annotations

import datetime as dt
import json
from base64 import b64encode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np

from mes.contract import MAX_BACKLOG, MAX_MESSAGE_BYTES
from simulators import encode, flow, quality
from simulators.disturbance import Disturbance
from simulators.jit import Array
from simulators.scenario import DWELL, TICKS, TICKS_MS, Scenario, daily_boot, day_code
from simulators.start import build, fill

# Serials of another boot begin further up, so that a line begun afresh on the same day does not use a serial twice.
SERIALS_A_BOOT: Final = 200_000
_EVENTS_AT_ONCE: Final = 1 << 17
_DAYS_KEPT: Final = 64


@dataclass(frozen=True)
class DayEnd:
    """The line at the end of a production day.

    arrived, left, scrapped   cells in that day; wip: cells inside at its end, int64 (S)
    spent                     ticks of each machine in each of flow.STATES in that day, int64 (M, 5); position ticks at dwell stations
    """

    day: dt.date
    arrived: Array
    left: Array
    scrapped: Array
    wip: Array
    spent: Array


@dataclass(frozen=True)
class Extra:
    """A payload on a machine's topic that is no event; `at`: instant of delivery, ticks."""

    at: int
    machine: int
    payload: bytes


@dataclass(frozen=True)
class Slice:
    """Consecutive events of a line.

    events       flow.EVENT (n), in order of time; all before `until` are in
    day_first    first unit of each production day, int64 (days); day_code: its code in serials, uint8 (days, 5)
    boot         restart count of the machines
    ended        how the line stood at the end of each production day that ended in this slice

    With faults (simulators.faults), in order of delivery:
    boots, told  restart count and time in ticks that each event states
    at           instant of delivery, ticks
    extra        what else is delivered
    """

    events: Array
    until: int
    day_first: Array
    day_code: Array
    boot: int
    ended: tuple[DayEnd, ...] = ()
    boots: Array | None = None
    told: Array | None = None
    at: Array | None = None
    extra: tuple[Extra, ...] = ()


@dataclass(frozen=True)
class Message:
    """A payload for a machine's topic (index into Scenario.topics) with the number of events in it."""

    machine: int
    payload: bytes
    events: int


@dataclass(frozen=True)
class Records:
    """Consecutive events of a machine (index into Scenario.topics): n of them from seq `first` on, a line each."""

    machine: int
    lines: bytes
    first: int
    n: int


@dataclass(frozen=True)
class Columns:
    """A slice as columns: boots, at_ms, told_ms (delivery and stated time), day_codes (n, 5) and numbers of serials, and mantissas of
    readings (n, width) with the decimals of each characteristic of the line."""

    scenario: Scenario
    events: Array
    boots: Array
    at_ms: Array
    told_ms: Array
    day_codes: Array
    numbers: Array
    mantissas: Array
    decimals: Array
    extra: tuple[Extra, ...]


class Stream:
    """A line that begins production day `start` full, in its stride.

    A stream is a function of its scenario, seed and origin. It begins full on the production day `origin` and runs in silence up to
    `start`; so a day is the same, byte for byte, whether it is made alone or among others of the same origin.

    boot                    the machines' restart count: 1 or more, or None: they restart with each production day (scenario.daily_boot),
                            and a day's events then are a whole
    disturbances, ramp_up   what happens to the line, see simulators.disturbance and scenario.ramp
    """

    def __init__(
        self,
        scenario: Scenario,
        seed: int,
        start: dt.date,
        boot: int | None = 1,
        *,
        origin: dt.date | None = None,
        disturbances: Sequence[Disturbance] = (),
        ramp_up: float = 0.0,
    ) -> None:
        self.scenario = scenario
        self._restarts_daily = boot is None
        self._serial_offset = ((boot or 1) - 1) * SERIALS_A_BOOT
        self.boot = boot or daily_boot(start)
        self.begin = scenario.day_start(start)
        self._quality = quality.build(scenario, seed, disturbances)
        self._tables = encode.build(scenario, self._quality)
        self._bounds = encode.bounds(scenario, self._tables)
        self._room = max(s.cells_per_cycle for s in scenario.line.station)
        self._line = build(scenario, seed, self._quality.disturbances, ramp_up)
        self._scratch = np.zeros(max(_EVENTS_AT_ONCE, 2 * self._room), flow.EVENT)
        self.origin = origin or start
        self._warm(self.origin)
        while self._day < start:
            self._pass(scenario.day_start(self._day + dt.timedelta(days=1)))
            self._next_day()
        self.until = self.begin
        self._line.machine["seq"] = 0

    def _warm(self, origin: dt.date) -> None:
        """Fill ovens and dwell stations, then run the day before in silence, so that buffers and machines are in their stride."""
        day = origin - dt.timedelta(days=1)
        now = self.scenario.day_start(day)
        units, rate = fill(self._line, self.scenario, now)
        # Cells put there were wound on the days before, at that rate.
        self._days: list[tuple[int, bytes]] = []
        first, past = 0, day
        while first > -units:
            first = -int((now - self.scenario.day_start(past)) / TICKS * rate)
            self._days.insert(0, (first, day_code(past)))
            past -= dt.timedelta(days=1)
        self._enter(day)
        if not self._days:
            self._days.append((0, day_code(day)))
        self._counted, self._spent = self.counts, flow.states(self._line, now)
        self._pass(self.scenario.day_start(origin))
        self._next_day()

    def _pass(self, until: int) -> None:
        while flow.advance(self._line, until, self._scratch, self._room):
            pass

    def _run(self, until: int) -> Iterator[Array]:
        while n := flow.advance(self._line, until, self._scratch, self._room):
            yield self._scratch[:n].copy()

    def _enter(self, day: dt.date) -> None:
        self._day = day
        self._line = self._line._replace(stop=self.scenario.stops(day))

    def _next_day(self) -> DayEnd:
        """End the production day: cells wound from now on carry the next one."""
        counts, ended = self.counts, self._day
        change = {name: counts[name] - self._counted[name] for name in ("arrived", "left", "scrapped")}
        spent = flow.states(self._line, self.scenario.day_start(ended + dt.timedelta(days=1)))
        spent, self._counted, self._spent = spent - self._spent, counts, spent
        self._enter(self._day + dt.timedelta(days=1))
        self._days.append((int(self._line.clock[flow.NEXT_UNIT]), day_code(self._day)))
        del self._days[:-_DAYS_KEPT]
        if self._restarts_daily:
            self.boot = daily_boot(self._day)
            self._line.machine["seq"] = 0
        return DayEnd(ended, **change, wip=self.inside, spent=spent)

    def advance(self, until: int) -> Slice:
        """All events before `until` (ticks since 1970 UTC) that were not yet given.

        Machines that restart daily stop at the end of the production day: `Slice.until` says how far it came.
        """
        parts: list[Array] = []
        ended: list[DayEnd] = []
        boot = self.boot
        while self.until < until and not (ended and self._restarts_daily):
            tomorrow = self.scenario.day_start(self._day + dt.timedelta(days=1))
            self.until = min(until, tomorrow)
            parts += self._run(self.until)
            if self.until == tomorrow:
                ended.append(self._next_day())
        events = np.concatenate(parts) if parts else self._scratch[:0].copy()
        codes = np.array([list(code) for _, code in self._days], np.uint8)
        return Slice(events, self.until, np.array([f for f, _ in self._days], np.int64), codes, boot, tuple(ended))

    def compile(self) -> None:
        """Compile what the first slice would, before a clock runs."""
        self.records(self.advance(self.until))

    def _write(self, part: Slice, order: Array, tables: encode.Tables, bounds: Array) -> tuple[Array, Array]:
        out = np.empty(int(bounds[part.events["station"]].sum()), np.uint8)
        ends = np.zeros(len(order) + 1, np.int64)
        boots = np.full(len(order), part.boot) if part.boots is None else part.boots
        told = np.ascontiguousarray(part.events["t"]) if part.told is None else part.told
        at_ms = np.zeros(0, np.int64) if part.at is None else part.at // TICKS_MS
        mantissas = quality.readings(self._quality, part.events)
        days = part.day_first, part.day_code
        size = encode.write(tables, part.events, mantissas, order, boots, told, at_ms, days, self._serial_offset, out, ends[1:])
        return out[:size], ends

    def objects(self, part: Slice) -> list[Message]:
        """One message an event, in order of time."""
        out, ends = self._write(part, np.arange(len(part.events)), self._tables, self._bounds)
        text, cut = out.tobytes(), ends.tolist()
        return [Message(m, text[cut[i] : cut[i + 1] - 1], 1) for i, m in enumerate(part.events["machine"].tolist())]

    def arrays(self, part: Slice) -> list[Message]:
        """Backlogs of the machines, each in its order, in as few messages as the contract allows; the earliest first event goes first."""
        machines = part.events["machine"]
        order = np.argsort(machines, kind="stable")
        out, ends = self._write(part, order, self._tables, self._bounds)
        text, cut = out.data, ends.tolist()
        borders = [0, *(np.flatnonzero(np.diff(machines[order])) + 1).tolist(), len(order)]
        messages: list[tuple[int, Message]] = []
        for begin, end in pairwise(borders):
            while begin < end:
                stop = min(begin + MAX_BACKLOG, end)
                while cut[stop] - cut[begin] + 1 > MAX_MESSAGE_BYTES:
                    stop -= 1
                payload = b"".join((b"[", text[cut[begin] : cut[stop] - 1], b"]"))
                messages.append((int(part.events["t"][order[begin]]), Message(int(machines[order[begin]]), payload, stop - begin)))
                begin = stop
        messages.sort(key=lambda m: m[0])
        return [m for _, m in messages]

    def records(self, part: Slice) -> list[Records]:
        """What each machine writes into its journal; the one with the earliest first event goes first."""
        machines = part.events["machine"]
        order = np.argsort(machines, kind="stable")
        out, ends = self._write(part, order, self._tables, self._bounds)
        out[ends[1:] - 1] = ord("\n")
        text, cut = out.tobytes(), ends.tolist()
        borders = [0, *(np.flatnonzero(np.diff(machines[order])) + 1).tolist(), len(order)]
        found = []
        for begin, end in pairwise(borders):
            if begin < end:
                event = part.events[order[begin]]
                found.append((int(event["t"]), Records(int(event["machine"]), text[cut[begin] : cut[end]], int(event["seq"]), end - begin)))
        found.sort(key=lambda record: record[0])
        return [record for _, record in found]

    def lines(self, part: Slice) -> bytes:
        """NDJSON: {"topic": ..., "event": {...}} a line, in order of time.

        What is delivered at another time than it states has `at_ms`; what is no event, `payload_base64` instead of `event`.
        """
        tables = encode.build(self.scenario, self._quality, ndjson=True)
        out, ends = self._write(part, np.arange(len(part.events)), tables, encode.bounds(self.scenario, tables))
        text = out.tobytes()
        if not part.extra or part.at is None:
            return text
        pieces, begin = [], 0
        for one, n in zip(part.extra, np.searchsorted(part.at, [one.at for one in part.extra], "right").tolist(), strict=True):
            pieces += [text[begin : ends[n]], self._extra_line(one)]
            begin = int(ends[n])
        return b"".join([*pieces, text[begin:]])

    def columns(self, part: Slice) -> Columns:
        """The events of a slice with their readings, as columns."""
        events = part.events
        day = np.maximum(np.searchsorted(part.day_first, events["unit"], "right") - 1, 0)
        told_ms = (events["t"] if part.told is None else part.told) // TICKS_MS
        return Columns(
            self.scenario,
            events,
            np.full(len(events), part.boot) if part.boots is None else part.boots,
            told_ms if part.at is None else part.at // TICKS_MS,
            told_ms,
            part.day_code[day],
            (events["unit"] - part.day_first[day] + 1 + self._serial_offset) % 10_000_000,
            quality.readings(self._quality, events),
            self._quality.characteristic["decimals"],
            part.extra,
        )

    def _extra_line(self, one: Extra) -> bytes:
        line = {"topic": self.scenario.topics[one.machine], "at_ms": one.at // TICKS_MS, "payload_base64": b64encode(one.payload).decode()}
        return json.dumps(line, separators=(",", ":")).encode() + b"\n"

    @property
    def inside(self) -> Array:
        """Cells at each station, in its buffer, its machines or done and waiting, int64 (S)."""
        ring, machine, station = self._line.ring, self._line.machine, self._line.station
        loads = [int(machine["load"][s["first"] : s["first"] + s["machines"]].sum()) if s["kind"] != DWELL else 0 for s in station]
        held = ring["count"][:, [flow.QUEUE, flow.AGAIN, flow.OUT, flow.INSIDE]].sum(axis=1)
        return np.asarray(np.array(loads) + held)

    @property
    def counts(self) -> Array:
        """Per station since the warm start: arrived, left, scrapped; structured array (S)."""
        return self._line.station[["arrived", "left", "scrapped"]].copy()
