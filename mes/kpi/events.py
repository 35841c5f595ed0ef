"""Events as columns, and the records of which the database makes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

_TYPES = {
    "at": np.int64,
    "received_at": np.int64,
    "unit": np.int64,
    "seq": np.int64,
    "machine_id": np.int32,
    "boot": np.int32,
    "cycle_s": np.float32,
    "station_id": np.int16,
    "attempt": np.int16,
    "result": np.int16,
    "defect_id": np.int16,
}


@dataclass(frozen=True, slots=True)
class Events:
    """Columns of events, contiguous and native, all of one length.

    at, received_at  microseconds since 2000-01-01
    unit             64-bit hash of the serial
    cycle_s          seconds
    result           0 pass, 1 rework, 2 scrap
    defect_id        0 where there is none
    meas             [event, slot] readings, NaN where not measured
    """

    at: NDArray[np.int64]
    received_at: NDArray[np.int64]
    unit: NDArray[np.int64]
    seq: NDArray[np.int64]
    machine_id: NDArray[np.int32]
    boot: NDArray[np.int32]
    cycle_s: NDArray[np.float32]
    station_id: NDArray[np.int16]
    attempt: NDArray[np.int16]
    result: NDArray[np.int16]
    defect_id: NDArray[np.int16]
    meas: NDArray[np.float32]

    def __len__(self) -> int:
        return self.at.size

    @classmethod
    def none(cls, slots: int) -> Events:
        return cls(**{name: np.empty(0, kind) for name, kind in _TYPES.items()}, meas=np.empty((0, slots), np.float32))

    @classmethod
    def concatenated(cls, parts: Sequence[Events]) -> Events:
        """At least one part; all with the same number of slots."""
        return cls(**{field.name: np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)})

    def take(self, rows: NDArray[np.bool_] | NDArray[np.integer]) -> Events:
        """The rows of a mask, or of a list of row numbers."""
        return Events(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})


def decode(data: bytes, slots: int) -> Events:
    """The records of the query `read_events`, one behind the other, with `slots` readings each (NaN where a record has fewer).

    ValueError on a record that is cut off or no such record, and on one with more readings than slots.
    """
    from mes.kpi import record_kernels

    words = np.frombuffer(data, np.uint32, len(data) // 4)
    n, at = record_kernels.records(words, slots)
    if 4 * at != len(data):
        raise ValueError(f"{len(data)} bytes of events: at byte {4 * at} is no whole record with up to {slots} readings")
    columns = {name: np.empty(n, kind) for name, kind in _TYPES.items()}
    meas = np.empty((n, slots), np.float32)
    bits = [column.view(np.int32) if name == "cycle_s" else column for name, column in columns.items()]
    record_kernels.columns(words, *bits, meas.view(np.int32))
    return Events(**columns, meas=meas)
