"""A batch accounts for all that came: every event is new, a duplicate, or quarantined."""

from __future__ import annotations

import datetime as dt
import itertools
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mes import contract
from mes.batch import Batch
from mes.contract import CellEvent, encode, machine_topic
from mes.equipment import Equipment, Line, Machine, Station
from mes.errors import Rejected
from mes.ledger import Ledger, Received

LINE = Line(1, "nanjing", "cells", "32140-1")
WND = Station(10, contract.Station(["tension"], ["W01"]), ("tension",), {"W01": 1})
GRD = Station(20, contract.Station([], []), (), {})
TOPICS = [machine_topic("nanjing", "cells", "32140-1", *place, "cell") for place in (("wnd", "01"), ("wnd", "02"), ("grd", "01"))]
MACHINES = [Machine(n + 1, topic, station) for n, (topic, station) in enumerate(zip(TOPICS, (WND, WND, GRD), strict=True))]
EQUIPMENT = Equipment(LINE, MACHINES)


def event(seq: int, boot: int = 1, **changes: Any) -> CellEvent:
    values: dict[str, Any] = {"timestamp_ms": 1789000000000 + seq, "unit": f"U{seq}", "attempt": 1, "result": "pass", "cycle_s": 7.0}
    return CellEvent(boot=boot, seq=seq, **(values | changes))


def bad(seq: int, boot: int = 1) -> bytes:
    """An event that is quarantined, with an identity that can be read."""
    return encode(event(seq, boot)).replace(b'"pass"', b'"fine"')


def message(*parts: CellEvent | bytes) -> bytes:
    return b"[" + b",".join(part if isinstance(part, bytes) else encode(part) for part in parts) + b"]"


def stored(batch: Batch) -> list[tuple[int, int, int]]:
    """Identities of the batch's new events, in the order in which they are written."""
    return [(d.machine_id, e.boot, e.seq) for deliveries in batch.deliveries.values() for d in deliveries for e in d.events]


def numbers(received: Received) -> set[int]:
    return {n for first, following in received.ranges for n in range(first, following)}


# what a machine may send: runs in order, repeats, gaps, other boots, bad ones; of one machine after the other
PARTS = st.one_of(
    st.tuples(st.integers(1, 15), st.integers(1, 6), st.integers(1, 2)).map(lambda r: [event(r[0] + k, r[2]) for k in range(r[1])]),
    st.lists(
        st.one_of(st.builds(event, st.integers(1, 15), st.integers(1, 2)), st.builds(bad, st.integers(1, 15)), st.just(b"nonsense")),
        max_size=5,
    ),
)
MESSAGES = st.lists(st.tuples(st.integers(0, 2), PARTS), max_size=8)


@given(st.lists(MESSAGES, max_size=4))
@settings(deadline=None, max_examples=80)
def test_batches_account_for_all_that_came(batches: list[list[tuple[int, list[CellEvent | bytes]]]]) -> None:
    ledger = Ledger()
    seen: set[tuple[int, int, int]] = set()
    for messages in batches:
        batch = Batch()
        new: list[tuple[int, int, int]] = []
        duplicates: Counter[tuple[int, int]] = Counter()
        rejects = []
        before = set(seen)
        for place, parts in messages:
            machine_id = MACHINES[place].machine_id
            batch.add(TOPICS[place], message(*parts), EQUIPMENT, ledger)
            for part in (p for p in parts if isinstance(p, CellEvent)):
                identity = (machine_id, part.boot, part.seq)
                if identity in seen:
                    duplicates[identity[:2]] += 1
                else:
                    seen.add(identity)
                    new.append(identity)
            for part in (p for p in parts if isinstance(p, bytes)):
                rejects.append((machine_id, part))
                if part != b"nonsense":
                    reject = next(q.reject for q in batch.quarantined if q.reject.payload == part)
                    assert reject.boot is not None
                    assert reject.seq is not None
                    seen.add((machine_id, reject.boot, reject.seq))
        assert sorted(stored(batch)) == sorted(new)
        assert batch.events == len(new)
        assert dict(batch.duplicates) == dict(duplicates)
        assert [(q.machine_id, q.reject.payload) for q in batch.quarantined] == rejects
        assert batch.events + sum(batch.duplicates.values()) + len(batch.quarantined) == sum(len(parts) for _, parts in messages)
        learnt = {(machine, boot, seq) for (machine, boot), received in batch.received.items() for seq in numbers(received)}
        assert learnt == seen - before
    for machine_id, boot in itertools.product((1, 2, 3), (1, 2)):
        assert numbers(ledger.of(machine_id, boot)) == {seq for m, b, seq in seen if (m, b) == (machine_id, boot)}


