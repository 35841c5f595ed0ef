"""The COPY stream, read back by a parser that knows nothing but PostgreSQL's manual, holds every field of every event."""

from __future__ import annotations

import json
import math
import struct
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import UNSET

from mes import contract
from mes.batch import Delivery
from mes.contract import CellEvent
from mes.equipment import Station
from mes.store.blocks import COLUMNS, HEADER, TRAILER, blocks
from tests import naive

EPOCH_US = 946_684_800_000_000
BUCKET_US = 300_000_000
SLOTS = ("tension", "diameter", "overlap")
DEFECT_IDS = {"W01": 1, "W02": 32_767}
STATION = Station(-3, contract.Station(SLOTS, DEFECT_IDS), SLOTS, DEFECT_IDS)
BARE = Station(32_767, contract.Station([], []), (), {})
RESULTS = {"pass": 0, "rework": 1, "scrap": 2}
LINE_ID = 7


def event(**changes: Any) -> CellEvent:
    values: dict[str, Any] = {
        "boot": 1, "seq": 2, "timestamp_ms": 1_789_000_000_123, "unit": "NJ1-0000001", "attempt": 1, "result": "pass", "cycle_s": 6.98,
    }  # fmt: skip
    return CellEvent(**(values | changes))


def float32(x: float) -> float:
    return float(struct.unpack("f", struct.pack("f", x))[0])


def rows_of(station: Station, deliveries: list[Delivery]) -> list[dict[str, Any]]:
    """The rows that are sent, as values by column."""
    data, _ = blocks(LINE_ID, station, deliveries)
    formats = {
        "at": "!q", "received_at": "!q", "seq": "!q", "machine_id": "!i", "boot": "!i", "channel": "!i", "cycle_s": "!f",
        "line_id": "!h", "station_id": "!h", "attempt": "!h", "result": "!h", "defect_id": "!h",
    }  # fmt: skip
    rows = []
    for fields in naive.copied(HEADER + b"".join(data) + TRAILER):
        row: dict[str, Any] = dict(zip(COLUMNS, fields, strict=True))
        for name, form in formats.items():
            (row[name],) = struct.unpack(form, row[name])
        row["unit"] = row["unit"].decode("utf-8")
        row["meas"] = naive.float4_array(row["meas"])
        if row["lots"] is not None:
            assert row["lots"][:1] == b"\1", "version of jsonb's binary form"
            row["lots"] = json.loads(row["lots"][1:])
        rows.append(row)
    return rows


def expected(station: Station, delivery: Delivery, e: CellEvent) -> dict[str, Any]:
    return {
        "at": e.timestamp_ms * 1000 - EPOCH_US,
        "received_at": delivery.received_us - EPOCH_US,
        "seq": e.seq,
        "machine_id": delivery.machine_id,
        "boot": e.boot,
        "channel": -1 if e.channel is UNSET else e.channel,
        "cycle_s": float32(e.cycle_s),
        "line_id": LINE_ID,
        "station_id": station.station_id,
        "attempt": e.attempt,
        "result": RESULTS[e.result],
        "defect_id": 0 if e.defect is UNSET else station.defect_ids[e.defect],
        "unit": e.unit,
        "meas": [float32(e.meas[name]) if name in e.meas else math.nan for name in station.slots],
        "lots": None if e.lots is UNSET or not e.lots else e.lots,
    }


def in_order(rows: list[dict[str, Any]]) -> list[str]:
    """Rows that can be compared whatever their order; NaN is equal to NaN."""
    return sorted(repr(row) for row in rows)


