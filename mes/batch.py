"""What one transaction stores: new events by station, rejects, and what the ledger learns from them."""

from __future__ import annotations

import datetime as dt
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from mes import states
from mes.contract import CellEvent, Reject, encode
from mes.equipment import Equipment, Machine, Station
from mes.errors import Rejected
from mes.ledger import Ledger, Received
from mes.states import StateEvent

BUCKET_MS = 5 * 60 * 1000
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


@dataclass(slots=True)
class Delivery:
    """New events of one machine that came in one message, on `topic`."""

    machine_id: int
    received_us: int
    events: list[CellEvent]
    topic: str = ""


@dataclass(frozen=True, slots=True)
class StateChange:
    """A new state event of one machine."""

    machine_id: int
    station_id: int
    received_us: int
    event: StateEvent


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A reject with where it came from. `counted`: the ledger has learnt its identity from it, nothing had it before."""

    topic: str
    machine_id: int | None
    reject: Reject
    counted: bool = False


@dataclass(slots=True)
class Batch:
    """Filled message by message; `events` (of cells), `states`, `duplicates` and `quarantined` account for all that came.

    Duplicates are counted by (machine id, boot), and by (machine id, the bucket of their time in seconds since 1970).
    """

    deliveries: dict[Station, list[Delivery]] = field(default_factory=lambda: defaultdict(list))
    states: list[StateChange] = field(default_factory=list)
    quarantined: list[Quarantined] = field(default_factory=list)
    received: dict[tuple[int, int], Received] = field(default_factory=lambda: defaultdict(Received))
    duplicates: dict[tuple[int, int], int] = field(default_factory=lambda: defaultdict(int))
    duplicates_at: dict[tuple[int, int], int] = field(default_factory=lambda: defaultdict(int))
    events: int = 0

    def add(
        self,
        topic: str,
        payload: bytes,
        equipment: Equipment,
        ledger: Ledger,
        *,
        times: int = 1,
        received_us: int | None = None,
        horizon: dt.datetime | None = None,
    ) -> None:
        """Take in a message: every event of it is new, a duplicate, or quarantined. Never raises.

        times          how often it has come: all but one are duplicates
        received_us    when it came, microseconds since 1970  [default: now]
        horizon        what happened before has been dropped: such an event is quarantined  [default: `set_aside` does that]
        """
        try:
            machine = equipment.machine(topic)
        except Rejected as why:
            self.quarantined.append(Quarantined(topic, None, Reject(why.reason, why.detail, payload)))
            return
        received_us = received_us or time.time_ns() // 1000
        events: Sequence[CellEvent | StateEvent]
        if topic == machine.topic:
            cells, rejects = machine.station.rules.decode(payload)
            if horizon and (gone := [event for event in cells if event.timestamp_ms < _ms(horizon)]):
                alone = len(cells) + len(rejects) == 1
                rejects = [*rejects, *(_before(event, horizon, payload if alone else encode(event)) for event in gone)]
                cells = [event for event in cells if event.timestamp_ms >= _ms(horizon)]
            if cells:
                self._take(machine, cells if isinstance(cells, list) else list(cells), ledger, received_us)
            events = cells
        else:
            events, rejects = changes, _ = states.decode(payload)
            new = [event for event in changes if self._is_new(machine.machine_id, event, ledger)]
            self.states += [StateChange(machine.machine_id, machine.station.station_id, received_us, event) for event in new]
        if times > 1:
            for event in events:
                self.repeated(machine.machine_id, event, times - 1)
        for reject in rejects:
            counted = False
            if reject.boot is not None and reject.seq is not None:
                counted = ledger.add(machine.machine_id, reject.boot, reject.seq)
                if counted:
                    self.received[machine.machine_id, reject.boot].add(reject.seq)
            self.quarantined.append(Quarantined(topic, machine.machine_id, reject, counted))

    def reaches_before(self, horizon: dt.datetime) -> bool:
        """Whether a new event happened before `horizon`."""
        ms = _ms(horizon)
        return any(event.timestamp_ms < ms for deliveries in self.deliveries.values() for d in deliveries for event in d.events)

    def set_aside(self, horizon: dt.datetime) -> int:
        """Quarantine new events from before `horizon`, what came of which has been dropped: counted as received, as rejects
        are. How many there were.
        """
        before = self.events
        self.events = 0
        for station, deliveries in list(self.deliveries.items()):
            for d in deliveries:
                gone = [event for event in d.events if event.timestamp_ms < _ms(horizon)]
                self.quarantined += [Quarantined(d.topic, d.machine_id, _before(event, horizon, encode(event)), True) for event in gone]
                d.events = [event for event in d.events if event.timestamp_ms >= _ms(horizon)] if gone else d.events
                self.events += len(d.events)
            deliveries[:] = [d for d in deliveries if d.events]
            if not deliveries:
                del self.deliveries[station]
        return before - self.events

    def _take(self, machine: Machine, events: list[CellEvent], ledger: Ledger, received_us: int) -> None:
        machine_id, boot, first = machine.machine_id, events[0].boot, events[0].seq
        new = events
        if (len(events) == 1 or _in_a_row(events)) and ledger.extend(machine_id, boot, first, len(events)):
            self.received[machine_id, boot].extend(first, len(events))
        else:
            new = [event for event in events if self._is_new(machine_id, event, ledger)]
        if new:
            self.deliveries[machine.station].append(Delivery(machine_id, received_us, new, machine.topic))
            self.events += len(new)

    def _is_new(self, machine_id: int, event: CellEvent | StateEvent, ledger: Ledger) -> bool:
        if ledger.add(machine_id, event.boot, event.seq):
            self.received[machine_id, event.boot].add(event.seq)
            return True
        self.repeated(machine_id, event)
        return False

    def repeated(self, machine_id: int, event: CellEvent | StateEvent, n: int = 1) -> None:
        """Count an event that was stored before."""
        self.duplicates[machine_id, event.boot] += n
        self.duplicates_at[machine_id, event.timestamp_ms // BUCKET_MS * BUCKET_MS // 1000] += n


def _ms(at: dt.datetime) -> int:
    return (at - _EPOCH) // dt.timedelta(milliseconds=1)


def _before(event: CellEvent, horizon: dt.datetime, payload: bytes) -> Reject:
    at = _EPOCH + dt.timedelta(milliseconds=event.timestamp_ms)
    detail = f"{at:%Y-%m-%d %H:%M:%S}Z is before {horizon:%Y-%m-%d %H:%M}Z: events of that time have been dropped, its figures stand"
    return Reject("before_retention", detail, payload, event.boot, event.seq)


def _in_a_row(events: list[CellEvent]) -> bool:
    """Whether these are consecutive events of one boot, as they are in every message that nothing has happened to."""
    first, boot = events[0].seq, events[0].boot
    return [event.seq for event in events] == list(range(first, first + len(events))) and all(event.boot == boot for event in events)
