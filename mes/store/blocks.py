"""Events as PostgreSQL's binary COPY format, built as numpy blocks.

Rows of one shape (same length of the serial, same number of readings, same length of lots) have the same layout, so
they are one structured array whose bytes are the wire format: a big-endian length before each field. COPY does not
mind the order of rows, so a batch is its shapes one after the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

import msgspec
import numpy as np
from numpy.typing import NDArray

from mes.batch import Delivery
from mes.contract import RESULTS
from mes.equipment import Station

HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER = b"\xff\xff"

COLUMNS = (
    "at", "received_at", "seq", "machine_id", "boot", "channel", "cycle_s",
    "line_id", "station_id", "attempt", "result", "defect_id", "unit", "meas", "lots",
)  # fmt: skip

EPOCH_US = 946_684_800_000_000  # PostgreSQL counts from 2000-01-01
BUCKET_US = 5 * 60 * 1_000_000

_FIXED = [
    ("at", ">i8"), ("received_at", ">i8"), ("seq", ">i8"), ("machine_id", ">i4"), ("boot", ">i4"), ("channel", ">i4"),
    ("cycle_s", ">f4"), ("line_id", ">i2"), ("station_id", ">i2"), ("attempt", ">i2"), ("result", ">i2"), ("defect_id", ">i2"),
]  # fmt: skip
_FLOAT4_OID = 700
_CODE = {result: code for code, result in enumerate(RESULTS)}
_JSONB_VERSION = b"\x01"


def _record(serial: int, readings: int, lots: int) -> np.dtype[np.void]:
    """Layout of a row whose serial has `serial` bytes, with so many readings, and `lots` bytes of lots (-1: NULL)."""
    fields: list[tuple[str, str] | tuple[str, list[tuple[str, str]], tuple[int]]] = [("fields", ">i2")]
    for name, kind in _FIXED:
        fields += [(f"{name}_len", ">i4"), (name, kind)]
    fields += [("unit_len", ">i4"), ("unit", f"S{serial}")]
    fields += [("meas_len", ">i4"), ("dimensions", ">i4"), ("has_null", ">i4"), ("element", ">i4")]
    if readings:
        fields += [("readings", ">i4"), ("lower", ">i4"), ("meas", [("len", ">i4"), ("x", ">f4")], (readings,))]
    fields += [("lots_len", ">i4")]
    if lots >= 0:
        fields += [("lots", f"S{lots}")]
    return np.dtype(fields)


def blocks(line_id: int, station: Station, deliveries: list[Delivery]) -> tuple[list[bytes], NDArray[np.int64]]:
    """The rows of a station's deliveries as COPY data, and the instants of the buckets they touch (us since 1970)."""
    events = list(chain.from_iterable(d.events for d in deliveries))
    sizes = [len(d.events) for d in deliveries]
    at = np.array([e.timestamp_ms for e in events], dtype=np.int64) * 1000
    serials = [e.unit.encode() for e in events]
    lots = [_JSONB_VERSION + msgspec.json.encode(e.lots) if e.lots else None for e in events]
    defect_ids = station.defect_ids
    columns: dict[str, NDArray[np.generic]] = {
        "at": at - EPOCH_US,
        "received_at": np.repeat(np.array([d.received_us for d in deliveries], dtype=np.int64), sizes) - EPOCH_US,
        "seq": np.array([e.seq for e in events], dtype=np.int64),
        "machine_id": np.repeat(np.array([d.machine_id for d in deliveries], dtype=np.int32), sizes),
        "boot": np.array([e.boot for e in events], dtype=np.int32),
        "channel": np.array([e.channel if e.channel.__class__ is int else -1 for e in events], dtype=np.int32),
        "cycle_s": np.array([e.cycle_s for e in events], dtype=np.float32),
        "attempt": np.array([e.attempt for e in events], dtype=np.int16),
        "result": np.array([_CODE[e.result] for e in events], dtype=np.int16),
        "defect_id": np.array([0 if e.result == "pass" else defect_ids[e.defect] for e in events], dtype=np.int16),  # type: ignore[index]
    }
    slots = station.slots
    found = [reading for e in events for reading in map(e.meas.get, slots)]  # None, where not measured, becomes NaN
    readings = np.array(found, dtype=np.float32).reshape(len(events), len(slots))
    out = []
    for rows, serial, lot in _shapes(serials, lots):
        block = np.zeros(len(rows), dtype=_record(serial, len(slots), lot))
        block["fields"] = len(COLUMNS)
        for name, kind in _FIXED:
            block[f"{name}_len"] = np.dtype(kind).itemsize
        for name, values in columns.items():
            block[name] = values[rows]
        block["line_id"] = line_id
        block["station_id"] = station.station_id
        block["unit_len"] = serial
        block["unit"] = [serials[row] for row in rows]
        block["element"] = _FLOAT4_OID
        block["meas_len"] = 12
        if slots:
            block["meas_len"] = 20 + 8 * len(slots)
            block["dimensions"] = 1
            block["readings"] = len(slots)
            block["lower"] = 1
            block["meas"]["len"] = 4
            block["meas"]["x"] = readings[rows]
        block["lots_len"] = lot
        if lot >= 0:
            block["lots"] = [lots[row] for row in rows]
        out.append(block.tobytes())
    return out, np.unique(at // BUCKET_US) * BUCKET_US


def _shapes(serials: list[bytes], lots: list[bytes | None]) -> Iterator[tuple[NDArray[np.intp], int, int]]:
    """Row numbers of each shape, with the length of its serial and of its lots (-1: none)."""
    serial = np.array([len(s) for s in serials], dtype=np.int64)
    lot = np.array([-1 if x is None else len(x) for x in lots], dtype=np.int64)
    keys = serial << 32 | (lot + 1)
    for key in np.unique(keys):
        yield np.flatnonzero(keys == key), int(key >> 32), int(key & 0xFFFFFFFF) - 1