def assert_sent(station: Station, *deliveries: Delivery) -> None:
    wanted = [expected(station, d, e) for d in deliveries for e in d.events]
    assert in_order(rows_of(station, list(deliveries))) == in_order(wanted)
    _, buckets = blocks(LINE_ID, station, list(deliveries))
    assert buckets.dtype == np.int64
    assert buckets.tolist() == sorted({(e.timestamp_ms * 1000) // BUCKET_US * BUCKET_US for d in deliveries for e in d.events})


SERIALS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=64)


@st.composite
def some_events(draw: st.DrawFn, station: Station = STATION) -> CellEvent:
    result = draw(st.sampled_from(contract.RESULTS)) if station.defect_ids else "pass"
    return CellEvent(
        boot=draw(st.sampled_from([0, 1, 2**31 - 1])),
        seq=draw(st.sampled_from([1, 2**31, 2**63 - 2])),
        timestamp_ms=draw(st.integers(contract.EARLIEST_MS, contract.LATEST_MS - 1)),
        unit=draw(SERIALS),
        attempt=draw(st.sampled_from([1, 2, 32_767])),
        result=result,
        cycle_s=draw(st.floats(0, 3.4e38)),
        defect=UNSET if result == "pass" else draw(st.sampled_from(sorted(station.defect_ids))),
        channel=draw(st.sampled_from([UNSET, 0, 511, 2**31 - 1])),
        lots=draw(st.one_of(st.just(UNSET), st.dictionaries(SERIALS, SERIALS, max_size=2))),
        meas=draw(st.dictionaries(st.sampled_from(station.slots), st.floats(-3.4e38, 3.4e38))) if station.slots else {},
    )


def deliveries_of(station: Station) -> st.SearchStrategy[list[Delivery]]:
    received = st.integers(EPOCH_US, 4_102_444_800_000_000)
    delivery = st.builds(Delivery, st.integers(1, 2**31 - 1), received, st.lists(some_events(station), min_size=1, max_size=3))
    return st.lists(delivery, min_size=1, max_size=3)


@given(deliveries_of(STATION))
@settings(deadline=None, max_examples=50)
def test_what_is_sent_is_what_came(deliveries: list[Delivery]) -> None:
    assert_sent(STATION, *deliveries)


@given(deliveries_of(BARE))
@settings(deadline=None, max_examples=20)
def test_a_station_without_readings_sends_empty_arrays(deliveries: list[Delivery]) -> None:
    assert_sent(BARE, *deliveries)


def test_the_columns_are_named_once_each() -> None:
    assert len(set(COLUMNS)) == len(COLUMNS) == 15


def test_serials_of_several_lengths_and_scripts() -> None:
    serials = [
        "1",
        "NJ1-0000001",
        "NJ1-0000002",
        "芯",
        "南京-1",
        "é",
        "e\u0301",
        "x" * 64,
        "芯" * 64,
        "\U0001f50b",
        " tail ",
        'quo"te\\',
        "\x7f",
    ]
    assert_sent(STATION, Delivery(1, EPOCH_US, [event(seq=n + 1, unit=unit) for n, unit in enumerate(serials)]))


def test_readings_that_were_not_taken_are_nan() -> None:
    events = [event(), event(meas={"diameter": 31.79}), event(meas=dict.fromkeys(SLOTS, 1.0)), event(meas={"tension": 0.0})]
    assert_sent(STATION, Delivery(1, EPOCH_US, events))
    taken = [[not math.isnan(x) for x in row["meas"]] for row in rows_of(STATION, [Delivery(1, EPOCH_US, events)])]
    assert taken == [[False] * 3, [False, True, False], [True] * 3, [True, False, False]]


def test_readings_stand_in_their_slots_whatever_their_order_in_the_event() -> None:
    (row,) = rows_of(STATION, [Delivery(1, EPOCH_US, [event(meas={"overlap": 3.0, "tension": 1.0, "diameter": 2.0})])])
    assert row["meas"] == [1.0, 2.0, 3.0]


def test_lots_of_several_lengths_and_none() -> None:
    lots: list[Any] = [
        UNSET,
        {},
        {"cathode": "R1"},
        {"cathode": "R1", "anode": "R22"},
        {"电解液": "批次-7"},
        {"a": 'quo"te\\'},
        {"b": "\x01"},
    ]
    assert_sent(STATION, Delivery(1, EPOCH_US, [event(seq=n + 1, lots=x) for n, x in enumerate(lots)]))


def test_a_channel_of_zero_is_a_channel() -> None:
    rows = rows_of(STATION, [Delivery(1, EPOCH_US, [event(channel=0), event(), event(channel=2**31 - 1)])])
    assert [row["channel"] for row in rows] == [0, -1, 2**31 - 1]


def test_extremes_of_every_number() -> None:
    least = event(boot=0, seq=1, timestamp_ms=contract.EARLIEST_MS, attempt=1, cycle_s=0.0, meas={"tension": -3.4028234e38})
    most = event(
        boot=2**31 - 1, seq=2**63 - 1, timestamp_ms=contract.LATEST_MS - 1, attempt=32_767, cycle_s=3.4028234e38, channel=2**31 - 1
    )
    assert_sent(STATION, Delivery(1, EPOCH_US, [least, most]), Delivery(2**31 - 1, contract.LATEST_MS * 1000, [most]))


def test_each_row_keeps_its_machine_and_time_of_arrival() -> None:
    deliveries = [
        Delivery(machine, EPOCH_US + machine, [event(seq=n + 1, unit="x" * (1 + (n + machine) % 3)) for n in range(machine)])
        for machine in (1, 2, 5)
    ]
    assert_sent(STATION, *deliveries)


def test_buckets_are_of_five_minutes() -> None:
    bucket_ms = BUCKET_US // 1000
    start = 1_789_000_200_000 // bucket_ms * bucket_ms
    times = [start, start + bucket_ms - 1, start + bucket_ms, start + 7 * bucket_ms]
    _, buckets = blocks(LINE_ID, STATION, [Delivery(1, EPOCH_US, [event(timestamp_ms=ms) for ms in times])])
    assert [(us // 1000 - start) // bucket_ms for us in buckets.tolist()] == [0, 1, 7]
