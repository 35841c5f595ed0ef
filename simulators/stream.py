"""The events of a line, slice by slice: flow, then readings, then text. The same seed gives the same bytes however it is sliced."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np

from mes.contract import MAX_BACKLOG, MAX_MESSAGE_BYTES
from simulators import encode, flow, quality
from simulators.disturbance import Disturbance
from simulators.jit import Array
from simulators.scenario import DWELL, TICKS, Scenario, day_code
from simulators.start import build, fill

# Serials of another boot begin further up, so that a line begun afresh on the same day does not use a serial twice.
SERIALS_A_BOOT: Final = 200_000
_EVENTS_AT_ONCE: Final = 1 << 17
_DAYS_KEPT: Final = 64


@dataclass(frozen=True)
class Slice:
    """Consecutive events of a line.

    events       flow.EVENT (n), in order of time; all before `until` are in
    day_first    first unit of each production day, int64 (days); day_code: its code in serials, uint8 (days, 5)
    """

    events: Array
    until: int
    day_first: Array
    day_code: Array


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


class Stream:
    """A line that begins production day `start` full, as if it had always run; `boot` is its machines' restart count.

    disturbances, ramp_up   what happens to it, see simulators.disturbance and scenario.ramp
    """

    def __init__(
        self, scenario: Scenario, seed: int, start: dt.date, boot: int = 1, disturbances: Sequence[Disturbance] = (), ramp_up: float = 0.0
    ) -> None:
        self.scenario = scenario
        self.boot = boot
        self.begin = scenario.day_start(start)
        self.until = self.begin
        self._quality = quality.build(scenario, seed, disturbances)
        self._tables = encode.build(scenario, self._quality)
        self._bounds = encode.bounds(scenario, self._tables)
        self._room = max(s.cells_per_cycle for s in scenario.line.station)
        self._line = build(scenario, seed, self._quality.disturbances, ramp_up)
        self._scratch = np.zeros(max(_EVENTS_AT_ONCE, 2 * self._room), flow.EVENT)
        self._warm(start)

    def _warm(self, start: dt.date) -> None:
        """Fill ovens and dwell stations, then run the day before in silence, so that buffers and machines are in their stride."""
        day = start - dt.timedelta(days=1)
        now = self.scenario.day_start(day)
        units, rate = fill(self._line, self.scenario, now)
        # Cells put there were wound on the days before, at that rate.
        self._days: list[tuple[int, bytes]] = []
        first, past = 0, day
        while first > -units:
            first = -int((now - self.scenario.day_start(past)) / TICKS * rate)
            self._days.insert(0, (first, day_code(past)))
            past -= dt.timedelta(days=1)
        self._day = day
        if not self._days:
            self._days.append((0, day_code(day)))
        for _ in self._run(self.begin):
            pass
        self._line.machine["seq"] = 0
        self._next_day(start)

    def _run(self, until: int) -> Iterator[Array]:
        while True:
            n = flow.advance(self._line, until, self._scratch, self._room)
            if n == 0:
                return
            yield self._scratch[:n].copy()

    def _next_day(self, day: dt.date) -> None:
        """Cells wound from now on carry this day."""
        self._day = day
        self._days.append((int(self._line.clock[flow.NEXT_UNIT]), day_code(day)))
        del self._days[:-_DAYS_KEPT]

    def advance(self, until: int) -> Slice:
        """All events before `until` (microseconds since 1970 UTC) that were not yet given."""
        parts: list[Array] = []
        while self.until < until:
            tomorrow = self.scenario.day_start(self._day + dt.timedelta(days=1))
            self.until = min(until, tomorrow)
            parts += self._run(self.until)
            if self.until == tomorrow:
                self._next_day(self._day + dt.timedelta(days=1))
        events = np.concatenate(parts) if parts else self._scratch[:0].copy()
        codes = np.array([list(code) for _, code in self._days], np.uint8)
        return Slice(events, self.until, np.array([f for f, _ in self._days], np.int64), codes)

    def compile(self) -> None:
        """Compile what the first slice would, before a clock runs."""
        self.records(self.advance(self.until))

    def _write(self, part: Slice, order: Array, tables: encode.Tables, bounds: Array) -> tuple[Array, Array]:
        out = np.empty(int(bounds[part.events["station"]].sum()), np.uint8)
        ends = np.zeros(len(order) + 1, np.int64)
        offset = (self.boot - 1) * SERIALS_A_BOOT
        days = part.day_first, part.day_code
        mantissas = quality.readings(self._quality, part.events)
        size = encode.write(tables, part.events, mantissas, order, self.boot, *days, offset, out, ends[1:])
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
        """NDJSON: {"topic": ..., "event": {...}} a line, in order of time."""
        tables = encode.build(self.scenario, self._quality, ndjson=True)
        out, _ = self._write(part, np.arange(len(part.events)), tables, encode.bounds(self.scenario, tables))
        return out.tobytes()

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