def test_a_repeat_inside_of_a_message_is_a_duplicate() -> None:
    batch = Batch()
    batch.add(TOPICS[0], message(event(1), event(1), event(2)), EQUIPMENT, Ledger())
    assert (batch.events, dict(batch.duplicates)) == (2, {(1, 1): 1})
    assert stored(batch) == [(1, 1, 1), (1, 1, 2)]


def test_a_repeat_in_a_batch_and_in_the_next_is_a_duplicate() -> None:
    ledger, first, second = Ledger(), Batch(), Batch()
    for _ in range(2):
        first.add(TOPICS[0], message(event(1), event(2)), EQUIPMENT, ledger)
    second.add(TOPICS[0], message(event(2), event(3)), EQUIPMENT, ledger)
    assert (first.events, dict(first.duplicates)) == (2, {(1, 1): 2})
    assert (second.events, dict(second.duplicates)) == (1, {(1, 1): 1})
    assert second.received[1, 1].ranges == [(3, 4)]


def test_late_events_are_new_and_close_the_gap() -> None:
    ledger, batch = Ledger({(1, 1): Received([(1, 3)])}), Batch()
    batch.add(TOPICS[0], message(event(6), event(5)), EQUIPMENT, ledger)
    batch.add(TOPICS[0], encode(event(3)), EQUIPMENT, ledger)
    batch.add(TOPICS[0], encode(event(4)), EQUIPMENT, ledger)
    assert stored(batch) == [(1, 1, 6), (1, 1, 5), (1, 1, 3), (1, 1, 4)]
    assert (batch.events, dict(batch.duplicates)) == (4, {})
    assert ledger.of(1, 1).ranges == [(1, 7)]
    assert batch.received[1, 1].ranges == [(3, 7)]


def test_the_same_number_of_another_machine_or_boot_is_new() -> None:
    ledger, batch = Ledger(), Batch()
    batch.add(TOPICS[0], encode(event(1)), EQUIPMENT, ledger)
    batch.add(TOPICS[1], encode(event(1)), EQUIPMENT, ledger)
    batch.add(TOPICS[0], encode(event(1, boot=2)), EQUIPMENT, ledger)
    assert (batch.events, dict(batch.duplicates)) == (3, {})


def test_a_message_across_a_restart_belongs_to_both_boots() -> None:
    ledger, batch = Ledger(), Batch()
    batch.add(TOPICS[0], message(event(8), event(9), event(1, boot=2), event(2, boot=2)), EQUIPMENT, ledger)
    batch.add(TOPICS[0], message(event(10), event(3, boot=2)), EQUIPMENT, ledger)
    assert (batch.events, dict(batch.duplicates)) == (6, {})
    assert (ledger.of(1, 1).ranges, ledger.of(1, 2).ranges) == ([(8, 11)], [(1, 4)])


def test_consecutive_numbers_of_two_boots_are_not_a_row() -> None:
    ledger, batch = Ledger(), Batch()
    batch.add(TOPICS[0], message(event(1), event(2, boot=2)), EQUIPMENT, ledger)
    assert (ledger.of(1, 1).ranges, ledger.of(1, 2).ranges) == ([(1, 2)], [(2, 3)])


def test_what_is_quarantined_with_an_identity_counts_as_received() -> None:
    ledger, batch = Ledger(), Batch()
    batch.add(TOPICS[0], message(event(1), bad(2), event(3)), EQUIPMENT, ledger)
    assert (batch.events, len(batch.quarantined)) == (2, 1)
    assert ledger.of(1, 1).ranges == batch.received[1, 1].ranges == [(1, 4)]
    again = Batch()
    again.add(TOPICS[0], encode(event(2)), EQUIPMENT, ledger)
    assert (again.events, dict(again.duplicates)) == (0, {(1, 1): 1})


def test_what_is_quarantined_without_an_identity_leaves_a_gap() -> None:
    ledger, batch = Ledger(), Batch()
    batch.add(TOPICS[0], message(event(1), b"nonsense", event(3)), EQUIPMENT, ledger)
    assert (batch.events, len(batch.quarantined)) == (2, 1)
    assert ledger.of(1, 1).ranges == [(1, 2), (3, 4)]


def test_rows_lie_with_their_station_and_machine() -> None:
    batch, ledger = Batch(), Ledger()
    for place in (0, 2, 1):
        batch.add(TOPICS[place], message(event(1), event(2)), EQUIPMENT, ledger)
    assert {station.station_id: [d.machine_id for d in deliveries] for station, deliveries in batch.deliveries.items()} == {
        10: [1, 2],
        20: [3],
    }
    assert all(d.received_us > 1_700_000_000_000_000 for deliveries in batch.deliveries.values() for d in deliveries)


def test_an_empty_backlog_adds_nothing() -> None:
    batch = Batch()
    batch.add(TOPICS[0], b"[]", EQUIPMENT, Ledger())
    assert (batch.events, batch.quarantined, dict(batch.deliveries), dict(batch.received)) == (0, [], {}, {})


@pytest.mark.parametrize(
    ("topic", "reason"),
    [
        (TOPICS[0].replace("/wnd/01", "/wnd/09"), "unknown_machine"),
        (TOPICS[0].replace("/wnd/", "/xyz/"), "unknown_machine"),
        (TOPICS[0].replace("32140-1", "32140-2"), "unknown_machine"),
        (TOPICS[0].replace("completed", "finished"), "unknown_machine"),
        (contract.kpi_topic("nanjing", "cells", "32140-1", "throughput_day"), "unknown_machine"),
        ("umh/v1/cbak/Nanjing/cells", "topic"),
        ("", "topic"),
        ("\0\n#+", "topic"),
    ],
)
def test_a_message_of_no_machine_is_quarantined_whole(topic: str, reason: str) -> None:
    ledger, batch = Ledger(), Batch()
    payload = message(event(1), event(2))
    batch.add(topic, payload, EQUIPMENT, ledger)
    assert (batch.events, dict(batch.received)) == (0, {})
    (quarantined,) = batch.quarantined
    assert (quarantined.topic, quarantined.machine_id) == (topic, None)
    assert (quarantined.reject.reason, quarantined.reject.payload) == (reason, payload)
    assert (quarantined.reject.boot, quarantined.reject.seq) == (None, None)


def test_equipment_finds_each_machine_and_says_what_it_lacks() -> None:
    assert [EQUIPMENT.machine(topic) for topic in TOPICS] == MACHINES
    assert LINE.path == "nanjing/cells/32140-1"
    with pytest.raises(Rejected, match="no machine wnd/09 with _cell_v1/completed on line nanjing/cells/32140-1"):
        EQUIPMENT.machine(TOPICS[0].replace("/wnd/01", "/wnd/09"))


@given(st.text(), st.binary(max_size=60))
@settings(deadline=None, max_examples=50)
def test_nothing_that_arrives_raises(topic: str, payload: bytes) -> None:
    ledger, batch = Ledger(), Batch()
    batch.add(topic, payload, EQUIPMENT, ledger)
    batch.add(TOPICS[0], payload, EQUIPMENT, ledger)
    assert next(q.reject.payload for q in batch.quarantined) == payload


@given(st.lists(MESSAGES, max_size=3), st.integers(-1, 16))
@settings(deadline=None, max_examples=60)
def test_what_is_from_before_the_horizon_is_set_aside_whenever_that_is_known(
    batches: list[list[tuple[int, list[CellEvent | bytes]]]], first: int
) -> None:
    """While it is decoded (a replay) or when it is committed (ingest): the same events are stored, the same are kept and counted."""
    at_ms = 1789000000000 + first
    horizon = dt.datetime.fromtimestamp(at_ms / 1000, dt.UTC)
    decoding, committing = Ledger(), Ledger()
    for messages in batches:
        early, late = Batch(), Batch()
        for number, parts in messages:
            early.add(TOPICS[number], message(*parts), EQUIPMENT, decoding, horizon=horizon)
            late.add(TOPICS[number], message(*parts), EQUIPMENT, committing)
        n = late.events
        assert late.reaches_before(horizon) == bool(late.set_aside(horizon))
        assert not late.reaches_before(horizon)
        assert n == late.events + sum(q.reject.reason == "before_retention" for q in late.quarantined)
        assert early.events == late.events == len(stored(late))
        assert sorted(stored(early)) == sorted(stored(late))
        assert all(e.timestamp_ms >= at_ms for ds in late.deliveries.values() for d in ds for e in d.events)
        kept = [sorted((q.topic, q.reject.boot or 0, q.reject.seq or 0) for q in b.quarantined if q.counted) for b in (early, late)]
        assert kept[0] == kept[1]
        assert {key: numbers(r) for key, r in early.received.items()} == {key: numbers(r) for key, r in late.received.items()}


def test_an_event_from_before_the_horizon_is_kept_as_it_came() -> None:
    payload = encode(event(1)).replace(b'","', b'" , "')
    batch = Batch()
    horizon = dt.datetime(2027, 1, 1, tzinfo=dt.UTC)
    batch.add(TOPICS[0], payload, EQUIPMENT, Ledger(), horizon=horizon, times=3)
    (kept,) = batch.quarantined
    assert (kept.reject.payload, kept.reject.reason, kept.counted) == (payload, "before_retention", True)
    assert (
        kept.reject.detail == "2026-09-10 00:26:40Z is before 2027-01-01 00:00Z: events of that time have been dropped, its figures stand"
    )
    assert (batch.events, batch.duplicates) == (0, {}), "it is kept, so what came again is no duplicate of anything that is stored"
